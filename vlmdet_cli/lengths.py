"""How many tokens a row takes, so that rows that swift would drop are found before training.

With a model's folder at hand the count is exact: its own tokenizer, and the picture tokens of its own pixel
limits. Elsewhere it is an upper bound: a byte-level tokenizer never makes more tokens than the text has bytes.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from vlmdet_cli.boxes import FACTOR, MAX_PIXELS, MIN_PIXELS, resized
from vlmdet_cli.errors import UsageError
from vlmdet_cli.records import read_json

_TURNS = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n"
    "<|im_start|>assistant\n{answer}<|im_end|>"
)
_SPECIAL = re.compile(r"<\|[a-z_]+\|>")


class Counter(msgspec.Struct, frozen=True):
    """Counts a row's tokens; ``exact`` or as an upper bound."""

    text_tokens: Callable[[str], int]
    min_pixels: int
    max_pixels: int
    exact: bool

    def row(self, question: str, answer: str, size_wh: tuple[int, int]) -> int:
        """Tokens of one row with one picture, chat format included."""
        text = _TURNS.format(question=question.replace("<image>", "<|vision_start|><|vision_end|>"), answer=answer)
        return self.text_tokens(text) + self.picture(*size_wh)

    def picture(self, width: int, height: int) -> int:
        """Picture tokens: swift sizes a picture by its own limits, then the model's processor by the model's."""
        once = resized(width, height, MIN_PIXELS, MAX_PIXELS)
        wide, high = resized(*once, self.min_pixels, self.max_pixels)
        return (wide // FACTOR) * (high // FACTOR)


def counter(model: str) -> Counter:
    """The counter of a model: exact where ``model`` is a folder with a tokenizer, else an upper bound."""
    folder = Path(model)
    if not (folder / "tokenizer.json").is_file():
        return Counter(_bound, MIN_PIXELS, MAX_PIXELS, exact=False)
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return Counter(_bound, MIN_PIXELS, MAX_PIXELS, exact=False)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    low, high = _pixel_limits(folder)
    return Counter(lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids), low, high, exact=True)


def _bound(text: str) -> int:
    plain, specials = _SPECIAL.subn("", text)
    return len(plain.encode()) + specials


def _pixel_limits(folder: Path) -> tuple[int, int]:
    """Of the picture's processor, which has a file of its own or, in newer folders, a part of the whole one's."""
    file = folder / "preprocessor_config.json"
    if file.is_file():
        config: dict[str, Any] = read_json(file, "processor's settings")
    else:
        file = folder / "processor_config.json"
        config = read_json(file, "processor's settings").get("image_processor", {}) if file.is_file() else {}
    size = config.get("size") or {}
    low = config.get("min_pixels") or size.get("shortest_edge") or MIN_PIXELS
    high = config.get("max_pixels") or size.get("longest_edge") or MAX_PIXELS
    if not isinstance(low, int) or not isinstance(high, int):
        raise UsageError(f"The processor's pixel limits are no numbers: {file}")
    return low, high


def too_long(rows: Iterable[tuple[str, str, tuple[int, int]]], count: Counter, limit: int) -> list[tuple[int, int]]:
    """Line numbers (from 1) and token counts of the rows over ``limit``."""
    counts = ((number, count.row(*row)) for number, row in enumerate(rows, 1))
    return [(number, tokens) for number, tokens in counts if tokens > limit]
