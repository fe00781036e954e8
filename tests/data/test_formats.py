"""Data sets in other forms than COCO: what is read, what is recognised, and how wrong entries are named."""

import contextlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import picture
from vlmdet_cli.data.dataset import OTHER, AnnotationIssue, Dataset, Image, build
from vlmdet_cli.data.formats import detections, open_images, swift_rows, voc, yolo
from vlmdet_cli.errors import DataError

SIZE = (200, 100)
ALL: Sequence[ModuleType] = (yolo, voc, open_images, swift_rows, detections)


def written(file: Path, text: str | bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def yolo_folder(
    folder: Path, labels: dict[str, str], head: str = "train: images/train", names: str = "[cat, dog]"
) -> Path:
    for name, text in labels.items():
        picture(folder / "images/train", f"{name}.jpg", SIZE)
        written(folder / f"labels/train/{name}.txt", text)
    return written(folder / "data.yaml", f"{head}\nnames: {names}\n")


def voc_object(label: str = "dog", box: Sequence[Any] = (11, 21, 50, 60), more: str = "") -> str:
    corners = "".join(
        f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return f"<object><name>{label}</name>{more}<bndbox>{corners}</bndbox></object>"


def voc_page(folder: Path, stem: str, *objects: str, filename: str | None = None, size: Sequence[int] = SIZE) -> Path:
    name = f"{stem}.jpg" if filename is None else filename
    sides = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
    text = f"<annotation><filename>{name}</filename>{sides}{''.join(objects)}</annotation>"
    return written(folder / f"Annotations/{stem}.xml", text)


BOXES_HEAD = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf"


def open_images_file(folder: Path, *rows: str, name: str = "oidv6-train-annotations-bbox.csv") -> Path:
    for one in ("aa", "bb"):
        picture(folder / "images", f"{one}.jpg", SIZE)
    return written(folder / name, "\n".join([BOXES_HEAD, *rows]) + "\n")


def open_images_row(image: str = "aa", box: str = "0.1,0.5,0.2,0.6", code: str = "/m/dog", group: int = 0) -> str:
    return f"{image},xclick,{code},1,{box},0,0,{group}"


def swift_row(
    image: str = "a.jpg", ref: Any = ("dog",), bbox: Any = ((10, 20, 50, 60),), **more: Any
) -> dict[str, Any]:
    return {"messages": [], "images": [image], "objects": {"ref": ref, "bbox": bbox, **more}}


def swift_file(folder: Path, *rows: Any) -> Path:
    picture(folder, "a.jpg", SIZE)
    return written(folder / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def detection_file(folder: Path, *rows: Any) -> Path:
    picture(folder, "a.jpg", SIZE)
    return written(folder / "boxes.json", json.dumps(rows))


def detection_row(image: str = "a.jpg", **boxes: Any) -> dict[str, Any]:
    return {"image_path": image, "object": boxes or {"dog": [[10, 20, 50, 60]]}}


def sources(folder: Path) -> dict[ModuleType, Path]:
    """One source of each form."""
    return {
        yolo: yolo_folder(folder / "yolo", {"a": "1 0.5 0.5 0.2 0.2"}),
        voc: voc_page(folder / "voc", "a", voc_object()).parent,
        open_images: open_images_file(folder / "open_images", open_images_row()),
        swift_rows: swift_file(folder / "swift", swift_row()),
        detections: detection_file(folder / "detections", detection_row()),
    }


def read(form: ModuleType, annotations: Path, images: Path | None = None) -> tuple[Dataset, list[AnnotationIssue]]:
    issues: list[AnnotationIssue] = []
    data: Dataset = form.read(annotations, images, "train", issues)
    return data, issues


def sound(form: ModuleType, annotations: Path, images: Path | None = None) -> Dataset:
    data, issues = read(form, annotations, images)
    assert issues == []
    return data


def rows(data: Dataset) -> list[tuple[str, str, list[float], bool]]:
    """Each object as its picture's file name, label, xywh rounded to thousandths of a pixel, crowd."""
    return [
        (data.images[image].file_name, data.labels[label], [round(value, 3) for value in box], crowd)
        for image, label, box, crowd in zip(
            data.image.tolist(), data.label.tolist(), data.xywh.tolist(), data.crowd.tolist(), strict=True
        )
    ]


def sizes(data: Dataset) -> dict[Any, tuple[str, int, int]]:
    return {one.id: (one.file_name, one.width, one.height) for one in data.images}


def reasons(issues: Sequence[AnnotationIssue]) -> dict[tuple[str, str], int]:
    return dict(Counter((one.kind, one.reason) for one in issues))


# recognition


@pytest.mark.parametrize("form", ALL, ids=lambda form: form.__name__.rpartition(".")[2])
def test_each_form_recognises_its_own_and_none_of_the_others(tmp_path: Path, form: ModuleType) -> None:
    found = {other.__name__ for other, source in sources(tmp_path).items() if form.recognises(source)}
    assert found == {form.__name__}


def test_names_do_not_hide_the_form(tmp_path: Path) -> None:
    for form, source in sources(tmp_path).items():
        if source.is_file():
            other = source.rename(source.with_name("anything.json"))
            assert [one for one in ALL if one.recognises(other)] == [form]


def test_a_folder_with_data_yaml_and_a_list_of_voc_are_recognised(tmp_path: Path) -> None:
    yolo_folder(tmp_path / "yolo", {"a": ""})
    voc_page(tmp_path / "voc", "a", voc_object())
    names = written(tmp_path / "voc/ImageSets/Main/train.txt", "a  -1\n")
    assert [form for form in ALL if form.recognises(tmp_path / "yolo")] == [yolo]
    assert [form for form in ALL if form.recognises(names)] == [voc]


def test_swift_rows_are_recognised_past_a_first_row_without_objects(tmp_path: Path) -> None:
    assert swift_rows.recognises(swift_file(tmp_path, {"images": ["a.jpg"]}, swift_row()))


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\0", b"[", b"[" * 100_000, b'{"images": [], "annotations": []}', b"[1, 2]"]
)
def test_what_is_none_of_the_forms_is_recognised_by_none(tmp_path: Path, content: bytes) -> None:
    for name in ("a.txt", "a.json", "a.csv", "data.yaml"):
        source = written(tmp_path / name, content)
        assert [form for form in ALL if form.recognises(source)] == []
    assert [form for form in ALL if form.recognises(tmp_path / "nowhere")] == []


# YOLO


def test_yolo_boxes_become_pixels(tmp_path: Path) -> None:
    labels = {"b": "1 0.5 0.5 0.2 0.4\n0 0.25 0.25 0.5 0.5\n", "a": "", "sub/c": "0 0.1 0.1 0.3 0.1 0.3 0.9 0.2 0.5\n"}
    file = yolo_folder(tmp_path, labels)
    (tmp_path / "labels/train/a.txt").unlink()
    for source in (file, tmp_path):
        data = sound(yolo, source)
        assert data.labels == ("cat", "dog")
        assert sizes(data) == {
            "a": ("a.jpg", 200, 100), "b": ("b.jpg", 200, 100), "sub/c": ("sub/c.jpg", 200, 100),
        }  # fmt: skip
        assert rows(data) == [
            ("b.jpg", "dog", [80, 30, 40, 40], False),
            ("b.jpg", "cat", [0, 0, 100, 50], False),
            ("sub/c.jpg", "cat", [20, 10, 40, 80], False),
        ]


def test_yolo_values_beyond_the_border_stay(tmp_path: Path) -> None:
    data = sound(yolo, yolo_folder(tmp_path, {"a": "0 1.0 0.5 0.5 1.2"}))
    assert rows(data) == [("a.jpg", "cat", [150, -10, 100, 120], False)]


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        ("[cat, dog]", ("cat", "dog")),
        ("{1: dog, 0: cat}", ("cat", "dog")),
        ("\n  0: no\n  1: 7", ("no", "7")),
    ],
)
def test_yolo_names_are_a_list_or_numbered_and_stay_text(tmp_path: Path, names: str, labels: tuple[str, ...]) -> None:
    assert sound(yolo, yolo_folder(tmp_path, {"a": ""}, names=names)).labels == labels


def test_yolo_without_names_counts_its_classes(tmp_path: Path) -> None:
    yolo_folder(tmp_path, {"a": "1 0.5 0.5 0.1 0.1"})
    file = written(tmp_path / "data.yaml", "nc: 2\ntrain: images/train\n")
    assert yolo.recognises(file)
    assert sound(yolo, file).labels == ("class0", "class1")


@pytest.mark.parametrize(
    ("head", "names"),
    [
        ("path: .\ntrain: images/train", {"a.jpg"}),
        ("path: /not/on/this/machine\ntrain: images/train", {"a.jpg"}),
        ("train: ../images/train", {"a.jpg"}),
        ("train: [images/train, more/images]", {"images/train/a.jpg", "more/images/b.jpg"}),
        ("train: list.txt", {"images/train/a.jpg", "more/images/b.jpg"}),
    ],
)
def test_yolo_splits_are_folders_or_lists(tmp_path: Path, head: str, names: set[str]) -> None:
    file = yolo_folder(tmp_path / "set", {"a": "0 0.5 0.5 0.1 0.1"}, head)
    picture(tmp_path / "set/more/images", "b.jpg", SIZE)
    written(tmp_path / "set/more/labels/b.txt", "1 0.5 0.5 0.1 0.1")
    written(tmp_path / "set/list.txt", f"./images/train/a.jpg\n\n{tmp_path}/set/more/images/b.jpg\n")
    data = sound(yolo, file)
    assert {one.file_name for one in data.images} == names
    assert len(data.label) == len(names)
    folder = yolo.picture_folder(file, None, "train")
    assert all((folder / name).is_file() for name in names)


def test_yolo_split_outside_the_folder_of_its_file_is_read(tmp_path: Path) -> None:
    yolo_folder(tmp_path, {"a": "0 0.5 0.5 0.1 0.1"})
    file = written(tmp_path / "configs/data.yaml", "path: ../configs\ntrain: ../images/train\nnames: [cat]\n")
    assert rows(sound(yolo, file)) == [("a.jpg", "cat", [90, 45, 20, 10], False)]


def test_yolo_takes_the_named_folder_in_place_of_its_own(tmp_path: Path) -> None:
    file = yolo_folder(tmp_path, {"a": ""}, head="val: images/val")
    assert sizes(sound(yolo, file, tmp_path / "images/train")) == {"a": ("a.jpg", 200, 100)}
    with pytest.raises(DataError, match=r"No such folder of pictures: .*nowhere"):
        read(yolo, file, tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("x 0.1 0.2 0.3 0.4", "not a number"),
        ("0 0.1 nan 0.3 0.4", "not a number"),
        ("0 0.1 0.2 0.3 inf", "not a number"),
        ("nan 0.1 0.2 0.3 0.4", "not a number"),
        ("2 0.1 0.2 0.3 0.4", "class id out of range"),
        ("-1 0.1 0.2 0.3 0.4", "class id out of range"),
        ("0.5 0.1 0.2 0.3 0.4", "class id out of range"),
        ("0 0.1 0.2 -0.3 0.4", "negative size"),
        ("0 0.1 0.2", "wrong number of values"),
        ("0 0.1 0.2 0.3 0.4 0.5", "wrong number of values"),
    ],
)
def test_a_wrong_yolo_line_is_a_flaw_and_the_others_stay(tmp_path: Path, line: str, reason: str) -> None:
    data, issues = read(yolo, yolo_folder(tmp_path, {"a": f"0 0.5 0.5 0.1 0.1\n\n{line}\n"}))
    assert issues == [AnnotationIssue("boxes", reason, f'labels/train/a.txt, line 3: "{line}"')]
    assert len(data.label) == 1


def test_yolo_labels_that_cannot_be_read_lose_their_picture(tmp_path: Path) -> None:
    file = yolo_folder(tmp_path, {"a": "", "b": "", "c": "0 0.5 0.5 0.1 0.1"})
    written(tmp_path / "labels/train/a.txt", b"0 \xff")
    (tmp_path / "labels/train/b.txt").unlink()
    (tmp_path / "labels/train/b.txt").mkdir()
    data, issues = read(yolo, file)
    assert issues == [
        AnnotationIssue("pictures", "label file cannot be read", "labels/train/a.txt: not UTF-8"),
        AnnotationIssue("pictures", "label file cannot be read", "labels/train/b.txt: Is a directory"),
    ]
    assert rows(data) == [("c.jpg", "cat", [90, 45, 20, 10], False)]


def test_a_broken_picture_is_a_flaw_and_so_are_its_boxes(tmp_path: Path) -> None:
    file = yolo_folder(tmp_path, {"a": "0 0.5 0.5 0.1 0.1\n1 0.5 0.5 0.1 0.1\n", "b": "1 0.5 0.5 0.1 0.1"})
    written(tmp_path / "images/train/a.jpg", b"no picture")
    data, issues = read(yolo, file)
    assert reasons(issues) == {
        ("pictures", "picture cannot be read"): 1, ("boxes", "its picture is left out"): 2,
    }  # fmt: skip
    assert issues[0].where.startswith(f"{tmp_path}/images/train/a.jpg: ")
    assert rows(data) == [("b.jpg", "dog", [90, 45, 20, 10], False)]


def test_a_yolo_list_neither_leaves_its_folder_nor_names_a_picture_twice(tmp_path: Path) -> None:
    file = yolo_folder(tmp_path / "set", {"a": ""}, head="train: list.txt")
    picture(tmp_path, "b.jpg")
    written(tmp_path / "set/list.txt", f"images/train/a.jpg\n../b.jpg\n{tmp_path}/b.jpg\n./images/train/a.jpg\n")
    data, issues = read(yolo, file)
    assert [one.file_name for one in data.images] == ["images/train/a.jpg"]
    assert reasons(issues) == {
        ("pictures", "file name leaves its folder"): 2, ("pictures", "picture appears twice"): 1,
    }  # fmt: skip
    assert issues[0].where.startswith("list.txt, line 2: ")


def test_links_between_folders_end(tmp_path: Path) -> None:
    file = yolo_folder(tmp_path, {"a": ""})
    (tmp_path / "images/train/again").symlink_to(tmp_path / "images", target_is_directory=True)
    (tmp_path / "images/train/self").symlink_to(tmp_path / "images/train", target_is_directory=True)
    for name in ("x", "y"):
        (tmp_path / f"images/train/{name}").symlink_to(tmp_path / "more", target_is_directory=True)
    picture(tmp_path / "more", "b.jpg")
    assert [one.file_name for one in sound(yolo, file).images] == ["a.jpg", "x/b.jpg"]


def test_a_file_name_that_is_no_text_is_a_flaw(tmp_path: Path) -> None:
    file = yolo_folder(tmp_path, {"a": ""})
    try:
        (tmp_path / "images/train" / os.fsdecode(b"\xff.jpg")).write_bytes(b"")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    data, issues = read(yolo, file)
    assert reasons(issues) == {("pictures", "file name is not UTF-8"): 1}
    assert len(data.images) == 1


def test_pictures_of_one_stem_keep_ids_of_their_own(tmp_path: Path) -> None:
    file = yolo_folder(tmp_path, {"a": "0 0.5 0.5 0.1 0.1"})
    picture(tmp_path / "images/train", "a.png", SIZE)
    assert set(sizes(sound(yolo, file))) == {"a.jpg", "a.png"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"names: [\xff]", "Cannot read|wrong"),
        (b"names: [", "wrong"),
        (b"train", "no keys"),
        (b"train: images/train\n", "`names`"),
        (b"train: images/train\nnames: {1: a}\n", "`names`"),
        (b"train: images/train\nnames: [a, a]\n", "repeats a"),
        (b"train: images/train\nnames: [a, '']\n", "an empty name"),
        (b"train: images/train\nnames: {0: a, 1: ' '}\n", "an empty name"),
        (b"val: images/train\nnames: [a]\n", "`train` names no folder"),
        (b"train: elsewhere\nnames: [a]\n", "elsewhere"),
        (b"path: " + b"p" * 300 + b"\ntrain: " + b"t" * 300 + b"\nnames: [a]\n", "ttt"),
        (b"nc: 99999999999\ntrain: images/train\n", "`names`"),
    ],
)
def test_a_wrong_data_yaml_is_named(tmp_path: Path, text: bytes, why: str) -> None:
    yolo_folder(tmp_path, {"a": ""})
    file = written(tmp_path / "data.yaml", text)
    with pytest.raises(DataError, match=why) as raised:
        read(yolo, file)
    assert str(file) in str(raised.value)


@st.composite
def data_sets(draw: st.DrawFn) -> Dataset:
    """Pictures of small sizes with boxes inside and beyond them."""
    sides = draw(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=4))
    share = st.floats(-0.5, 1.5, allow_nan=False)
    width = st.floats(0, 2, allow_nan=False)
    found = draw(st.lists(st.tuples(st.integers(0, len(sides) - 1), st.integers(0, 2), share, share, width, width)))
    xywh = [
        (x * sides[place][0], y * sides[place][1], w * sides[place][0], h * sides[place][1])
        for place, _, x, y, w, h in found
    ]
    images = [
        Image(id=f"sub/{number}", file_name=f"sub/{number}.png", width=side[0], height=side[1])
        for number, side in enumerate(sides)
    ]
    return build(
        images, ("cat", "no", "räd: #1"), image=[one[0] for one in found], label=[one[1] for one in found], xywh=xywh
    )


@settings(max_examples=30, deadline=None)
@given(data_sets())
def test_what_was_written_as_yolo_reads_back(data: Dataset) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        for one in data.images:
            picture(folder / "images/train", one.file_name, (one.width, one.height))
        assert yolo.write_labels(folder / "labels/train", data) == len(data.label)
        yolo.write_yaml(folder / "data.yaml", data.categories, {"train": "images/train"})
        again = sound(yolo, folder)
    assert again.labels == data.labels
    assert list(again.images) == list(data.images)
    assert again.image.tolist() == data.image.tolist()
    assert again.label.tolist() == data.label.tolist()
    sides = data.sizes[data.image]
    assert np.all(np.abs(again.xyxy - data.xyxy) <= 1e-6 * np.hstack([sides, sides]))


def test_yolo_leaves_out_crowds_and_what_is_no_target(tmp_path: Path) -> None:
    images = [
        Image(id=1, file_name="a.jpg", width=10, height=10),
        Image(id=2, file_name="s/b.jpg", width=10, height=10),
    ]
    boxes = [(0, 0, 5, 5)] * 3
    data = build(images, ["cat"], image=[0] * 3, label=[0] * 3, xywh=boxes, crowd=[0, 1, 0], drop_reason=[0, 0, OTHER])
    written(tmp_path / "a.txt", "old")
    assert yolo.write_labels(tmp_path, data) == 1
    assert {str(file.relative_to(tmp_path)): file.read_text() for file in tmp_path.rglob("*.txt")} == {
        "a.txt": "0 0.250000 0.250000 0.500000 0.500000\n", "s/b.txt": "",
    }  # fmt: skip
    assert {file.suffix for file in tmp_path.rglob("*") if file.is_file()} == {".txt"}


def test_pictures_that_would_share_a_label_file_are_not_written(tmp_path: Path) -> None:
    images = [Image(id=one, file_name=f"a.{one}", width=10, height=10) for one in ("jpg", "png")]
    with pytest.raises(DataError, match=r"a\.png"):
        yolo.write_labels(tmp_path, build(images, ["cat"], image=[], label=[], xywh=[]))


# Pascal VOC


def test_voc_boxes_count_from_zero_and_difficult_ones_are_crowds(tmp_path: Path) -> None:
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    voc_page(tmp_path, "b", voc_object("dog", (11, 21, 50, 60), part), voc_object("cat", (1, 1, 200, 100)))
    voc_page(tmp_path, "a", voc_object("dog", (1, 1, 1, 1), "<difficult>1</difficult>"), size=(300, 50))
    data = sound(voc, tmp_path / "Annotations")
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
    file = written(tmp_path / "ImageSets/Main/train.txt", "c  1\na -1\n\n")
    assert [one.file_name for one in sound(voc, file).images] == ["c.jpg", "a.jpg"]
    assert voc.picture_folder(file, None, "train") == tmp_path / "JPEGImages"
    assert voc.picture_folder(tmp_path / "Annotations", None, "train") == tmp_path / "JPEGImages"
    assert voc.picture_folder(file, tmp_path, "train") == tmp_path


@pytest.mark.parametrize("size", [(), (0, 0)])
def test_voc_size_and_suffix_come_from_the_picture_where_they_are_missing(tmp_path: Path, size: Sequence[int]) -> None:
    voc_page(tmp_path, "a", voc_object(), filename="shot.1", size=size)
    voc_page(tmp_path, "b", voc_object(), filename="", size=size)
    picture(tmp_path / "JPEGImages", "shot.1.png", (64, 48))
    picture(tmp_path / "JPEGImages", "b.jpg", (64, 48))
    data = sound(voc, tmp_path / "Annotations")
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
def test_a_wrong_voc_object_is_a_flaw_and_the_others_stay(tmp_path: Path, wrong: str, reason: str) -> None:
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
def test_a_voc_file_that_cannot_be_read_is_a_flaw(tmp_path: Path, content: bytes | None) -> None:
    voc_page(tmp_path, "a", voc_object())
    names = written(tmp_path / "ImageSets/Main/train.txt", "a\nb\n")
    if content is not None:
        written(tmp_path / "Annotations/b.xml", content)
    data, issues = read(voc, names)
    assert reasons(issues) == {("pictures", "annotation file cannot be read"): 1}
    assert issues[0].where.startswith("b.xml: ")
    assert len(data.images) == 1


def test_voc_pictures_that_leave_stand_twice_or_are_missing_are_lost_with_their_boxes(tmp_path: Path) -> None:
    voc_page(tmp_path, "a", voc_object())
    voc_page(tmp_path, "b", voc_object(), filename="a.jpg")
    voc_page(tmp_path, "c", voc_object(), filename="../c.jpg")
    voc_page(tmp_path, "d", voc_object(), filename="/c.jpg")
    voc_page(tmp_path, "e", voc_object(), size=())
    voc_page(tmp_path, "f", voc_object(), filename="f" * 300, size=())
    written(tmp_path / "ImageSets/Main/train.txt", "a\nb\nc\nd\ne\nf\n../f\n")
    data, issues = read(voc, tmp_path / "ImageSets/Main/train.txt")
    assert reasons(issues) == {
        ("pictures", "picture appears twice"): 1,
        ("pictures", "file name leaves its folder"): 3,
        ("pictures", "picture cannot be read"): 2,
        ("boxes", "its picture is left out"): 5,
    }
    assert [one.file_name for one in data.images] == ["a.jpg"]


def test_voc_without_xml_or_with_an_unreadable_list_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No XML files"):
        read(voc, tmp_path)
    with pytest.raises(DataError, match="not UTF-8"):
        read(voc, written(tmp_path / "ImageSets/Main/train.txt", b"\xff"))


# Open Images


def test_open_images_boxes_become_pixels_with_names_groups_and_what_was_verified(tmp_path: Path) -> None:
    file = open_images_file(
        tmp_path,
        open_images_row("aa", "0.1,0.5,0.2,0.6"),
        open_images_row("bb", "0,1,0,1", "/m/cat", group=1),
        open_images_row("aa", "0,0.5,0,0.5", "/m/cat"),
    )
    written(tmp_path / "class-descriptions-boxable.csv", "/m/dog,Dog\n/m/cat,Cat\n/m/cow,Cow\n")
    head = "ImageID,Source,LabelName,Confidence\n"
    written(
        tmp_path / "train-annotations-human-imagelabels-boxable.csv",
        f"{head}bb,verification,/m/dog,0\naa,verification,/m/cow,1\nzz,verification,/m/dog,1\n",
    )
    written(tmp_path / "train-annotations-machine-imagelabels.csv", f"{head}aa,machine,/m/dog,1\n")
    written(tmp_path / "test-annotations-human-imagelabels-boxable.csv", f"{head}bb,verification,/m/cat,1\n")
    data = sound(open_images, file, tmp_path / "images")
    assert data.labels == ("Cat", "Dog")
    assert rows(data) == [
        ("aa.jpg", "Dog", [20, 20, 80, 40], False),
        ("aa.jpg", "Cat", [0, 0, 100, 50], False),
        ("bb.jpg", "Cat", [0, 0, 200, 100], True),
    ]
    assert sizes(data) == {"aa": ("aa.jpg", 200, 100), "bb": ("bb.jpg", 200, 100)}
    assert [one.exhaustive_categories for one in data.images] == [("Cat", "Dog"), ("Cat", "Dog")]


def test_open_images_without_verified_labels_is_sure_of_what_has_boxes(tmp_path: Path) -> None:
    file = open_images_file(tmp_path, open_images_row("aa"), open_images_row("bb", code="/m/cat"))
    data = sound(open_images, file, tmp_path / "images")
    assert data.labels == ("/m/cat", "/m/dog")
    assert [one.exhaustive_categories for one in data.images] == [("/m/dog",), ("/m/cat",)]


def test_a_machine_guess_verifies_nothing(tmp_path: Path) -> None:
    file = open_images_file(tmp_path, open_images_row("aa"), open_images_row("bb", code="/m/cat"))
    written(
        tmp_path / "train-annotations-human-imagelabels.csv",
        "ImageID,Source,LabelName,Confidence\naa,machine,/m/cat,1\naa,crowdsource-verification,/m/cat,0.7\naa\n",
    )
    assert sound(open_images, file, tmp_path / "images").images[0].exhaustive_categories == ("/m/dog",)


def test_open_images_classes_of_one_name_stay_apart(tmp_path: Path) -> None:
    file = open_images_file(tmp_path, open_images_row(), open_images_row(code="/m/cat"))
    written(tmp_path / "oidv7-class-descriptions.csv", "LabelName,DisplayName\n/m/dog,Pet\n/m/cat,Pet\n")
    assert sound(open_images, file, tmp_path / "images").labels == ("Pet (/m/cat)", "Pet (/m/dog)")


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
def test_a_wrong_open_images_row_is_a_flaw_and_the_others_stay(tmp_path: Path, row: str, reason: str) -> None:
    many = [open_images_row("bb")] * (open_images.BLOCK + 1)
    data, issues = read(open_images, open_images_file(tmp_path, *many, row, "", open_images_row()), tmp_path / "images")
    where = f'oidv6-train-annotations-bbox.csv, line {len(many) + 2}: "{row}"'
    assert issues == [AnnotationIssue("boxes", reason, where)]
    assert data.image.tolist() == [0] * len(many) + [1]


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
    assert sizes(sound(open_images, file, tmp_path / "images")) == {"cc": ("cc.png", 50, 50)}


def test_an_open_images_file_without_rows_is_empty(tmp_path: Path) -> None:
    data = sound(open_images, open_images_file(tmp_path), tmp_path / "images")
    assert (len(data.images), len(data.label)) == (0, 0)


def test_what_open_images_needs_is_named(tmp_path: Path) -> None:
    file = open_images_file(tmp_path, open_images_row())
    with pytest.raises(DataError, match="need their pictures"):
        read(open_images, file)
    with pytest.raises(DataError, match="lacks LabelName, XMin"):
        read(open_images, written(file, "ImageID,YMin,XMax,YMax\n"), tmp_path / "images")
    with pytest.raises(DataError, match="CSV is wrong"):
        read(open_images, written(file, BOXES_HEAD.encode() + b"\n\xff"), tmp_path / "images")


# rows of ms-swift


def test_swift_rows_give_pixels_of_both_kinds_of_boxes(tmp_path: Path) -> None:
    picture(tmp_path, "sub/b.jpg", (50, 40))
    many = [
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
    file = swift_file(tmp_path, *many)
    array = written(tmp_path / "rows.json", json.dumps(many, indent=1))
    for data in (sound(swift_rows, file), sound(swift_rows, array), sound(swift_rows, file, tmp_path)):
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
def test_a_wrong_swift_row_is_a_flaw_with_its_boxes(tmp_path: Path, row: Any, reason: str, boxes: int) -> None:
    data, issues = read(swift_rows, swift_file(tmp_path, swift_row(), row))
    assert [(one.kind, one.reason) for one in issues] == [
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
def test_a_wrong_box_of_json_is_a_flaw_and_the_others_stay(tmp_path: Path, box: Any, reason: str) -> None:
    good = [10, 20, 50, 60]
    sources_of = {
        swift_rows: swift_file(tmp_path, swift_row(ref=["dog", "dog"], bbox=[box, good])),
        detections: detection_file(tmp_path, detection_row(dog=[box, good])),
    }
    for form, source in sources_of.items():
        data, issues = read(form, source)
        assert reasons(issues) == {("boxes", reason): 1}
        assert issues[0].where.startswith(f"{source.name}, line 1: " if form is swift_rows else f"{source.name}[0]: ")
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


def test_a_line_that_is_no_json_is_a_flaw(tmp_path: Path) -> None:
    file = swift_file(tmp_path, swift_row())
    file.write_bytes(b'{"cut": \n\n\xff\n' + file.read_bytes())
    data, issues = read(swift_rows, file)
    assert [(one.reason, one.where) for one in issues] == [
        ("not valid JSON", 'rows.jsonl, line 1: "{\\"cut\\": "'),
        ("not valid JSON", 'rows.jsonl, line 3: "\ufffd"'),
    ]
    assert len(data.label) == 1


@pytest.mark.parametrize("form", [swift_rows, detections])
def test_an_array_that_is_no_json_or_no_file_is_an_error(tmp_path: Path, form: ModuleType) -> None:
    with pytest.raises(DataError, match="not valid JSON"):
        read(form, written(tmp_path / "rows.json", "[{"))
    with pytest.raises(DataError, match="not valid JSON"):
        read(form, written(tmp_path / "rows.json", b'["\xff"]'))
    with pytest.raises(DataError, match="Cannot read"):
        read(form, tmp_path)


# detection JSON


def test_detections_are_pixels_of_pictures_that_are_measured(tmp_path: Path) -> None:
    picture(tmp_path, "sub/b.jpg", (50, 40))
    file = detection_file(
        tmp_path,
        detection_row("sub/b.jpg", dog=[[0, 0, 10, 10]]),
        detection_row("a.jpg", cat=[[1.5, 2, 3, 4]], dog=[[1, 2, 3, 4], [5, 6, 7, 8]]),
        {"image_path": "sub/b.jpg", "object": {}},
    )
    data = sound(detections, file)
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
def test_a_detection_row_of_a_wrong_form_is_a_flaw(tmp_path: Path, row: Any) -> None:
    data, issues = read(detections, detection_file(tmp_path, detection_row(), row))
    assert issues == [AnnotationIssue("pictures", "wrong type or missing key", "boxes.json[1]")]
    assert len(data.label) == 1


def test_detections_of_pictures_that_leave_or_are_missing_are_flaws(tmp_path: Path) -> None:
    missing, outside = detection_row("b.jpg", dog=[[1, 2, 3, 4]] * 2 + [[2, 2, 3, 4]]), detection_row("../a.jpg")
    data, issues = read(detections, detection_file(tmp_path, detection_row(), missing, outside))
    assert reasons(issues) == {
        ("pictures", "file name leaves its folder"): 1,
        ("pictures", "picture cannot be read"): 1,
        ("boxes", "its picture is left out"): 3,
    }
    assert [one.file_name for one in data.images] == ["a.jpg"]


def test_sizes_are_those_of_the_upright_picture(tmp_path: Path) -> None:
    from PIL import Image as Pillow

    file = detection_file(tmp_path, detection_row())
    exif = Pillow.Exif()
    exif[0x0112] = 6
    Pillow.new("RGB", SIZE).save(tmp_path / "a.jpg", exif=exif)
    assert sizes(sound(detections, file)) == {"a": ("a.jpg", 100, 200)}


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_bring_a_reader_down(content: bytes) -> None:
    with TemporaryDirectory() as name:
        file = written(Path(name) / "data.yaml", content)
        for form in ALL:
            form.recognises(file)
            with contextlib.suppress(DataError):
                form.read(file, Path(name), "train", [])
