"""show: every form of file, numbers and kinds, the drawing, and the errors."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from PIL import Image
from rich.console import Console

from tests.conftest import picture
from vlmdet_cli.cli import row_tables
from vlmdet_cli.core.annotations import Box
from vlmdet_cli.core.answers import Answer, Problem
from vlmdet_cli.core.files import to_builtins, write_json, write_jsonl
from vlmdet_cli.errors import DataError, UsageError
from vlmdet_cli.models import dialects
from vlmdet_cli.prompts import object_rows, object_tasks, region_tasks
from vlmdet_cli.stages.data.show import Shown, areas, show

SIZE = (200, 100)
QWEN = dialects.get("qwen2_vl")
CAT: tuple[str, Box] = ("cat", (20.0, 10.0, 100.0, 50.0))
DOG: tuple[str, Box] = ("dog", (120.0, 30.0, 180.0, 90.0))
PROMPT = "<image>Draw the bounding box of objects"
TEXT = QWEN.render([CAT, DOG], SIZE)
AREA = (40.0, 20.0, 160.0, 80.0)


def row(prompt: str = PROMPT, answer: str = TEXT, image: str = "images/a.png") -> dict[str, Any]:
    user, assistant = {"role": "user", "content": prompt}, {"role": "assistant", "content": answer}
    return {"messages": [user, assistant], "images": [image]}


def full() -> dict[str, Any]:
    area = QWEN.render_box(AREA, SIZE)
    return row(region_tasks.FULL.format(area=area), region_tasks.FULL_ANSWER.format(area=area, label="cat"))


def put(folder: Path, *values: Any, name: str = "out/data/rows.jsonl") -> Path:
    """A file of rows two folders below the picture's root."""
    picture(folder / "out", "images/a.png", SIZE)
    write_jsonl(folder / name, values)
    return folder / name


def seen(shown: list[Shown]) -> str:
    """What a person sees at 80 columns, without colour and with the spaces at lines' ends gone."""
    file = io.StringIO()
    console = Console(file=file, width=80, no_color=True, markup=False, highlight=False, emoji=False)
    for renderable in row_tables.show(shown):
        console.print(renderable)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def boxes_of(shown: Shown) -> list[tuple[str, Box]]:
    return [(detection.label, detection.box) for detection in shown.boxes]


# --- forms of files ------------------------------------------------------------------------------------------


def test_a_row_is_shown_with_its_boxes_in_pixels(tmp_path: Path) -> None:
    (shown,) = show(put(tmp_path, row()), None)
    assert (shown.number, shown.kind, shown.image, shown.size) == (1, "detection", "images/a.png", SIZE)
    assert (shown.question, shown.answer, shown.expected) == (PROMPT, TEXT, None)
    assert boxes_of(shown) == [CAT, DOG]
    assert shown.problems == []
    assert shown.remark == ""


def test_an_array_of_the_same_rows_is_shown_alike(tmp_path: Path) -> None:
    lines = put(tmp_path, row(), full())
    array = lines.with_name("rows.json")
    write_json(array, [row(), full()])
    assert show(array, None) == show(lines, None)


def test_the_form_with_objects_is_shown_as_its_text(tmp_path: Path) -> None:
    answer, pairs = object_rows.detection([CAT, DOG], QWEN)
    placed = object_rows.placed("images/a.png", PROMPT, answer, pairs, QWEN)
    assert show(put(tmp_path, placed), 1) == show(put(tmp_path, row(), name="out/data/text.jsonl"), 1)


def test_an_area_of_an_objects_row_is_filled_in_question_and_answer(tmp_path: Path) -> None:
    prompt, answer = (
        region_tasks.FULL.format(area="<bbox>"),
        region_tasks.FULL_ANSWER.format(area="<bbox>", label="cat"),
    )
    placed = object_rows.placed("images/a.png", prompt, answer, [("", AREA), ("", AREA)], QWEN)
    (shown,) = show(put(tmp_path, placed), 1)
    assert (shown.question, shown.answer) == tuple(message["content"] for message in full()["messages"])
    assert shown.areas == [AREA]


def test_an_answer_has_its_own_dialect_size_and_truth(tmp_path: Path) -> None:
    dialect = dialects.get("qwen3_vl")
    text = dialect.render([CAT], SIZE)
    answer = Answer(image="elsewhere.png", size=SIZE, text=text, prompt=PROMPT, dialect="qwen3_vl", expected="[]")
    (shown,) = show(put(tmp_path, answer), 1, dialect="florence2")
    assert boxes_of(shown) == [CAT]
    assert (shown.answer, shown.expected) == (text, "[]")


def test_a_result_row_of_swift_has_response_and_truth(tmp_path: Path) -> None:
    response = QWEN.render([CAT], SIZE)
    path = str(picture(tmp_path, "far/b.png", SIZE))
    result = row(answer=response) | {"response": response, "labels": TEXT, "images": [{"bytes": None, "path": path}]}
    (shown,) = show(put(tmp_path, result), 1)
    assert (shown.image, shown.answer, shown.expected) == (path, response, TEXT)
    assert boxes_of(shown) == [CAT]


def test_a_broken_answer_has_its_problems(tmp_path: Path) -> None:
    answer = Answer(image="images/a.png", size=SIZE, text=TEXT[:-20], finish="length")
    (shown,) = show(put(tmp_path, answer), 1)
    assert boxes_of(shown) == [CAT]
    assert [problem.kind for problem in shown.problems] == ["truncated"]
    assert "problem   cut by the token limit" in seen([shown])


def test_an_answer_that_failed_says_why(tmp_path: Path) -> None:
    (shown,) = show(put(tmp_path, Answer(image="x.png", finish="error", error="no such file")), 1)
    assert shown.remark == "The picture could not be read: no such file"
    assert shown.problems == []


# --- which rows ----------------------------------------------------------------------------------------------


def test_the_first_five_rows_are_shown(tmp_path: Path) -> None:
    assert [shown.number for shown in show(put(tmp_path, *[row()] * 7), None)] == [1, 2, 3, 4, 5]


def test_a_row_is_shown_by_its_number(tmp_path: Path) -> None:
    (shown,) = show(put(tmp_path, row(), full(), row()), 2)
    assert (shown.number, shown.kind) == (2, "full")


def test_only_rows_of_a_kind_are_counted_and_keep_their_numbers(tmp_path: Path) -> None:
    path = put(tmp_path, row(), full(), row(), full())
    assert [shown.number for shown in show(path, None, kind="full")] == [2, 4]
    assert [shown.number for shown in show(path, 2, kind="full")] == [4]


def test_rows_behind_those_shown_are_not_read(tmp_path: Path) -> None:
    path = put(tmp_path, *[row()] * 5)
    with path.open("ab") as file:
        file.write(b"no row\n")
    assert len(show(path, None)) == 5
    with pytest.raises(DataError, match=r"Not a row: .*, row 6"):
        show(path, 6)


@pytest.mark.parametrize(
    ("number", "kind", "message"),
    [
        (4, "", "There is no row 4: .*\nThere are 3"),
        (2, "full", "There is no row 2 of the kind full: .*\nThere is 1"),
        (None, "count", "There is no row of the kind count"),
        (None, "ful", "No such kind of rows: ful: did you mean full"),
        (0, "", "No such row: 0"),
    ],
)
def test_a_number_or_kind_without_rows_is_refused_with_what_exists(
    tmp_path: Path, number: int | None, kind: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        show(put(tmp_path, row(), full(), row()), number, kind=kind)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no rows"),
        (b"[]", "has no rows"),
        (b"\n \n", "has no rows"),
        (b"plain text", "Not a row: .*, row 1"),
        (b"3\n", "Not a row: .*, row 1"),
        (b'{"images": [], "annotations": []}', "Not a row: .*, row 1"),
        (b'[{"image_path": "a.png", "object": {}}]', "Not a row: .*, row 1"),
        (b'{"messages": [{"role": "user", "content": 3}]}', "Not a row: .*, row 1"),
        (b"[1, ", "not valid JSON"),
        (b'{"image": "a.png", "finish": "never"}', "Not a row: .*, row 1"),
    ],
)
def test_a_file_without_rows_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "rows"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        show(path, None)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Cannot read the rows: .*none\.jsonl"):
        show(tmp_path / "none.jsonl", None)


@pytest.mark.parametrize(
    "change",
    [
        {"ref": ["cat"], "bbox": []},
        {"ref": ["cat"], "bbox": [[1, 2, 3]]},
        {"ref": ["cat"], "bbox": [1]},
        {"ref": 3, "bbox": [[1, 2, 3, 4]]},
    ],
)
def test_wrong_objects_are_named_by_their_row(tmp_path: Path, change: dict[str, Any]) -> None:
    path = put(tmp_path, row(), row(answer="<ref-object><bbox>") | {"objects": change})
    with pytest.raises(DataError, match=r"wrong `objects`: .*, row 2"):
        show(path, 2)


# --- pictures ------------------------------------------------------------------------------------------------


def test_pictures_are_read_below_root_alone_where_it_is_given(tmp_path: Path) -> None:
    path = put(tmp_path, row())
    assert show(path, 1, root=tmp_path / "out")[0].size == SIZE
    assert show(path, 1, root=tmp_path)[0].size == (0, 0)


def test_a_row_without_its_picture_is_shown_in_the_numbers_written(tmp_path: Path) -> None:
    (shown,) = show(put(tmp_path, row(image="images/none.png")), 1)
    assert shown.remark == "The picture is not on disk"
    assert boxes_of(shown)[0] == ("cat", (100, 100, 500, 500))
    assert "numbers as written" in seen([shown])


def test_an_objects_row_without_its_picture_keeps_its_placeholders(tmp_path: Path) -> None:
    answer, pairs = object_rows.detection([CAT], QWEN)
    (shown,) = show(put(tmp_path, object_rows.placed("none.png", PROMPT, answer, pairs, QWEN)), 1)
    assert (shown.answer, shown.boxes, shown.problems) == (answer, [], [])


def test_a_row_may_have_no_picture(tmp_path: Path) -> None:
    (shown,) = show(put(tmp_path, row() | {"images": []}), 1)
    assert shown.remark == "The row has no picture"


@pytest.mark.parametrize("name", dialects.names())
def test_an_area_is_read_from_a_question_in_any_dialect(name: str) -> None:
    dialect = dialects.get(name)
    question = region_tasks.FULL.format(area=dialect.render_box(AREA, SIZE))
    assert areas(question, dialect, SIZE) == [pytest.approx(dialect.as_written(AREA, SIZE))]
    assert areas(region_tasks.COUNT, dialect, SIZE) == []


def test_questions_that_are_answered_by_boxes_show_area_and_boxes(tmp_path: Path) -> None:
    prompt = object_tasks.REGION.format(area=QWEN.render_box(AREA, SIZE))
    (shown,) = show(put(tmp_path, row(prompt)), 1)
    assert (shown.kind, shown.areas, boxes_of(shown)) == ("region", [AREA], [CAT, DOG])


# --- drawing -------------------------------------------------------------------------------------------------


def test_boxes_are_drawn_where_they_are(tmp_path: Path) -> None:
    target = tmp_path / "drawn" / "a.png"
    show(put(tmp_path, row()), None, draw=target)
    with Image.open(target) as drawn:
        factor = drawn.width / SIZE[0]
        for _, (left, _, right, bottom) in (CAT, DOG):
            x, y = round((left + right) / 2 * factor), round(bottom * factor) - 1
            assert drawn.getpixel((x, y)) != drawn.getpixel((x, y + 20))
        assert drawn.getpixel((5, 5)) == drawn.getpixel((drawn.width - 5, round(SIZE[1] * factor) - 5))


def test_the_area_of_a_question_is_drawn(tmp_path: Path) -> None:
    plain, target = row(answer="No objects."), tmp_path / "a.png"
    show(put(tmp_path, plain), None, draw=tmp_path / "plain.png")
    show(put(tmp_path, full()), None, draw=target)
    assert Image.open(target).tobytes() != Image.open(tmp_path / "plain.png").tobytes()


@pytest.mark.parametrize(("name", "form"), [("a.jpg", "JPEG"), ("a.JPEG", "JPEG"), ("a.png", "PNG")])
def test_the_name_rules_the_format(tmp_path: Path, name: str, form: str) -> None:
    assert len(show(put(tmp_path, row(), row()), None, draw=tmp_path / name)) == 1
    with Image.open(tmp_path / name) as drawn:
        assert drawn.format == form


def test_another_format_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No format to draw in"):
        show(tmp_path / "none.jsonl", None, draw=tmp_path / "a.gif")


def test_the_picture_itself_is_never_drawn_over(tmp_path: Path) -> None:
    path = put(tmp_path, row())
    target = tmp_path / "out/images/a.png"
    before = target.read_bytes()
    with pytest.raises(UsageError, match="would replace the picture itself"):
        show(path, 1, draw=target)
    assert target.read_bytes() == before


def spoiled(path: Path) -> None:
    path.write_bytes(b"no picture")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("spoil", "message"), [(Path.unlink, "is not there"), (spoiled, "not a picture"), (cut, "trunc")]
)
def test_a_picture_that_cannot_be_drawn_is_named(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    path = put(tmp_path, row())
    spoil(tmp_path / "out/images/a.png")
    with pytest.raises(DataError, match=rf"(?s)a\.png.*{message}|{message}.*a\.png"):
        show(path, 1, draw=tmp_path / "drawn.png")
    assert not (tmp_path / "drawn.png").exists()


# --- the page ------------------------------------------------------------------------------------------------


def test_a_row_reads_like_this(tmp_path: Path) -> None:
    assert seen(show(put(tmp_path, row()), 1)) == (
        "row 1 · detection\n"
        "picture   images/a.png  200 x 100\n"
        "question  <image>Draw the bounding box of objects\n"
        "answer    ‹cat›[(100,100),(500,500)] ‹dog›[(600,300),(900,900)]\n"
        "\n"
        " label    left    top   right   bottom\n"
        " ─────────────────────────────────────\n"
        " cat      20.0   10.0   100.0     50.0\n"
        " dog     120.0   30.0   180.0     90.0\n"
    )


def test_a_long_answer_is_cut_and_boxes_beyond_the_first_are_counted(tmp_path: Path) -> None:
    boxes = [("cat", (float(n), 0.0, n + 50.0, 50.0)) for n in range(100)]
    text = seen(show(put(tmp_path, row(answer=QWEN.render(boxes, SIZE))), 1))
    assert "more characters" in " ".join(text.split())
    assert "… 70 more" in text
    assert max(map(len, text.splitlines())) <= 80


def test_markup_and_control_characters_are_shown_as_they_are() -> None:
    shown = Shown(
        number=1, kind="detection", image="[red]a", size=SIZE, question="[bold]q\x1b[31m", answer="a\u202eb",
        problems=[Problem("unparsed", "\x07")],
    )  # fmt: skip
    text = seen([shown])
    assert "[red]a" in text
    assert "[bold]q\\x1b[31m" in text
    assert "a\\u202eb" in text
    assert "unparsed: \\x07" in text


def test_a_row_is_json_too(tmp_path: Path) -> None:
    document = orjson.loads(orjson.dumps(show(put(tmp_path, row()), 1), default=to_builtins))
    assert document[0]["boxes"][0] == {"label": "cat", "box": [20.0, 10.0, 100.0, 50.0], "score": None}
