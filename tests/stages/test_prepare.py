"""prepare: the files it writes, the pictures and boxes it keeps, and its errors."""

import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from pycocotools.coco import COCO

from tests.conftest import Boxes, Cli, coco_document, picture, write_project

THREE: dict[str, Boxes] = {
    "a.jpg": [("cat", (8, 12, 16, 24)), ("dog", (0, 0, 8, 8))],
    "b.jpg": [("crowd:cat", (0, 0, 60, 40)), ("dog", (32, 24, 16, 12))],
    "c.jpg": [("cat", (10, 10, 0.5, 20)), ("cat", (0, 24, 32, 24))],
}


def rows(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_rows_detections_and_subset_have_the_documented_form(cli: Cli) -> None:
    write_project(Path(), THREE)
    done = cli("prepare", "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    written = rows("out/data/coco_final_train.jsonl")
    # 64 x 48: the dog's corner (8, 8) is (125, 167) thousandths
    assert written[0] == {
        "messages": [
            {"role": "user", "content": "<image>Draw the bounding box of objects"},
            {
                "role": "assistant",
                "content": "<|object_ref_start|>dog<|object_ref_end|><|box_start|>(0,0),(125,167)<|box_end|>"
                "<|object_ref_start|>cat<|object_ref_end|><|box_start|>(125,250),(375,750)<|box_end|>",
            },
        ],
        "images": ["data/subset/images/train/a.jpg"],
    }
    detections = json.loads(Path("out/data/detections_train.json").read_text())
    assert detections[1] == {
        "image_path": "data/subset/images/train/b.jpg",
        "object": {"dog": [[32.0, 24.0, 48.0, 36.0]]},
    }
    subset = COCO("out/data/subset/train.json")
    assert sorted(subset.getImgIds()) == [1, 2, 3]
    assert [annotation["iscrowd"] for annotation in subset.loadAnns(subset.getAnnIds(imgIds=[2]))] == [1, 0]
    assert all((Path("out") / row["images"][0]).is_file() for row in written)


def test_the_ledger_adds_up_and_names_each_reason(cli: Cli) -> None:
    write_project(Path(), THREE)
    ledger = json.loads(cli("prepare", "--json").stdout)["splits"]["train"]["ledger"]
    assert ledger == {
        "pictures": {"in": 3, "kept": 3, "dropped": {}},
        "boxes": {"in": 6, "kept": 5, "dropped": {"too small": 1}},
        "rows": {"in": 3, "kept": 3, "dropped": {}},
        "boxes in answers": {"in": 5, "kept": 4, "dropped": {"crowd": 1}},
    }


def test_images_are_linked_and_what_an_earlier_run_left_is_gone(cli: Cli) -> None:
    write_project(Path(), THREE)
    assert cli("prepare").exit_code == 0
    assert Path("out/data/subset/images/train/a.jpg").samefile("images/a.jpg")
    assert cli("prepare", "--set", "subset.max_objects=1").exit_code == 0
    assert sorted(path.name for path in Path("out/data/subset/images/train").iterdir()) == ["b.jpg", "c.jpg"]


def test_same_seed_same_bytes_and_another_seed_other_pictures(cli: Cli, tmp_path: Path) -> None:
    write_project(Path(), {f"{n}.jpg": [("cat", (n, n, 9, 9))] for n in range(20)})

    def prepared(output: str, seed: int) -> dict[str, bytes]:
        sets = [f"project.output={output}", f"project.seed={seed}", "subset.pictures=5", "data.split.test=0.3"]
        assert cli("prepare", *[part for setting in sets for part in ("--set", setting)]).exit_code == 0
        folder = tmp_path / output
        return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

    assert prepared("first", 7) == prepared("second", 7)
    assert prepared("first", 7) != prepared("other", 8)


def test_splits_cut_off_train_share_no_picture_and_lose_none(cli: Cli) -> None:
    write_project(Path(), {f"{n}.jpg": [("cat", (0, 0, 9, 9))] for n in range(40)})
    done = cli("prepare", "--json", "--set", "data.split.val=0.25", "--set", "data.split.test=0.1")
    splits = json.loads(done.stdout)["splits"]
    assert {name: split["pictures"] for name, split in splits.items()} == {"train": 26, "val": 10, "test": 4}
    names = [
        row["images"][0].rpartition("/")[2] for name in splits for row in rows(f"out/data/coco_final_{name}.jsonl")
    ]
    assert sorted(names) == sorted(f"{n}.jpg" for n in range(40))


@pytest.mark.parametrize(
    ("setting", "boxes"),
    [
        ("subset.categories=['dog']", {"dog": 2}),
        ("subset.crowd='keep'", {"cat": 3, "dog": 2}),
        ("subset.min_box_size=9", {"cat": 2, "dog": 1}),
    ],
)
def test_subset_rules_choose_boxes(cli: Cli, setting: str, boxes: dict[str, int]) -> None:
    write_project(Path(), THREE)
    train = json.loads(cli("prepare", "--json", "--set", setting, "--set", "subset.empty=1").stdout)["splits"]["train"]
    assert train["categories"] == boxes


def test_pictures_with_nothing_but_crowds_are_not_taught_as_empty(cli: Cli) -> None:
    write_project(Path(), {"a.jpg": [("cat", (0, 0, 9, 9))], "b.jpg": [("crowd:cat", (0, 0, 30, 30))], "c.jpg": []})
    train = json.loads(cli("prepare", "--json", "--set", "subset.empty=0.5").stdout)["splits"]["train"]
    assert train["ledger"]["pictures"] == {"in": 3, "kept": 2, "dropped": {"only crowds or small objects": 1}}
    assert rows("out/data/coco_final_train.jsonl")[1]["messages"][1]["content"] == "No objects."


def test_empty_pictures_are_kept_up_to_their_share(cli: Cli) -> None:
    pictures: dict[str, Any] = {f"{n}.jpg": [("cat", (0, 0, 9, 9))] for n in range(9)}
    write_project(Path(), pictures | {f"e{n}.jpg": [] for n in range(5)})
    train = json.loads(cli("prepare", "--json").stdout)["splits"]["train"]
    assert (train["pictures"], train["empty"]) == (10, 1)
    assert train["ledger"]["pictures"]["dropped"] == {"empty": 4}


def test_files_can_be_named_in_place_of_a_project(cli: Cli) -> None:
    write_project(Path("data"), THREE)
    given = ("--annotations", "data/annotations.json", "--images", "data/images", "--output", "result")
    assert cli("prepare", *given).exit_code == 0
    assert Path("result/data/coco_final_train.jsonl").is_file()
    done = cli("prepare", "--images", "data/images")
    assert (done.exit_code, done.stderr) == (
        2,
        "error: Missing: --annotations, --output\nhint: Without a project file, they are needed.\n",
    )


# list, entry, key, wrong value
SPOILS: dict[str, list[tuple[str, int, str, Any]]] = {
    "category": [("annotations", 1, "category_id", 9)],
    "image": [("annotations", 0, "image_id", 77), ("annotations", 2, "image_id", 77)],
    "type": [("images", 1, "width", "640")],
    "leaves": [("images", 0, "file_name", "../secret.jpg")],
    "absolute": [("images", 0, "file_name", "/etc/passwd")],
    "negative": [("annotations", 0, "bbox", [1, 2, -3, 4])],
}


def _spoil(change: str) -> None:
    """Write a project's annotations again with one entry wrong."""
    document = coco_document(THREE)
    for part, number, key, value in SPOILS.get(change, []):
        document[part][number][key] = value
    if change == "missing":
        del document["annotations"]
    if change == "missing files":
        more = range(100, 105)
        document["images"] += [{"id": n, "file_name": f"no{n - 100}.jpg", "width": 9, "height": 9} for n in more]
        document["annotations"] += [{"image_id": n, "category_id": 1, "bbox": [0, 0, 9, 9]} for n in more]
    Path("annotations.json").write_text(json.dumps(document))


SKIP = 'hint: Correct or remove them, or set data.on_error = "skip".\n'
FORM = "hint: COCO instances have the lists `images`, `annotations` and `categories`.\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("category", "error: The annotation file has 1 wrong entry: {a}\n"
                     "  annotations[1]: category_id 9 is not in `categories`\n" + SKIP),
        ("image", "error: The annotation file has 2 wrong entries: {a}\n"
                  "  annotations[0]: image_id 77 is not in `images`\n"
                  "  annotations[2]: image_id 77 is not in `images`\n" + SKIP),
        ("type", "error: The annotation file has 1 wrong entry: {a}\n"
                 "  images[1]: width: expected int, got str\n" + SKIP),
        ("leaves", "error: The annotation file has 1 wrong entry: {a}\n"
                   "  images[0]: file_name '../secret.jpg' leaves the image folder\n" + SKIP),
        ("absolute", "error: The annotation file has 1 wrong entry: {a}\n"
                     "  images[0]: file_name '/etc/passwd' leaves the image folder\n" + SKIP),
        ("negative", "error: The annotation file has 1 wrong entry: {a}\n"
                     "  annotations[0]: bbox [1.0, 2.0, -3.0, 4.0] is not a box\n" + SKIP),
        ("missing", "error: The annotation file is not in COCO's form: {a}\n"
                    "  Object missing required field `annotations`.\n" + FORM),
        ("missing files", "error: 5 of 8 images are not on disk\n  {d}/images/no0.jpg\n  {d}/images/no1.jpg\n"
                          "  {d}/images/no2.jpg\n  … and 2 more\nhint: Correct `images` in the project file, or take "
                          "the pictures out of the annotations.\n"),
    ],
)  # fmt: skip
def test_wrong_annotations_are_counted_with_their_positions_and_nothing_is_written(
    cli: Cli, tmp_path: Path, change: str, message: str
) -> None:
    write_project(Path(), THREE)
    _spoil(change)
    done = cli("prepare")
    expected = message.format(a=tmp_path / "annotations.json", d=tmp_path)
    assert (done.exit_code, done.stdout, done.stderr) == (3, "", expected)
    assert not Path("out").exists()


def test_invalid_json_is_an_error_with_line_and_column(cli: Cli, tmp_path: Path) -> None:
    write_project(Path(), THREE)
    Path("annotations.json").write_text('{"images": [],\n "annotations": [}\n')
    done = cli("prepare")
    assert done.exit_code == 3
    assert done.stderr == (
        f"error: The annotation file is not valid JSON: {tmp_path}/annotations.json\n"
        "  Line 2, column 18: invalid character.\n"
        "hint: Was it cut while being copied, or is it not UTF-8? Check that position.\n"
    )


def test_missing_annotations_and_image_folder_are_named(cli: Cli, tmp_path: Path) -> None:
    write_project(Path(), THREE)
    done = cli("prepare", "--set", "data.train.annotations=nope.json")
    assert (done.exit_code, done.stderr) == (
        3,
        f"error: Cannot read the annotation file: {tmp_path}/nope.json\n  No such file or directory.\n"
        "hint: Check the path.\n",
    )
    done = cli("prepare", "--set", "data.train.images=nope")
    assert (done.exit_code, done.stderr) == (
        3,
        f"error: No image folder: {tmp_path}/nope\nhint: Correct `images` in the project file.\n",
    )


def test_an_empty_subset_says_where_the_pictures_went(cli: Cli, tmp_path: Path) -> None:
    write_project(Path(), {"a.jpg": [("cat", (0, 0, 9, 9)), ("cat", (9, 9, 9, 9))], "b.jpg": []})
    done = cli("prepare", "--set", "subset.max_objects=1", "--set", "subset.empty=0")
    assert (done.exit_code, done.stderr) == (
        3,
        f"error: No picture of train is left: {tmp_path}/annotations.json\n"
        "  Of 2 pictures: 1 more than max_objects, 1 empty.\nhint: Loosen [subset] in the project file.\n",
    )


def test_an_unknown_category_gets_the_nearest_name(cli: Cli, tmp_path: Path) -> None:
    write_project(Path(), THREE)
    done = cli("prepare", "--set", "subset.categories=['cta']")
    assert (done.exit_code, done.stderr) == (
        2,
        f"error: subset.categories names what the annotations do not have: {tmp_path}/annotations.json\n"
        "  cta: did you mean cat?\nhint: They have: cat, dog.\n",
    )


def test_category_names_are_data_not_markup_and_move_no_cursor(cli: Cli) -> None:
    names = ("[red]x[/red]", "\x1b[31mred")
    write_project(Path(), {"a.jpg": [(name, (0, 0, 9, 9)) for name in names]}, categories=names)
    done = cli("prepare")
    assert done.exit_code == 0
    assert "[red]x[/red]" in done.stdout
    assert "\\x1b[31mred" in done.stdout
    assert "\x1b" not in done.stdout


def test_a_second_run_at_the_same_time_is_refused(cli: Cli, tmp_path: Path) -> None:
    import fcntl

    write_project(Path(), THREE)
    (tmp_path / "out" / "data").mkdir(parents=True)
    with (tmp_path / "out" / "data" / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = cli("prepare")
    assert (done.exit_code, done.stderr) == (
        2,
        f"error: Another vlmdet is at work in this folder: {tmp_path}/out/data\nhint: Wait for it, or stop it.\n",
    )


def test_images_are_copied_where_links_are_not_possible(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    write_project(Path(), THREE)
    monkeypatch.setattr(os, "link", refuse)
    train = json.loads(cli("prepare", "--json").stdout)["splits"]["train"]
    assert (train["linked"], train["copied"]) == (0, 3)
    assert Path("out/data/subset/images/train/a.jpg").read_bytes() == Path("images/a.jpg").read_bytes()


def test_names_in_subfolders_stay_there(cli: Cli) -> None:
    write_project(Path(), {"x/1.jpg": [("cat", (0, 0, 9, 9))], "y/1.jpg": [("dog", (0, 0, 9, 9))]})
    assert cli("prepare").exit_code == 0
    assert [row["images"][0] for row in rows("out/data/coco_final_train.jsonl")] == [
        "data/subset/images/train/x/1.jpg",
        "data/subset/images/train/y/1.jpg",
    ]
    assert picture(Path("other"), "z.jpg").is_file()


@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_workers_writes_the_same_bytes(cli: Cli, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    write_project(Path(), {f"{n}.jpg": [("cat", (n, n, 9, 9)), ("dog", (2, 30 - n, 9, 9))] for n in range(20)})
    monkeypatch.setattr("vlmdet_cli.stages.data.chunks.CHUNK_PICTURES", 3)

    def written(count: int) -> dict[str, bytes]:
        for command in ("prepare", "augment"):
            done = cli(command, "--set", f"data.workers={count}", "--set", f"project.output=out{count}")
            assert (done.exit_code, done.stderr) == (0, "")
        files = sorted(Path(f"out{count}").rglob("*.json*"))
        return {path.relative_to(f"out{count}").as_posix(): path.read_bytes() for path in files}

    assert written(workers) == written(1)


def files_of(folder: str) -> dict[str, bytes]:
    """The content of every file below a folder, but for locks."""
    paths = [path for path in Path(folder).rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path): path.read_bytes() for path in paths}


def test_rows_that_are_too_long_stop_before_anything_of_the_last_run_is_replaced(cli: Cli) -> None:
    write_project(Path(), {f"{n}.jpg": [("cat", (n, n, 9, 9))] for n in range(6)})
    assert cli("prepare", "--set", "data.split.test=0.4").exit_code == 0
    before = files_of("out")
    # other pictures, of which those of the last split, test, have rows that are too long for train
    write_project(Path(), {f"new{n}.jpg": [("dog", (n, m, 5, 5)) for m in range(30)] for n in range(6)})
    done = cli(
        "prepare", "--set", "data.split.test=0.4", "--set", "format.too_long=stop", "--set", "train.max_length=600"
    )
    assert done.exit_code == 3
    assert done.stderr.splitlines()[0] == "error: 4 rows are or may be longer than train.max_length = 600 tokens"
    assert files_of("out") == before


def test_pictures_that_take_all_tokens_of_a_row_are_warned_of(cli: Cli) -> None:
    write_project(Path(), {"a.jpg": [("cat", (1, 1, 20, 20))], "b.jpg": []}, "[subset]\nempty = 1.0", size=(640, 480))
    done = cli("prepare", "--set", "train.model=OpenGVLab/InternVL3-1B-hf")
    assert done.exit_code == 0
    assert " ".join(done.stderr.split()) == (
        "warning: 2 of 2 pictures of train take up to 3,330 tokens without any text, and train.max_length is 2,048: "
        "there is no row about them. Raise it, or lower train.swift.max_pixels; `vlmdet init --model NAME` writes what "
        "fits a model."
    )
    done = cli("prepare", "--set", "train.model=OpenGVLab/InternVL3-1B-hf", "--set", "train.max_length=4096")
    assert (done.exit_code, done.stderr) == (0, "")


def test_pictures_of_the_last_run_stay_where_new_ones_cannot_be_imported(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> dict[str, int]:
        raise OSError(28, "No space left on device")

    write_project(Path(), THREE)
    assert cli("prepare").exit_code == 0
    before = files_of("out")
    write_project(Path(), {"new.jpg": [("cat", (0, 0, 9, 9))]})
    monkeypatch.setattr("vlmdet_cli.stages.data.split_images.materialize_all", fail)
    assert cli("prepare").exit_code == 3
    assert files_of("out") == before


def kill_worker(*_: object) -> Any:
    """The work of a worker that the system kills; the owner of the workers stays."""
    if multiprocessing.parent_process() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return [], None


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("command", "work"), [("prepare", "data.chunks.detection_chunk"), ("augment", "data.augment.question_chunk")]
)
def test_a_killed_worker_ends_the_command_and_leaves_what_was_there(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, command: str, work: str
) -> None:
    write_project(Path(), {f"{n}.jpg": [("cat", (n, n, 9, 9))] for n in range(20)})
    assert cli("prepare").exit_code == cli("augment").exit_code == 0
    before = files_of("out")
    monkeypatch.setattr("vlmdet_cli.stages.data.chunks.CHUNK_PICTURES", 3)
    monkeypatch.setattr(f"vlmdet_cli.stages.{work}", kill_worker)
    done = cli(command, "--set", "data.workers=2")
    assert (done.exit_code, done.stdout, done.stderr) == (
        4,
        "",
        "error: A worker process was killed\n  Most likely the machine ran out of memory.\n"
        "hint: Lower data.workers (1 uses no other process), or free memory, and run the same command again.\n",
    )
    assert files_of("out") == before
