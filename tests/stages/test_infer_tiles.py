"""``infer.tiles``: what is asked, and boxes of tiles as boxes of their picture, everywhere alike."""

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conftest import Boxes, Cli, picture, write_project
from tests.engines.fake_engine import FakeEngine
from tests.stages.test_infer_inputs import model_folder, trained_run
from vlmdet_cli import engines
from vlmdet_cli.core.annotations import Box
from vlmdet_cli.engines import Completion, EngineSettings, Request
from vlmdet_cli.engines.answers import read_answers, read_meta
from vlmdet_cli.engines.failures import BadPicture
from vlmdet_cli.engines.pictures import PictureReader
from vlmdet_cli.engines.settings import TransformersOptions
from vlmdet_cli.models import dialects, registry

SIZE = (200, 100)
# a cat that the border between two tiles cuts, a cat on the left, a dog on the right
OBJECTS: list[tuple[str, Box]] = [("cat", (60, 20, 140, 60)), ("cat", (4, 70, 24, 90)), ("dog", (150, 10, 190, 50))]
PICTURES: dict[str, Boxes] = {
    "a.jpg": [(label, (x1, y1, x2 - x1, y2 - y1)) for label, (x1, y1, x2, y2) in OBJECTS], "b.jpg": [],
}  # fmt: skip
TILES = "infer.tiles=[1, 2, 0.2]"
LEFT, RIGHT = (0, 0, 111, 100), (89, 0, 200, 100)


class Seeing(FakeEngine):
    """Names what the crop of a picture that has objects shows of them."""

    def answer(self, requests: Any, max_tokens: int) -> Iterator[Completion]:
        del max_tokens
        for request in requests:
            self.asked.append(request)
            yield Completion(key=request.key, text=self._text(request) if request.image.name == "a.jpg" else "[]")

    def _text(self, request: Request) -> str:
        x1, y1, x2, y2 = request.crop or (0, 0, *SIZE)
        parts = [
            (label, (max(b[0], x1) - x1, max(b[1], y1) - y1, min(b[2], x2) - x1, min(b[3], y2) - y1))
            for label, b in OBJECTS
        ]
        seen = [(label, part) for label, part in parts if part[0] < part[2] and part[1] < part[3]]
        return dialects.get("qwen3_vl").render(seen, (x2 - x1, y2 - y1))


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Seeing:
    seeing = Seeing()

    def create(name: str, settings: EngineSettings) -> FakeEngine:
        del name, settings
        return seeing

    monkeypatch.setattr(engines, "create", create)
    return seeing


def project(cli: Cli, text: str = "", **document: Any) -> Path:
    document = {"size": SIZE} | document
    write_project(Path(), PICTURES, f'[infer]\nsplit = "train"\n{text}[subset]\nempty = 1.0\n', **document)
    assert cli("prepare", "-q").exit_code == 0
    return trained_run(Path("out"), "run-001")


def run(cli: Cli, command: str, *options: str) -> tuple[dict[str, Any], str]:
    done = cli(command, "--json", *options)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def asked(engine: Seeing) -> Counter[tuple[str, Any]]:
    """How often each part of a picture is asked about; the requests about a part must stand together."""
    parts = [(request.image.name, request.crop) for request in engine.asked]
    assert len(list(itertools.groupby(parts))) == len(set(parts))
    return Counter(parts)


WHOLE = ("--set", TILES, "--set", "infer.whole=true")


def test_each_tile_is_asked_about_and_the_whole_picture_where_that_is_set(cli: Cli, engine: Seeing) -> None:
    folder = project(cli)
    run(cli, "infer", *WHOLE)
    assert asked(engine) == dict.fromkeys(((name, crop) for name in PICTURES for crop in (LEFT, RIGHT, None)), 1)
    engine.asked.clear()
    answers = list(read_answers(folder / "answers" / "train-1x2.jsonl"))
    assert [answer.crop for answer in answers] == [LEFT, RIGHT, None] * 2
    assert [answer.expected is None for answer in answers] == [True, True, False] * 2
    run(cli, "infer", "--set", TILES)
    assert asked(engine) == dict.fromkeys(((name, crop) for name in PICTURES for crop in (LEFT, RIGHT)), 1)
    meta = read_meta(folder / "answers" / "train-1x2.jsonl")
    assert meta is not None
    assert str(meta.identity()["tiles"]) == "1 x 2, overlap 0.2"


@pytest.mark.parametrize("whole", ["true", "false"])
def test_the_boxes_of_tiles_are_those_of_the_picture_in_the_report_the_file_and_the_drawings(
    cli: Cli, engine: Seeing, whole: str
) -> None:
    del engine
    folder = project(cli)
    options = ("--set", TILES, "--set", f"infer.whole={whole}")
    run(cli, "infer", *options)
    report, _ = run(cli, "eval", *options)
    assert [report["overall"][name] for name in ("tp", "fp", "fn")] == [3, 0, 0]
    assert report["overall"]["mean_iou"] > 0.95
    assert report["protocol"]["tiles"] == "1 x 2, overlap 0.2" + (", and the whole picture" if whole == "true" else "")
    merged = report["ledger"]["predicted boxes"]["dropped"]["same object in another tile"]
    assert merged == {"true": 4, "false": 1}[whole]
    detections = json.loads((folder / "answers" / "train-1x2.detections.json").read_text())
    assert [row["object"] for row in detections] == [
        {label: [pytest.approx(box, abs=0.3) for name, box in OBJECTS if name == label] for label in ("cat", "dog")},
        {},
    ]
    run(cli, "viz", *options)
    drawn, _ = run(cli, "viz", *options)
    assert drawn["counts"] == {"found": 3, "false": 0, "missed": 0}


def test_answers_without_their_account_are_read_in_the_pictures_frame_too(cli: Cli, engine: Seeing) -> None:
    """The crop stands in each answer; a truth of another scale scales the boxes."""
    del engine
    folder = project(cli)
    run(cli, "infer", "--set", TILES)
    answers = folder / "answers" / "train-1x2.jsonl"
    answers.with_suffix(".meta.json").unlink()
    document = json.loads(Path("annotations.json").read_text())
    for scale in (1, 2):
        for image in document["images"]:
            image |= {"width": SIZE[0] * scale, "height": SIZE[1] * scale}
        for annotation in document["annotations"]:
            annotation["bbox"] = [value * scale for value in annotation["bbox"]]
        Path("truth.json").write_text(json.dumps(document))
        report, _ = run(cli, "eval", "--truth", "truth.json", "--predictions", str(answers))
        assert [report["overall"][name] for name in ("tp", "fp", "fn")] == [3, 0, 0]
        assert report["overall"]["mean_iou"] > 0.95


def test_parse_reads_a_line_of_answers_in_the_pictures_frame(cli: Cli, engine: Seeing) -> None:
    del engine
    folder = project(cli)
    run(cli, "infer", "--set", TILES)
    lines = (folder / "answers" / "train-1x2.jsonl").read_text().splitlines()
    parsed = [json.loads(line)["object"] for line in cli("parse", stdin="\n".join(lines)).stdout.splitlines()]
    assert parsed[1] == {
        "cat": [pytest.approx([89, 20, 140, 60], abs=0.3)], "dog": [pytest.approx([150, 10, 190, 50], abs=0.3)],
    }  # fmt: skip


def test_each_class_is_asked_for_in_each_tile_and_what_is_missing_is_counted(cli: Cli, engine: Seeing) -> None:
    folder = project(cli)
    options = (*WHOLE, "--set", "infer.ask=each")
    run(cli, "infer", *options)
    assert asked(engine) == dict.fromkeys(((name, crop) for name in PICTURES for crop in (LEFT, RIGHT, None)), 2)
    answers = folder / "answers" / "train-each-1x2.jsonl"
    lines = answers.read_text().splitlines(keepends=True)
    answers.write_text("".join(lines[:-3]))
    report, shown = run(cli, "eval", *options)
    assert report["answers"]["missing"] == 3
    assert "3 prompts have no answer" in shown


def test_named_pictures_are_cut_too_and_one_that_is_too_small_is_asked_about_as_a_whole(
    cli: Cli, engine: Seeing, tmp_path: Path
) -> None:
    model_folder(tmp_path / "base")
    picture(tmp_path, "a.jpg", SIZE)
    picture(tmp_path, "small.png", (1, 5))
    documents, shown = run(cli, "infer", "--model", "base", "a.jpg", "small.png", *WHOLE)
    assert asked(engine) == dict.fromkeys([("a.jpg", LEFT), ("a.jpg", RIGHT), ("a.jpg", None), ("small.png", None)], 1)
    assert shown == "warning: infer.tiles: 1 picture is too small to be cut, or unreadable: small.png\n"
    assert [answer["crop"] for answer in documents[0]["answers"]] == [list(LEFT), list(RIGHT), None]  # type: ignore[index]


@pytest.mark.parametrize(
    ("tiles", "message"),
    [
        ("[0, 2, 0.2]", "expected [rows, columns, overlap], the first two whole and from 1 up, got [0, 2, 0.2]"),
        ("[2, 1.5, 0]", "expected [rows, columns, overlap], the first two whole and from 1 up, got [2, 1.5, 0]"),
        ("[2, 2]", "expected [rows, columns, overlap], the first two whole and from 1 up, got [2, 2]"),
        ("[2, 2, 1]", "the overlap is a share of a tile's side, from 0 up and below 1, got [2, 2, 1]"),
        ("[2, 2, -0.1]", "the overlap is a share of a tile's side, from 0 up and below 1, got [2, 2, -0.1]"),
        ("nan", "expected a list, got NaN"),
    ],
)
def test_tiles_that_cannot_be_are_refused_by_key(cli: Cli, tmp_path: Path, tiles: str, message: str) -> None:
    model_folder(tmp_path / "base")
    picture(tmp_path, "a.jpg")
    end = f"  infer.tiles: {message}\nhint: `vlmdet init` writes a file with every key explained.\n"
    done = cli("infer", "--model", "base", "a.jpg", "--set", f"infer.tiles={tiles}")
    assert (done.exit_code, done.stderr) == (2, f"error: A setting of inference is wrong\n{end}")
    write_project(Path(), PICTURES, f"[infer]\ntiles = {tiles}\n")
    done = cli("infer")
    assert (done.exit_code, done.stderr) == (2, f"error: The project file has a problem: vlmdet.toml\n{end}")


def test_a_picture_of_another_size_than_annotated_is_not_cut(tmp_path: Path) -> None:
    family = registry.get("qwen2_vl")
    read = PictureReader(EngineSettings(model=tmp_path, family=family, options=TransformersOptions()))
    path = picture(tmp_path, "a.png", (112, 56))
    crop = (56, 0, 112, 56)
    assert read(Request(key="", image=path, prompt="", size=(112, 56), crop=crop)).size == Image.new("L", (56, 56)).size
    with pytest.raises(BadPicture, match="is 112 x 56, and was to be cut as one of 224 x 112"):
        read(Request(key="", image=path, prompt="", size=(224, 112), crop=(112, 0, 224, 112)))
