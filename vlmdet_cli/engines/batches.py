"""Answers requests in batches that fit into memory, with the next batch made ready while one is answered.

The engine gives three functions. ``read`` returns a request's picture, sized for the model, and raises ``BadPicture``;
pictures are read ahead on threads. ``prepare`` makes the model's inputs of a batch, on another thread. ``generate``
returns the completions of a batch, with its inputs. Out of memory, each raises what Python or torch raises.
"""

import gc
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from vlmdet_cli.engines import Completion, Request
from vlmdet_cli.engines.failures import BadPicture, is_out_of_memory
from vlmdet_cli.errors import EngineError

if TYPE_CHECKING:
    from PIL import Image

READERS = 2  # threads; decoding and resizing release Python's lock
PATIENCE = 8  # after the first failure twice as many batches must fit before a larger one is tried, and so on
_ADVICE = (
    "Lower infer.max_tokens or train.swift.max_pixels, set infer.scores = false, or use a device with more memory."
)

Sized = tuple[Request, "Image.Image"]


class BatchedAnswers:
    """Batches of at most ``size`` pictures.

    A batch that does not fit into memory is halved, and so are those after it. After some that fit the number is
    doubled again: of pictures of many sizes, only the large ones need small batches. Each failure doubles the wait.
    """

    def __init__(
        self,
        size: int,
        read: "Callable[[Request], Image.Image]",
        generate: Callable[[Sequence[Sized], Any], list[Completion]],
        prepare: Callable[[Sequence[Sized]], Any] = lambda _batch: None,
    ) -> None:
        self.size = self._largest = size
        self._read = read
        self._generate = generate
        self._prepare = prepare
        self._fitted = 0  # batches since the size was changed
        self._patience = PATIENCE

    def completions(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """One completion for each request, batch by batch.

        Raises ``EngineError`` where a single picture does not fit into memory.
        """
        waiting: list[Sized] = []
        inputs: Future[Any] = Future()
        with ThreadPoolExecutor(max_workers=1) as preparer:
            for batch in self._batches(requests):
                if isinstance(batch, Completion):
                    yield batch
                    continue
                next_inputs = preparer.submit(self._prepare, batch)
                if waiting:
                    yield from self._fitting(waiting, inputs)
                waiting, inputs = batch, next_inputs
            if waiting:
                yield from self._fitting(waiting, inputs)

    def _batches(self, requests: Iterable[Request]) -> Iterator[list[Sized] | Completion]:
        """Batches of requests with their pictures, and a completion for each bad picture."""
        batch: list[Sized] = []
        for request, reading in _read_ahead(requests, self._read, self._largest):
            try:
                batch.append((request, self._picture(request, reading)))
            except BadPicture as error:
                yield Completion(key=request.key, finish="error", error=str(error))
            if len(batch) >= self.size:
                yield batch
                batch = []
        if batch:
            yield batch

    def _picture(self, request: Request, reading: "Future[Image.Image]") -> "Image.Image":
        try:
            return reading.result()
        except MemoryError:
            gc.collect()
        try:
            return self._read(request)
        except MemoryError:
            raise _out_of_memory(request) from None

    def _fitting(self, batch: list[Sized], inputs: "Future[Any]") -> Iterator[Completion]:
        """The completions of a batch, in parts where the whole does not fit into memory."""
        if len(batch) <= self.size:
            completions = self._generated(batch, inputs.result)
            if completions is not None:
                yield from completions
                return
        rest = deque(batch)
        while rest:
            part = [rest.popleft() for _ in range(min(self.size, len(rest)))]
            completions = self._generated(part, partial(self._prepare, part))
            if completions is not None:
                yield from completions
            else:
                rest.extendleft(reversed(part))

    def _generated(self, part: Sequence[Sized], inputs: Callable[[], Any]) -> list[Completion] | None:
        """None where memory ran out, and ``size`` is smaller then; the failed attempt's tensors are freed by then."""
        try:
            completions = self._generate(part, inputs())
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        else:
            self._grow(len(part))
            return completions
        gc.collect()
        if len(part) == 1:
            raise _out_of_memory(part[0][0])
        self.size = (len(part) + 1) // 2
        self._fitted, self._patience = 0, 2 * self._patience
        return None

    def _grow(self, fitted: int) -> None:
        """Count a full batch that fitted; enough of them allow larger ones."""
        self._fitted += fitted == self.size
        if self.size < self._largest and self._fitted >= self._patience:
            self.size, self._fitted = min(2 * self.size, self._largest), 0


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
