"""The size to which the Qwen families resize a picture, and the resizing itself.

ms-swift resizes twice in training: its own option ``max_pixels`` shrinks the picture and keeps its shape
(``rescale_image``), then ``qwen_vl_utils.fetch_image`` makes both sides multiples of a picture token's side
(``smart_resize``). Sizes are (width, height) in pixels; arrays of sizes are ``(N, 2)`` float64 with whole values.
``side`` is the number of pixels across one picture token.
"""

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmdet_cli.core.boxes import Boxes, as_sizes

if TYPE_CHECKING:
    from PIL import Image

MIN_TOKENS, MAX_TOKENS = 4, 16384  # of a picture, as qwen_vl_utils limits them
MAX_RATIO = 200  # of the longer side to the shorter one; qwen_vl_utils refuses more


def shrunk_sizes(sizes_wh: Any, max_pixels: int | None) -> Boxes:
    """Sizes after ms-swift's ``--max_pixels``, ``(N, 2)`` to ``(N, 2)``: same shape, at most that area.

    None and 0 mean no limit. The formula is ``swift.template.vision_utils.rescale_image``.
    """
    sizes = np.trunc(as_sizes(sizes_wh))
    if not max_pixels:
        return sizes
    ratio = sizes[:, :1] / sizes[:, 1:]
    height = np.sqrt(max_pixels / ratio)
    small = np.maximum(np.trunc(np.hstack([height * ratio, height])), 1)
    return np.where(sizes.prod(axis=1, keepdims=True) <= max_pixels, sizes, small)


def smart_resized_sizes(sizes_wh: Any, min_pixels: int, max_pixels: int, side: int) -> Boxes:
    """Sizes whose sides are multiples of ``side`` and whose areas lie between the limits, ``(N, 2)`` to ``(N, 2)``.

    The formula is ``smart_resize`` of ``qwen_vl_utils`` and of Qwen2-VL's image processor.
    """
    sizes = as_sizes(sizes_wh)
    area, rounded = sizes.prod(axis=1, keepdims=True), np.maximum(np.rint(sizes / side) * side, side)
    smaller = np.maximum(np.floor(sizes / np.sqrt(area / max_pixels) / side) * side, side)
    larger = np.ceil(sizes * np.sqrt(min_pixels / area) / side) * side
    rounded_area = rounded.prod(axis=1, keepdims=True)
    resized: Boxes = np.where(rounded_area > max_pixels, smaller, np.where(rounded_area < min_pixels, larger, rounded))
    return resized


def trained_sizes(sizes_wh: Any, max_pixels: int | None, side: int) -> Boxes:
    """Sizes of pictures as ms-swift trains on them, ``(N, 2)`` to ``(N, 2)``.

    The limits that the model's own processor states have no effect in ms-swift.
    """
    shrunk = shrunk_sizes(sizes_wh, max_pixels)
    return smart_resized_sizes(shrunk, MIN_TOKENS * side**2, MAX_TOKENS * side**2, side)


@functools.lru_cache(maxsize=4096)  # an answer's boxes ask for the same picture's size again and again
def trained_size(size_wh: tuple[float, float], max_pixels: int | None, side: int) -> tuple[int, int]:
    """``trained_sizes`` of one picture."""
    width, height = trained_sizes([size_wh], max_pixels, side)[0].tolist()
    return int(width), int(height)


def shrink(image: "Image.Image", max_pixels: int | None) -> "Image.Image":
    """The picture in RGB after ms-swift's ``--max_pixels``, with its filter, bilinear."""
    from PIL import Image

    image = image.convert("RGB")
    width, height = map(int, shrunk_sizes([image.size], max_pixels)[0].tolist())
    return image if (width, height) == image.size else image.resize((width, height), Image.Resampling.BILINEAR)


def resize(image: "Image.Image", max_pixels: int | None, side: int) -> "Image.Image":
    """The picture in RGB with the pixels that the model sees in training.

    Both steps and their filters are ms-swift's: bilinear for the limit, Pillow's default for the multiples of
    ``side``. Raises ``ValueError`` for a picture whose sides differ more than 200-fold, which training refuses.
    """
    width, height = map(int, shrunk_sizes([image.size], max_pixels)[0].tolist())
    if max(width, height) > MAX_RATIO * min(width, height):
        raise ValueError(f"one side is more than {MAX_RATIO} times the other: {image.width} x {image.height} pixels")
    return shrink(image, max_pixels).resize(trained_size((width, height), None, side))
