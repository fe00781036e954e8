"""InternVL3 and InternVL3.5 in transformers' own form (``-hf``): boxes in thousandths between tags.

The processor cuts a picture into tiles: the grid of at most ``max_tiles`` tiles whose shape is nearest to the
picture's, and, where there is more than one tile, the whole picture once more as the last. So a picture's tokens
depend on its shape, hardly on its size: ``--max_pixels`` shrinks the picture before it is cut and does not lower the
number of its tiles. A model folder's own ``max_patches`` does.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from vlmdet_cli.core.boxes import Boxes, as_sizes
from vlmdet_cli.errors import UsageError
from vlmdet_cli.models import image_sizes
from vlmdet_cli.models.chatml import ChatMLFamily
from vlmdet_cli.models.processor_files import picture_processor_settings, processor_settings

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class InternVLFamily(ChatMLFamily):
    """Models whose ``model_type`` is ``internvl``. InternVL's other form, ``internvl_chat``, is another model type.

    ``tile_width`` and ``tile_height``: of a tile, in pixels. ``tile_tokens``: of one tile. The defaults are the
    published models'.
    """

    tile_width: int = 448
    tile_height: int = 448
    min_tiles: int = 1
    max_tiles: int = 12
    tile_tokens: int = 256

    name = "internvl"
    model_types = ("internvl",)
    hub_names = re.compile(r"internvl3.*hf")
    dialect = "internvl"
    swift_model_type = "internvl"
    swift_template = "internvl_hf"
    system_prompt = None
    image_token = "<IMG_CONTEXT>"  # noqa: S105  (no password)
    picture_text = f"{image_token}\n"  # the processor puts <img> and </img> around the picture's tokens
    special_tokens = (
        *("<box>", "</box>", "<ref>", "</ref>", "<img>", "</img>", "<|im_start|>"),
        *ChatMLFamily.end_tokens,
        image_token,
    )
    objects_environments: ClassVar[Mapping[str, Mapping[str, str]]] = {"internvl": {}}

    def trained_sizes(self, sizes_wh: Any, max_pixels: int | None) -> Boxes:
        return image_sizes.shrunk_sizes(sizes_wh, max_pixels)

    def resize(self, image: "Image.Image", max_pixels: int | None) -> "Image.Image":
        return image_sizes.shrink(image, max_pixels)

    def processor_arguments(self) -> dict[str, Any]:
        return {"crop_to_patches": True}

    def image_tokens(self, sizes_wh: Any, max_pixels: int | None) -> npt.NDArray[np.int64]:
        tiles = self.tiles(self.trained_sizes(sizes_wh, max_pixels))
        return self.tile_tokens * (tiles + (tiles > 1)) + 2  # <img> and </img>

    def tiles(self, sizes_wh: Any) -> npt.NDArray[np.int64]:
        """The number of tiles of pictures, ``(N, 2)`` to ``(N,)``, without the whole picture that may follow them.

        The rule is that of transformers' ``get_optimal_tiled_canvas``: of two grids of the same distance to the
        picture's shape, the one with more tiles is taken while its area is less than twice the picture's.
        """
        sizes = as_sizes(sizes_wh)
        shape, area = sizes[:, 0] / sizes[:, 1], sizes.prod(axis=1)
        nearest, tiles = np.full(len(sizes), np.inf), np.ones(len(sizes), np.int64)
        for columns, rows in self._grids():
            distance = np.abs(shape - columns / rows)
            has_room = area > 0.5 * self.tile_height * self.tile_width * columns * rows
            tiles[(distance < nearest) | ((distance == nearest) & has_room)] = columns * rows
            nearest = np.minimum(nearest, distance)
        return tiles

    def _grids(self) -> list[tuple[int, int]]:
        """Columns and rows of every grid, those of fewer tiles first."""
        sides = range(1, self.max_tiles + 1)
        grids = [(columns, rows) for columns in sides for rows in sides]
        return sorted(
            [grid for grid in grids if self.min_tiles <= grid[0] * grid[1] <= self.max_tiles],
            key=lambda grid: grid[0] * grid[1],
        )

    def fitting_flags(self) -> dict[str, int]:
        """Room for a picture in the most tiles: most shapes take them, photographs of 4 to 3 too."""
        return {"max_length": self.tile_tokens * (self.max_tiles + 1) + 768}

    def pixel_limit(self, folder: Path) -> int | None:
        """None: the processor cuts pictures of any size."""
        del folder
        return None

    def configured(self, folder: Path) -> "InternVLFamily":
        """The family with the tiles that the folder's processor states."""
        pictures = picture_processor_settings(folder)
        size = pictures.get("size") or {}
        stated = {
            "tile_width": size.get("width"),
            "tile_height": size.get("height"),
            "min_tiles": pictures.get("min_patches"),
            "max_tiles": pictures.get("max_patches"),
            "tile_tokens": processor_settings(folder).get("image_seq_length"),
        }
        numbers = {name: value for name, value in stated.items() if value is not None}
        wrong = [f"{name}: {value!r}" for name, value in numbers.items() if not isinstance(value, int) or value < 1]
        if wrong:
            raise UsageError(f"The processor's settings of tiles are no numbers above 0: {folder}", why=wrong)
        return replace(self, **numbers)


INTERNVL = InternVLFamily()
