"""YOLO folders: what is read, which lines are wrong, and what is written."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import picture
from tests.data.formats.builders import SIZE, read, read_sound, reasons, rows, sizes, write, yolo_folder
from vlmdet_cli.data.dataset import OTHER, AnnotationIssue, Dataset, Image, build
from vlmdet_cli.data.formats import yolo
from vlmdet_cli.errors import DataError


def test_yolo_boxes_become_pixels(tmp_path: Path) -> None:
    labels = {"b": "1 0.5 0.5 0.2 0.4\n0 0.25 0.25 0.5 0.5\n", "a": "", "sub/c": "0 0.1 0.1 0.3 0.1 0.3 0.9 0.2 0.5\n"}
    file = yolo_folder(tmp_path, labels)
    (tmp_path / "labels/train/a.txt").unlink()
    for source in (file, tmp_path):
        data = read_sound(yolo, source)
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
    data = read_sound(yolo, yolo_folder(tmp_path, {"a": "0 1.0 0.5 0.5 1.2"}))
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
    assert read_sound(yolo, yolo_folder(tmp_path, {"a": ""}, names=names)).labels == labels


def test_yolo_without_names_counts_its_classes(tmp_path: Path) -> None:
    yolo_folder(tmp_path, {"a": "1 0.5 0.5 0.1 0.1"})
    file = write(tmp_path / "data.yaml", "nc: 2\ntrain: images/train\n")
    assert yolo.recognises(file)
    assert read_sound(yolo, file).labels == ("class0", "class1")


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
    write(tmp_path / "set/more/labels/b.txt", "1 0.5 0.5 0.1 0.1")
    write(tmp_path / "set/list.txt", f"./images/train/a.jpg\n\n{tmp_path}/set/more/images/b.jpg\n")
    data = read_sound(yolo, file)
    assert {image.file_name for image in data.images} == names
    assert len(data.label) == len(names)
    folder = yolo.picture_folder(file, None, "train")
    assert all((folder / name).is_file() for name in names)


def test_yolo_split_outside_the_folder_of_its_file_is_read(tmp_path: Path) -> None:
    yolo_folder(tmp_path, {"a": "0 0.5 0.5 0.1 0.1"})
    file = write(tmp_path / "configs/data.yaml", "path: ../configs\ntrain: ../images/train\nnames: [cat]\n")
    assert rows(read_sound(yolo, file)) == [("a.jpg", "cat", [90, 45, 20, 10], False)]


def test_yolo_takes_the_named_folder_in_place_of_its_own(tmp_path: Path) -> None:
    file = yolo_folder(tmp_path, {"a": ""}, head="val: images/val")
    assert sizes(read_sound(yolo, file, tmp_path / "images/train")) == {"a": ("a.jpg", 200, 100)}
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
def test_a_wrong_yolo_line_is_an_issue_and_the_others_stay(tmp_path: Path, line: str, reason: str) -> None:
    data, issues = read(yolo, yolo_folder(tmp_path, {"a": f"0 0.5 0.5 0.1 0.1\n\n{line}\n"}))
    assert issues == [AnnotationIssue("boxes", reason, f'labels/train/a.txt, line 3: "{line}"')]
    assert len(data.label) == 1


def test_yolo_labels_that_cannot_be_read_lose_their_picture(tmp_path: Path) -> None:
    file = yolo_folder(tmp_path, {"a": "", "b": "", "c": "0 0.5 0.5 0.1 0.1"})
    write(tmp_path / "labels/train/a.txt", b"0 \xff")
    (tmp_path / "labels/train/b.txt").unlink()
    (tmp_path / "labels/train/b.txt").mkdir()
    data, issues = read(yolo, file)
    assert issues == [
        AnnotationIssue("pictures", "label file cannot be read", "labels/train/a.txt: not UTF-8"),
        AnnotationIssue("pictures", "label file cannot be read", "labels/train/b.txt: Is a directory"),
    ]
    assert rows(data) == [("c.jpg", "cat", [90, 45, 20, 10], False)]


def test_a_broken_picture_is_an_issue_and_so_are_its_boxes(tmp_path: Path) -> None:
    file = yolo_folder(tmp_path, {"a": "0 0.5 0.5 0.1 0.1\n1 0.5 0.5 0.1 0.1\n", "b": "1 0.5 0.5 0.1 0.1"})
    write(tmp_path / "images/train/a.jpg", b"no picture")
    data, issues = read(yolo, file)
    assert reasons(issues) == {
        ("pictures", "picture cannot be read"): 1, ("boxes", "its picture is left out"): 2,
    }  # fmt: skip
    assert issues[0].where.startswith(f"{tmp_path}/images/train/a.jpg: ")
    assert rows(data) == [("b.jpg", "dog", [90, 45, 20, 10], False)]


def test_a_yolo_list_neither_leaves_its_folder_nor_repeats_a_picture(tmp_path: Path) -> None:
    file = yolo_folder(tmp_path / "set", {"a": ""}, head="train: list.txt")
    picture(tmp_path, "b.jpg")
    write(tmp_path / "set/list.txt", f"images/train/a.jpg\n../b.jpg\n{tmp_path}/b.jpg\n./images/train/a.jpg\n")
    data, issues = read(yolo, file)
    assert [image.file_name for image in data.images] == ["images/train/a.jpg"]
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
    assert [image.file_name for image in read_sound(yolo, file).images] == ["a.jpg", "x/b.jpg"]


def test_a_file_name_that_is_no_text_is_an_issue(tmp_path: Path) -> None:
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
    assert set(sizes(read_sound(yolo, file))) == {"a.jpg", "a.png"}


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
    file = write(tmp_path / "data.yaml", text)
    with pytest.raises(DataError, match=why) as raised:
        read(yolo, file)
    assert str(file) in str(raised.value)


@st.composite
def data_sets(draw: st.DrawFn) -> Dataset:
    """Pictures of small sizes with boxes inside and beyond them."""
    sides = draw(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=4))
    share = st.floats(-0.5, 1.5, allow_nan=False)
    width = st.floats(0, 2, allow_nan=False)
    boxes = draw(st.lists(st.tuples(st.integers(0, len(sides) - 1), st.integers(0, 2), share, share, width, width)))
    xywh = [
        (
            x * sides[picture_index][0],
            y * sides[picture_index][1],
            w * sides[picture_index][0],
            h * sides[picture_index][1],
        )
        for picture_index, _, x, y, w, h in boxes
    ]
    images = [
        Image(id=f"sub/{index}", file_name=f"sub/{index}.png", width=side[0], height=side[1])
        for index, side in enumerate(sides)
    ]
    return build(
        images, ("cat", "no", "räd: #1"), image=[box[0] for box in boxes], label=[box[1] for box in boxes], xywh=xywh
    )


@settings(max_examples=30, deadline=None)
@given(data_sets())
def test_what_was_written_as_yolo_reads_back(data: Dataset) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        for image in data.images:
            picture(folder / "images/train", image.file_name, (image.width, image.height))
        assert yolo.write_labels(folder / "labels/train", data) == len(data.label)
        yolo.write_yaml(folder / "data.yaml", data.categories, {"train": "images/train"})
        again = read_sound(yolo, folder)
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
    write(tmp_path / "a.txt", "old")
    assert yolo.write_labels(tmp_path, data) == 1
    assert {str(file.relative_to(tmp_path)): file.read_text() for file in tmp_path.rglob("*.txt")} == {
        "a.txt": "0 0.250000 0.250000 0.500000 0.500000\n", "s/b.txt": "",
    }  # fmt: skip
    assert {file.suffix for file in tmp_path.rglob("*") if file.is_file()} == {".txt"}


def test_pictures_that_would_share_a_label_file_are_not_written(tmp_path: Path) -> None:
    images = [Image(id=suffix, file_name=f"a.{suffix}", width=10, height=10) for suffix in ("jpg", "png")]
    with pytest.raises(DataError, match=r"a\.png"):
        yolo.write_labels(tmp_path, build(images, ["cat"], image=[], label=[], xywh=[]))
