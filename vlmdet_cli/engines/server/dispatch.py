"""Requests to several servers at once: each goes to the server with most room, and is tried again where that helps.

A server that is unreachable is left out, checked again and again, and taken back. A request is tried again after an
``unreachable``, ``busy`` or ``broken`` failure. Where all servers stay down, or a request fails too often, every
request that waits ends with the same ``EngineError``.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from vlmdet_cli.engines import Completion
from vlmdet_cli.engines.server.checks import check
from vlmdet_cli.engines.server.endpoint import Endpoint, Failure
from vlmdet_cli.engines.server.load import backoff
from vlmdet_cli.engines.server.protocol import BadAnswer, ChatForm, completion
from vlmdet_cli.errors import EngineError, counted

KEPT_HINT = "What is answered is kept: run the same command again."


class _Waiter(NamedTuple):
    """A request that waits for a server. ``failed_at``: the servers where it has failed."""

    server: "asyncio.Future[tuple[Endpoint, float]]"
    failed_at: set[Endpoint]


class Dispatcher:
    """All methods but ``limit`` belong to one event loop.

    ``extras``: what is added to the requests for each server, by URL; servers that are missing there are probed.
    """

    def __init__(self, endpoints: Sequence[Endpoint], form: ChatForm, extras: dict[str, dict[str, Any]]) -> None:
        self._endpoints = endpoints
        self._form, self._extras = form, extras
        self._waiters: deque[_Waiter] = deque()
        self._error: Exception | None = None
        self._checks = [asyncio.ensure_future(self._get_ready(endpoint)) for endpoint in endpoints]

    @property
    def limit(self) -> int:
        """The number of requests that all servers together get at once by now."""
        return sum(int(endpoint.load.limit) for endpoint in self._endpoints)

    @property
    def _answered(self) -> int:
        return sum(endpoint.load.answered for endpoint in self._endpoints)

    async def answer(self, key: str, name: str, body: bytes) -> Completion:
        """The completion of one request; ``name``: its picture, for messages. Raises ``EngineError``."""
        failures, failed_at = 0, set[Endpoint]()
        answered = self._answered
        while True:
            endpoint, sent = await self._free_endpoint(failed_at, is_retry=failures > 0)
            try:
                return await self._attempt(endpoint, sent, key, body)
            except Failure as failure:
                if failure.kind == "picture":
                    return Completion(key=key, finish="error", error=f"the server: {failure}")
                # servers that answer others will answer this one too: a full server is not a failing one
                failures += failure.kind != "busy" or self._answered == answered
                answered = self._answered
                failed_at.add(endpoint)
                if failure.kind == "refused" or failures > endpoint.options.retries:
                    raise _not_answered(name, endpoint, failure, failures) from None
                if failure.kind != "busy":
                    await asyncio.sleep(backoff(failures))

    async def _attempt(self, endpoint: Endpoint, sent: float, key: str, body: bytes) -> Completion:
        load = endpoint.load
        try:
            answer = await self._answer(endpoint, key, body)
        except BadAnswer as error:
            load.ended()
            raise Failure("broken", str(error)) from None
        except Failure as failure:
            self._count_failure(endpoint, sent, failure)
            raise
        except BaseException:
            load.ended()
            raise
        else:
            load.ended_well(sent)
            return answer
        finally:
            self._hand_out()

    async def _answer(self, endpoint: Endpoint, key: str, body: bytes) -> Completion:
        form = self._form
        answer = completion(key, await endpoint.ask(body, form.loop_stop), scores=form.settings.scores)
        if answer.finish == "loop" and not form.loops.loops(answer.text):  # tokens repeat, but no boxes
            answer = completion(key, await endpoint.ask(body), scores=form.settings.scores)
        return answer

    def _count_failure(self, endpoint: Endpoint, sent: float, failure: Failure) -> None:
        load = endpoint.load
        if failure.kind == "busy":
            load.refused(sent, failure.wait and min(failure.wait, endpoint.options.timeout))
            asyncio.get_running_loop().call_at(load.paused_until + 0.001, self._hand_out)
        elif failure.kind == "unreachable":
            load.ended_in_trouble(sent)
            if endpoint.is_ready:
                endpoint.is_ready = False
                self._checks.append(asyncio.ensure_future(self._get_ready(endpoint)))
        else:
            load.ended()

    # --- which server gets a request -------------------------------------------------------------------------

    async def _free_endpoint(self, failed_at: set[Endpoint], *, is_retry: bool) -> tuple[Endpoint, float]:
        """A server with room, and the moment at which the request counts as sent to it."""
        if self._error:
            raise self._error
        waiter = _Waiter(asyncio.get_running_loop().create_future(), failed_at)
        if is_retry:
            self._waiters.appendleft(waiter)
        else:
            self._waiters.append(waiter)
        self._hand_out()
        return await waiter.server

    def _hand_out(self) -> None:
        """Give the servers' free room to those that have waited longest."""
        while self._waiters:
            free = [endpoint for endpoint in self._endpoints if endpoint.is_ready and endpoint.load.free() > 0]
            if not free:
                return
            waiter = self._waiters.popleft()
            if not waiter.server.done():
                chosen = max(free, key=lambda endpoint: (endpoint not in waiter.failed_at, endpoint.load.free()))
                waiter.server.set_result((chosen, chosen.load.sent()))

    # --- which servers are there -----------------------------------------------------------------------------

    async def _get_ready(self, endpoint: Endpoint) -> None:
        """Check a server until it is ready."""
        endpoint.failures = 0
        while not endpoint.is_ready:
            try:
                await check(endpoint, self._form, self._extras)
                endpoint.is_ready = True
            except Failure as failure:
                endpoint.failures += 1
                endpoint.last_failure = str(failure)
                if all(not other.is_ready and other.failures > other.options.retries for other in self._endpoints):
                    self._fail(no_server(self._endpoints))
                await asyncio.sleep(backoff(endpoint.failures) if failure.wait is None else failure.wait)
            except Exception as error:  # those who wait get it: a check has no caller
                self._fail(error)
                return
        self._hand_out()

    def _fail(self, error: Exception) -> None:
        self._error = error
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.server.done():
                waiter.server.set_exception(error)


def no_server(endpoints: Sequence[Endpoint]) -> EngineError:
    return EngineError(
        "No server answers" if len(endpoints) > 1 else f"The server does not answer: {endpoints[0].url}",
        why=[f"{endpoint.url}: {endpoint.last_failure}" for endpoint in endpoints],
        hint=f"Is it started, and is infer.server.urls right? {KEPT_HINT}",
    )


def _not_answered(name: str, endpoint: Endpoint, failure: Failure, failures: int) -> EngineError:
    times = "" if failure.kind == "refused" else f" {counted(failures, 'time')}"
    act = "refused" if failure.kind == "refused" else "failed"
    return EngineError(
        f"The server {act} to answer about a picture{times}: {name}",
        why=f"{endpoint.url}: {failure}",
        hint=f"Its log may say why. {KEPT_HINT}",
    )
