"""Any OpenAI-compatible server, by the ``openai`` client: vLLM, ms-swift's ``swift deploy``, and others.

Pictures are read, sized and encoded in threads here, so that the server sees the same pixels as every other engine. The
requests are sent by an event loop in a thread of its own: it keeps the servers busy whatever the caller does between
two completions, and it can be used where an event loop runs already, as in a notebook.
"""

import asyncio
import os
import threading
from collections.abc import Coroutine, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.util import find_spec
from queue import SimpleQueue
from typing import Any, TypeVar

from vlmdet_cli.engines import Completion, EngineSettings, Request
from vlmdet_cli.engines.failures import BadPicture, engine_errors
from vlmdet_cli.engines.pictures import SIZED, PictureReader, Recent
from vlmdet_cli.engines.server.checks import require_same, stated_model
from vlmdet_cli.engines.server.dispatch import KEPT_HINT, Dispatcher, no_server
from vlmdet_cli.engines.server.endpoint import Endpoint, Failure
from vlmdet_cli.engines.server.load import backoff
from vlmdet_cli.engines.server.protocol import ChatForm, ServedModel, data_url
from vlmdet_cli.engines.settings import ServerOptions
from vlmdet_cli.errors import EngineError

READERS = min(8, os.cpu_count() or 1)  # threads; decoding, resizing and zlib release Python's lock
AHEAD = 16  # requests that are encoded beyond those that the servers have
OTHERS_WAIT = 2.0  # seconds that the other servers get to state their model after the first has

Value = TypeVar("Value")


class ServerEngine:
    """Answers with the model of the servers in its options; it needs no weights here."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._options = settings.options if isinstance(settings.options, ServerOptions) else ServerOptions()
        self._known: ChatForm | None = None
        self._extras: dict[str, dict[str, Any]] = {}  # what each server takes, by URL: it is probed once

    def identity(self) -> dict[str, Any]:
        """What the server says of itself; it is asked once. Raises ``EngineError`` where none answers."""
        form = self._form()
        served = form.served
        stated = {"kind": served.kind, "served_model": served.name, "root": served.root}
        return {"name": "server", **stated, "generation": form.generation}

    def answer(self, requests: Iterable[Request], max_tokens: int) -> Iterator[Completion]:
        """Greedy completions, in the order in which they come."""
        answers = _Answers(self._form(), self._options, max_tokens, self._extras)
        with engine_errors("The engine server failed", KEPT_HINT), answers:
            yield from answers.completions(requests)

    def _form(self) -> ChatForm:
        if self._known is None:
            named = str(self._settings.adapter or self._settings.model)
            self._known = ChatForm(served_model(self._options, named), self._settings)
        return self._known


class _Answers:
    """One inference: requests go in, completions come out as they are done."""

    def __init__(
        self, form: ChatForm, options: ServerOptions, max_tokens: int, extras: dict[str, dict[str, Any]]
    ) -> None:
        self._form, self._options, self._max_tokens, self._extras = form, options, max_tokens, extras
        self._read = PictureReader(form.settings)
        self._urls = Recent[str](SIZED)
        self._done = SimpleQueue[Future[Completion]]()
        self._loop = _LoopThread()

    def __enter__(self) -> "_Answers":
        self._pool = ThreadPoolExecutor(READERS)
        self._loop.start()
        self._dispatcher = self._loop.run(self._dispatch()).result()
        return self

    def __exit__(self, *_error: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._loop.stop()

    async def _dispatch(self) -> Dispatcher:
        return Dispatcher(self._loop.open(self._options), self._form, self._extras)

    def completions(self, requests: Iterable[Request]) -> Iterator[Completion]:
        waiting = 0
        for request in requests:
            self._loop.run(self._answer(request)).add_done_callback(self._done.put)
            waiting += 1
            while waiting >= self._dispatcher.limit + AHEAD or not self._done.empty():
                yield self._done.get().result()
                waiting -= 1
        for _ in range(waiting):
            yield self._done.get().result()

    async def _answer(self, request: Request) -> Completion:
        try:
            body = await asyncio.get_running_loop().run_in_executor(self._pool, self._body, request)
        except BadPicture as error:
            return Completion(key=request.key, finish="error", error=str(error))
        return await self._dispatcher.answer(request.key, str(request.image), body)

    def _body(self, request: Request) -> bytes:
        picture = (request.image, request.size, request.crop)
        url = self._urls.get(picture, lambda: data_url(self._read(request)))
        return self._form.body(request.prompt, url, self._max_tokens)


# --- the model -----------------------------------------------------------------------------------------------


def served_model(options: ServerOptions, named: str) -> ServedModel:
    """The model of the servers, chosen by ``named`` as ``chosen_model`` does. Those that are down now are left out.

    Raises ``EngineError`` where none answers, or where they have different models.
    """
    if find_spec("openai") is None:
        raise EngineError(
            "The engine server needs a package that is not installed: openai",
            hint="Install it: pip install 'vlmdet[server]'.",
        )
    loop = _LoopThread()
    loop.start()
    try:
        return loop.run(_served_model(loop, options, named)).result()
    finally:
        loop.stop()


async def _served_model(loop: "_LoopThread", options: ServerOptions, named: str) -> ServedModel:
    endpoints = loop.open(options)
    waiting = {asyncio.ensure_future(_stated_model(endpoint, named)): endpoint for endpoint in endpoints}
    served: dict[str, ServedModel] = {}
    while waiting:
        seconds = OTHERS_WAIT if served else None
        done, _ = await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            break
        for task in done:
            endpoint = waiting.pop(task)
            if model := task.result():
                served[endpoint.url] = model
    if not served:
        raise no_server(endpoints)
    first = next(iter(served.values()))
    for url, model in served.items():
        require_same(url, model, first)
    return first


async def _stated_model(endpoint: Endpoint, named: str) -> ServedModel | None:
    """None where the server stays down."""
    for failures in range(1, endpoint.options.retries + 2):
        try:
            return await stated_model(endpoint, named)
        except Failure as failure:
            endpoint.last_failure = str(failure)
        if failures <= endpoint.options.retries:
            await asyncio.sleep(backoff(failures))
    return None


# --- the event loop ------------------------------------------------------------------------------------------


class _LoopThread:
    """An event loop in a thread of its own; ``stop`` cancels all that runs in it."""

    def __init__(self) -> None:
        self._endpoints: list[Endpoint] = []

    def start(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vlmdet-server", daemon=True)
        self._thread.start()

    def run(self, coroutine: "Coroutine[Any, Any, Value]") -> "Future[Value]":
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def open(self, options: ServerOptions) -> list[Endpoint]:
        """The servers, closed by ``stop``; it is called in the loop."""
        self._endpoints = [Endpoint(url, options) for url in options.urls]
        return self._endpoints

    def stop(self) -> None:
        self.run(self._end()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for endpoint in self._endpoints:
            await endpoint.close()
