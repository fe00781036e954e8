"""Letters and colours of the drawings: the palette, contrast, the font, and text cut to a width. Pure.

Decisions: the colours are Okabe and Ito's (Color Universal Design, 2008) and four of Paul Tol's, which stay distinct
under the common kinds of colour blindness. A category's index in the data set gives its colour. The font is Pillow's
own, because a system font would make the bytes depend on the machine. It has ASCII and few other letters, so other
letters lose their accent or are written as escapes, as are control characters. The environment's ``VLMDET_FONT`` names
a font file for other scripts.
"""

import functools
import os
import unicodedata
from collections.abc import Sequence
from typing import cast

from PIL import ImageFont

from vlmdet_cli.errors import UsageError

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont

FONT_VARIABLE = "VLMDET_FONT"
SMALLEST_LETTERS = 15  # pixels; smaller letters are not readable
BLACK, WHITE, GREY = (17, 17, 17), (255, 255, 255), (187, 187, 187)
_PALETTE = "E69F00 56B4E9 009E73 F0E442 0072B2 D55E00 CC79A7 332288 BBCC33 882255 FFAABB"
PALETTE: tuple[Colour, ...] = tuple((c[0], c[1], c[2]) for c in map(bytes.fromhex, _PALETTE.split()))


def palette(categories: Sequence[str]) -> dict[str, Colour]:
    """The colour of each category, by its index; the colours repeat after the last."""
    return {name: PALETTE[number % len(PALETTE)] for number, name in enumerate(categories)}


@functools.lru_cache(maxsize=64)
def ink_on(ground: Colour) -> Colour:
    """Black or white, whichever contrasts more with ``ground``."""
    return BLACK if contrast(BLACK, ground) >= contrast(WHITE, ground) else WHITE


def contrast(first: Colour, second: Colour) -> float:
    """The contrast ratio of WCAG 2, 1 to 21. Text needs 4.5 to be readable."""
    darker, lighter = sorted((_luminance(first), _luminance(second)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: Colour) -> float:
    """The relative luminance of WCAG 2, 0 to 1."""
    red, green, blue = (c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def font(size: int) -> Font:
    """The font with letters of ``size`` pixels: Pillow's own, or that of the file which ``VLMDET_FONT`` names.

    Raises ``UsageError`` where that file is no font.
    """
    return _load(os.environ.get(FONT_VARIABLE, ""), size)


@functools.lru_cache(maxsize=64)
def _load(path: str, size: int) -> Font:
    if not path:
        return cast(Font, ImageFont.load_default(size=size))
    try:
        return ImageFont.truetype(path, size)
    except OSError as error:
        hint = f"{FONT_VARIABLE} names a TrueType or OpenType file."
        raise UsageError(f"Cannot read the font: {path}", why=f"{error}.", hint=hint) from None


def printable(text: str) -> str:
    """The text in the font's letters.

    Pillow's own font has ASCII: accents are removed. Letters that a font lacks and control characters are escaped.
    """
    return "".join(map(_letter, unicodedata.normalize("NFC", text)))


def _letter(char: str) -> str:
    if char in "·…":  # the font has these two; captions and cut texts use them
        return char
    path = os.environ.get(FONT_VARIABLE, "")
    if path and char.isprintable() and _has_letter(path, char):
        return char
    plain = "".join(c for c in unicodedata.normalize("NFKD", char) if not unicodedata.combining(c))
    return plain if plain and plain.isascii() and plain.isprintable() else char.encode("unicode_escape").decode()


@functools.lru_cache(maxsize=4096)
def _has_letter(path: str, char: str) -> bool:
    """Whether the font draws the letter as anything but its sign for letters that it lacks."""
    letters = _load(path, 32)
    missing, mask = letters.getmask("\uffff"), letters.getmask(char)
    return char == " " or (mask.size, bytes(mask)) != (missing.size, bytes(missing))


def shorten(text: str, limit: int) -> str:
    """At most ``limit`` letters; a cut text ends in ``…``."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def fit(text: str, letters: Font, width: float) -> str:
    """The text, cut to ``width`` pixels; empty where its first letter is wider than that."""
    if letters.getlength(text) <= width:
        return text
    cuts = (f"{text[:end]}…" for end in range(len(text) - 1, 0, -1))
    return next((cut for cut in cuts if letters.getlength(cut) <= width), "")


def wrap(text: str, letters: Font, width: float) -> list[str]:
    """The words in lines of at most ``width`` pixels; a longer word is cut."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if letters.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(fit(word, letters, width))
    return [line for line in lines if line]


def label_size(text: str, letters: Font) -> tuple[int, int]:
    """The (width, height) in pixels of a label's box."""
    return round(letters.getlength(text)) + 2 * padding(letters), round(letters.size * 1.4)


def padding(letters: Font) -> int:
    """The space left and right of a label's text, in pixels."""
    return max(3, round(letters.size / 3))
