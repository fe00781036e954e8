"""A small engine that keeps the contract: it answers with a box that the prompt's length decides."""

from collections.abc import Iterable, Iterator
from typing import Any

from vlmdet_cli.data.image_files import Unreadable, open_upright
from vlmdet_cli.engines import Completion, Request

TEXT = "<|object_ref_start|>cat<|object_ref_end|><|box_start|>(0,0),(500,{n})<|box_end|>"


class FakeEngine:
    """Answers in reverse order; stops as a killed process does after ``until`` answers. ``asked``: what came."""

    def __init__(self, until: int = 999, **identity: Any) -> None:
        self._left = until
        self._identity = identity
        self.asked: list[Request] = []

    def identity(self) -> dict[str, Any]:
        return {"name": "fake", **self._identity}

    def answer(self, requests: Iterable[Request], max_tokens: int) -> Iterator[Completion]:
        for request in reversed(list(requests)):
            if not self._left:
                raise KeyboardInterrupt
            self._left -= 1
            self.asked.append(request)
            yield self._completion(request, max_tokens)

    def _completion(self, request: Request, max_tokens: int) -> Completion:
        try:
            open_upright(request.image)
        except Unreadable as error:
            return Completion(key=request.key, finish="error", error=str(error))
        text = TEXT.format(n=len(request.prompt))
        return Completion(key=request.key, text=text, finish="stop" if max_tokens > 9 else "length")
