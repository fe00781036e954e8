"""Panels and sheets: boxes, labels and texts are drawn in the right position, at any size, for any text."""

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops

from vlmdet_cli.drawing import panel
from vlmdet_cli.drawing.lettering import GREY, PALETTE, contrast, fit, font, ink_on, palette, printable, wrap
from vlmdet_cli.drawing.outline import State, line_width, strokes
from vlmdet_cli.drawing.panel import Mark, draw_panel, draw_unreadable, panel_size
from vlmdet_cli.drawing.sheet import Tile, contact_sheet, tile_size
from vlmdet_cli.errors import UsageError

RELAXED = settings(max_examples=40, deadline=None)  # drawing takes its time on a busy machine
COLOURS = palette(["cat", "dog"])
STATES: tuple[State, ...] = ("truth", "answer", "area", "found", "false", "missed", "crowd", "aside")


def plain(width: int, height: int, colour: tuple[int, int, int] = (120, 140, 160)) -> Image.Image:
    return Image.new("RGB", (width, height), colour)


def picture_of(panel: Image.Image) -> Image.Image:
    """A panel of 960 x 960 without its legend."""
    return panel.crop((0, 0, 960, 960))


def shares(image: Image.Image, colour: tuple[int, int, int]) -> npt.NDArray[np.bool_]:
    same: npt.NDArray[np.bool_] = np.all(np.asarray(image) == np.array(colour), axis=-1)
    return same


def bottom_line(state: State) -> npt.NDArray[np.bool_]:
    """A mask (801,) of the lowest row of a box (100, 100)-(900, 700): where it has the class's colour."""
    panel = draw_panel(plain(960, 960), [Mark("cat", (100, 100, 900, 700), state)], COLOURS)
    return np.asarray(shares(panel, COLOURS["cat"])[700, 100:901])


def test_a_found_box_has_its_colour_all_along_its_border_and_none_inside() -> None:
    panel = draw_panel(plain(960, 960), [Mark("cat", (100, 100, 900, 700), "found", 0.9)], COLOURS)
    border = shares(panel, COLOURS["cat"])
    assert border[100:701, 100].all()
    assert border[100:701, 900].all()
    assert border[700, 100:901].all()
    assert not border[110:690, 110:890].any()
    assert panel.getpixel((500, 400)) == (120, 140, 160)


def test_a_missed_box_is_dotted_and_a_false_one_dashed_with_longer_strokes() -> None:
    strokes_of = {
        state: [sum(run) for on, run in itertools.groupby(bottom_line(state).tolist()) if on]
        for state in ("missed", "false", "truth")
    }
    assert strokes_of["truth"] == [801]
    assert len(strokes_of["missed"]) > 40
    assert 10 < len(strokes_of["false"]) < len(strokes_of["missed"])
    assert min(strokes_of["false"]) > 2 * max(strokes_of["missed"][1:-1])


def test_a_crowd_is_hatched_over_its_whole_region_and_nowhere_else() -> None:
    panel = draw_panel(plain(960, 960), [Mark("dog", (200, 300, 600, 700), "crowd")], COLOURS)
    changed = ~shares(ImageChops.difference(picture_of(panel), plain(960, 960)), (0, 0, 0))
    inside = changed[310:690, 210:590]
    assert inside.all()
    assert len(np.unique(np.asarray(panel)[310:690, 210:590].reshape(-1, 3), axis=0)) == 2
    assert not changed[:260].any()
    assert not changed[720:].any()


def test_a_prediction_in_a_crowd_is_drawn_thinner_than_a_found_one() -> None:
    def ink(state: State) -> int:
        panel = draw_panel(plain(960, 960), [Mark("cat", (100, 100, 900, 700), state)], COLOURS)
        return int(shares(panel, COLOURS["cat"])[400].sum())

    assert 0 < ink("aside") < ink("found")


def test_labels_name_the_state_and_call_the_number_iou() -> None:
    assert [Mark("cat", (0, 0, 1, 1), state, 0.876).text for state in STATES] == [
        "cat",
        "cat",
        "cat",
        "cat IoU 0.88",
        "false: cat",
        "missed: cat",
        "crowd: cat",
        "not counted: cat",
    ]


def test_a_label_is_drawn_as_a_filled_box_with_letters_on_it() -> None:
    panel = draw_panel(plain(960, 960), [Mark("cat", (100, 100, 900, 700), "found", 0.9)], COLOURS)
    label = np.asarray(panel)[80:99, 101:190].reshape(-1, 3)
    assert (label == COLOURS["cat"]).all(axis=1).mean() > 0.5
    assert (label == ink_on(COLOURS["cat"])).all(axis=1).sum() > 30


@given(
    st.lists(
        st.tuples(
            st.text(max_size=60),
            st.tuples(*[st.floats()] * 4),
            st.sampled_from(STATES),
        ),
        max_size=6,
    ),
    st.tuples(st.integers(1, 200), st.integers(1, 200)),
)
@RELAXED
def test_any_text_and_any_box_is_drawn(
    marks: list[tuple[str, tuple[float, float, float, float], State]], size: tuple[int, int]
) -> None:
    panel = draw_panel(plain(*size), [Mark(label, box, state) for label, box, state in marks], COLOURS)
    assert panel.width == panel_size(size)[0]
    assert panel.height >= panel_size(size)[1]


def test_small_pictures_are_enlarged_large_ones_kept_and_huge_ones_reduced() -> None:
    assert [panel_size(size) for size in [(112, 56), (4000, 3000), (8192, 100), (20000, 1)]] == [
        (960, 480),
        (4000, 3000),
        (4096, 50),
        (4096, 1),
    ]
    assert panel_size((112, 112), (564, 423)) == (423, 423)


def test_letters_and_lines_grow_with_the_picture_and_never_get_too_small() -> None:
    assert panel.letter_size((500, 300)) == 15
    assert panel.letter_size((4000, 300)) > 50
    assert 2 == line_width((300, 200)) < line_width((960, 200)) < line_width((4000, 200))


def test_boxes_of_another_frame_are_scaled_to_the_picture() -> None:
    half = draw_panel(plain(960, 960), [Mark("cat", (50, 50, 450, 350), "truth")], COLOURS, frame=(480, 480))
    whole = draw_panel(plain(960, 960), [Mark("cat", (100, 100, 900, 700), "truth")], COLOURS)
    assert half.tobytes() == whole.tobytes()


@pytest.mark.parametrize("state", STATES)
def test_the_given_image_stays_unchanged(state: State) -> None:
    image = plain(960, 960)
    draw_panel(image, [Mark("cat", (100, 100, 900, 700), state)], COLOURS)
    assert image.tobytes() == plain(960, 960).tobytes()


def test_false_boxes_are_drawn_over_found_boxes() -> None:
    box = (100.0, 100.0, 900.0, 700.0)
    marks = [Mark("dog", box, "false"), Mark("cat", box, "found", 0.9)]
    assert shares(draw_panel(plain(960, 960), marks, COLOURS), COLOURS["dog"])[700, 100:110].all()


@given(
    st.tuples(*[st.integers(0, 60)] * 4),
    st.integers(1, 9),
    st.sampled_from([(1.0, 0.0), (4.0, 2.5), (1.0, 2.0)]),
)
@RELAXED
def test_every_stroke_of_a_border_is_inside_it_and_the_corners_are_covered(
    numbers: tuple[int, int, int, int], width: int, pattern: tuple[float, float]
) -> None:
    left, top, wide, high = numbers
    right, bottom = left + wide, top + high
    pieces = list(strokes((left, top, right, bottom), width, *pattern))
    assert all(left <= a <= c <= right and top <= b <= d <= bottom for a, b, c, d in pieces)
    for x, y in itertools.product((left, right), (top, bottom)):
        assert any(a <= x <= c and b <= y <= d for a, b, c, d in pieces)


def test_a_label_that_is_no_category_is_grey() -> None:
    panel = draw_panel(plain(960, 960), [Mark("unicorn", (100, 100, 900, 700), "truth")], COLOURS)
    assert shares(panel, GREY)[700, 100:901].all()


def test_a_categorys_index_gives_its_colour_and_the_colours_repeat() -> None:
    names = [str(number) for number in range(len(PALETTE) + 1)]
    assert len(set(PALETTE)) == len(PALETTE)
    assert palette(names)["0"] == palette(names)[names[-1]] == PALETTE[0]
    assert palette(["x", "cat"])["cat"] != palette(["cat"])["cat"]


def test_text_on_every_colour_is_readable() -> None:
    assert min(contrast(ink_on(colour), colour) for colour in (*PALETTE, GREY)) >= 4.5
    assert round(contrast((0, 0, 0), (255, 255, 255)), 6) == 21


def test_letters_that_the_font_lacks_are_escaped() -> None:
    assert printable("traffic light") == "traffic light"
    assert printable("café") == printable("cafe\u0301") == "cafe"
    assert printable("犬") == "\\u72ac"
    assert printable("a\nb\x1b[0m\u202e\ud800") == "a\\nb\\x1b[0m\\u202e\\ud800"


@given(st.text())
@RELAXED
def test_printable_text_has_only_letters_of_the_font(text: str) -> None:
    assert all(" " <= char <= "~" or char in "·…" for char in printable(text))


@given(st.text(alphabet="abc W.", min_size=1), st.integers(1, 200))
@RELAXED
def test_text_is_cut_to_its_width(text: str, width: int) -> None:
    letters = font(12)
    assert letters.getlength(fit(text, letters, width)) <= width
    assert all(letters.getlength(line) <= width for line in wrap(text, letters, width))


def test_a_named_font_writes_the_scripts_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    monkeypatch.setenv("VLMDET_FONT", f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf")
    assert printable("собака café κύων") == "собака café κύων"
    assert printable("a\n\u202e犬") == "a\\n\\u202e\\u72ac"
    marks = [Mark("собака", (10, 10, 90, 90), "truth")]
    own = draw_panel(plain(100, 100), marks, COLOURS)
    monkeypatch.delenv("VLMDET_FONT")
    assert own.tobytes() != draw_panel(plain(100, 100), marks, COLOURS).tobytes()


def test_a_named_font_that_is_none_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLMDET_FONT", __file__)
    with pytest.raises(UsageError, match="Cannot read the font"):
        draw_panel(plain(100, 100), [Mark("cat", (10, 10, 90, 90), "truth")], COLOURS)


def test_letters_on_the_sheet_are_ten_pixels_or_more_on_a_screen_of_1280() -> None:
    sheet = contact_sheet([Tile(plain(*tile_size()), "a.jpg", "")] * 24, "", {"found": 1})
    assert panel.letter_size(tile_size()) * 1280 / sheet.width >= 10
    assert panel.letter_size(panel_size((112, 112))) >= 16


def test_an_unreadable_picture_is_a_grey_panel_with_the_reason_on_it() -> None:
    panel = np.asarray(draw_unreadable((640, 480), "no such file"))
    assert panel.shape == (720, 960, 3)
    assert (panel == panel[..., :1]).all()
    assert (panel[300:420] < 130).any()
    assert draw_unreadable((640, 480), "no file").tobytes() != draw_unreadable((640, 480), "empty").tobytes()


def test_a_sheet_is_not_too_wide_and_shows_each_tile_and_the_legend() -> None:
    small = plain(*tile_size(), colour=(1, 2, 3))
    for count in (0, 1, 5, 24):
        counts: dict[State, int] = {"found": 1, "false": 2, "crowd": 3}
        sheet = contact_sheet([Tile(small, "a.jpg", "1 found")] * count, "Title", counts)
        assert sheet.width <= 1808
        assert shares(sheet, (1, 2, 3)).sum() == count * small.width * small.height
        assert np.unique(np.asarray(sheet)[70:100].reshape(-1, 3), axis=0).shape[0] > 10


def test_a_tiles_caption_is_drawn_under_it() -> None:
    tile = plain(*tile_size())
    first, second = (contact_sheet([Tile(tile, name, "")], "", {"found": 1}) for name in ("a.jpg", "犬.jpg"))
    box = ImageChops.difference(first, second).getbbox()
    assert box is not None
    assert box[1] >= 100 + tile.height
    assert box[3] <= first.height
