"""Batches: pictures read ahead, bad pictures told apart, and a batch that does not fit into memory halved."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image

from vlmdet_cli.engines import Completion, Request
from vlmdet_cli.engines.batches import BatchedAnswers, Sized
from vlmdet_cli.engines.failures import BadPicture, engine_errors, is_out_of_memory
from vlmdet_cli.errors import EngineError, UsageError

PICTURE = Image.new("RGB", (8, 8))


class Gpu:
    """Generates texts for at most ``fits`` pictures at once; more raise ``error``. ``sizes``: of all batches tried."""

    def __init__(self, fits: int, error: Callable[[], BaseException]) -> None:
        self.fits = fits
        self.error = error
        self.sizes: list[int] = []

    def __call__(self, batch: Sequence[Sized], inputs: object = None) -> list[Completion]:
        del inputs
        self.sizes.append(len(batch))
        if len(batch) > self.fits:
            raise self.error()
        return [Completion(key=request.key, text=request.prompt) for request, _ in batch]


def requests(count: int) -> list[Request]:
    return [Request(key=str(n), image=Path(f"{n}.jpg"), prompt=f"prompt {n}") for n in range(count)]


def cuda_error() -> BaseException:
    """``torch.OutOfMemoryError``, where torch is not installed too."""
    error: BaseException = type("OutOfMemoryError", (RuntimeError,), {})("CUDA ran out. Tried to allocate 20.00 MiB.")
    return error


def cpu_error() -> BaseException:
    return RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")


def onednn_error() -> BaseException:
    return RuntimeError("could not create a primitive")  # what torch on a CPU raises under a limit of its address space


@pytest.mark.parametrize("error", [cuda_error, cpu_error, onednn_error, MemoryError])
def test_a_batch_that_does_not_fit_is_halved_and_every_request_is_answered(
    error: Callable[[], BaseException],
) -> None:
    gpu = Gpu(3, error)
    answers = list(BatchedAnswers(8, lambda _request: PICTURE, gpu).completions(requests(20)))
    assert [answer.text for answer in answers] == [f"prompt {n}" for n in range(20)]
    assert gpu.sizes == [8, 4, *[2] * 10]  # later batches are small from the start


def test_after_batches_that_fit_larger_ones_are_tried_and_each_failure_doubles_the_wait() -> None:
    gpu = Gpu(3, MemoryError)
    answers = list(BatchedAnswers(4, lambda _request: PICTURE, gpu).completions(requests(200)))
    assert [answer.text for answer in answers] == [f"prompt {n}" for n in range(200)]
    failures = [number for number, size in enumerate(gpu.sizes) if size == 4]
    assert failures[:3] == [0, 18, 52]  # after 16 and 32 batches of 2, and the one that waited then
    assert len(failures) == 3


def test_a_failure_of_large_pictures_does_not_make_all_later_batches_small() -> None:
    gpu = Gpu(2, MemoryError)
    batches = BatchedAnswers(8, lambda _request: PICTURE, gpu)
    stream = batches.completions(requests(400))
    next(stream)
    assert batches.size == 2
    gpu.fits = 8
    list(stream)
    assert batches.size == 8


def test_the_inputs_of_the_next_batch_are_made_while_one_is_answered() -> None:
    made: list[str] = []
    ready = threading.Event()

    def prepare(batch: Sequence[Sized]) -> str:
        made.append(batch[0][0].key)
        if len(made) == 2:
            ready.set()
        return f"inputs {batch[0][0].key}"

    def generate(batch: Sequence[Sized], inputs: str) -> list[Completion]:
        assert ready.wait(10)
        return [Completion(key=request.key, text=inputs) for request, _ in batch]

    answers = list(BatchedAnswers(2, lambda _request: PICTURE, generate, prepare).completions(requests(6)))
    assert [answer.text for answer in answers] == [f"inputs {n}" for n in (0, 0, 2, 2, 4, 4)]
    assert made == ["0", "2", "4"]


def test_inputs_that_do_not_fit_are_made_of_smaller_batches() -> None:
    gpu = Gpu(9, MemoryError)

    def prepare(batch: Sequence[Sized]) -> int:
        if len(batch) > 2:
            raise MemoryError
        return len(batch)

    assert len(list(BatchedAnswers(4, lambda _request: PICTURE, gpu, prepare).completions(requests(10)))) == 10
    assert gpu.sizes == [2] * 5


def test_a_single_picture_that_does_not_fit_is_an_error_with_advice() -> None:
    with pytest.raises(EngineError) as caught:
        list(BatchedAnswers(4, lambda _request: PICTURE, Gpu(0, cpu_error)).completions(requests(4)))
    assert caught.value.what == "Out of memory with a single picture"
    assert caught.value.why == ("Picture 0.jpg, batch of 1.",)
    assert "infer.max_tokens" in caught.value.hint


def test_other_errors_of_the_model_are_raised_as_they_are() -> None:
    gpu = Gpu(0, lambda: RuntimeError("CUDA error: device-side assert triggered"))
    with pytest.raises(RuntimeError, match="device-side assert"):
        list(BatchedAnswers(4, lambda _request: PICTURE, gpu).completions(requests(4)))
    assert gpu.sizes == [4]


def test_a_bad_picture_is_a_completion_and_the_others_go_on() -> None:
    def read(request: Request) -> Image.Image:
        if request.key in {"1", "4"}:
            raise BadPicture("truncated")
        return PICTURE

    answers = {answer.key: answer for answer in BatchedAnswers(2, read, Gpu(9, MemoryError)).completions(requests(5))}
    assert {key for key, answer in answers.items() if answer.finish == "error"} == {"1", "4"}
    assert answers["1"].error == "truncated"
    assert answers["3"].text == "prompt 3"


def test_a_picture_that_cannot_be_read_for_want_of_memory_is_read_again_and_is_no_bad_picture() -> None:
    left = [MemoryError(), None]

    def read(_request: Request) -> Image.Image:
        if error := left.pop(0) if left else None:
            raise error
        return PICTURE

    (answer,) = BatchedAnswers(2, read, Gpu(9, MemoryError)).completions(requests(1))
    assert answer.finish == "stop"

    def never(_request: Request) -> Image.Image:
        raise MemoryError

    with pytest.raises(EngineError, match="Out of memory"):
        list(BatchedAnswers(2, never, Gpu(9, MemoryError)).completions(requests(1)))


def test_a_broken_reader_stops_the_engine() -> None:
    def read(_request: Request) -> Image.Image:
        raise ImportError("libjpeg.so.8")

    with pytest.raises(ImportError):
        list(BatchedAnswers(2, read, Gpu(9, MemoryError)).completions(requests(5)))


def test_the_next_pictures_are_read_while_a_batch_is_answered() -> None:
    ahead = threading.Event()

    def read(request: Request) -> Image.Image:
        if request.key == "3":
            ahead.set()
        return PICTURE

    def generate(batch: Sequence[Sized], _inputs: object) -> list[Completion]:
        assert ahead.wait(10)
        return [Completion(key=request.key) for request, _ in batch]

    assert len(list(BatchedAnswers(2, read, generate).completions(requests(6)))) == 6


def test_not_all_pictures_are_read_before_the_first_answer() -> None:
    begun: list[str] = []

    def read(request: Request) -> Image.Image:
        begun.append(request.key)
        return PICTURE

    next(BatchedAnswers(2, read, Gpu(9, MemoryError)).completions(requests(100)))
    assert len(begun) <= 8


@pytest.mark.parametrize("text", ["CUDA error: invalid device ordinal", "shape mismatch", ""])
def test_an_ordinary_error_is_not_taken_for_want_of_memory(text: str) -> None:
    assert not is_out_of_memory(RuntimeError(text))


def test_every_exception_of_an_engine_becomes_its_error_and_a_users_error_stays() -> None:
    with pytest.raises(EngineError) as caught, engine_errors("It failed", "Try again."):
        raise ImportError("cannot import name x\nfrom y")
    assert (caught.value.what, caught.value.why, caught.value.hint) == (
        "It failed", ("ImportError: cannot import name x",), "Try again."
    )  # fmt: skip
    with pytest.raises(UsageError), engine_errors("It failed", "Try again."):
        raise UsageError("No such file")
    with pytest.raises(EngineError) as caught, engine_errors("It failed", "Try again.", "Buy memory."):
        raise cuda_error()
    assert caught.value.hint == "Buy memory."
