"""How many tokens a row takes, so that rows that swift would drop are found before training.

With a model's folder at hand the count is exact: its own tokenizer, and pictures sized as swift sizes them. Elsewhere
it is an upper bound: a byte-level tokenizer never makes more tokens than the text has bytes.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from vlmdet_cli.core.boxes import FACTOR, MAX_PIXELS, all_as_trained
from vlmdet_cli.core.files import read_json
from vlmdet_cli.errors import UsageError

_TURNS = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n"
    "<|im_start|>assistant\n{answer}<|im_end|>\n"
)
_SPECIAL = tuple(
    f"<|{name}|>" for name in ("object_ref_start", "object_ref_end", "box_start", "box_end", "im_start", "im_end")
)
Tokens = npt.NDArray[np.int64]


class TokenCounter(msgspec.Struct, frozen=True):
    """Counts rows' tokens; ``exact`` or as an upper bound. ``side``: pixels across a picture token."""

    texts: Callable[[Sequence[str], Sequence[str]], list[int]]
    max_pixels: int | None
    exact: bool
    side: int = FACTOR

    def rows(self, questions: Sequence[str], answers: Sequence[str], sizes_wh: Any) -> Tokens:
        """Tokens of each row with one picture, chat format included; sizes are ``(N, 2)``."""
        return np.array(self.texts(questions, answers), np.int64) + self.pictures(sizes_wh)

    def most(self, questions: Sequence[str], answers: Sequence[str], sizes_wh: Any) -> Tokens:
        """A rough upper bound for each row, without a look into its texts."""
        texts = [
            len(one) + len(two) if one.isascii() and two.isascii() else len(one.encode()) + len(two.encode())
            for one, two in zip(questions, answers, strict=True)
        ]
        return np.array(texts, np.int64) + len(_TURNS) + self.pictures(sizes_wh)

    def row(self, question: str, answer: str, size_wh: tuple[int, int]) -> int:
        """Tokens of one row."""
        return int(self.rows([question], [answer], [size_wh])[0])

    def pictures(self, sizes_wh: Any) -> Tokens:
        """``(N,)`` picture tokens of pictures ``(N, 2)`` as swift trains on them."""
        sides = all_as_trained(np.asarray(sizes_wh, np.float64).reshape(-1, 2), self.max_pixels, self.side) / self.side
        counted: Tokens = (sides[:, 0] * sides[:, 1]).astype(np.int64)
        return counted


@functools.lru_cache(maxsize=2)
def counter(model: str, max_pixels: int | None, side: int | None = FACTOR) -> TokenCounter:
    """The counter of a model: exact where ``model`` is a folder with a tokenizer, else an upper bound.

    Families whose picture tokens do not follow from the size (``side`` None) are counted as Qwen2-VL's.
    """
    file = Path(model) / "tokenizer.json"
    if file.is_file() and side is not None:
        try:
            from tokenizers import Tokenizer
        except ImportError:
            return TokenCounter(_bounds, max_pixels, exact=False, side=side)
        return TokenCounter(
            functools.partial(_count, Tokenizer.from_file(str(file))), max_pixels, exact=True, side=side
        )
    return TokenCounter(_bounds, max_pixels, exact=False, side=side or FACTOR)


def _count(tokenizer: Any, questions: Sequence[str], answers: Sequence[str]) -> list[int]:
    texts = [
        _TURNS.format(question=question.replace("<image>", "<|vision_start|><|vision_end|>"), answer=answer)
        for question, answer in zip(questions, answers, strict=True)
    ]
    return [len(one.ids) for one in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


def _bounds(questions: Sequence[str], answers: Sequence[str]) -> list[int]:
    """A byte is at most a token. A special token is one, and <image> two."""
    turns = _bound(_TURNS) - len("{question}{answer}") + 2 - len("<image>")
    return [turns + _bound(one) + _bound(two) for one, two in zip(questions, answers, strict=True)]


def _bound(text: str) -> int:
    size = len(text) if text.isascii() else len(text.encode())
    return size - sum([text.count(token) * (len(token) - 1) for token in _SPECIAL]) if "<|" in text else size


def own_limit(model: Path) -> int | None:
    """The most pixels that a model folder's processor states, where that is less than swift's own limit.

    The processor has a file of its own or, in newer folders, a part of the whole one's.
    """
    file = model / "preprocessor_config.json"
    if file.is_file():
        config: dict[str, Any] = read_json(file, "processor's settings")
    else:
        file = model / "processor_config.json"
        config = read_json(file, "processor's settings").get("image_processor", {}) if file.is_file() else {}
    high = config.get("max_pixels") or (config.get("size") or {}).get("longest_edge")
    if not isinstance(high, int | None):
        raise UsageError(f"The processor's pixel limit is no number: {file}")
    return high if high and high < MAX_PIXELS else None


def pixel_limit(model: str, wanted: object) -> int | None:
    """``max_pixels`` for swift and the engine: what the user wants, else the model's own limit."""
    if isinstance(wanted, int):
        return wanted
    folder = Path(model)
    return own_limit(folder) if folder.is_dir() else None


def too_long(
    rows: Iterable[tuple[str, str, tuple[int, int]]], count: TokenCounter, limit: int
) -> list[tuple[int, int]]:
    """Line numbers (from 1) and token counts of the rows over ``limit``."""
    questions, answers, sizes = zip(*rows, strict=True)
    tokens = count.rows(questions, answers, sizes)
    return [(place + 1, int(tokens[place])) for place in np.flatnonzero(tokens > limit).tolist()]
