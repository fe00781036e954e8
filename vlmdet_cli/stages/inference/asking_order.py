"""The order in which rows are asked: rows of like length together, so that a batch has little padding; long ones first.

The length is that of the picture in tokens, or that of the prompt where it is longer. Lengths that differ by less than
a fifth count as equal. Of rows of equal length those about the same picture come together: it is read, encoded, and
computed by the language model, once for all of them. Pictures come by their names, so that the rest of a stopped
inference is asked in the order, and in the batches, that the whole would have been.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from vlmdet_cli.engines.infer_rows import InferRow
from vlmdet_cli.models.family import Family

_CHARACTERS_PER_TOKEN = 4  # of a prompt, about
_GROUPS_PER_OCTAVE = 4
_UNKNOWN_SIZE = (640, 480)
Picture = tuple[str, tuple[int, ...]]  # a path, and the part of the picture that is asked about


def asking_order(
    keys: Iterable[str], rows: Mapping[str, InferRow], family: Family, max_pixels: int | None
) -> list[str]:
    """The keys in the order in which their rows are asked. Each row is read once."""
    names = list(keys)
    if not names:
        return names
    sizes, pictures = dict[tuple[int, int], int](), dict[Picture, int]()  # to their numbers
    asked = [_traits(rows[name], sizes, pictures) for name in names]
    size, prompt, picture = np.array(asked, dtype=np.int64).T  # (N,) each
    tokens = np.maximum(family.image_tokens(list(sizes), max_pixels)[size], prompt / _CHARACTERS_PER_TOKEN)
    groups = np.rint(_GROUPS_PER_OCTAVE * np.log2(np.maximum(tokens, 1.0)))
    ranks = np.empty(len(pictures), dtype=np.int64)
    ranks[[pictures[name] for name in sorted(pictures)]] = np.arange(len(pictures))
    return [names[index] for index in np.lexsort((ranks[picture], -groups)).tolist()]


def _traits(row: InferRow, sizes: dict[tuple[int, int], int], pictures: dict[Picture, int]) -> tuple[int, int, int]:
    """The number of its size in ``sizes``, the prompt's characters, and the number of its picture in ``pictures``."""
    size = sizes.setdefault(_size(row), len(sizes))
    return size, len(row.prompt), pictures.setdefault((row.path, row.crop or ()), len(pictures))


def _size(row: InferRow) -> tuple[int, int]:
    if row.crop is not None:
        left, top, right, bottom = row.crop
        return (right - left, bottom - top)
    return row.size if all(row.size) else _UNKNOWN_SIZE
