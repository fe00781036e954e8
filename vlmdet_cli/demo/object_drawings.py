"""How the demo's objects are drawn: each into an RGBA tile of a given size, with colours from a random generator.

``textured_shape`` gives the objects of the world of shapes; the other functions draw one object of the street each.
Every function draws the same pixels for the same state of the generator.
"""

from collections.abc import Callable
from math import cos, pi, sin

import numpy as np
from PIL import Image, ImageDraw

Rng = np.random.Generator
Colour = tuple[int, int, int]
DrawObject = Callable[[ImageDraw.ImageDraw, int, int, Rng], None]  # canvas, width and height in pixels, generator
COLOURS: tuple[Colour, ...] = (
    (214, 48, 49), (9, 132, 227), (0, 158, 96), (250, 197, 28), (142, 68, 173),
    (243, 124, 34), (236, 112, 178), (26, 188, 188), (245, 245, 245), (40, 40, 46), (121, 85, 61),
)  # fmt: skip
MIN_CONTRAST = 150  # between the two colours of a texture, summed over the channels


def _random_colour(rng: Rng) -> Colour:
    return _shade(COLOURS[int(rng.integers(len(COLOURS)))], rng)


def _shade(base: Colour, rng: Rng, spread: int = 14) -> Colour:
    """The colour with up to ``spread`` added to or taken from each channel."""
    red, green, blue = (int(np.clip(c + rng.integers(-spread, spread + 1), 0, 255)) for c in base)
    return (red, green, blue)


def _outline(shape: str, width: int, height: int) -> list[tuple[float, float]]:
    """The corners of a shape that fills a tile."""
    right, bottom = width - 1, height - 1
    if shape == "disk":
        return [(right * (0.5 + 0.5 * cos(a * pi / 24)), bottom * (0.5 + 0.5 * sin(a * pi / 24))) for a in range(48)]
    if shape == "triangle":
        return [(right / 2, 0), (right, bottom), (0, bottom)]
    if shape == "diamond":
        return [(right / 2, 0), (right, bottom / 2), (right / 2, bottom), (0, bottom / 2)]
    if shape == "cross":
        left, middle, low, end = 0.33 * right, 0.67 * right, 0.33 * bottom, 0.67 * bottom
        return [(left, 0), (middle, 0), (middle, low), (right, low), (right, end), (middle, end),
                (middle, bottom), (left, bottom), (left, end), (0, end), (0, low), (left, low)]  # fmt: skip
    if shape == "arch":
        curve = [(right * (0.5 - 0.5 * cos(a * pi / 24)), bottom * (0.5 - 0.5 * sin(a * pi / 24))) for a in range(25)]
        return [*curve, (right, bottom), (0, bottom)]
    return [(0, 0), (right, 0), (right, bottom), (0, bottom)]


def textured_shape(texture: str, shape: str) -> DrawObject:
    """A shape of ``_outline``, plain, striped, dotted or framed, in two colours that differ clearly. A framed shape has
    an inner part of the same form, and often a third colour in its middle.
    """

    def draw(canvas: ImageDraw.ImageDraw, width: int, height: int, rng: Rng) -> None:
        first, second = _random_colour(rng), _random_colour(rng)
        while sum(abs(a - b) for a, b in zip(first, second, strict=True)) < MIN_CONTRAST:
            second = _random_colour(rng)
        mask = Image.new("L", (width, height), 0)
        ImageDraw.Draw(mask).polygon(_outline(shape, width, height), fill=255)
        paint = Image.new("RGB", (width, height), first)
        _draw_texture(ImageDraw.Draw(paint), texture, width, height, second)
        if texture == "framed":
            _draw_inner_parts(ImageDraw.Draw(paint), shape, width, height, (second, _random_colour(rng)), rng)
        canvas._image.paste(paint, (0, 0), mask)  # the tile that ``canvas`` draws on

    return draw


def _draw_texture(canvas: ImageDraw.ImageDraw, texture: str, width: int, height: int, colour: Colour) -> None:
    if texture == "striped":
        step = max(min(width, height) // 4, 4)
        for start in range(-height, width, 2 * step):
            stripe = [(start, height), (start + step, height), (start + step + height, 0), (start + height, 0)]
            canvas.polygon(stripe, colour)
    elif texture == "dotted":
        step = max(min(width, height) // 3, 5)
        for x in range(step // 2, width + step, step):
            for y in range(step // 2, height + step, step):
                canvas.ellipse([x - step * 0.3, y - step * 0.3, x + step * 0.3, y + step * 0.3], fill=colour)


def _draw_inner_parts(
    canvas: ImageDraw.ImageDraw, shape: str, width: int, height: int, colours: tuple[Colour, Colour], rng: Rng
) -> None:
    """The same outline about its centre, smaller, and inside it, in two of three cases, a small disk."""
    share = float(rng.uniform(0.5, 0.72))
    left, top = width * (1 - share) / 2, height * (1 - share) * (0.62 if shape == "triangle" else 0.5)
    inner = _outline(shape, round(width * share), round(height * share))
    canvas.polygon([(left + x, top + y) for x, y in inner], fill=colours[0])
    if rng.random() < 2 / 3:
        x, y, radius = left + width * share / 2, top + height * share * 0.55, 0.15 * share * min(width, height)
        canvas.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colours[1])


def traffic_light(canvas: ImageDraw.ImageDraw, width: int, height: int, rng: Rng) -> None:
    canvas.rounded_rectangle([0, 0, width - 1, height - 1], radius=width * 0.25, fill=_shade((38, 42, 46), rng))
    for number, colour in enumerate(((226, 52, 48), (246, 196, 40), (52, 184, 96))):
        middle, radius = height * (0.19 + 0.31 * number), min(width * 0.32, height * 0.13)
        lamp = [width / 2 - radius, middle - radius, width / 2 + radius, middle + radius]
        canvas.ellipse(lamp, fill=_shade(colour, rng))


def stop_sign(canvas: ImageDraw.ImageDraw, width: int, height: int, rng: Rng) -> None:
    red, inner = _shade((200, 30, 40), rng), 0.86
    for scale, colour in ((1.0, (245, 245, 245)), (inner, red)):
        corners = [
            (0.5 + scale * 0.54 * cos((n + 0.5) * pi / 4), 0.5 + scale * 0.54 * sin((n + 0.5) * pi / 4))
            for n in range(8)
        ]
        canvas.polygon([(x * (width - 1), y * (height - 1)) for x, y in corners], fill=colour)
    canvas.rectangle([width * 0.2, height * 0.41, width * 0.8, height * 0.59], fill=(245, 245, 245))


def tennis_ball(canvas: ImageDraw.ImageDraw, width: int, height: int, rng: Rng) -> None:
    canvas.ellipse([0, 0, width - 1, height - 1], fill=_shade((200, 224, 52), rng))
    line = max(width // 12, 2)
    canvas.arc([-width * 0.55, height * 0.08, width * 0.38, height * 0.92], -62, 62, fill=(250, 250, 245), width=line)
    canvas.arc([width * 0.62, height * 0.08, width * 1.55, height * 0.92], 118, 242, fill=(250, 250, 245), width=line)


def hot_dog(canvas: ImageDraw.ImageDraw, width: int, height: int, rng: Rng) -> None:
    bun, sausage = _shade((222, 168, 96), rng), _shade((168, 60, 36), rng)
    canvas.rounded_rectangle([width * 0.06, 0, width * 0.94, height - 1], radius=height * 0.45, fill=bun)
    canvas.rounded_rectangle([0, height * 0.28, width - 1, height * 0.72], radius=height * 0.2, fill=sausage)
    mustard = [(width * (0.08 + 0.84 * n / 12), height * (0.5 + 0.1 * (-1) ** n)) for n in range(13)]
    canvas.line(mustard, fill=(248, 206, 40), width=max(height // 10, 2))


def striped_cone(canvas: ImageDraw.ImageDraw, width: int, height: int, rng: Rng) -> None:
    orange = _shade((244, 104, 24), rng)
    body = [(width * 0.42, 0), (width * 0.58, 0), (width * 0.86, height * 0.86), (width * 0.14, height * 0.86)]
    canvas.polygon(body, orange)
    for top, bottom in ((0.26, 0.42), (0.56, 0.72)):
        upper, lower = (0.08 + 0.28 * level / 0.86 for level in (top, bottom))  # half the widths of the stripe
        corners = [(0.5 - upper, top), (0.5 + upper, top), (0.5 + lower, bottom), (0.5 - lower, bottom)]
        canvas.polygon([(x * width, y * height) for x, y in corners], fill=(248, 248, 248))
    canvas.rectangle([0, height * 0.86, width - 1, height - 1], fill=_shade((206, 84, 18), rng))


def gift_box(canvas: ImageDraw.ImageDraw, width: int, height: int, rng: Rng) -> None:
    paper = _shade(((88, 70, 190), (20, 140, 150), (196, 62, 128))[int(rng.integers(3))], rng)
    ribbon, lid = _shade((250, 222, 110), rng), height * 0.22
    canvas.rectangle([width * 0.05, lid, width * 0.95, height - 1], fill=paper)
    canvas.rectangle([0, lid * 0.55, width - 1, height * 0.38], fill=_shade(paper, rng, 30))
    canvas.rectangle([width * 0.43, lid * 0.55, width * 0.57, height - 1], fill=ribbon)
    for left, right in ((0.2, 0.52), (0.48, 0.8)):
        canvas.ellipse([width * left, 0, width * right, lid * 1.1], outline=ribbon, width=max(width // 14, 2))
