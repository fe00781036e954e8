"""Picture sizes for the Qwen families: arrays of sizes and single pictures follow the formulas of training."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vlmdet_cli.models import image_sizes

Size = tuple[int, int]
sides = st.integers(1, 20_000)
limits = st.none() | st.integers(1, 3_000_000)


def rescaled(size: Size, max_pixels: int | None) -> Size:
    """``swift.template.vision_utils.rescale_image``, with at least a pixel a side."""
    width, height = size
    if not max_pixels or width * height <= max_pixels:
        return size
    ratio = width / height
    height_scaled = math.sqrt(max_pixels / ratio)
    return max(int(height_scaled * ratio), 1), max(int(height_scaled), 1)


def smart_resized(size: Size, side: int) -> Size:
    """``qwen_vl_utils.smart_resize``, with at least a token a side."""
    width, height = size
    low, high = 4 * side**2, 16384 * side**2
    resized = [max(side, round(length / side) * side) for length in size]
    if math.prod(resized) > high:
        shrink = math.sqrt(width * height / high)
        resized = [max(side, math.floor(length / shrink / side) * side) for length in size]
    elif math.prod(resized) < low:
        grow = math.sqrt(low / (width * height))
        resized = [math.ceil(length * grow / side) * side for length in size]
    return resized[0], resized[1]


@given(st.lists(st.tuples(sides, sides), max_size=8), limits, st.sampled_from([28, 32]))
def test_sizes_follow_the_formulas_of_swift_and_of_qwen_vl_utils(
    sizes: list[Size], max_pixels: int | None, side: int
) -> None:
    expected = [smart_resized(rescaled(size, max_pixels), side) for size in sizes]
    assert [tuple(row) for row in image_sizes.trained_sizes(sizes, max_pixels, side).tolist()] == expected
    assert [image_sizes.trained_size(size, max_pixels, side) for size in sizes] == expected


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P"])
@pytest.mark.parametrize("max_pixels", [None, 5000])
def test_a_resized_picture_is_rgb_and_has_the_size_of_training(mode: str, max_pixels: int | None) -> None:
    resized = image_sizes.resize(Image.new(mode, (150, 90)), max_pixels, 28)
    assert (resized.mode, resized.size) == ("RGB", image_sizes.trained_size((150, 90), max_pixels, 28))


def test_the_pixel_limit_shrinks_before_the_sides_become_multiples() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (90, 150, 3), np.uint8)
    image = Image.fromarray(noise)
    twice = image.resize((91, 54), Image.Resampling.BILINEAR).resize((84, 56))
    assert image_sizes.resize(image, 5000, 28).tobytes() == twice.tobytes()


def test_a_picture_that_training_refuses_is_refused() -> None:
    with pytest.raises(ValueError, match="more than 200 times the other: 4100 x 20"):
        image_sizes.resize(Image.new("RGB", (4100, 20)), None, 28)
