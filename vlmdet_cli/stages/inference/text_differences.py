"""Where two engines' answers to one request part, and the likely cause. Pure: it sees texts only."""

import itertools
import re

from vlmdet_cli.engines import Completion

_SPECIAL = re.compile(r"<\|[^<>|]*\|>|</?[a-z_]+\d*>")
_NUMBER = re.compile(r"\d+")
CLOSE = 3  # units of the frame by which another precision moves a coordinate, at most
AROUND = 30  # characters shown before and behind the first difference

STRIPPED = (
    "special tokens are stripped: this engine decodes with skip_special_tokens, or with spaces between them; a server "
    "needs skip_special_tokens = false and spaces_between_special_tokens = false"
)
CUT = "the same text, cut: another token limit, an end token that one engine does not know, or a loop that is cut"
PRECISION = "numbers differ by a unit or a few: another precision (dtype), attention, or batch"
RESIZED = "the same objects with other numbers: the picture is resized again, or by another filter or limit"
PROMPT = "the texts differ from their beginning: another system prompt or chat template, or other weights"
NEAR_TIE = (
    "the texts part half-way: a near-tie that dtype, attention or batch decide, or a picture that is resized again"
)


def likely_cause(reference: Completion, other: Completion) -> str:
    """Why ``other`` differs from ``reference``, as far as the two texts tell."""
    if "error" in {reference.finish, other.finish}:
        return f"only one of the engines could use the picture: {reference.error or other.error}"
    texts = reference.text, other.text
    plain = [_plain(text) for text in texts]
    if plain[0] == plain[1]:
        return STRIPPED
    if _starts(plain[0], plain[1]) or _starts(plain[1], plain[0]):
        return CUT
    if (distance := _largest_distance(*plain)) is not None:
        return PRECISION if distance <= CLOSE else RESIZED
    return NEAR_TIE if _common(*plain) else PROMPT


def excerpts(reference: str, other: str) -> tuple[str, str]:
    """Both texts around their first difference."""
    start = max(_common(reference, other) - AROUND, 0)
    return _excerpt(reference, start), _excerpt(other, start)


def _excerpt(text: str, start: int) -> str:
    end = start + 2 * AROUND
    return f"{'…' if start else ''}{text[start:end]}{'…' if end < len(text) else ''}"


def _plain(text: str) -> str:
    return "".join(_SPECIAL.sub("", text).split())


def _common(text: str, other: str) -> int:
    """The number of characters with which both texts begin."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(text, other, strict=False)))


def _starts(text: str, beginning: str) -> bool:
    return bool(beginning) and text.startswith(beginning)


def _largest_distance(reference: str, other: str) -> int | None:
    """The largest difference of two numbers; None where the texts differ in more than their numbers."""
    if _NUMBER.sub("0", reference) != _NUMBER.sub("0", other):
        return None
    pairs = zip(_NUMBER.findall(reference), _NUMBER.findall(other), strict=True)
    return max(abs(int(first) - int(second)) for first, second in pairs)
