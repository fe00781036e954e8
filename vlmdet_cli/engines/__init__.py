"""Who answers. An engine takes questions in batches and gives a text and a finish reason for each.

``Engine`` is the whole contract; ``transformers`` runs a local Qwen2-VL folder in this process. Others (vLLM,
an OpenAI-compatible server) are one module here and one value of ``infer.engine``.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

from vlmdet_cli.core.answers import Token

Finish = Literal["stop", "length"]


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """``tokens``: the text in pieces with their log-probabilities; empty where the engine was not told to keep them."""

    text: str
    finish: Finish
    tokens: list[Token] = []


class Engine(Protocol):
    """Answers questions. ``load`` raises ``OSError`` for a picture that cannot be read; it may run in a thread."""

    def load(self, path: Path) -> Any:
        """The picture, decoded, ready for ``answer``."""

    def answer(self, questions: Sequence[tuple[Any, str]], max_tokens: int) -> list[Reply]:
        """One reply for each (loaded picture, prompt), in their order."""
