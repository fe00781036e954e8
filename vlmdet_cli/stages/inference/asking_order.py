"""The order in which rows are asked: rows of like length together, so that a batch has little padding; long ones first.

The length is that of the picture in tokens, or that of the prompt where it is longer. Lengths that differ by less than
a fifth count as equal. Of rows of equal length those about the same picture come together: it is read, encoded, and
computed by the language model, once for all of them. Else rows keep their own order.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from vlmdet_cli.engines.infer_rows import InferRow
from vlmdet_cli.models.family import Family

_CHARACTERS_PER_TOKEN = 4  # of a prompt, about
_GROUPS_PER_OCTAVE = 4
_UNKNOWN_SIZE = (640, 480)


def asking_order(
    keys: Iterable[str], rows: Mapping[str, InferRow], family: Family, max_pixels: int | None
) -> list[str]:
    """The keys in the order in which their rows are asked. Each row is read once."""
    names = list(keys)
    if not names:
        return names
    sizes = dict[tuple[int, int], int]()  # to its number
    asked = [_traits(rows[name], sizes) for name in names]
    size, prompt, picture = np.array(asked, dtype=np.int64).T  # (N,) each
    tokens = np.maximum(family.image_tokens(list(sizes), max_pixels)[size], prompt / _CHARACTERS_PER_TOKEN)
    groups = np.rint(_GROUPS_PER_OCTAVE * np.log2(np.maximum(tokens, 1.0)))
    _, first_rows, inverse = np.unique(picture, return_index=True, return_inverse=True)
    return [names[index] for index in np.lexsort((first_rows[inverse], -groups)).tolist()]


def _traits(row: InferRow, sizes: dict[tuple[int, int], int]) -> tuple[int, int, int]:
    """The number of its size in ``sizes``, the prompt's characters, and a hash of its picture."""
    return sizes.setdefault(_size(row), len(sizes)), len(row.prompt), hash((row.path, row.crop))


def _size(row: InferRow) -> tuple[int, int]:
    if row.crop is not None:
        left, top, right, bottom = row.crop
        return (right - left, bottom - top)
    return row.size if all(row.size) else _UNKNOWN_SIZE
