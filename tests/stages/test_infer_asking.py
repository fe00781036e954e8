"""Which classes ``infer`` asks for, and what ``eval`` makes of the answers."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Boxes, Cli, picture, write_project
from tests.engines.fake_engine import FakeEngine
from tests.stages.test_infer_inputs import model_folder, trained_run
from vlmdet_cli import engines
from vlmdet_cli.engines import Completion, EngineSettings, Request
from vlmdet_cli.engines.answers import read_answers, read_meta
from vlmdet_cli.models import dialects

SIZE = (64, 48)
CAT, DOG = (8.0, 12.0, 24.0, 36.0), (32.0, 0.0, 48.0, 8.0)
# a cat and a dog; a dog; nothing
PICTURES: dict[str, Boxes] = {
    "a.jpg": [("cat", (8, 12, 16, 24)), ("dog", (32, 0, 16, 8))],
    "b.jpg": [("dog", (32, 0, 16, 8))],
    "c.jpg": [],
}
PROMPT = "<image>Draw the bounding box of objects of these categories: "


class Obedient(FakeEngine):
    """Sees a cat and a dog in every picture, and names those that the prompt asks for.

    ``stray``: the cat always. ``again``: the dog twice.
    """

    stray = False
    again = False

    def answer(self, requests: Any, max_tokens: int) -> Iterator[Completion]:
        del max_tokens
        for request in requests:
            if not self._left:
                raise KeyboardInterrupt
            self._left -= 1
            self.asked.append(request)
            yield Completion(key=request.key, text=self._text(request.prompt))

    def _text(self, prompt: str) -> str:
        names = set(re.findall(r"\b(?:cat|dog)\b", prompt)) or {"cat", "dog"}
        objects = [("cat", CAT)] if self.stray or "cat" in names else []
        objects += [("dog", DOG)] if "dog" in names else []
        objects += [("dog", (*DOG[:3], DOG[3] + 1))] if self.again else []
        return dialects.get("qwen3_vl").render(objects, SIZE)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Obedient:
    obedient = Obedient()

    def create(name: str, settings: EngineSettings) -> FakeEngine:
        del name, settings
        return obedient

    monkeypatch.setattr(engines, "create", create)
    return obedient


def project(cli: Cli, text: str = "") -> Path:
    write_project(Path(), PICTURES, f'[infer]\nsplit = "train"\n{text}')
    assert cli("prepare", "-q", "--set", "subset.empty=1.0").exit_code == 0
    return trained_run(Path("out"), "run-001")


def run(cli: Cli, command: str, *options: str) -> tuple[dict[str, Any], str]:
    done = cli(command, "--json", *options)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def asked(requests: list[Request]) -> list[tuple[str, str]]:
    return [(request.image.name, request.prompt.removeprefix(PROMPT)) for request in requests]


EVERYTHING = "<image>Draw the bounding box of objects"


@pytest.mark.parametrize(
    ("ask", "prompts"),
    [
        ("all", [("a.jpg", EVERYTHING), ("b.jpg", EVERYTHING), ("c.jpg", EVERYTHING)]),
        ("each", [(name, label) for name in PICTURES for label in ("cat", "dog")]),
        ("present", [("a.jpg", "cat, dog"), ("b.jpg", "dog")]),
    ],
)
def test_the_prompts_name_the_classes_and_those_about_a_picture_are_together(
    cli: Cli, engine: Obedient, ask: str, prompts: list[tuple[str, str]]
) -> None:
    folder = project(cli)
    run(cli, "infer", "--set", f"infer.ask={ask}")
    assert asked(engine.asked) == prompts
    meta = read_meta(folder / "answers" / f"train-{ask}.jsonl")
    assert meta is not None
    assert (meta.ask, meta.identity()["ask"]) == (ask, ask)


def test_answers_of_each_protocol_are_kept_beside_the_others_and_measured_by_their_own(
    cli: Cli, engine: Obedient
) -> None:
    """b has no cat: where everything or each class is asked for, its cat is false; c has neither cat nor dog."""
    folder = project(cli)
    counts = {}
    for ask in ("rows", "all", "each", "present"):
        run(cli, "infer", "--set", f"infer.ask={ask}")
        report, _ = run(cli, "eval", "--set", f"infer.ask={ask}")
        counts[ask] = tuple(report["overall"][name] for name in ("tp", "fp", "fn"))
    assert counts == {"rows": (3, 3, 0), "all": (3, 3, 0), "each": (3, 3, 0), "present": (3, 0, 0)}
    names = {path.name for path in (folder / "answers").glob("*.jsonl")}
    assert names == {"train.jsonl", "train-all.jsonl", "train-each.jsonl", "train-present.jsonl"}
    assert len(engine.asked) == 3 + 3 + 6 + 2
    reports = [str(folder / "reports" / f"{name}.json") for name in ("train-all", "train-each")]
    done = cli("compare", *reports)
    assert done.exit_code == 2
    assert "asked: all classes in " in done.stderr
    assert "one class in each prompt in " in done.stderr


def test_the_report_says_loudly_that_classes_from_the_truth_flatter(cli: Cli, engine: Obedient) -> None:
    del engine
    project(cli)
    run(cli, "infer", "--set", "infer.ask=present")
    report, shown = run(cli, "eval", "--set", "infer.ask=present")
    assert report["protocol"]["asked"] == "the classes that each picture has, taken from the truth"
    assert "warning: The prompts named the very classes that each picture has, and only the truth knows them." in shown
    assert len(report["notes"]) == 1
    assert report["ledger"]["pictures"] == {
        "in": 3, "kept": 2, "dropped": {"no object, so that there is no class to ask for": 1},
    }  # fmt: skip
    run(cli, "infer", "--set", "infer.ask=each")
    report, shown = run(cli, "eval", "--set", "infer.ask=each")
    assert (report["notes"], shown) == ([], "")
    table = cli("eval", "--set", "infer.ask=present").stdout
    asked_for = "asked for: the classes that each picture has, taken from the truth"
    assert " ".join(table.split()).startswith(f"Detection at IoU 0.50, classes: all, {asked_for}; 3 pictures, ")
    markdown = cli("eval", "--set", "infer.ask=each", "--markdown").stdout
    assert "classes: all, asked for: one class in each prompt\n" in markdown


def test_boxes_of_a_class_that_a_prompt_did_not_ask_for_do_not_count(cli: Cli, engine: Obedient) -> None:
    engine.stray = True
    folder = project(cli)
    run(cli, "infer", "--set", "infer.ask=each")
    report, _ = run(cli, "eval", "--set", "infer.ask=each")
    assert [report["overall"][name] for name in ("tp", "fp", "fn")] == [3, 3, 0]
    assert report["answers"]["problems"] == {"not_asked": 3}
    assert report["ledger"]["predicted boxes"] == {"in": 9, "kept": 6, "dropped": {"not_asked": 3}}
    detections = json.loads((folder / "answers" / "train-each.detections.json").read_text())
    assert [{label: len(boxes) for label, boxes in row["object"].items()} for row in detections] == [
        {"cat": 1, "dog": 1}
    ] * 3


def test_what_a_stopped_inference_has_not_asked_for_is_missed_and_counted(cli: Cli, engine: Obedient) -> None:
    project(cli)
    engine._left = 1
    assert cli("infer", "--set", "infer.ask=each").exit_code == 130
    report, shown = run(cli, "eval", "--set", "infer.ask=each")
    assert [report["overall"][name] for name in ("tp", "fp", "fn")] == [1, 0, 2]
    assert report["answers"]["missing"] == 5
    assert "5 prompts have no answer; what they ask for counts as missed." in shown


def test_a_custom_prompt_names_the_classes_where_it_says(cli: Cli, engine: Obedient) -> None:
    folder = project(cli, 'prompt = "Where is {classes} here?"\n')
    run(cli, "infer")
    assert {request.prompt for request in engine.asked} == {"<image>Where is cat, dog here?"}
    assert (folder / "answers" / "train-prompt.jsonl").is_file()
    engine.asked.clear()
    run(cli, "infer", "--set", "infer.ask=each")
    assert {request.prompt for request in engine.asked} == {f"<image>Where is {name} here?" for name in ("cat", "dog")}
    report, _ = run(cli, "eval", "--set", "infer.ask=each")
    assert report["protocol"]["prompt"] == ["Where is cat here?", "Where is dog here?"]
    done = cli("infer", "--set", "infer.ask=each", "--set", "infer.prompt=Find them")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.endswith(
        "error: infer.prompt does not say which classes are asked for: Find them\n"
        "hint: Put {classes} where their names belong.\n"
    )


def test_prompts_that_the_model_has_not_seen_in_training_are_pointed_out(cli: Cli, engine: Obedient) -> None:
    del engine
    project(cli)
    for options, warned in (((), False), (("--set", "infer.ask=each"), True), (("--set", "infer.ask=all"), False)):
        assert ("has not seen such prompts" in run(cli, "infer", *options)[1]) is warned
    picture(Path(), "photo.jpg")
    assert "has not seen such prompts" in run(cli, "infer", "photo.jpg", "--category", "cat")[1]


@pytest.mark.parametrize(
    ("negatives", "ask", "warned"), [("1", "each", True), ("0", "each", False), ("1", "all", False)]
)
def test_single_classes_that_were_always_absent_in_training_are_pointed_out(
    cli: Cli, engine: Obedient, negatives: str, ask: str, warned: bool
) -> None:
    del engine
    project(cli)
    sets = ("format.ask=some", f"format.negatives_per_row={negatives}", f"infer.ask={ask}")
    options = [part for text in sets for part in ("--set", text)]
    assert ("never name a single class that is there" in " ".join(run(cli, "infer", *options)[1].split())) is warned


def test_the_questions_of_the_split_are_asked_in_any_case(cli: Cli, engine: Obedient) -> None:
    folder = project(cli, '[data.test]\nannotations = "annotations.json"\nimages = "images"\n')
    assert cli("augment", "-q").exit_code == 0
    run(cli, "infer", "--split", "test", "--set", "infer.ask=present")
    kinds = [answer.kind for answer in read_answers(folder / "answers" / "test-present.jsonl")]
    assert kinds[:2] == ["detection", "detection"]
    assert "detection" not in kinds[2:]
    assert len(kinds) > 2
    before = len(engine.asked)
    run(cli, "infer", "--split", "test", "--set", "infer.ask=each", "--set", "infer.questions=false")
    assert len(engine.asked) == before + 6


def test_only_classes_that_were_searched_for_in_a_picture_are_asked_for(cli: Cli, engine: Obedient) -> None:
    """In a some of the cats are annotated, and all dogs; in b only dogs were searched for; in c nothing was."""
    write_project(Path(), PICTURES, '[infer]\nsplit = "train"\nask = "each"\n[subset]\nempty = 1.0\n')
    document = json.loads(Path("annotations.json").read_text())
    for image, partly in zip(document["images"], ([1], [], []), strict=True):
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": partly}
    Path("annotations.json").write_text(json.dumps(document))
    assert cli("prepare", "-q").exit_code == 0
    trained_run(Path("out"), "run-001")
    run(cli, "infer")
    assert asked(engine.asked) == [("a.jpg", "cat"), ("a.jpg", "dog"), ("b.jpg", "dog")]
    assert run(cli, "eval")[0]["answers"]["missing"] == 0


# --- named pictures ------------------------------------------------------------------------------------------


def test_named_pictures_are_asked_for_the_categories_that_are_named(cli: Cli, engine: Obedient, tmp_path: Path) -> None:
    model_folder(tmp_path / "base")
    for name in ("a.jpg", "b.jpg"):
        picture(tmp_path, name)
    options = ("a.jpg", "b.jpg", "--model", "base", "--category", "cat", "--category", "dog", "--set")
    run(cli, "infer", *options, "infer.ask=all")
    assert asked(engine.asked) == [("a.jpg", "cat, dog"), ("b.jpg", "cat, dog")]
    engine.asked.clear()
    documents, _ = run(cli, "infer", *options, "infer.ask=each")
    assert asked(engine.asked) == [(name, label) for name in ("a.jpg", "b.jpg") for label in ("cat", "dog")]
    assert [document["image"] for document in documents] == ["a.jpg", "b.jpg"]  # type: ignore[index]


def test_the_answers_about_a_picture_are_one_document(cli: Cli, engine: Obedient) -> None:
    run_folder = project(cli)
    del engine
    picture(Path(), "photo.jpg")
    document, _ = run(cli, "infer", "photo.jpg", "--set", "infer.ask=each")
    assert document["object"] == {
        label: [pytest.approx(list(box), abs=0.1)] for label, box in (("cat", CAT), ("dog", DOG))
    }
    assert [answer["asked"] for answer in document["answers"]] == [["cat"], ["dog"]]
    assert (document["health"], run_folder.is_dir()) == ("ok", True)
    shown = cli("infer", "photo.jpg", "--set", "infer.ask=each").stdout
    assert "cat" in shown
    assert "dog" in shown


def test_what_cannot_be_asked_of_named_pictures_is_a_users_error(cli: Cli, engine: Obedient, tmp_path: Path) -> None:
    del engine
    model_folder(tmp_path / "base")
    picture(tmp_path, "a.jpg")
    for options, message in (
        (("--set", "infer.ask=present"), 'error: infer.ask = "present" is for a prepared split\n'
         "  Only a ground truth says which classes a picture has.\n"
         'hint: Name the classes with --category, or set infer.ask = "each".\n'),
        (("--set", "infer.ask=each"), "error: The prompt names classes, and nothing says which\n"
         "hint: Name them with --category, or a project with -p.\n"),
        (("--set", "infer.ask=some"), "error: A setting of inference is wrong\n"
         '  infer.ask: expected one of rows, all, each, present, got "some"\n'
         "hint: `vlmdet init` writes a file with every key explained.\n"),
    ):  # fmt: skip
        done = cli("infer", "--model", "base", "a.jpg", *options)
        assert (done.exit_code, done.stdout, done.stderr) == (2, "", message)
    project(cli)
    done = cli("infer", "--category", "cat")
    assert (done.exit_code, done.stderr) == (
        2, "error: --category is for named pictures\nhint: Those of a split are in subset.categories.\n",
    )  # fmt: skip


# --- near repeats --------------------------------------------------------------------------------------------


def test_near_repeats_are_taken_out_alike_everywhere_and_the_raw_answers_stay(cli: Cli, engine: Obedient) -> None:
    """The engine names its dog twice, the second time a little larger; in a and b the first one is found."""
    engine.again = True
    folder = project(cli)
    results = {}
    for dedupe in ("0", "0.8"):
        asked_now = run(cli, "infer", "--set", f"infer.dedupe={dedupe}")[0]["asked"]
        report, shown = run(cli, "eval", "--set", f"infer.dedupe={dedupe}")
        drawn, _ = run(cli, "viz", "--set", f"infer.dedupe={dedupe}")
        detections = json.loads((folder / "answers" / "train.detections.json").read_text())
        boxes = sum(len(boxes) for row in detections for boxes in row["object"].values())
        assert (report["protocol"]["dedupe"], report["protocol"]["predictions"], shown) == (float(dedupe), boxes, "")
        assert drawn["counts"]["false"] == report["overall"]["fp"]
        results[dedupe] = (asked_now, boxes, report["overall"]["fp"])
        Path(f"{dedupe}.json").write_text(json.dumps(report))
        texts = [answer.text for answer in read_answers(folder / "answers" / "train.jsonl")]
        assert all(text.count("dog") == 2 for text in texts)
    assert results == {"0": (3, 9, 6), "0.8": (0, 6, 3)}
    assert report["ledger"]["predicted boxes"] == {
        "in": 9, "kept": 6, "dropped": {"near repeat of another box": 3},
    }  # fmt: skip
    refused = cli("compare", "0.json", "0.8.json")
    assert refused.exit_code == 2
    assert "dedupe: 0.0 in 0.json, 0.8 in 0.8.json" in refused.stderr
    _, shown = run(cli, "eval")
    assert shown.startswith("warning: the answers are read with infer.dedupe = 0.8, as `vlmdet infer` read them, not")


def test_parse_takes_near_repeats_for_one_line_by_line(cli: Cli) -> None:
    text = "cat(0,0),(100,100)cat(0,0),(100,90)\n"
    counts = []
    for options in ((), ("--dedupe", "0.8")):
        done = cli("parse", *options, stdin=text * 2)
        counts.append([len(json.loads(line)["object"]["cat"]) for line in done.stdout.splitlines()])
    assert counts == [[2, 2], [1, 1]]


def test_shards_are_asked_in_the_same_way_and_collected(cli: Cli, engine: Obedient) -> None:
    del engine
    folder = project(cli)
    options = ("--set", "infer.ask=each", "--set", "infer.tiles=[1, 2, 0.2]", "--set", "infer.dedupe=0.8")
    run(cli, "infer", *options)
    names = [f"train-each-1x2{suffix}" for suffix in (".jsonl", ".detections.json", ".meta.json")]
    whole = [(folder / "answers" / name).read_bytes() for name in names]
    for path in (folder / "answers").iterdir():
        path.unlink()
    for shard in ("1/2", "2/2"):
        run(cli, "infer", *options[:4], "--shard", shard)
    assert run(cli, "infer", *options, "--collect")[0]["rows"] == 12
    assert [(folder / "answers" / name).read_bytes() for name in names] == whole
