"""The order in which rows are asked: rows of like length together, so that a batch has little padding; long ones first.

The length is that of the picture and the prompt in tokens. Lengths that differ by less than a fifth count as equal. Of
rows of equal length those about the same picture come together: it is read, and encoded, once for all of them. Else
rows keep their own order.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from vlmdet_cli.engines.answers import InferRow
from vlmdet_cli.models.family import Family

_CHARACTERS_PER_TOKEN = 4  # of a prompt, about
_GROUPS_PER_OCTAVE = 4
_UNKNOWN_SIZE = (640, 480)


def asking_order(
    keys: Iterable[str], rows: Mapping[str, InferRow], family: Family, max_pixels: int | None
) -> list[str]:
    """The keys in the order in which their rows are asked."""
    names = list(keys)
    if not names:
        return names
    asked = [rows[name] for name in names]
    groups = np.rint(_GROUPS_PER_OCTAVE * np.log2(_lengths(asked, family, max_pixels)))
    pictures: dict[Hashable, int] = {}
    numbers = np.array([pictures.setdefault((row.path, row.crop), len(pictures)) for row in asked])
    return [names[index] for index in np.lexsort((numbers, -groups)).tolist()]


def _lengths(rows: Sequence[InferRow], family: Family, max_pixels: int | None) -> npt.NDArray[np.float64]:
    """``(N,)`` tokens of picture and prompt, about."""
    pictures = family.image_tokens([_size(row) for row in rows], max_pixels)
    prompts = np.array([len(row.prompt) for row in rows]) / _CHARACTERS_PER_TOKEN
    return np.maximum(pictures + prompts, 1.0)


def _size(row: InferRow) -> tuple[int, int]:
    if row.crop is not None:
        left, top, right, bottom = row.crop
        return (right - left, bottom - top)
    return row.size if all(row.size) else _UNKNOWN_SIZE
