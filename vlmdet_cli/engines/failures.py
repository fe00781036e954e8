"""The three kinds of an engine's failure: of a picture, of memory, of the engine itself."""

import contextlib
from collections.abc import Iterator

from vlmdet_cli.errors import EngineError, VlmdetError

_MEMORY_MESSAGES = (
    "out of memory", "can't allocate memory", "not enough memory", "alloc_failed",
    "could not create a primitive", "could not create a memory",  # oneDNN's, of torch on a CPU
)  # fmt: skip


class BadPicture(Exception):  # noqa: N818  (a finding about a picture, recorded and not shown as an error)
    """The picture of a request cannot be used; the text is the reason."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, torch on a CPU or torch on a GPU ran out of memory."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _MEMORY_MESSAGES)


@contextlib.contextmanager
def engine_errors(what: str, hint: str, memory_hint: str = "") -> Iterator[None]:
    """Turn every exception of the block into an ``EngineError``: none of them is a picture's fault.

    ``memory_hint`` takes the place of ``hint`` where memory ran out.
    """
    try:
        yield
    except VlmdetError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines()
        why = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
        raise EngineError(
            what, why=why, hint=memory_hint if memory_hint and is_out_of_memory(error) else hint
        ) from error
