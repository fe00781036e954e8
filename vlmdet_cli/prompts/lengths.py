"""The number of tokens of a row, so that rows that swift would drop are known before training.

With a model's folder at hand the count is exact: its own tokenizer, and pictures sized as swift sizes them. Elsewhere
it is an upper bound: a byte-level tokenizer never makes more tokens than the text has bytes. The chat form, the special
tokens and the picture sizes are the model family's; where vlmdet has no module for it, every count is 0.
"""

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from vlmdet_cli.models.family import IMAGE_TAG, Family

Tokens = npt.NDArray[np.int64]


class TokenCounter(msgspec.Struct, frozen=True):
    """Counts the tokens of rows with one picture each, the chat form included.

    ``tokenizer``: of the ``tokenizers`` package; without it counts are upper bounds. ``max_pixels``: the training's
    pixel limit, None for none. ``system``: its system prompt, None for the family's own.
    """

    family: Family
    max_pixels: int | None
    tokenizer: Any = None
    system: str | None = None

    @property
    def counts(self) -> bool:
        """Whether anything is known of the rows' tokens."""
        return self.family.is_known

    @property
    def exact(self) -> bool:
        return self.tokenizer is not None and self.counts

    def rows(self, questions: Sequence[str], answers: Sequence[str], sizes_wh: Any) -> Tokens:
        """Tokens of each row, ``(N,)``; picture sizes are ``(N, 2)``."""
        if not self.counts:
            return np.zeros(len(questions), np.int64)
        counts = self._encoded if self.exact else self._bounds
        return np.array(counts(questions, answers), np.int64) + self.pictures(sizes_wh)

    def max_rows(self, questions: Sequence[str], answers: Sequence[str], sizes_wh: Any) -> Tokens:
        """A rough upper bound of each row's tokens, ``(N,)``: no text is searched for special tokens.

        Sizes ``(1, 2)`` are those of all pictures.
        """
        if not self.counts:
            return np.zeros(len(questions), np.int64)
        texts = [_bytes(question + answer) for question, answer in zip(questions, answers, strict=True)]
        return np.array(texts, np.int64) + self._chat_tokens + self.pictures(sizes_wh)

    def row(self, question: str, answer: str, size_wh: tuple[int, int]) -> int:
        """Tokens of one row."""
        return int(self.rows([question], [answer], [size_wh])[0])

    def pictures(self, sizes_wh: Any) -> Tokens:
        """``(N,)`` tokens of pictures ``(N, 2)``."""
        return self.family.image_tokens(sizes_wh, self.max_pixels)

    @property
    def _chat_tokens(self) -> int:
        """An upper bound of what the chat form adds to question and answer, but for the picture."""
        return self.family.max_text_tokens(self.family.row_text(IMAGE_TAG, "", self.system)) - 1

    def _encoded(self, questions: Sequence[str], answers: Sequence[str]) -> list[int]:
        """Tokens without the picture's."""
        texts = [
            self.family.row_text(question, answer, self.system)
            for question, answer in zip(questions, answers, strict=True)
        ]
        encodings = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [len(encoding.ids) - 1 for encoding in encodings]

    def _bounds(self, questions: Sequence[str], answers: Sequence[str]) -> list[int]:
        chat, bound = self._chat_tokens, self.family.max_text_tokens
        return [
            chat + bound(question.replace(IMAGE_TAG, "")) + bound(answer)
            for question, answer in zip(questions, answers, strict=True)
        ]


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


@functools.lru_cache(maxsize=2)
def token_counter(family: Family, model: str, max_pixels: int | None, system: str | None = None) -> TokenCounter:
    """The counter of a model: exact where ``model`` is a folder with a tokenizer, else an upper bound."""
    file = Path(model) / "tokenizer.json"
    if file.is_file():
        try:
            from tokenizers import Tokenizer
        except ImportError:
            return TokenCounter(family, max_pixels, system=system)
        return TokenCounter(family, max_pixels, Tokenizer.from_file(str(file)), system)
    return TokenCounter(family, max_pixels, system=system)


def too_long(
    rows: Iterable[tuple[str, str, tuple[int, int]]], counter: TokenCounter, limit: int
) -> list[tuple[int, int]]:
    """Line numbers (from 1) and token counts of the rows over ``limit`` tokens."""
    questions, answers, sizes = zip(*rows, strict=True)
    tokens = counter.rows(questions, answers, sizes)
    return [(index + 1, int(tokens[index])) for index in np.flatnonzero(tokens > limit).tolist()]
