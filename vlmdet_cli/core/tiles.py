"""Tiles of a picture: parts of equal size that overlap and together cover it.

rows = 2, columns = 2, overlap = 0.2:  each side of a tile is 1 / (2 - 0.2) of the picture's, 0.56 of it
"""

import msgspec

from vlmdet_cli.core.annotations import Box

Crop = tuple[int, int, int, int]  # xyxy in whole pixels of the upright picture


class Tiling(msgspec.Struct, frozen=True):
    """How pictures are cut. ``overlap``: the share of a tile's side that it has in common with the next one, in [0, 1).
    ``whole``: whether the whole picture is looked at beside its tiles.
    """

    rows: int
    columns: int
    overlap: float
    whole: bool

    def __str__(self) -> str:
        tiles = f"{self.rows} x {self.columns}, overlap {self.overlap:g}"
        return f"{tiles}, and the whole picture" if self.whole else tiles

    def crops(self, size_wh: tuple[int, int]) -> list[Crop | None]:
        """The tiles of a picture, then None for all of it; None alone where it is too small to be cut."""
        tiles = cut(size_wh, self.rows, self.columns, self.overlap)
        return [*tiles, None] if self.whole or not tiles else list(tiles)


def cut(size_wh: tuple[int, int], rows: int, columns: int, overlap: float) -> list[Crop]:
    """The tiles of a picture, row by row; none for a single tile, and for a picture with fewer pixels on a side than
    there are tiles.
    """
    width, height = size_wh
    if width < columns or height < rows or rows * columns == 1:
        return []
    across, down = _intervals(width, columns, overlap), _intervals(height, rows, overlap)
    return [(left, top, right, bottom) for top, bottom in down for left, right in across]


def _intervals(length: int, count: int, overlap: float) -> list[tuple[int, int]]:
    """``count`` intervals of one length, to a pixel, that cover ``[0, length]``."""
    side = length / (count - (count - 1) * overlap)
    starts = [number * side * (1 - overlap) for number in range(count)]
    return [(round(start), min(round(start + side), length)) for start in starts]


def shifted(box: Box, origin: tuple[float, float]) -> Box:
    """A box in pixels of a tile in pixels of its picture; ``origin``: the tile's left upper corner."""
    left, top = origin
    return (box[0] + left, box[1] + top, box[2] + left, box[3] + top)
