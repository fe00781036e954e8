"""Two synthetic worlds of pictures with true boxes: numpy and Pillow only, the same bytes for the same seed.

``SHAPES`` is what the tiny model was pretrained on: three textures times four shapes in any colour. ``STREET``
is what the demo teaches it: six things it has never seen. Pictures are 224 x 224; up to six objects,
partly hidden by others; some pictures are empty, some hold a crowd (many tiny copies of one thing).
"""

from collections.abc import Callable, Sequence
from math import cos, pi, sin
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from vlmdet_cli.core.files import write_json

SIZE = 224
EMPTY_SHARE, CROWD_SHARE = 0.08, 0.06
COUNTS = (0.18, 0.22, 0.22, 0.16, 0.12, 0.10)  # chances of one to six objects

Rng = np.random.Generator
Colour = tuple[int, int, int]
Mask = npt.NDArray[np.bool_]
COLOURS: tuple[Colour, ...] = (
    (214, 48, 49), (9, 132, 227), (0, 158, 96), (250, 197, 28), (142, 68, 173),
    (243, 124, 34), (236, 112, 178), (26, 188, 188), (245, 245, 245), (40, 40, 46), (121, 85, 61),
)  # fmt: skip


class Thing(NamedTuple):
    """One kind of object: its name, how it is drawn into an RGBA tile, and its width over height."""

    name: str
    draw: Callable[[ImageDraw.ImageDraw, int, int, Rng], None]
    aspect: tuple[float, float]


class Placed(NamedTuple):
    """An object in a picture: class name, whole box (xyxy pixels), crowd or not."""

    label: str
    box: tuple[int, int, int, int]
    crowd: bool


class Scene(NamedTuple):
    image: Image.Image
    objects: tuple[Placed, ...]


class World(NamedTuple):
    """Its things, the range of their longer sides in pixels, and the least share of one that others leave visible."""

    things: tuple[Thing, ...]
    sides: tuple[int, int]
    visible: float


def scene(world: World, rng: Rng) -> Scene:
    """One random picture of a world."""
    image, placed, masks = _background(rng), list[Placed](), list[Mask]()
    if rng.random() < EMPTY_SHARE:
        return Scene(image, ())
    if rng.random() < CROWD_SHARE:
        placed.append(_crowd(world, image, masks, rng))
    for _ in range(1 + int(rng.choice(len(COUNTS), p=COUNTS))):
        _place(world, image, placed, masks, rng)
    return Scene(image, tuple(placed))


def _place(world: World, image: Image.Image, placed: list[Placed], masks: list[Mask], rng: Rng) -> None:
    """Put one object where it hides no other too much; give up after some tries."""
    longer = int(rng.integers(world.sides[0], world.sides[1] + 1))
    thing = world.things[int(rng.integers(len(world.things)))]
    tile = _tile(thing, longer, rng)
    for _ in range(12):
        left, top = int(rng.integers(0, SIZE - tile.width + 1)), int(rng.integers(0, SIZE - tile.height + 1))
        mask = np.zeros((SIZE, SIZE), dtype=bool)
        mask[top : top + tile.height, left : left + tile.width] = np.asarray(tile)[..., 3] > 127
        if all(np.count_nonzero(old & mask) <= (1 - world.visible) * np.count_nonzero(old) for old in masks):
            _put(thing, tile, (left, top), image, placed, masks, mask)
            return


def _put(
    thing: Thing,
    tile: Image.Image,
    at: tuple[int, int],
    image: Image.Image,
    placed: list[Placed],
    masks: list[Mask],
    mask: Mask,
) -> None:
    """Draw a tile; what it hides is gone from the older masks, scaled so that shares stay those of the whole."""
    image.paste(tile, at, tile)
    for number, old in enumerate(masks):
        hidden = int(np.count_nonzero(old & mask)) / max(int(np.count_nonzero(old)), 1)
        if hidden > 0.05:
            masks[number] = np.ones_like(old)  # once partly hidden, nothing more may cover it
    masks.append(mask)
    placed.append(Placed(thing.name, (at[0], at[1], at[0] + tile.width, at[1] + tile.height), crowd=False))


def _tile(thing: Thing, longer: int, rng: Rng) -> Image.Image:
    """An object alone, cut to its own pixels, so that its box is exact."""
    aspect = float(rng.uniform(*thing.aspect))
    width, height = (
        (longer, max(round(longer / aspect), 8)) if aspect >= 1 else (max(round(longer * aspect), 8), longer)
    )
    tile = Image.new("RGBA", (width, height), (0, 0, 0, 0))
    thing.draw(ImageDraw.Draw(tile), width, height, rng)
    cut = tile.getbbox()
    return tile.crop(cut) if cut else tile


def _crowd(world: World, image: Image.Image, masks: list[Mask], rng: Rng) -> Placed:
    """Many tiny copies of one thing in a region; nothing else may cover it."""
    thing = world.things[int(rng.integers(len(world.things)))]
    width, height = int(rng.integers(64, 110)), int(rng.integers(50, 90))
    left, top = int(rng.integers(0, SIZE - width)), int(rng.integers(0, SIZE - height))
    for _ in range(int(rng.integers(14, 24))):
        tile = _tile(thing, int(rng.integers(12, 17)), rng)
        at = (left + int(rng.integers(0, width - tile.width)), top + int(rng.integers(0, height - tile.height)))
        image.paste(tile, at, tile)
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    mask[top : top + height, left : left + width] = True
    masks += [mask, np.ones_like(mask)][:1]
    return Placed(thing.name, (left, top, left + width, top + height), crowd=True)


def _background(rng: Rng) -> Image.Image:
    """A gradient of two muted colours with grain, sometimes with bands."""
    one, two = rng.integers(90, 215, 3), rng.integers(90, 215, 3)
    grey = rng.uniform(0.35, 0.8)
    angle = rng.uniform(0, 2 * pi)
    across, down = np.meshgrid(np.linspace(-0.5, 0.5, SIZE), np.linspace(-0.5, 0.5, SIZE))
    slope = np.clip(0.5 + across * cos(angle) + down * sin(angle), 0, 1)[..., None]
    colour = one * (1 - slope) + two * slope
    colour = colour * (1 - grey) + colour.mean(axis=-1, keepdims=True) * grey
    if rng.random() < 0.4:
        colour = (
            colour + 7 * np.sign(np.sin((across * sin(angle) + down * cos(angle)) * rng.uniform(20, 90)))[..., None]
        )
    colour = colour + rng.normal(0, 5, (SIZE, SIZE, 1))
    return Image.fromarray(np.clip(colour, 0, 255).astype(np.uint8))


# --- what things look like -----------------------------------------------------------------------------------


def _colour(rng: Rng) -> Colour:
    base = COLOURS[int(rng.integers(len(COLOURS)))]
    return _shade(base, rng)


def _shade(base: Colour, rng: Rng, most: int = 14) -> Colour:
    red, green, blue = (int(np.clip(c + rng.integers(-most, most + 1), 0, 255)) for c in base)
    return (red, green, blue)


def _outline(shape: str, width: int, height: int) -> list[tuple[float, float]]:
    right, bottom = width - 1, height - 1
    if shape == "disk":
        return [(right * (0.5 + 0.5 * cos(a * pi / 24)), bottom * (0.5 + 0.5 * sin(a * pi / 24))) for a in range(48)]
    if shape == "triangle":
        return [(right / 2, 0), (right, bottom), (0, bottom)]
    if shape == "diamond":
        return [(right / 2, 0), (right, bottom / 2), (right / 2, bottom), (0, bottom / 2)]
    return [(0, 0), (right, 0), (right, bottom), (0, bottom)]


def _shape(texture: str, shape: str) -> Callable[[ImageDraw.ImageDraw, int, int, Rng], None]:
    def draw(on: ImageDraw.ImageDraw, width: int, height: int, rng: Rng) -> None:
        first, second = _colour(rng), _colour(rng)
        while sum(abs(a - b) for a, b in zip(first, second, strict=True)) < 150:
            second = _colour(rng)
        mask = Image.new("L", (width, height), 0)
        ImageDraw.Draw(mask).polygon(_outline(shape, width, height), fill=255)
        paint = Image.new("RGB", (width, height), first)
        _texture(ImageDraw.Draw(paint), texture, width, height, second)
        on._image.paste(paint, (0, 0), mask)  # the tile that ``on`` draws on

    return draw


def _texture(on: ImageDraw.ImageDraw, texture: str, width: int, height: int, colour: Colour) -> None:
    if texture == "striped":
        step = max(min(width, height) // 4, 4)
        for start in range(-height, width, 2 * step):
            on.polygon(
                [(start, height), (start + step, height), (start + step + height, 0), (start + height, 0)], colour
            )
    elif texture == "dotted":
        step = max(min(width, height) // 3, 5)
        for x in range(step // 2, width + step, step):
            for y in range(step // 2, height + step, step):
                on.ellipse([x - step * 0.3, y - step * 0.3, x + step * 0.3, y + step * 0.3], fill=colour)


def _traffic_light(on: ImageDraw.ImageDraw, width: int, height: int, rng: Rng) -> None:
    on.rounded_rectangle([0, 0, width - 1, height - 1], radius=width * 0.25, fill=_shade((38, 42, 46), rng))
    for number, colour in enumerate(((226, 52, 48), (246, 196, 40), (52, 184, 96))):
        middle, radius = height * (0.19 + 0.31 * number), min(width * 0.32, height * 0.13)
        on.ellipse([width / 2 - radius, middle - radius, width / 2 + radius, middle + radius], fill=_shade(colour, rng))


def _stop_sign(on: ImageDraw.ImageDraw, width: int, height: int, rng: Rng) -> None:
    red, inner = _shade((200, 30, 40), rng), 0.86
    for scale, colour in ((1.0, (245, 245, 245)), (inner, red)):
        corners = [
            (0.5 + scale * 0.54 * cos((n + 0.5) * pi / 4), 0.5 + scale * 0.54 * sin((n + 0.5) * pi / 4))
            for n in range(8)
        ]
        on.polygon([(x * (width - 1), y * (height - 1)) for x, y in corners], fill=colour)
    on.rectangle([width * 0.2, height * 0.41, width * 0.8, height * 0.59], fill=(245, 245, 245))


def _tennis_ball(on: ImageDraw.ImageDraw, width: int, height: int, rng: Rng) -> None:
    on.ellipse([0, 0, width - 1, height - 1], fill=_shade((200, 224, 52), rng))
    line = max(width // 12, 2)
    on.arc([-width * 0.55, height * 0.08, width * 0.38, height * 0.92], -62, 62, fill=(250, 250, 245), width=line)
    on.arc([width * 0.62, height * 0.08, width * 1.55, height * 0.92], 118, 242, fill=(250, 250, 245), width=line)


def _hot_dog(on: ImageDraw.ImageDraw, width: int, height: int, rng: Rng) -> None:
    bun, sausage = _shade((222, 168, 96), rng), _shade((168, 60, 36), rng)
    on.rounded_rectangle([width * 0.06, 0, width * 0.94, height - 1], radius=height * 0.45, fill=bun)
    on.rounded_rectangle([0, height * 0.28, width - 1, height * 0.72], radius=height * 0.2, fill=sausage)
    steps = [(width * (0.08 + 0.84 * n / 12), height * (0.5 + 0.1 * (-1) ** n)) for n in range(13)]
    on.line(steps, fill=(248, 206, 40), width=max(height // 10, 2))


def _striped_cone(on: ImageDraw.ImageDraw, width: int, height: int, rng: Rng) -> None:
    orange = _shade((244, 104, 24), rng)
    on.polygon(
        [(width * 0.42, 0), (width * 0.58, 0), (width * 0.86, height * 0.86), (width * 0.14, height * 0.86)], orange
    )
    for top, bottom in ((0.26, 0.42), (0.56, 0.72)):
        wide = [0.08 + 0.28 * part / 0.86 for part in (top, bottom)]
        corners = [(0.5 - wide[0], top), (0.5 + wide[0], top), (0.5 + wide[1], bottom), (0.5 - wide[1], bottom)]
        on.polygon([(x * width, y * height) for x, y in corners], fill=(248, 248, 248))
    on.rectangle([0, height * 0.86, width - 1, height - 1], fill=_shade((206, 84, 18), rng))


def _gift_box(on: ImageDraw.ImageDraw, width: int, height: int, rng: Rng) -> None:
    paper = _shade(((88, 70, 190), (20, 140, 150), (196, 62, 128))[int(rng.integers(3))], rng)
    ribbon, lid = _shade((250, 222, 110), rng), height * 0.22
    on.rectangle([width * 0.05, lid, width * 0.95, height - 1], fill=paper)
    on.rectangle([0, lid * 0.55, width - 1, height * 0.38], fill=_shade(paper, rng, 30))
    on.rectangle([width * 0.43, lid * 0.55, width * 0.57, height - 1], fill=ribbon)
    for left, right in ((0.2, 0.52), (0.48, 0.8)):
        on.ellipse([width * left, 0, width * right, lid * 1.1], outline=ribbon, width=max(width // 14, 2))


SHAPES = World(
    tuple(
        Thing(f"{texture} {shape}", _shape(texture, shape), (0.45, 2.2))
        for texture in ("plain", "striped", "dotted")
        for shape in ("disk", "square", "triangle", "diamond")
    ),
    (36, 92),
    0.6,
)
STREET = World(
    (
        Thing("traffic light", _traffic_light, (0.38, 0.5)),
        Thing("stop sign", _stop_sign, (0.9, 1.1)),
        Thing("tennis ball", _tennis_ball, (0.95, 1.05)),
        Thing("hot dog", _hot_dog, (1.9, 2.5)),
        Thing("striped cone", _striped_cone, (0.65, 0.85)),
        Thing("gift box", _gift_box, (0.85, 1.2)),
    ),
    (48, 100),
    0.8,
)
WORLDS = {"shapes": SHAPES, "street": STREET}


def write_coco(folder: Path, world: World, counts: dict[str, int], seed: int = 0) -> None:
    """``annotations/instances_{split}.json`` and ``images/{split}/``, each split from its own seed."""
    for number, (split, count) in enumerate(counts.items()):
        rng = np.random.default_rng([seed, number])
        images = folder / "images" / split
        images.mkdir(parents=True, exist_ok=True)
        scenes = [scene(world, rng) for _ in range(count)]
        for place, one in enumerate(scenes, 1):
            one.image.save(images / f"{place:06d}.jpg", quality=92)
        write_json(folder / "annotations" / f"instances_{split}.json", _document(world, scenes))


def _document(world: World, scenes: Sequence[Scene]) -> dict[str, Any]:
    ids = {thing.name: number for number, thing in enumerate(world.things, 1)}
    annotations: list[dict[str, Any]] = []
    for image_id, one in enumerate(scenes, 1):
        for label, (x1, y1, x2, y2), crowd in one.objects:
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
