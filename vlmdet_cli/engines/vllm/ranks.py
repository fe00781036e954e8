"""The processes of vLLM: requests go to whichever is free, and completions come from all of them.

A rank is one ``worker.py``. Two threads feed it: each takes the next request of all, reads its picture and
sends both, as long as the rank's window has room. One more thread reads its answers. A rank that ends before its time,
or whose engine fails, ends all of them with an ``EngineError``; what has been answered by then has been handed over.
"""

import contextlib
import queue
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from vlmdet_cli.core import programs
from vlmdet_cli.core.programs import Command
from vlmdet_cli.engines import Completion, Request
from vlmdet_cli.engines.failures import BadPicture, engine_errors
from vlmdet_cli.errors import EngineError

if TYPE_CHECKING:
    from PIL import Image

FEEDERS = 2  # threads a rank; decoding and resizing release Python's lock
REQUESTS, PIXELS = 256, 1 << 27  # on their way in a rank: enough to keep a GPU busy, and not too much for the memory
EXIT_SECONDS = 60.0  # vLLM's own clearing up
_NAMED_ERROR = re.compile(r"\b\w+(?:Error|Exception): .+")
_HINT = "What is answered is kept: run the same command again."
_LOAD_HINT = (
    "If memory ran out, lower infer.vllm.gpu_memory_utilization or infer.vllm.max_model_len; the log says what failed."
)


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """``load``: the worker's first message. ``request_text``: the chat of a request, as the family writes it.
    ``loops``: whether an answer that vLLM takes for a loop is one; any other is asked again without a stop.
    """

    model: Path
    load: dict[str, Any]
    request_text: Callable[[Request], str]
    loops: Callable[[str], bool]


class Ranks:
    """A rank for each command; their logs go into a temporary folder, which stays where a rank has failed."""

    def __init__(self, commands: Sequence[Command], job: Job, read: "Callable[[Request], Image.Image]") -> None:
        self._commands, self._job, self._read = commands, job, read
        self._ranks: list[Rank] = []
        self._logs: Path | None = None
        self._results = queue.SimpleQueue[_Result]()

    def completions(self, requests: Iterable[Request], max_tokens: int) -> Iterator[Completion]:
        """One completion for each request; the ranks are started for the first, and then wait for more.

        Raises ``EngineError`` where a rank fails. That, or an iterator that is not read to its end, ends the ranks.
        """
        try:
            with engine_errors("The engine vllm failed", _HINT):
                yield from self._answers(_Source(requests), max_tokens)
        except BaseException as error:
            self._stop(keep_logs=isinstance(error, EngineError))  # which names them
            raise

    def close(self) -> None:
        """End the ranks as they like to be ended, and remove their logs."""
        for rank in self._ranks:
            rank.close()
        for rank in self._ranks:
            rank.wait()
        self._stop()

    def _answers(self, source: "_Source", max_tokens: int) -> Iterator[Completion]:
        feeders = [rank.feeder(source, self._read, max_tokens) for rank in self._started() for _ in range(FEEDERS)]
        for feeder in feeders:
            feeder.start()
        feeding, requests, answers = len(feeders), 0, 0
        while feeding or answers < requests:
            result = self._results.get()
            if isinstance(result, Completion):
                answers += 1
                yield result
            elif isinstance(result, _Fed):
                feeding -= 1
                requests += result.requests
            elif isinstance(result, _Ended):
                raise result.rank.failure(result.named)
            else:
                raise result

    def _started(self) -> "list[Rank]":
        if not self._ranks:
            self._logs = Path(tempfile.mkdtemp(prefix="vlmdet-vllm-"))
            for number, command in enumerate(self._commands):
                self._ranks.append(Rank(command, self._logs / f"rank-{number}.log", self._job, self._results))
        return self._ranks

    def _stop(self, *, keep_logs: bool = False) -> None:
        for rank in self._ranks:
            rank.stop()
        if self._logs is not None and not keep_logs:
            shutil.rmtree(self._logs, ignore_errors=True)
        self._ranks, self._logs, self._results = [], None, queue.SimpleQueue()


class _Fed(msgspec.Struct, frozen=True):
    """A feeder has come to the end. ``requests``: the number that it took."""

    requests: int


class _Ended(msgspec.Struct, frozen=True):
    """A rank has closed its pipe. ``named``: the error that it named."""

    rank: "Rank"
    named: str


_Result = Completion | Exception | _Fed | _Ended


class _Source:
    """The requests, taken by several threads."""

    def __init__(self, requests: Iterable[Request]) -> None:
        self._requests = iter(requests)
        self._lock = threading.Lock()

    def take(self) -> Request | None:
        with self._lock:
            return next(self._requests, None)


class Rank:
    """One process. ``results`` gets its completions, what its threads report, and at last its end."""

    def __init__(self, command: Command, log: Path, job: Job, results: "queue.SimpleQueue[_Result]") -> None:
        self._command, self._log, self._job, self._results = command, log, job, results
        self._process = programs.start(command, log, cwd=log.parent, pipes=True)
        self._stdin, self._stdout = programs.pipes(self._process)
        self._window, self._sending = _Window(REQUESTS, PIXELS), threading.Lock()
        self._loaded = False
        self._receiver = threading.Thread(target=self._receive, daemon=True)
        self._receiver.start()
        self._send(job.load)

    def feeder(self, source: _Source, read: "Callable[[Request], Image.Image]", max_tokens: int) -> threading.Thread:
        """A thread that asks requests of ``source`` until there is none."""
        return threading.Thread(target=self._feed, args=(source, read, max_tokens), daemon=True)

    def close(self) -> None:
        """Tell the process that no more requests come."""
        with self._sending, contextlib.suppress(OSError):
            self._stdin.close()

    def wait(self) -> None:
        programs.wait(self._process, EXIT_SECONDS)

    def stop(self) -> None:
        """End the process, if it still runs, and what it has started."""
        self._window.close()
        programs.stop(self._process)
        self.close()
        self._receiver.join()

    def failure(self, named: str) -> EngineError:
        """What a user needs of a process that has ended. ``named``: the error that it named itself."""
        code = programs.wait(self._process, EXIT_SECONDS) or 0
        hint = _HINT if self._loaded else _LOAD_HINT
        error = programs.failed(self._command, code, self._log, hint, "vLLM's process")
        what = error.what
        if not self._loaded:
            what = f"vLLM cannot load the model: {self._job.model}"
        elif named:
            what = "The engine vllm failed"
        return EngineError(what, why=(*first_error(self._log), *error.why), hint=hint)

    def _feed(self, source: _Source, read: "Callable[[Request], Image.Image]", max_tokens: int) -> None:
        count = 0
        try:
            while not self._window.closed and (request := source.take()) is not None:
                count += 1
                self._ask(request, read, max_tokens)
        except Exception as error:
            self._results.put(error)
        self._results.put(_Fed(count))

    def _ask(self, request: Request, read: "Callable[[Request], Image.Image]", max_tokens: int) -> None:
        try:
            picture = read(request)
        except BadPicture as error:
            self._results.put(Completion(key=request.key, finish="error", error=str(error)))
            return
        if self._window.enter(request.key, picture.width * picture.height):
            text = self._job.request_text(request)
            message = {"key": request.key, "text": text, "max_tokens": max_tokens, "size": picture.size}
            self._send(message, picture.tobytes())

    def _send(self, message: Mapping[str, Any], pixels: bytes = b"") -> None:
        with self._sending, contextlib.suppress(OSError):  # a process that has ended: the receiver reports it
            self._stdin.write(msgspec.json.encode(message) + b"\n" + pixels)
            self._stdin.flush()

    def _receive(self) -> None:
        named = ""
        try:
            with self._stdout:
                for line in self._stdout:
                    if line.endswith(b"\n"):  # else it was killed while it wrote
                        named = named or self._named_failure(msgspec.json.decode(line))
        except Exception as error:
            self._results.put(error)
        self._results.put(_Ended(self, named))

    def _named_failure(self, message: Mapping[str, Any]) -> str:
        """Handle a message; the failure that it names, if any."""
        if message.get("finish") == "loop":
            is_loop = self._job.loops(message["text"])
            self._send({"key": message["key"], "again": not is_loop})
            if not is_loop:
                return ""
        if "key" in message:
            self._window.leave(message["key"])
            self._results.put(_completion(message))
        elif "loaded" in message:
            self._loaded = True
        return str(message.get("failed", ""))


def first_error(log: Path) -> list[str]:
    """The first error that a log names, if it names any.

    vLLM's processes fail one after the other, and the last lines are those of the last: the cause stands further up.
    """
    with log.open(encoding="utf-8", errors="replace") as file:
        matches = map(_NAMED_ERROR.search, file)
        return next(([match[0].rstrip()] for match in matches if match), [])


def _completion(message: Mapping[str, Any]) -> Completion:
    if "error" in message:
        return Completion(key=message["key"], finish="error", error=f"vLLM does not take it: {message['error']}")
    return msgspec.convert(message, Completion)


class _Window:
    """The requests on their way in a rank, with their pixels; both are limited, but one request is always let in."""

    def __init__(self, requests: int, pixels: int) -> None:
        self._limits = requests, pixels
        self._inside: dict[str, int] = {}
        self._changed = threading.Condition()
        self.closed = False

    def enter(self, key: str, pixels: int) -> bool:
        """Wait for room; False where the window has been closed."""
        with self._changed:
            self._changed.wait_for(lambda: self.closed or self._has_room(pixels))
            self._inside[key] = pixels
        return not self.closed

    def leave(self, key: str) -> None:
        with self._changed:
            self._inside.pop(key)
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def _has_room(self, pixels: int) -> bool:
        requests, limit = self._limits
        return not self._inside or (len(self._inside) < requests and sum(self._inside.values()) + pixels <= limit)
