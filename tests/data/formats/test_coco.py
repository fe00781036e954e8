"""COCO and LVIS files: which entries are wrong and what becomes of them, exhaustive categories, what is written."""

import json
from pathlib import Path
from typing import Any

import pytest

from vlmdet_cli.data import formats
from vlmdet_cli.data.dataset import AnnotationIssue, Dataset
from vlmdet_cli.data.formats import coco, coco_file
from vlmdet_cli.errors import DataError

IMAGE = {"id": 1, "file_name": "a.jpg", "width": 64, "height": 48}
CAT, DOG = {"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}
BOX = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9]}


def write(folder: Path, **lists: Any) -> Path:
    document = {"images": [IMAGE], "annotations": [BOX], "categories": [CAT, DOG]} | lists
    path = folder / "a.json"
    path.write_text(json.dumps(document))
    return path


def read(folder: Path, **lists: Any) -> tuple[Dataset, list[AnnotationIssue]]:
    issues: list[AnnotationIssue] = []
    return coco.read(write(folder, **lists), None, "train", issues), issues


def labels(data: Dataset) -> list[str]:
    return [data.labels[index] for index in data.label.tolist()]


# --- wrong entries -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", " ", "\t\n"])
def test_an_empty_category_name_is_a_wrong_entry_and_its_boxes_go_with_it(tmp_path: Path, name: str) -> None:
    lists = {"categories": [CAT, {"id": 2, "name": name}], "annotations": [BOX, BOX | {"id": 2, "category_id": 2}]}
    data, issues = read(tmp_path, **lists)
    assert issues == [
        AnnotationIssue("categories", "name is empty", "categories[1]: name is empty"),
        AnnotationIssue("boxes", "its category is left out", "annotations[1]"),
    ]
    assert (data.categories, labels(data)) == (("cat",), ["cat"])
    with pytest.raises(DataError, match=r"has 1 wrong entry: .*\n.*categories\[1\]: name is empty"):
        formats.read_strict(tmp_path / "a.json")


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_file_name_is_a_wrong_entry(tmp_path: Path, name: str) -> None:
    data, issues = read(tmp_path, images=[IMAGE, IMAGE | {"id": 2, "file_name": name}])
    assert issues == [AnnotationIssue("pictures", "file_name is empty", "images[1]: file_name is empty")]
    assert len(data.images) == 1


def test_a_category_of_the_wrong_type_takes_its_boxes_with_it(tmp_path: Path) -> None:
    lists = {"categories": [CAT, {"id": 2}], "annotations": [BOX, BOX | {"id": 2, "category_id": 2}]}
    data, issues = read(tmp_path, **lists)
    assert [(issue.kind, issue.reason) for issue in issues] == [
        ("categories", "wrong type or missing key"), ("boxes", "its category is left out"),
    ]  # fmt: skip
    assert labels(data) == ["cat"]


@pytest.mark.parametrize("again", [{"id": 1, "name": "cow"}, {"id": 3, "name": "cat"}])
def test_a_repeated_category_is_named(tmp_path: Path, again: dict[str, Any]) -> None:
    _, issues = read(tmp_path, categories=[CAT, again])
    assert [issue.reason for issue in issues] == ["appears twice"]


def test_an_ignored_object_needs_a_category(tmp_path: Path) -> None:
    ignored = [BOX | {"id": 2, "category": "cow", "reason": "other category"}, BOX | {"id": 3, "category": ""}]
    data, issues = read(tmp_path, ignored=ignored)
    assert issues == [AnnotationIssue("boxes", "category is empty", "ignored[1]: category is empty")]
    assert (data.categories, labels(data)) == (("cat", "dog"), ["cat", "cow"])


def test_a_missing_box_is_that_of_the_segmentation(tmp_path: Path) -> None:
    outline = {"segmentation": [[5, 6, 15, 6, 15, 26]]}
    data, issues = read(tmp_path, annotations=[{"image_id": 1, "category_id": 1} | outline])
    assert (issues, data.xywh.tolist()) == ([], [[5, 6, 10, 20]])


def test_ids_may_be_floats_and_text(tmp_path: Path) -> None:
    lists = {
        "images": [IMAGE | {"id": 1.0}, IMAGE | {"id": "x", "file_name": "x.jpg"}],
        "annotations": [BOX, BOX | {"id": 2, "image_id": "x"}],
    }
    data, issues = read(tmp_path, **lists)
    assert (issues, [image.id for image in data.images], data.image.tolist()) == ([], [1, "x"], [0, 1])


# --- exhaustive categories -----------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["exhaustive_categories", "verified"])
def test_exhaustive_categories_are_read_under_their_present_and_their_older_key(tmp_path: Path, key: str) -> None:
    data, issues = read(tmp_path, images=[IMAGE | {key: ["dog", "cat"]}])
    assert (issues, data.images[0].exhaustive_categories) == ([], ("cat", "dog"))


def test_what_another_tool_writes_as_verified_is_ignored(tmp_path: Path) -> None:
    data, issues = read(tmp_path, images=[IMAGE | {"verified": True}])
    assert (issues, data.images[0].exhaustive_categories) == ([], None)


def test_a_subset_is_read_as_it_was_written(tmp_path: Path) -> None:
    data, _ = read(
        tmp_path,
        images=[IMAGE | {"exhaustive_categories": ["cat"]}],
        ignored=[BOX | {"id": 2, "category": "dog", "reason": "too small"}],
    )
    coco_file.write(tmp_path / "b.json", data)
    document = json.loads((tmp_path / "b.json").read_text())
    assert document["images"] == [IMAGE | {"exhaustive_categories": ["cat"]}]
    assert document["ignored"][0]["reason"] == "too small"
    again = formats.read_strict(tmp_path / "b.json")
    assert (again.images, again.labels, labels(again)) == (data.images, data.labels, labels(data))
    assert again.drop_reason.tolist() == data.drop_reason.tolist()


def test_lvis_names_what_was_searched_for(tmp_path: Path) -> None:
    cow = {"id": 3, "name": "cow"}
    lvis = {"neg_category_ids": [3], "not_exhaustive_category_ids": [1]}
    url = {"coco_url": "http://images.cocodataset.org/train2017/b.jpg", "file_name": ""}
    second = IMAGE | url | {"id": 2, "neg_category_ids": [], "not_exhaustive_category_ids": []}
    data, issues = read(
        tmp_path,
        images=[IMAGE | lvis, second],
        categories=[CAT, DOG, cow],
        annotations=[BOX, BOX | {"id": 2, "category_id": 2}],
    )
    assert issues == []
    assert [image.file_name for image in data.images] == ["a.jpg", "b.jpg"]
    assert [image.exhaustive_categories for image in data.images] == [("cow", "dog"), ()]


def test_pictures_alone_are_those_of_the_whole_file_without_its_objects(tmp_path: Path) -> None:
    file = write(tmp_path)
    whole, pictures = formats.read_strict(file), formats.read_pictures(file)
    assert (pictures.images, pictures.categories) == (whole.images, whole.categories)
    assert (len(whole.label), len(pictures.label)) == (1, 0)
    file.write_text(file.read_text()[:-9])
    with pytest.raises(DataError, match="not valid JSON"):
        formats.read_pictures(file)
    with pytest.raises(DataError, match="1 wrong entry"):
        formats.read_pictures(write(tmp_path, images=[IMAGE, {"id": 2}]))
