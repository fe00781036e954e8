"""Answers requests in batches: pictures are read ahead on threads, and a batch that does not fit into memory is halved.

The engine gives two functions. ``read`` returns a request's picture, sized for the model, and raises ``BadPicture``.
``generate`` returns the completions of a batch; out of memory it raises what Python or torch raises.
"""

import gc
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from vlmdet_cli.engines import Completion, Request
from vlmdet_cli.engines.failures import BadPicture, is_out_of_memory
from vlmdet_cli.errors import EngineError

if TYPE_CHECKING:
    from PIL import Image

READERS = 2  # threads; decoding and resizing release Python's lock
_ADVICE = (
    "Lower infer.max_tokens or train.swift.max_pixels, set infer.scores = false, or use a device with more memory."
)

Sized = tuple[Request, "Image.Image"]


class BatchedAnswers:
    """``size`` is the number of pictures of a batch; it is halved, for good, when a batch does not fit into memory."""

    def __init__(
        self,
        size: int,
        read: "Callable[[Request], Image.Image]",
        generate: Callable[[Sequence[Sized]], list[Completion]],
    ) -> None:
        self.size = size
        self._read = read
        self._generate = generate

    def completions(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """One completion for each request, batch by batch.

        Raises ``EngineError`` where a single picture does not fit into memory.
        """
        batch: list[Sized] = []
        for request, reading in _read_ahead(requests, self._read, 2 * self.size):
            try:
                batch.append((request, self._picture(request, reading)))
            except BadPicture as error:
                yield Completion(key=request.key, finish="error", error=str(error))
            if len(batch) >= self.size:
                yield from self._fitting(batch)
                batch = []
        if batch:
            yield from self._fitting(batch)

    def _picture(self, request: Request, reading: "Future[Image.Image]") -> "Image.Image":
        try:
            return reading.result()
        except MemoryError:
            gc.collect()
        try:
            return self._read(request)
        except MemoryError:
            raise _out_of_memory(request) from None

    def _fitting(self, batch: list[Sized]) -> Iterator[Completion]:
        """The completions of a batch, in parts where the whole does not fit into memory."""
        parts = deque([batch])
        while parts:
            part = parts.popleft()
            completions = self._generated(part)
            if completions is not None:
                yield from completions
            elif len(part) == 1:
                raise _out_of_memory(part[0][0])
            else:
                self.size = (len(part) + 1) // 2
                parts.extendleft([part[self.size :], part[: self.size]])

    def _generated(self, part: Sequence[Sized]) -> list[Completion] | None:
        """None where memory ran out; the failed attempt's tensors are freed by then."""
        try:
            return self._generate(part)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        gc.collect()
        return None


def _out_of_memory(request: Request) -> EngineError:
    return EngineError("Out of memory with a single picture", why=f"Picture {request.image}, batch of 1.", hint=_ADVICE)


def _read_ahead(
    requests: Iterable[Request], read: "Callable[[Request], Image.Image]", ahead: int
) -> "Iterator[tuple[Request, Future[Image.Image]]]":
    """Each request with its picture, at most ``ahead`` of them begun before they are asked for."""
    pool = ThreadPoolExecutor(max_workers=READERS)
    begun: deque[tuple[Request, Future[Image.Image]]] = deque()
    try:
        for request in requests:
            begun.append((request, pool.submit(read, request)))
            if len(begun) > ahead:
                yield begun.popleft()
        while begun:
            yield begun.popleft()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
