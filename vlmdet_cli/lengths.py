"""How many tokens a row takes, so that rows that swift would drop are found before training.

With a model's folder at hand the count is exact: its own tokenizer, and pictures sized as swift sizes them. Elsewhere
it is an upper bound: a byte-level tokenizer never makes more tokens than the text has bytes.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from vlmdet_cli.boxes import FACTOR, MAX_PIXELS, as_trained
from vlmdet_cli.errors import UsageError
from vlmdet_cli.records import read_json

_TURNS = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n"
    "<|im_start|>assistant\n{answer}<|im_end|>\n"
)
_SPECIAL = re.compile(r"<\|[a-z_]+\|>")


class Counter(msgspec.Struct, frozen=True):
    """Counts a row's tokens; ``exact`` or as an upper bound."""

    text_tokens: Callable[[str], int]
    max_pixels: int | None
    exact: bool

    def row(self, question: str, answer: str, size_wh: tuple[int, int]) -> int:
        """Tokens of one row with one picture, chat format included."""
        text = _TURNS.format(question=question.replace("<image>", "<|vision_start|><|vision_end|>"), answer=answer)
        return self.text_tokens(text) + self.picture(*size_wh)

    def picture(self, width: int, height: int) -> int:
        """Picture tokens of a picture as swift trains on it."""
        wide, high = as_trained(width, height, self.max_pixels)
        return (wide // FACTOR) * (high // FACTOR)


def counter(model: str, max_pixels: int | None) -> Counter:
    """The counter of a model: exact where ``model`` is a folder with a tokenizer, else an upper bound."""
    folder = Path(model)
    if not (folder / "tokenizer.json").is_file():
        return Counter(_bound, max_pixels, exact=False)
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return Counter(_bound, max_pixels, exact=False)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return Counter(lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids), max_pixels, exact=True)


def _bound(text: str) -> int:
    plain, specials = _SPECIAL.subn("", text)
    return len(plain.encode()) + specials


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


def too_long(rows: Iterable[tuple[str, str, tuple[int, int]]], count: Counter, limit: int) -> list[tuple[int, int]]:
    """Line numbers (from 1) and token counts of the rows over ``limit``."""
    counts = ((number, count.row(*row)) for number, row in enumerate(rows, 1))
    return [(number, tokens) for number, tokens in counts if tokens > limit]
