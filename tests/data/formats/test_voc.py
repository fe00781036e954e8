"""Pascal VOC: pixels, crowds, lists, and wrong entries."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import picture
from tests.data.formats.builders import read, read_sound, reasons, rows, sizes, voc_object, voc_page, write
from vlmdet_cli.data.formats import voc
from vlmdet_cli.errors import DataError


def test_voc_boxes_count_from_zero_and_difficult_ones_are_crowds(tmp_path: Path) -> None:
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    voc_page(tmp_path, "b", voc_object("dog", (11, 21, 50, 60), part), voc_object("cat", (1, 1, 200, 100)))
    voc_page(tmp_path, "a", voc_object("dog", (1, 1, 1, 1), "<difficult>1</difficult>"), size=(300, 50))
    data = read_sound(voc, tmp_path / "Annotations")
    assert data.labels == ("cat", "dog")
    assert sizes(data) == {"a": ("a.jpg", 300, 50), "b": ("b.jpg", 200, 100)}
    assert rows(data) == [
        ("a.jpg", "dog", [0, 0, 1, 1], True),
        ("b.jpg", "dog", [10, 20, 40, 40], False),
        ("b.jpg", "cat", [0, 0, 200, 100], False),
    ]


def test_a_voc_list_chooses_pictures_in_its_order(tmp_path: Path) -> None:
    for stem in ("a", "b", "c"):
        voc_page(tmp_path, stem, voc_object())
    (tmp_path / "JPEGImages").mkdir()
    file = write(tmp_path / "ImageSets/Main/train.txt", "c  1\na -1\n\n")
    assert [image.file_name for image in read_sound(voc, file).images] == ["c.jpg", "a.jpg"]
    assert voc.picture_folder(file, None, "train") == tmp_path / "JPEGImages"
    assert voc.picture_folder(tmp_path / "Annotations", None, "train") == tmp_path / "JPEGImages"
    assert voc.picture_folder(file, tmp_path, "train") == tmp_path


@pytest.mark.parametrize("size", [(), (0, 0)])
def test_voc_size_and_suffix_come_from_the_picture_where_they_are_missing(tmp_path: Path, size: Sequence[int]) -> None:
    voc_page(tmp_path, "a", voc_object(), filename="shot.1", size=size)
    voc_page(tmp_path, "b", voc_object(), filename="", size=size)
    picture(tmp_path / "JPEGImages", "shot.1.png", (64, 48))
    picture(tmp_path / "JPEGImages", "b.jpg", (64, 48))
    data = read_sound(voc, tmp_path / "Annotations")
    assert sizes(data) == {"shot.1": ("shot.1.png", 64, 48), "b": ("b.jpg", 64, 48)}


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (voc_object("", (1, 2, 3, 4)), "label is empty or not text"),
        (voc_object("dog", (1, 2, "x", 4)), "not a number"),
        (voc_object("dog", (1, 2, "inf", 4)), "not a number"),
        ("<object><name>dog</name></object>", "not a number"),
        (voc_object("dog", (10, 2, 3, 4)), "negative size"),
    ],
)
def test_a_wrong_voc_object_is_an_issue_and_the_others_stay(tmp_path: Path, wrong: str, reason: str) -> None:
    voc_page(tmp_path, "a", voc_object("cat"), wrong)
    data, issues = read(voc, tmp_path / "Annotations")
    assert reasons(issues) == {("boxes", reason): 1}
    assert issues[0].where.startswith("a.xml, object 2: ")
    assert [row[1] for row in rows(data)] == ["cat"]


@pytest.mark.parametrize(
    "content",
    [
        b"<annotation><object>",
        b"<annotation>\xff</annotation>",
        b'<?xml version="1.0" encoding="nonsense"?><annotation/>',
        b'<!DOCTYPE a [<!ENTITY b "c">]><annotation><filename>&b;</filename></annotation>',
        None,
    ],
)
def test_a_voc_file_that_cannot_be_read_is_an_issue(tmp_path: Path, content: bytes | None) -> None:
    voc_page(tmp_path, "a", voc_object())
    names = write(tmp_path / "ImageSets/Main/train.txt", "a\nb\n")
    if content is not None:
        write(tmp_path / "Annotations/b.xml", content)
    data, issues = read(voc, names)
    assert reasons(issues) == {("pictures", "annotation file cannot be read"): 1}
    assert issues[0].where.startswith("b.xml: ")
    assert len(data.images) == 1


def test_voc_pictures_that_leave_their_folder_repeat_or_are_missing_are_lost_with_their_boxes(tmp_path: Path) -> None:
    voc_page(tmp_path, "a", voc_object())
    voc_page(tmp_path, "b", voc_object(), filename="a.jpg")
    voc_page(tmp_path, "c", voc_object(), filename="../c.jpg")
    voc_page(tmp_path, "d", voc_object(), filename="/c.jpg")
    voc_page(tmp_path, "e", voc_object(), size=())
    voc_page(tmp_path, "f", voc_object(), filename="f" * 300, size=())
    write(tmp_path / "ImageSets/Main/train.txt", "a\nb\nc\nd\ne\nf\n../f\n")
    data, issues = read(voc, tmp_path / "ImageSets/Main/train.txt")
    assert reasons(issues) == {
        ("pictures", "picture appears twice"): 1,
        ("pictures", "file name leaves its folder"): 3,
        ("pictures", "picture cannot be read"): 2,
        ("boxes", "its picture is left out"): 5,
    }
    assert [image.file_name for image in data.images] == ["a.jpg"]


def test_voc_without_xml_or_with_an_unreadable_list_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No XML files"):
        read(voc, tmp_path)
    with pytest.raises(DataError, match="not UTF-8"):
        read(voc, write(tmp_path / "ImageSets/Main/train.txt", b"\xff"))
