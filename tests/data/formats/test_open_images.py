"""Open Images: shares of the sides, names, groups, exhaustive categories, and wrong rows."""

from pathlib import Path

import pytest

from tests.conftest import picture
from tests.data.formats.builders import (
    BOXES_HEAD,
    open_images_file,
    open_images_row,
    read,
    read_sound,
    reasons,
    rows,
    sizes,
    write,
)
from vlmdet_cli.data.dataset import AnnotationIssue
from vlmdet_cli.data.formats import open_images
from vlmdet_cli.errors import DataError


def test_open_images_boxes_become_pixels_with_names_groups_and_what_was_verified(tmp_path: Path) -> None:
    file = open_images_file(
        tmp_path,
        open_images_row("aa", "0.1,0.5,0.2,0.6"),
        open_images_row("bb", "0,1,0,1", "/m/cat", group=1),
        open_images_row("aa", "0,0.5,0,0.5", "/m/cat"),
    )
    write(tmp_path / "class-descriptions-boxable.csv", "/m/dog,Dog\n/m/cat,Cat\n/m/cow,Cow\n")
    head = "ImageID,Source,LabelName,Confidence\n"
    write(
        tmp_path / "train-annotations-human-imagelabels-boxable.csv",
        f"{head}bb,verification,/m/dog,0\naa,verification,/m/cow,1\nzz,verification,/m/dog,1\n",
    )
    write(tmp_path / "train-annotations-machine-imagelabels.csv", f"{head}aa,machine,/m/dog,1\n")
    write(tmp_path / "test-annotations-human-imagelabels-boxable.csv", f"{head}bb,verification,/m/cat,1\n")
    data = read_sound(open_images, file, tmp_path / "images")
    assert data.labels == ("Cat", "Dog")
    assert rows(data) == [
        ("aa.jpg", "Dog", [20, 20, 80, 40], False),
        ("aa.jpg", "Cat", [0, 0, 100, 50], False),
        ("bb.jpg", "Cat", [0, 0, 200, 100], True),
    ]
    assert sizes(data) == {"aa": ("aa.jpg", 200, 100), "bb": ("bb.jpg", 200, 100)}
    assert [image.exhaustive_categories for image in data.images] == [("Cat", "Dog"), ("Cat", "Dog")]


def test_open_images_without_verified_labels_is_exhaustive_for_what_has_boxes(tmp_path: Path) -> None:
    file = open_images_file(tmp_path, open_images_row("aa"), open_images_row("bb", code="/m/cat"))
    data = read_sound(open_images, file, tmp_path / "images")
    assert data.labels == ("/m/cat", "/m/dog")
    assert [image.exhaustive_categories for image in data.images] == [("/m/dog",), ("/m/cat",)]


def test_a_machine_guess_verifies_nothing(tmp_path: Path) -> None:
    file = open_images_file(tmp_path, open_images_row("aa"), open_images_row("bb", code="/m/cat"))
    write(
        tmp_path / "train-annotations-human-imagelabels.csv",
        "ImageID,Source,LabelName,Confidence\naa,machine,/m/cat,1\naa,crowdsource-verification,/m/cat,0.7\naa\n",
    )
    assert read_sound(open_images, file, tmp_path / "images").images[0].exhaustive_categories == ("/m/dog",)


def test_open_images_classes_of_one_name_stay_apart(tmp_path: Path) -> None:
    file = open_images_file(tmp_path, open_images_row(), open_images_row(code="/m/cat"))
    write(tmp_path / "oidv7-class-descriptions.csv", "LabelName,DisplayName\n/m/dog,Pet\n/m/cat,Pet\n")
    assert read_sound(open_images, file, tmp_path / "images").labels == ("Pet (/m/cat)", "Pet (/m/dog)")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (open_images_row(box="0.1,x,0.2,0.6"), "not a number"),
        (open_images_row(box="0.1,nan,0.2,0.6"), "not a number"),
        (open_images_row(box="0.5,0.1,0.2,0.6"), "negative size"),
        (open_images_row(box="0.1,0.5,0.6,0.2"), "negative size"),
        ("aa,xclick,/m/dog,1,0.1", "wrong number of values"),
        (open_images_row(code=""), "label is empty or not text"),
        (open_images_row(code=" "), "label is empty or not text"),
        (open_images_row(""), "file name is empty"),
    ],
)
def test_a_wrong_open_images_row_is_an_issue_and_the_others_stay(tmp_path: Path, row: str, reason: str) -> None:
    good = [open_images_row("bb")] * (open_images.BLOCK + 1)
    data, issues = read(open_images, open_images_file(tmp_path, *good, row, "", open_images_row()), tmp_path / "images")
    where = f'oidv6-train-annotations-bbox.csv, line {len(good) + 2}: "{row}"'
    assert issues == [AnnotationIssue("boxes", reason, where)]
    assert data.image.tolist() == [0] * len(good) + [1]


def test_open_images_pictures_that_are_not_on_disk_are_lost_with_their_boxes(tmp_path: Path) -> None:
    rows_of = [open_images_row("cc"), open_images_row("../aa"), open_images_row("aa"), open_images_row("cc")]
    data, issues = read(open_images, open_images_file(tmp_path, *rows_of), tmp_path / "images")
    assert issues[:2] == [
        AnnotationIssue("pictures", "picture cannot be read", f"{tmp_path}/images/cc.jpg: not on disk"),
        AnnotationIssue("pictures", "picture cannot be read", f"{tmp_path}/images/../aa.jpg: not on disk"),
    ]
    assert reasons(issues)["boxes", "its picture is left out"] == 3
    assert rows(data) == [("aa.jpg", "/m/dog", [20, 20, 80, 40], False)]


def test_open_images_pictures_may_have_another_suffix(tmp_path: Path) -> None:
    file = open_images_file(tmp_path, open_images_row("cc"))
    picture(tmp_path / "images", "cc.png", (50, 50))
    assert sizes(read_sound(open_images, file, tmp_path / "images")) == {"cc": ("cc.png", 50, 50)}


def test_an_open_images_file_without_rows_is_empty(tmp_path: Path) -> None:
    data = read_sound(open_images, open_images_file(tmp_path), tmp_path / "images")
    assert (len(data.images), len(data.label)) == (0, 0)


def test_what_open_images_needs_is_named(tmp_path: Path) -> None:
    file = open_images_file(tmp_path, open_images_row())
    with pytest.raises(DataError, match="need their pictures"):
        read(open_images, file)
    with pytest.raises(DataError, match="lacks LabelName, XMin"):
        read(open_images, write(file, "ImageID,YMin,XMax,YMax\n"), tmp_path / "images")
    with pytest.raises(DataError, match="CSV is wrong"):
        read(open_images, write(file, BOXES_HEAD.encode() + b"\n\xff"), tmp_path / "images")


@pytest.mark.parametrize(
    ("row", "reason"),
    [(open_images_row(code=" "), "label is empty or not text"), (open_images_row(""), "file name is empty")],
)
def test_an_empty_name_is_an_issue_in_a_block_of_numbers_that_are_right(tmp_path: Path, row: str, reason: str) -> None:
    data, issues = read(open_images, open_images_file(tmp_path, row, open_images_row()), tmp_path / "images")
    assert reasons(issues) == {("boxes", reason): 1}
    assert data.labels == ("/m/dog",)
