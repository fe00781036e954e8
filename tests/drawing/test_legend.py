"""The legend: a sample for each state that is told apart without colour, in as many rows as the width needs."""

import itertools

import numpy as np
import pytest
from PIL import Image, ImageDraw

from vlmdet_cli.drawing.legend import GROUND, legend
from vlmdet_cli.drawing.lettering import palette
from vlmdet_cli.drawing.outline import STATE_NAMES, State, draw_box, hatch
from vlmdet_cli.drawing.panel import Mark, draw_panel

COMPARED: tuple[State, ...] = ("found", "false", "missed", "crowd", "aside")


def test_a_legend_grows_by_rows_and_keeps_its_width() -> None:
    counts: dict[State, int] = dict.fromkeys(STATE_NAMES, 1234)
    heights = [legend(counts, width, 16).height for width in (1800, 900, 300, 60)]
    assert heights == sorted(heights)
    assert heights[0] < heights[-1]
    assert legend(counts, 300, 16).width == 300


def test_counts_and_the_remark_are_on_the_legend() -> None:
    base, more, remark = (
        legend({"found": 1}, 900, 16),
        legend({"found": 2}, 900, 16),
        legend({"found": 1}, 900, 16, "3 without a label"),
    )
    assert base.tobytes() != more.tobytes()
    assert (np.asarray(remark)[:, 400:] != GROUND).sum() > (np.asarray(base)[:, 400:] != GROUND).sum()


def test_of_what_there_is_none_only_the_usual_states_are_named() -> None:
    counts: dict[State, int] = {"found": 1, "missed": 0}
    assert legend({**counts, "crowd": 0}, 900, 16).tobytes() == legend(counts, 900, 16).tobytes()
    assert legend({"found": 1}, 900, 16).tobytes() != legend(counts, 900, 16).tobytes()


def test_samples_of_all_compared_states_differ_in_greyscale() -> None:
    samples = [np.asarray(sample(state).convert("L"), int) for state in COMPARED]
    for first, second in itertools.combinations(samples, 2):
        assert (abs(first - second) > 60).sum() > 100


def sample(state: State) -> Image.Image:
    canvas = Image.new("RGB", (160, 120), GROUND)
    if state == "crowd":
        hatch(canvas, (20, 20, 139, 99), (85, 85, 85), 3)
    draw_box(ImageDraw.Draw(canvas), (20, 20, 139, 99), state, (85, 85, 85), 3)
    return canvas


@pytest.mark.parametrize("level", [0, 127, 255])
@pytest.mark.parametrize("state", STATE_NAMES)
def test_a_box_of_any_colour_is_visible_on_dark_and_on_light_pictures(state: State, level: int) -> None:
    for name, colour in (colours := palette([str(number) for number in range(11)])).items():
        picture = Image.new("RGB", (960, 960), (level, level, level))
        panel = draw_panel(picture, [Mark(name, (300, 300, 700, 700), state)], colours).convert("L")
        side = np.asarray(panel, int)[600:690, 295:312]  # the left border, where no label is
        assert np.ptp(side) > 80, (name, colour)


def test_a_crowd_of_the_pictures_own_colour_still_shows_its_stripes() -> None:
    colours = palette(["cat"])
    panel = draw_panel(
        Image.new("RGB", (960, 960), colours["cat"]), [Mark("cat", (300, 300, 700, 700), "crowd")], colours
    )
    assert np.ptp(np.asarray(panel.convert("L"), int)[500:600, 500:600]) > 15


def test_a_panel_has_a_legend_and_a_tile_has_none() -> None:
    marks = [Mark("cat", (10, 10, 90, 90), "found", 0.9)]
    picture, colours = Image.new("RGB", (100, 100)), palette(["cat"])
    panel = draw_panel(picture, marks, colours)
    assert panel.width == 960 < panel.height
    assert panel.getpixel((0, panel.height - 1)) == GROUND
    assert draw_panel(picture, marks, colours, within=(400, 400)).size == (400, 400)
    assert draw_panel(picture, [], colours).size == (960, 960)
