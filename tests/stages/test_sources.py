"""prepare from what users have: several sources, other names, wrong entries, pictures that need fixing."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conftest import Boxes, Cli, coco_document, picture, write_project
from vlmdet_cli.data import formats
from vlmdet_cli.data.dataset import Dataset

TWO: dict[str, Boxes] = {"a.jpg": [("cat", (8, 12, 16, 24))], "b.jpg": [("dog", (32, 24, 16, 12))]}
HEAD = '[project]\noutput = "out"\n[data]\n{data}\n[data.split]\nval = 0.0\ntest = 0.0\n[subset]\nempty = 1\n'


def lines(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def answers(split: str = "train") -> dict[str, str]:
    return {
        row["images"][0].removeprefix(f"data/subset/images/{split}/"): row["messages"][1]["content"]
        for row in lines(f"out/data/coco_final_{split}.jsonl")
    }


def coco_folder(folder: str, pictures: dict[str, Boxes], **document: Any) -> None:
    content = coco_document(pictures, **document)
    for image in content["images"]:
        picture(Path(folder) / "images", image["file_name"], (image["width"], image["height"]))
    (Path(folder) / "annotations.json").write_text(json.dumps(content))


def project(data: str, more: str = "") -> None:
    Path("vlmdet.toml").write_text(HEAD.format(data=data) + more)


def ledger(done: Any, split: str = "train") -> dict[str, Any]:
    accounts: dict[str, Any] = json.loads(done.stdout)["splits"][split]["ledger"]
    for line in accounts.values():
        assert line["in"] == line["kept"] + sum(line["dropped"].values())
    return accounts


SEVERAL = """
[[data.train]]
annotations = "one/annotations.json"
images = "one/images"
name = "one"
[[data.train]]
annotations = "two/annotations.json"
images = "two/images"
name = "two"
[data.categories]
kitten = "cat"
bird = ""
"""


def test_sources_are_joined_their_categories_mapped_and_ids_that_both_have_kept_apart(cli: Cli) -> None:
    coco_folder("one", TWO)
    coco_folder("two", {"a.jpg": [("kitten", (0, 0, 32, 24)), ("bird", (0, 0, 9, 9))]}, categories=("bird", "kitten"))
    project(SEVERAL)
    done = cli("prepare", "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    texts = answers()
    assert list(texts) == ["one/a.jpg", "one/b.jpg", "two/a.jpg"]
    assert texts["two/a.jpg"] == ("<|object_ref_start|>cat<|object_ref_end|><|box_start|>(0,0),(500,500)<|box_end|>")
    assert json.loads(done.stdout)["splits"]["train"]["categories"] == {"cat": 2, "dog": 1}
    assert ledger(done)["boxes"] == {"in": 4, "kept": 3, "dropped": {"other category": 1}}
    assert Path("out/data/subset/images/train/two/a.jpg").samefile("two/images/a.jpg")
    assert formats.read_strict(Path("out/data/subset/train.json")).categories == ("cat", "dog")


def test_a_mapped_name_that_no_source_has_gets_the_nearest_one(cli: Cli) -> None:
    write_project(Path(), TWO, '[data.categories]\ncta = "dog"\n')
    done = cli("prepare")
    assert (done.exit_code, done.stderr) == (
        2, "error: data.categories names what no source has\n  cta: did you mean cat?\nhint: They have: cat, dog.\n"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("names", "why"),
    [(("x", "x"), "'x' appears 2 times"), (("../x", "y"), "'../x' cannot be the name of a folder")],
)
def test_sources_need_names_that_differ_and_stay_in_their_folder(cli: Cli, names: tuple[str, str], why: str) -> None:
    coco_folder("one", TWO)
    coco_folder("two", TWO)
    project(SEVERAL.replace('name = "one"', f'name = "{names[0]}"').replace('name = "two"', f'name = "{names[1]}"'))
    done = cli("prepare")
    assert (done.exit_code, done.stderr) == (
        2, f"error: Each source of train needs a name of its own\n  {why}\n"
        'hint: Give each of [[data.train]] its own `name = "..."`.\n'
    )  # fmt: skip


def write_wrong_entries() -> None:
    """Annotations with a wrong entry of each kind, and two good pictures with a box each."""
    document = coco_document({**TWO, "c.jpg": [("cat", (0, 0, 9, 9)), ("dog", (1, 1, 5, 5))], "d.jpg": []})
    document["images"][2]["width"] = "64"
    document["images"] += [{"id": 1, "file_name": "again.jpg", "width": 64, "height": 48}]
    document["images"] += [{"id": 9, "file_name": "a.jpg", "width": 64, "height": 48}]
    document["images"] += [{"id": 10, "file_name": "../out.jpg", "width": 64, "height": 48}]
    document["images"] += [{"id": 11, "file_name": "flat.jpg", "width": 0, "height": 48}]
    more: list[dict[str, Any]] = [
        {"image_id": 77, "category_id": 1, "bbox": [0, 0, 9, 9]},
        {"image_id": 1, "category_id": 7, "bbox": [0, 0, 9, 9]},
        {"image_id": 1, "category_id": 1, "bbox": [0, 0, -9, 9]},
        {"image_id": 1, "category_id": 1, "bbox": [0, 0, 9]},
        {"image_id": 1, "category_id": 1},
        {"image_id": 1, "category_id": 1, "bbox": [70, 0, 9, 9]},
    ]
    document["annotations"] += more
    Path("annotations.json").write_text(json.dumps(document))


def test_wrong_entries_are_left_out_with_skip_each_with_its_reason_and_place(cli: Cli) -> None:
    write_project(Path(), {**TWO, "d.jpg": []}, "[subset]\nempty = 1\n")
    write_wrong_entries()
    done = cli("prepare", "--json", "--set", "data.on_error=skip")
    assert (done.exit_code, done.stderr) == (0, "")
    accounts = ledger(done)
    assert accounts["pictures"] == {
        "in": 8,
        "kept": 3,
        "dropped": {
            "wrong type or missing key": 1,
            "id appears twice": 1,
            "file_name appears twice": 1,
            "file_name leaves the image folder": 1,
            "width and height must be positive": 1,
        },
    }
    assert accounts["boxes"] == {
        "in": 10,
        "kept": 2,
        "dropped": {
            "wrong type or missing key": 2,
            "its picture is left out": 2,
            "image_id is not in `images`": 1,
            "category_id is not in `categories`": 1,
            "bbox is not a box": 1,
            "bbox lies outside the picture": 1,
        },
    }
    listed = lines("out/data/skipped_train.jsonl")
    assert len(listed) == 11
    assert "annotations.json: annotations[8]: object missing required field bbox" in [row["where"] for row in listed]
    assert listed[-1] == {
        "thing": "boxes",
        "reason": "bbox lies outside the picture",
        "where": "annotations.json: a.jpg (64 x 48): cat [70.0, 0.0, 79.0, 9.0]",
    }


def test_wrong_entries_stop_all_by_default_counted_and_nothing_is_written(cli: Cli) -> None:
    write_project(Path(), {**TWO, "d.jpg": []})
    write_wrong_entries()
    done = cli("prepare")
    assert done.exit_code == 3
    assert done.stderr.startswith("error: The annotation file has 11 wrong entries: ")
    assert "… and 8 more" in done.stderr
    assert not Path("out").exists()


def spoil_pictures() -> None:
    """Pictures that cannot be used, one of each kind, and one that can."""
    Path("images/zero.jpg").write_bytes(b"")
    Path("images/text.jpg").write_text("no picture")
    whole = Path("images/good.jpg").read_bytes()
    Path("images/cut.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    Path("images/loop.jpg").unlink()
    Path("images/loop.jpg").symlink_to("loop.jpg")
    Path("images/gone.jpg").unlink()
    picture(Path("images"), "size.jpg", (60, 48))


BAD = ("zero", "text", "cut", "loop", "gone", "size")


def test_pictures_that_cannot_be_used_are_left_out_with_skip(cli: Cli) -> None:
    write_project(Path(), {f"{name}.jpg": [("cat", (0, 0, 9, 9))] for name in ("good", *BAD)})
    spoil_pictures()
    done = cli("prepare", "--json", "--set", "data.on_error=skip")
    assert (done.exit_code, done.stderr) == (0, "")
    accounts = ledger(done)
    assert accounts["pictures"] == {
        "in": 7,
        "kept": 1,
        "dropped": {
            "empty file": 1,
            "not a picture file": 1,
            "truncated": 1,
            "cannot be read": 1,
            "not on disk": 1,
            "size differs from the annotations": 1,
        },
    }
    assert accounts["boxes"] == {"in": 7, "kept": 1, "dropped": {"picture dropped": 6}}
    assert list(answers()) == ["good.jpg"]
    assert len(lines("out/data/skipped_train.jsonl")) == 6


def test_pictures_that_cannot_be_used_stop_all_by_default(cli: Cli, tmp_path: Path) -> None:
    write_project(Path(), {f"{name}.jpg": [("cat", (0, 0, 9, 9))] for name in ("good", *BAD)})
    spoil_pictures()
    done = cli("prepare")
    assert (done.exit_code, done.stdout) == (3, "")
    assert done.stderr == (
        f"error: 6 of 7 images cannot be used\n  {tmp_path}/images/zero.jpg: empty file\n"
        f"  {tmp_path}/images/text.jpg: not a picture file\n  {tmp_path}/images/cut.jpg: truncated\n  … and 3 more\n"
        'hint: Repair or remove them, or set data.on_error = "skip".\n'
    )
    assert not Path("out").exists()


def turned(path: Path) -> None:
    """A picture of 48 x 64 stored pixels that a viewer shows as 64 x 48."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (48, 64), (200, 30, 30)).save(path, exif=exif)


def test_a_turned_picture_is_written_upright_and_sixteen_bits_become_eight(cli: Cli) -> None:
    write_project(Path(), {"turned.jpg": [("cat", (0, 0, 64, 24))], "deep.png": [("cat", (0, 0, 9, 9))]})
    turned(Path("images/turned.jpg"))
    Image.new("I;16", (64, 48), 30000).save("images/deep.png")
    done = cli("prepare", "--json")
    assert done.exit_code == 0
    result = json.loads(done.stdout)["splits"]["train"]
    assert (result["linked"], result["mended"]) == (0, 2)
    with Image.open("out/data/subset/images/train/turned.jpg") as image:
        assert (image.size, image.getexif().get(0x0112, 1)) == ((64, 48), 1)
    with Image.open("out/data/subset/images/train/deep.png") as image:
        assert (image.mode, image.getpixel((0, 0))) == ("RGB", (117, 117, 117))
    # the same again changes nothing
    before = Path("out/data/subset/images/train/turned.jpg").read_bytes()
    assert cli("prepare").exit_code == 0
    assert Path("out/data/subset/images/train/turned.jpg").read_bytes() == before


def test_a_linked_folder_holds_no_fixed_pictures(cli: Cli) -> None:
    write_project(Path(), {"turned.jpg": [("cat", (0, 0, 64, 24))]})
    turned(Path("images/turned.jpg"))
    done = cli("prepare", "--set", "data.images=folder")
    assert (done.exit_code, done.stderr) == (
        3,
        "error: 1 pictures of train cannot be used as they are\n  turned.jpg: must be turned upright\n"
        'hint: A linked folder cannot hold changed pictures: set data.images = "link".\n',
    )


def test_the_image_folder_can_be_linked_as_one_and_is_never_cleaned(cli: Cli) -> None:
    write_project(Path(), TWO)
    picture(Path("images"), "other.jpg")
    assert cli("prepare").exit_code == 0
    assert cli("prepare", "--set", "data.images=folder").exit_code == 0
    link = Path("out/data/subset/images/train")
    assert link.is_symlink()
    assert link.readlink() == Path("../../../../images")
    assert (Path("out") / lines("out/data/coco_final_train.jsonl")[0]["images"][0]).is_file()
    assert cli("prepare", "--set", "subset.pictures=1").exit_code == 0
    assert not link.is_symlink()
    assert len(list(link.iterdir())) == 1
    assert sorted(path.name for path in Path("images").iterdir()) == ["a.jpg", "b.jpg", "other.jpg"]


def test_several_image_folders_can_be_linked_and_unlinked_again(cli: Cli) -> None:
    coco_folder("one", TWO)
    coco_folder("two", TWO)
    project('images = "folder"\n' + SEVERAL.partition("[data.categories]")[0])
    assert cli("prepare").exit_code == 0
    assert Path("out/data/subset/images/train/two").is_symlink()
    assert cli("prepare", "--set", "data.images=copy", "--set", "subset.pictures=1").exit_code == 0
    assert len(list(Path("out/data/subset/images").rglob("*.jpg"))) == 1
    assert len(list(Path("one/images").iterdir())) == len(list(Path("two/images").iterdir())) == 2


def test_a_link_of_an_earlier_source_is_never_written_through(cli: Cli) -> None:
    coco_folder("one", TWO)
    coco_folder("two", TWO)
    project('images = "folder"\n' + SEVERAL.partition("[data.categories]")[0])
    assert cli("prepare").exit_code == 0
    # now one source whose pictures lie in a folder of that source's name
    write_project(Path(), {"two/turned.jpg": [("cat", (0, 0, 64, 24))]})
    turned(Path("images/two/turned.jpg"))
    assert cli("prepare").exit_code == 0
    assert not Path("out/data/subset/images/train/two").is_symlink()
    assert sorted(path.name for path in Path("two/images").iterdir()) == ["a.jpg", "b.jpg"]


ALL_FORMATS = ("--set", "format.extra_formats=['yolo']", "--set", "format.rows=objects")


def boxes(data: Dataset) -> dict[str, list[tuple[str, list[float]]]]:
    """The label and rounded box (xywh) of each object, by file name."""
    by_name: dict[str, list[tuple[str, list[float]]]] = {image.file_name: [] for image in data.images}
    for image, label, box in zip(data.image.tolist(), data.label.tolist(), data.xywh.tolist(), strict=True):
        by_name[data.images[image].file_name].append((data.labels[label], [round(value, 3) for value in box]))
    return {name: sorted(rows) for name, rows in by_name.items()}


@pytest.mark.parametrize("form", ["coco", "detections", "yolo", "swift_rows"])
def test_what_prepare_writes_reads_back_to_the_same_boxes(cli: Cli, form: str) -> None:
    objects = [("cat", (8.25, 12.5, 16, 24)), ("dog", (0, 0, 8, 8)), ("cat", (1, 2, 30.75, 40))]
    write_project(Path(), {"a.jpg": objects, "b.jpg": objects[:1]})
    assert cli("prepare", *ALL_FORMATS).exit_code == 0
    images = Path("out")
    named = {
        "coco": (Path("out/data/subset/train.json"), Path("out/data/subset/images/train")),
        "detections": (Path("out/data/detections_train.json"), images),
        "yolo": (Path("out/data/yolo/data.yaml"), None),
        "swift_rows": (Path("out/data/coco_final_train.jsonl"), images),
    }
    annotations, folder = named[form]
    issues: list[Any] = []
    read = boxes(formats.read(annotations, folder, "train", issues))
    assert issues == []
    assert {name.rpartition("/")[2]: rows for name, rows in read.items()} == {
        "a.jpg": sorted((name, list(map(float, box))) for name, box in objects),
        "b.jpg": [("cat", [8.25, 12.5, 16.0, 24.0])],
    }


@pytest.mark.parametrize("form", ["yolo", "detections", "swift_rows"])
def test_a_project_can_start_from_what_another_wrote(cli: Cli, form: str) -> None:
    write_project(Path(), TWO)
    assert cli("prepare", *ALL_FORMATS).exit_code == 0
    expected = answers()
    source = {
        "yolo": 'annotations = "out/data/yolo"',
        "detections": 'annotations = "out/data/detections_train.json"\nimages = "out"',
        "swift_rows": 'annotations = "out/data/coco_final_train.jsonl"\nimages = "out"',
    }[form]
    project(f"[data.train]\n{source}")
    done = cli("prepare", "--set", "project.output=again", "--set", "format.rows=text")
    assert (done.exit_code, done.stderr) == (0, "")
    again = {
        row["images"][0].rpartition("/")[2]: row["messages"][1]["content"]
        for row in lines("again/data/coco_final_train.jsonl")
    }
    assert set(expected) == set(again) == {"a.jpg", "b.jpg"}
    assert again["a.jpg"].startswith("<|object_ref_start|>cat<|object_ref_end|><|box_start|>(125,250),(375,750)")


def test_annotations_of_no_known_format_are_an_error(cli: Cli, tmp_path: Path) -> None:
    write_project(Path(), TWO)
    Path("notes.txt").write_text("hello\n")
    done = cli("prepare", "--set", "data.train.annotations=notes.txt")
    assert done.exit_code == 3
    assert done.stderr.startswith(f"error: The annotations are in none of the known formats: {tmp_path}/notes.txt\n")
