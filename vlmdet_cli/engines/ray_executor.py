"""Any engine as actors on a Ray cluster, on this machine or on many; this process keeps the answers.

Each actor makes one long call of the engine's ``answer`` and draws rows while it works, so that batches and reading
ahead stay as they are in one process. Rows wait in a ``Rows`` actor, which remembers who took them. When an actor dies,
the rows that it took and did not answer are asked again, by a fresh actor; those that two actors died with are asked
one at a time; a third death is the picture's fault, and an error names it.

The machines have the same files under the same paths, and vlmdet installed. An actor starts in the folder of this
process, where it has one of that name.
"""

import contextlib
import io
import itertools
import logging
import math
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO

from vlmdet_cli.engines import Completion, Engine, Request
from vlmdet_cli.engines.failures import engine_errors
from vlmdet_cli.engines.server.engine import ServerEngine
from vlmdet_cli.engines.settings import RayOptions
from vlmdet_cli.errors import EngineError, UsageError, VlmdetError

Needs = dict[str, float]  # Ray's resource, CPU or GPU, to how much of it an actor takes

CHUNK = 8  # rows that an actor draws at once: those about one picture stay together
MAX_DEATHS = 3  # of actors that held a row, or of actors in a row that answered none
MAX_STARTS = 3  # of a cluster on this machine
_STORE = 128 * 2**20  # bytes of shared memory; completions are small
_RUN_HINT = "What is answered is kept: run the same command again. Ray's logs are in /tmp/ray/session_latest/logs."


class RayExecutor:
    """``engine`` on the actors of ``options``. Its answers, and so its identity, are those of the engine."""

    def __init__(self, engine: Engine, options: RayOptions) -> None:
        if isinstance(engine, ServerEngine):
            raise UsageError(
                'infer.executor = "ray" is not for the engine server',
                hint='Set it to "local"; infer.server.urls names several servers.',
            )
        if find_spec("ray") is None:
            raise UsageError("infer.executor is ray, and Ray is not installed", hint="pip install 'vlmdet[ray]'")
        self._engine = engine
        self._options = options

    def identity(self) -> dict[str, Any]:
        return self._engine.identity()

    def answer(self, requests: Iterable[Request], max_tokens: int) -> Iterator[Completion]:
        """The engine's completions, as they come from the actors. Raises its errors, and ``EngineError``."""
        import ray

        rows = list(requests)
        with engine_errors("Ray failed", _RUN_HINT), _cluster(ray, self._options):
            needs, count = share(self._options, ray.cluster_resources())
            actors = _Actors(ray, self._engine, needs, rows, max_tokens)
            yield from actors.completions(min(count, math.ceil(len(rows) / CHUNK)))


class Rows:
    """The rows that wait, for all actors, each known by its number. It is an actor itself.

    An actor's call of ``answer`` draws either ``shared`` rows, any number of them, or a single one ``alone``.
    """

    def __init__(self, rows: Sequence[Request]) -> None:
        self._shared = list(reversed(rows))
        self._alone = list[Request]()
        self._taken: dict[int, list[Request]] = {}
        self._calls: dict[int, str] = {}

    def left(self) -> int:
        return len(self._shared) + len(self._alone)

    def draw(self, actor: int) -> list[Request]:
        """The next rows of an actor's call; an empty list ends the call."""
        call, rows = self._calls.pop(actor, ""), list[Request]()
        if call != "alone" and self._shared:
            call, rows = "shared", [self._shared.pop() for _ in range(min(CHUNK, len(self._shared)))]
        elif not call and self._alone:
            call, rows = "alone", [self._alone.pop()]
        if rows:
            self._calls[actor] = call
            self._taken.setdefault(actor, []).extend(rows)
        return rows

    def taken(self, actor: int) -> list[Request]:
        """All rows that an actor has drawn."""
        return self._taken.get(actor, [])

    def put_back(self, shared: Sequence[Request], alone: Sequence[Request]) -> None:
        self._shared += reversed(shared)
        self._alone += reversed(alone)


class Answerer:
    """An actor: the engine, which draws its rows from the ``Rows`` actor ``rows``."""

    def __init__(self, engine: Engine, rows: Any, number: int, folder: str) -> None:
        with contextlib.suppress(OSError):
            os.chdir(folder)
        self._engine = engine
        self._rows = rows
        self._number = number

    def completions(self, max_tokens: int) -> Iterator[Completion]:
        import ray

        while ray.get(self._rows.left.remote()):
            # Ray sends values into this generator, and an engine's takes none: no `yield from`
            for completion in self._engine.answer(self._drawn(ray), max_tokens):  # noqa: UP028
                yield completion

    def _drawn(self, ray: Any) -> Iterator[Request]:
        while rows := ray.get(self._rows.draw.remote(self._number)):
            yield from rows


class _Actors:
    """The actors at work, from the side of this process."""

    def __init__(self, ray: Any, engine: Engine, needs: Needs, rows: Sequence[Request], max_tokens: int) -> None:
        self._ray = ray
        self._engine = ray.put(engine)
        self._answerer = ray.remote(Answerer).options(num_cpus=needs["CPU"], num_gpus=needs["GPU"])
        self._rows = ray.remote(Rows).options(num_cpus=0).remote(rows)
        self._num_rows = len(rows)
        self._max_tokens = max_tokens
        self._numbers = itertools.count()
        self._streams: dict[Any, tuple[int, Any]] = {}  # an actor's stream of completions to its number and handle
        self._answered = set[str]()
        self._deaths = Counter[str]()  # by key of a row that was lost
        self._deaths_in_a_row = 0

    def completions(self, count: int) -> Iterator[Completion]:
        for _ in range(count):
            self._start()
        while self._streams and len(self._answered) < self._num_rows:
            (stream, *_), _ = self._ray.wait(list(self._streams), num_returns=1)
            try:
                completion: Completion = self._ray.get(next(stream))
            except StopIteration:
                del self._streams[stream]  # with its handle goes the actor
            except self._ray.exceptions.RayTaskError as error:
                raise (error.cause if isinstance(error.cause, VlmdetError) else error) from None
            except self._ray.exceptions.RayError as error:
                self._replace(stream, error)
            else:
                self._deaths_in_a_row = 0
                self._answered.add(completion.key)
                yield completion

    def _start(self) -> None:
        number = next(self._numbers)
        actor = self._answerer.remote(self._engine, self._rows, number, str(Path.cwd()))
        stream = actor.completions.options(num_returns="streaming").remote(self._max_tokens)
        self._streams[stream] = number, actor

    def _replace(self, stream: Any, error: Exception) -> None:
        """A fresh actor for one that died, and for its rows."""
        number, _ = self._streams.pop(stream)
        taken = self._ray.get(self._rows.taken.remote(number))
        lost = [request for request in taken if request.key not in self._answered]
        self._deaths.update(request.key for request in lost)
        self._deaths_in_a_row += 1
        self._require_hope(lost, error)
        suspects = [request for request in lost if self._deaths[request.key] > 1]
        self._ray.get(self._rows.put_back.remote([row for row in lost if row not in suspects], suspects))
        if self._ray.get(self._rows.left.remote()):
            self._start()

    def _require_hope(self, lost: Sequence[Request], error: Exception) -> None:
        killer = next((request for request in lost if self._deaths[request.key] >= MAX_DEATHS), None)
        lines = str(error).strip().splitlines()
        why = list(dict.fromkeys([*lines[:1], *lines[-1:]]))
        if killer is not None:
            raise EngineError(
                f"{MAX_DEATHS} actors died while they answered about a picture: {killer.image}",
                why=why,
                hint="Did they run out of memory? Take the picture out, or lower infer.max_tokens or the pixel limit.",
            )
        if self._deaths_in_a_row > MAX_DEATHS:
            raise EngineError("Ray's actors die before they answer", why=why, hint=_RUN_HINT)


# --- the cluster ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _cluster(ray: Any, options: RayOptions) -> Iterator[None]:
    """A connection to the cluster of the options, or to one that the caller has made already, which is left open.

    Signals stay this process's own, and what Ray's threads print is dropped: stdout is for results.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with _quiet():
        with _own_signals():
            connect(ray, options)
        try:
            yield
        finally:
            # what it has kept back of its repeated messages, it prints at the end, in this thread
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                ray.shutdown()


def connect(ray: Any, options: RayOptions) -> None:
    """Ray waits 30 seconds for a cluster that it starts. A busy machine may take longer: it is started again."""
    for starts_left in reversed(range(MAX_STARTS)):
        try:
            ray.init(**_init_arguments(options))
        except Exception as error:
            ray.shutdown()
            if not starts_left or "timed out during startup" not in str(error):
                raise
        else:
            return


def _init_arguments(options: RayOptions) -> dict[str, Any]:
    quiet = {"log_to_driver": False, "configure_logging": False, "logging_level": logging.ERROR}
    if options.address:
        return {"address": options.address, **quiet}
    own = {"include_dashboard": False, "object_store_memory": _STORE, "_node_ip_address": "127.0.0.1"}
    if options.actors:
        own["num_cpus"] = math.ceil(options.actors * options.cpus)
    return {**own, **quiet}


def share(options: RayOptions, has: Mapping[str, float]) -> tuple[Needs, int]:
    """What an actor takes of a cluster that has ``has``, and the number of actors.

    Raises ``EngineError`` where not even one has room.
    """
    gpus = float(has.get("GPU", 0) > 0) if options.gpus == "auto" else options.gpus
    needs: Needs = {"CPU": options.cpus, "GPU": gpus}
    room = min(int(has.get(name, 0) / need) for name, need in needs.items() if need)
    if not room:
        raise EngineError(
            "The Ray cluster has no room for an actor",
            why=f"An actor takes {_resources(needs)}; the cluster has {_resources(has)}.",
            hint="Lower infer.ray.cpus or infer.ray.gpus, or add a machine.",
        )
    return needs, options.actors or (room if gpus else 1)


def _resources(amounts: Mapping[str, float]) -> str:
    return ", ".join(f"{amounts.get(name, 0):g} {name}" for name in ("CPU", "GPU"))


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Afterwards signals are handled as before: Ray takes some for itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


class _OwnThreads:
    """A stream that drops what other threads than the present one print."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._thread = threading.get_ident()

    def write(self, text: str) -> int:
        return self._stream.write(text) if threading.get_ident() == self._thread else len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Ray's threads print to stdout, its loggers to stderr: neither reaches the user inside the block."""
    logger, stdout = logging.getLogger("ray"), sys.stdout
    level, own = logger.level, _OwnThreads(stdout)
    logger.setLevel(logging.CRITICAL)
    sys.stdout = own
    try:
        yield
    finally:
        logger.setLevel(level)
        if sys.stdout is own:
            sys.stdout = stdout
