"""Two synthetic worlds of pictures with exact boxes, and a COCO data set of one.

``SHAPES`` is what the tiny model is pretrained on: four textures times six shapes in any colour. ``STREET`` is what
the demo teaches it: six categories that it has never seen. Pictures are 224 x 224 pixels with up to six objects, which
may hide part of each other; some pictures are empty, some hold a crowd (a region of small copies of one object).

A picture depends on the state of its random generator alone: the same seed gives the same bytes. numpy and Pillow
suffice.
"""

from collections.abc import Sequence
from math import cos, pi, sin
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from vlmdet_cli.core.files import write_json
from vlmdet_cli.core.memory import keep_freed_memory
from vlmdet_cli.demo import object_drawings
from vlmdet_cli.demo.object_drawings import DrawObject, Rng

SIZE = 224
EMPTY_SHARE, CROWD_SHARE = 0.08, 0.06
COUNT_PROBABILITIES = (0.18, 0.22, 0.22, 0.16, 0.12, 0.10)  # of one to six objects
MAX_ATTEMPTS = 12  # positions that are tried for an object
HIDDEN_SHARE = 0.05  # from this share on, an object counts as partly hidden

Mask = npt.NDArray[np.bool_]


class Category(NamedTuple):
    """A category of objects: its name, how an object is drawn, and the range of width over height."""

    name: str
    draw: DrawObject
    aspect: tuple[float, float]


class SceneObject(NamedTuple):
    """An object in a picture; ``box`` is xyxy pixels of the whole object, hidden parts included."""

    label: str
    box: tuple[int, int, int, int]
    crowd: bool


class Scene(NamedTuple):
    """A picture and its objects."""

    image: Image.Image
    objects: tuple[SceneObject, ...]


class World(NamedTuple):
    """Categories, the range of the objects' longer sides in pixels, and the least share of an object's pixels that
    must stay visible.
    """

    categories: tuple[Category, ...]
    sides: tuple[int, int]
    visible: float


class _Canvas:
    """A scene that is being drawn. ``masks`` has the pixels of each object; all ones where nothing may cover it."""

    def __init__(self, image: Image.Image) -> None:
        self.image = image
        self.objects = list[SceneObject]()
        self.masks = list[Mask]()

    def add(self, label: str, tile: Image.Image, position: tuple[int, int], mask: Mask) -> None:
        """Draw a tile. An object that it hides in part may not be covered any further."""
        self.image.paste(tile, position, tile)
        for index, other in enumerate(self.masks):
            hidden = int(np.count_nonzero(other & mask)) / max(int(np.count_nonzero(other)), 1)
            if hidden > HIDDEN_SHARE:
                self.masks[index] = np.ones_like(other)
        self.masks.append(mask)
        left, top = position
        self.objects.append(SceneObject(label, (left, top, left + tile.width, top + tile.height), crowd=False))


def draw_scene(world: World, rng: Rng) -> Scene:
    """A random picture of a world."""
    canvas = _Canvas(_background(rng))
    if rng.random() < EMPTY_SHARE:
        return Scene(canvas.image, ())
    if rng.random() < CROWD_SHARE:
        _add_crowd(world, canvas, rng)
    for _ in range(1 + int(rng.choice(len(COUNT_PROBABILITIES), p=COUNT_PROBABILITIES))):
        _add_object(world, canvas, rng)
    return Scene(canvas.image, tuple(canvas.objects))


def _add_object(world: World, canvas: _Canvas, rng: Rng) -> None:
    """Add a random object at a position where it leaves enough of all others visible, if one is found."""
    longer_side = int(rng.integers(world.sides[0], world.sides[1] + 1))
    category = world.categories[int(rng.integers(len(world.categories)))]
    tile = _tile(category, longer_side, rng)
    for _ in range(MAX_ATTEMPTS):
        left, top = int(rng.integers(0, SIZE - tile.width + 1)), int(rng.integers(0, SIZE - tile.height + 1))
        mask = np.zeros((SIZE, SIZE), dtype=bool)
        mask[top : top + tile.height, left : left + tile.width] = np.asarray(tile)[..., 3] > 127
        if all(np.count_nonzero(m & mask) <= (1 - world.visible) * np.count_nonzero(m) for m in canvas.masks):
            canvas.add(category.name, tile, (left, top), mask)
            return


def _tile(category: Category, longer_side: int, rng: Rng) -> Image.Image:
    """An object alone, cropped to its own pixels, so that its box is exact."""
    aspect = float(rng.uniform(*category.aspect))
    if aspect >= 1:
        width, height = longer_side, max(round(longer_side / aspect), 8)
    else:
        width, height = max(round(longer_side * aspect), 8), longer_side
    tile = Image.new("RGBA", (width, height), (0, 0, 0, 0))
    category.draw(ImageDraw.Draw(tile), width, height, rng)
    box = tile.getbbox()
    return tile.crop(box) if box else tile


def _add_crowd(world: World, canvas: _Canvas, rng: Rng) -> None:
    """Add a region of small copies of a random object, which nothing may cover by more than a share."""
    category = world.categories[int(rng.integers(len(world.categories)))]
    width, height = int(rng.integers(64, 110)), int(rng.integers(50, 90))
    left, top = int(rng.integers(0, SIZE - width)), int(rng.integers(0, SIZE - height))
    for _ in range(int(rng.integers(14, 24))):
        tile = _tile(category, int(rng.integers(12, 17)), rng)
        x, y = left + int(rng.integers(0, width - tile.width)), top + int(rng.integers(0, height - tile.height))
        canvas.image.paste(tile, (x, y), tile)
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    mask[top : top + height, left : left + width] = True
    canvas.masks.append(mask)
    canvas.objects.append(SceneObject(category.name, (left, top, left + width, top + height), crowd=True))


def _background(rng: Rng) -> Image.Image:
    """A gradient of two muted colours with grain, sometimes with bands."""
    first, second = rng.integers(90, 215, 3), rng.integers(90, 215, 3)
    grey = rng.uniform(0.35, 0.8)
    angle = rng.uniform(0, 2 * pi)
    across, down = np.meshgrid(np.linspace(-0.5, 0.5, SIZE), np.linspace(-0.5, 0.5, SIZE))
    slope = np.clip(0.5 + across * cos(angle) + down * sin(angle), 0, 1)
    colour = first[:, None, None] * (1 - slope) + second[:, None, None] * slope  # plane by plane in memory
    mean = colour.mean(axis=0)
    colour *= 1 - grey
    colour += mean * grey
    if rng.random() < 0.4:
        bands = np.sign(np.sin((across * sin(angle) + down * cos(angle)) * rng.uniform(20, 90)))
        colour += 7 * bands
    colour += rng.normal(0, 5, (SIZE, SIZE))
    np.clip(colour, 0, 255, out=colour)
    return Image.fromarray(colour.astype(np.uint8).transpose(1, 2, 0))


SHAPES = World(
    tuple(
        Category(f"{texture} {shape}", object_drawings.textured_shape(texture, shape), (0.4, 2.4))
        for texture in ("plain", "striped", "dotted", "framed")
        for shape in ("disk", "square", "triangle", "diamond", "cross", "arch")
    ),
    sides=(40, 100),
    visible=0.7,
)
STREET = World(
    (
        Category("traffic light", object_drawings.traffic_light, (0.38, 0.5)),
        Category("stop sign", object_drawings.stop_sign, (0.9, 1.1)),
        Category("tennis ball", object_drawings.tennis_ball, (0.95, 1.05)),
        Category("hot dog", object_drawings.hot_dog, (1.9, 2.5)),
        Category("striped cone", object_drawings.striped_cone, (0.65, 0.85)),
        Category("gift box", object_drawings.gift_box, (0.85, 1.2)),
    ),
    sides=(48, 100),
    visible=0.8,
)
WORLDS = {"shapes": SHAPES, "street": STREET}


def write_coco(folder: Path, world: World, counts: dict[str, int], seed: int = 0) -> None:
    """``annotations/instances_{split}.json`` and ``images/{split}/``; ``counts`` are pictures by split.

    Each split has a generator of its own.
    """
    keep_freed_memory()
    for number, (split, count) in enumerate(counts.items()):
        rng = np.random.default_rng([seed, number])
        images = folder / "images" / split
        images.mkdir(parents=True, exist_ok=True)
        scenes = [draw_scene(world, rng) for _ in range(count)]
        for image_id, scene in enumerate(scenes, 1):
            scene.image.save(images / f"{image_id:06d}.jpg", quality=92)
        write_json(folder / "annotations" / f"instances_{split}.json", _coco_document(world, scenes))


def _coco_document(world: World, scenes: Sequence[Scene]) -> dict[str, Any]:
    """A COCO instances document; picture n is ``{n:06d}.jpg``."""
    ids = {category.name: number for number, category in enumerate(world.categories, 1)}
    annotations: list[dict[str, Any]] = []
    for image_id, scene in enumerate(scenes, 1):
        for label, (x1, y1, x2, y2), crowd in scene.objects:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": ids[label],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": int(crowd),
                    "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
                }
            )
    return {
        "info": {"description": "Synthetic pictures of the vlmdet demo"},
        "images": [
            {"id": n, "file_name": f"{n:06d}.jpg", "width": SIZE, "height": SIZE} for n in range(1, len(scenes) + 1)
        ],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in ids.items()],
    }
