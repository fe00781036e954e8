"""Rows of ms-swift and detection JSON: boxes, merged rows, and wrong entries."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import picture
from tests.data.formats.builders import (
    SIZE,
    detection_file,
    detection_row,
    read,
    read_sound,
    reasons,
    rows,
    sizes,
    swift_file,
    swift_row,
    write,
)
from vlmdet_cli.data.dataset import AnnotationIssue
from vlmdet_cli.data.formats import detections, swift_rows
from vlmdet_cli.errors import DataError


def test_swift_rows_give_pixels_of_both_kinds_of_boxes(tmp_path: Path) -> None:
    picture(tmp_path, "sub/b.jpg", (50, 40))
    file_rows = [
        swift_row("a.jpg", ["dog", "cat"], [[10, 20, 50, 60], [0, 0, 1, 1]]),
        swift_row("./sub/b.jpg", ["dog"], [[0.5, 0.25, 1, 0.5], [0, 0, 1, 1]], bbox_type="norm1"),
        swift_row(f"{tmp_path}/a.jpg", ["dog", "cow"], [[10, 20, 50, 60], [1, 2, 3, 4]]),
        swift_row("a.jpg", [], []),
    ]
    expected = [
        ("a.jpg", "dog", [10, 20, 40, 40], False),
        ("a.jpg", "cat", [0, 0, 1, 1], False),
        ("a.jpg", "cow", [1, 2, 2, 2], False),
        ("sub/b.jpg", "dog", [25, 10, 25, 10], False),
        ("sub/b.jpg", "dog", [0, 0, 50, 40], False),
    ]
    file = swift_file(tmp_path, *file_rows)
    array = write(tmp_path / "rows.json", json.dumps(file_rows, indent=1))
    for data in (read_sound(swift_rows, file), read_sound(swift_rows, array), read_sound(swift_rows, file, tmp_path)):
        assert data.labels == ("cat", "cow", "dog")
        assert rows(data) == expected
        assert sizes(data) == {"a": ("a.jpg", 200, 100), "sub/b": ("sub/b.jpg", 50, 40)}


@pytest.mark.parametrize(
    ("row", "reason", "boxes"),
    [
        ([], "wrong type or missing key", 0),
        ({"images": ["b.jpg"], "objects": {"ref": []}}, "wrong type or missing key", 0),
        ({"images": ["b.jpg"]}, "row without `objects`", 0),
        ({"images": [], "objects": {"ref": ["a"], "bbox": [[1, 2, 3, 4]]}}, "row without exactly one picture", 1),
        ({"images": ["a.jpg", "b.jpg"], "objects": {"bbox": []}}, "row without exactly one picture", 0),
        (swift_row("b.jpg", ["a", "b", "c"], [[1, 2, 3, 4]] * 2), "not as many labels as boxes", 2),
        (swift_row("b.jpg", bbox_type="thousandths"), "unknown `bbox_type`", 1),
        (swift_row("../b.jpg"), "file name leaves its folder", 1),
        (swift_row("/b.jpg"), "file name leaves its folder", 1),
    ],
)
def test_a_wrong_swift_row_is_an_issue_with_its_boxes(tmp_path: Path, row: Any, reason: str, boxes: int) -> None:
    data, issues = read(swift_rows, swift_file(tmp_path, swift_row(), row))
    assert [(issue.kind, issue.reason) for issue in issues] == [
        ("pictures", reason), *[("boxes", "its picture is left out")] * boxes,
    ]  # fmt: skip
    assert issues[0].where.startswith("rows.jsonl, line 2: ")
    assert rows(data) == [("a.jpg", "dog", [10, 20, 40, 40], False)]


WRONG_BOXES = [
    ([1, 2, 3], "not four numbers"),
    ("1, 2, 3, 4", "not four numbers"),
    ([1, 2, 3, "4"], "not a number"),
    ([1, 2, 3, True], "not a number"),
    ([1, 2, 3, None], "not a number"),
    ([1, 2, 3, 1e300], "not a number"),
    ([5, 2, 3, 4], "negative size"),
]


@pytest.mark.parametrize(("box", "reason"), WRONG_BOXES)
def test_a_wrong_box_of_json_is_an_issue_and_the_others_stay(tmp_path: Path, box: Any, reason: str) -> None:
    good = [10, 20, 50, 60]
    sources_of = {
        swift_rows: swift_file(tmp_path, swift_row(ref=["dog", "dog"], bbox=[box, good])),
        detections: detection_file(tmp_path, detection_row(dog=[box, good])),
    }
    for module, source in sources_of.items():
        data, issues = read(module, source)
        assert reasons(issues) == {("boxes", reason): 1}
        assert issues[0].where.startswith(f"{source.name}, line 1: " if module is swift_rows else f"{source.name}[0]: ")
        assert rows(data) == [("a.jpg", "dog", [10, 20, 40, 40], False)]


@pytest.mark.parametrize("label", ["", " ", None, 3])
def test_a_label_that_is_empty_or_no_text_is_an_issue(tmp_path: Path, label: Any) -> None:
    data, issues = read(swift_rows, swift_file(tmp_path, swift_row(ref=[label])))
    assert reasons(issues) == {("boxes", "label is empty or not text"): 1}
    assert len(data.images) == 1


@pytest.mark.parametrize("label", ["", " "])
def test_an_empty_label_of_detection_json_is_an_issue(tmp_path: Path, label: str) -> None:
    row = {"image_path": "a.jpg", "object": {label: [[1, 2, 3, 4]], "dog": [[1, 2, 3, 4]]}}
    data, issues = read(detections, detection_file(tmp_path, row))
    assert reasons(issues) == {("boxes", "label is empty or not text"): 1}
    assert data.labels == ("dog",)


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_file_name_in_a_row_is_an_issue_with_its_boxes(tmp_path: Path, name: str) -> None:
    expected = {("pictures", "file name is empty"): 1, ("boxes", "its picture is left out"): 1}
    assert reasons(read(swift_rows, swift_file(tmp_path, swift_row(), swift_row(name)))[1]) == expected
    assert reasons(read(detections, detection_file(tmp_path, detection_row(), detection_row(name)))[1]) == expected


def test_a_line_that_is_no_json_is_an_issue(tmp_path: Path) -> None:
    file = swift_file(tmp_path, swift_row())
    file.write_bytes(b'{"cut": \n\n\xff\n' + file.read_bytes())
    data, issues = read(swift_rows, file)
    assert [(issue.reason, issue.where) for issue in issues] == [
        ("not valid JSON", 'rows.jsonl, line 1: "{\\"cut\\": "'),
        ("not valid JSON", 'rows.jsonl, line 3: "\ufffd"'),
    ]
    assert len(data.label) == 1


@pytest.mark.parametrize("module", [swift_rows, detections])
def test_an_array_that_is_no_json_or_no_file_is_an_error(tmp_path: Path, module: ModuleType) -> None:
    with pytest.raises(DataError, match="not valid JSON"):
        read(module, write(tmp_path / "rows.json", "[{"))
    with pytest.raises(DataError, match="not valid JSON"):
        read(module, write(tmp_path / "rows.json", b'["\xff"]'))
    with pytest.raises(DataError, match="Cannot read"):
        read(module, tmp_path)


# --- detection JSON ---


def test_detections_are_pixels_of_pictures_that_are_measured(tmp_path: Path) -> None:
    picture(tmp_path, "sub/b.jpg", (50, 40))
    file = detection_file(
        tmp_path,
        detection_row("sub/b.jpg", dog=[[0, 0, 10, 10]]),
        detection_row("a.jpg", cat=[[1.5, 2, 3, 4]], dog=[[1, 2, 3, 4], [5, 6, 7, 8]]),
        {"image_path": "sub/b.jpg", "object": {}},
    )
    data = read_sound(detections, file)
    assert data.labels == ("cat", "dog")
    assert sizes(data) == {"sub/b": ("sub/b.jpg", 50, 40), "a": ("a.jpg", 200, 100)}
    assert rows(data) == [
        ("sub/b.jpg", "dog", [0, 0, 10, 10], False),
        ("a.jpg", "cat", [1.5, 2, 1.5, 2], False),
        ("a.jpg", "dog", [1, 2, 2, 2], False),
        ("a.jpg", "dog", [5, 6, 2, 2], False),
    ]


@pytest.mark.parametrize(
    "row", [7, {"image_path": 1, "object": {}}, {"image_path": "a.jpg", "object": []}, {"object": {}}]
)
def test_a_detection_row_of_the_wrong_form_is_an_issue(tmp_path: Path, row: Any) -> None:
    data, issues = read(detections, detection_file(tmp_path, detection_row(), row))
    assert issues == [AnnotationIssue("pictures", "wrong type or missing key", "boxes.json[1]")]
    assert len(data.label) == 1


def test_detections_of_pictures_that_leave_their_folder_or_are_missing_are_issues(tmp_path: Path) -> None:
    missing, outside = detection_row("b.jpg", dog=[[1, 2, 3, 4]] * 2 + [[2, 2, 3, 4]]), detection_row("../a.jpg")
    data, issues = read(detections, detection_file(tmp_path, detection_row(), missing, outside))
    assert reasons(issues) == {
        ("pictures", "file name leaves its folder"): 1,
        ("pictures", "picture cannot be read"): 1,
        ("boxes", "its picture is left out"): 3,
    }
    assert [image.file_name for image in data.images] == ["a.jpg"]


def test_sizes_are_those_of_the_upright_picture(tmp_path: Path) -> None:
    from PIL import Image as Pillow

    file = detection_file(tmp_path, detection_row())
    exif = Pillow.Exif()
    exif[0x0112] = 6
    Pillow.new("RGB", SIZE).save(tmp_path / "a.jpg", exif=exif)
    assert sizes(read_sound(detections, file)) == {"a": ("a.jpg", 100, 200)}
