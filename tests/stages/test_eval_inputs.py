"""The truth belongs to the answers: which files ``eval``, ``viz`` and ``compare`` take from a project, and refuse."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Boxes, Cli, coco_document, picture
from tests.stages.test_infer_inputs import asked, trained_run
from vlmdet_cli.engines import EngineSettings

__all__ = ["asked"]  # the fixture that puts a small engine in the place of transformers
PROJECT = """
[project]
output = "out"
[data.train]
annotations = "train.json"
images = "train"
[data.val]
annotations = "val.json"
images = "val"
[data.test]
annotations = "test.json"
images = "test"
"""
# both splits have pictures of the same names, ids and sizes
PICTURES: dict[str, dict[str, Boxes]] = {
    "train": {"1.jpg": [("cat", (0, 0, 9, 9))]},
    "val": {"1.jpg": [("cat", (5, 5, 30, 30))], "2.jpg": [("dog", (9, 9, 30, 30)), ("cat", (40, 5, 20, 20))]},
    "test": {"1.jpg": [("dog", (20, 9, 40, 30))], "2.jpg": [("dog", (2, 2, 12, 12))]},
}


def prepare(cli: Cli, *shards: str) -> None:
    for split, pictures in PICTURES.items():
        for name in pictures:
            picture(Path(split), name)
        Path(f"{split}.json").write_text(json.dumps(coco_document(pictures)))
    Path("vlmdet.toml").write_text(PROJECT)
    for options in [["--shard", shard] for shard in shards] or [list[str]()]:
        result = cli("prepare", "-q", *options)
        assert result.exit_code == 0, result.stderr


def infer(cli: Cli, *options: str) -> Path:
    """The answers file, in which each answer is the true one, in the dialect of the rows."""
    result = cli("infer", *options, "--json")
    assert result.exit_code == 0, result.stderr
    path = Path(json.loads(result.stdout)["answers"])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row | {"text": row["expected"], "dialect": "qwen2_vl"}) + "\n" for row in rows))
    return path


def evaluate(cli: Cli, *options: str) -> dict[str, Any]:
    result = cli("eval", *options, "--json")
    assert result.exit_code == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def forget_meta(answers: Path) -> None:
    answers.with_suffix(".meta.json").unlink()


@pytest.mark.usefixtures("asked")
def test_answers_are_measured_against_the_split_that_they_answer(cli: Cli) -> None:
    prepare(cli)
    trained_run(Path("out"), "run-001")
    infer(cli, "--split", "val", "--name", "val-answers")
    infer(cli)
    for options, truth, objects in (
        (("--name", "val-answers"), "val.json", 3),
        (("--name", "val-answers", "--split", "val"), "val.json", 3),
        ((), "test.json", 2),
        (("--split", "test"), "test.json", 2),
    ):
        report = evaluate(cli, *options)
        assert (report["overall"]["f1"], report["overall"]["tp"]) == (1, objects)
        assert report["protocol"]["truth"] == truth
    assert Path("out/runs/run-001/reports/val-answers.json").is_file()
    done = cli("eval", "--name", "val-answers", "--split", "test")
    assert (done.exit_code, done.stdout) == (3, "")
    assert "error: The answers are to the split val, not test: " in done.stderr
    assert "hint: Leave out --split, or run `vlmdet infer --split test`.\n" in done.stderr


@pytest.mark.usefixtures("asked")
def test_a_ground_truth_that_has_changed_since_is_refused_unless_it_is_named(cli: Cli) -> None:
    prepare(cli)
    trained_run(Path("out"), "run-001")
    infer(cli)
    document = coco_document(PICTURES["test"] | {"3.jpg": [("cat", (1, 1, 20, 20))]})
    picture(Path("test"), "3.jpg")
    Path("test.json").write_text(json.dumps(document))
    assert cli("prepare", "-q").exit_code == 0
    for command in ("eval", "viz"):
        done = cli(command)
        assert done.exit_code == 3
        assert "error: The answers are to another ground truth than is prepared: " in done.stderr
        assert "The split test has changed since: " in done.stderr
    assert evaluate(cli, "--truth", "test.json")["overall"]["fn"] == 1
    assert cli("infer", "-q").exit_code == 0
    assert evaluate(cli)["protocol"]["pictures"] == 3


@pytest.mark.usefixtures("asked")
def test_a_named_truth_that_is_not_the_answers_own_is_told(cli: Cli) -> None:
    prepare(cli)
    trained_run(Path("out"), "run-001")
    answers = str(infer(cli))
    for options in (("--truth", "val.json"), ("--truth", "val.json", "--predictions", answers)):
        done = cli("eval", *options)
        assert done.exit_code == 0
        assert (
            "warning: the answers are to the split test as it was prepared; the truth named is another: " in done.stderr
        )
    own = cli("eval", "--truth", "out/data/subset/test.json")
    assert (own.exit_code, own.stderr) == (0, "")


@pytest.mark.usefixtures("asked")
def test_answers_of_a_run_are_named_with_run(cli: Cli) -> None:
    prepare(cli)
    trained_run(Path("out"), "run-001")
    trained_run(Path("out"), "run-002", "2026-01-02")
    infer(cli, "--run", "run-001")
    done = cli("eval")
    assert done.exit_code == 2
    assert "No answers: " in done.stderr
    assert "run-002" in done.stderr
    assert evaluate(cli, "--run", "run-001")["overall"]["f1"] == 1
    assert Path("out/runs/run-001/reports/test.json").is_file()
    assert cli("eval", "--run", "nope").exit_code == 2


@pytest.mark.usefixtures("asked")
def test_old_answers_that_do_not_state_their_split_must_fit_the_truth(cli: Cli) -> None:
    prepare(cli)
    trained_run(Path("out"), "run-001")
    answers = infer(cli, "--split", "val", "--name", "old")
    forget_meta(answers)
    for command in ("eval", "viz"):
        done = cli(command, "--name", "old")
        assert (done.exit_code, done.stdout) == (3, "")
        assert "error: 2 answers do not fit the truth " in done.stderr
        assert "1.jpg: its true answer names objects that the truth does not have" in done.stderr
    assert evaluate(cli, "--name", "old", "--split", "val")["overall"]["f1"] == 1
    answers.rename(answers.with_name("val.jsonl"))
    assert evaluate(cli, "--name", "val")["overall"]["f1"] == 1
    named = evaluate(cli, "--predictions", str(answers.with_name("val.jsonl")), "--truth", "test.json")
    assert named["overall"]["f1"] < 0.5


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"size": [32, 24]}, "it is 32 x 24, and 64 x 48 in the truth"),
        ({"image": "data/subset/images/test/7.jpg"}, "the picture with the id 1 is 1.jpg"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("asked")
def test_sizes_and_names_of_old_answers_must_fit(cli: Cli, change: dict[str, Any], reason: str) -> None:
    prepare(cli)
    trained_run(Path("out"), "run-001")
    answers = infer(cli)
    forget_meta(answers)
    assert evaluate(cli)["overall"]["f1"] == 1
    first, *rest = [json.loads(line) for line in answers.read_text().splitlines()]
    answers.write_text("".join(json.dumps(row) + "\n" for row in (first | change, *rest)))
    done = cli("eval")
    assert done.exit_code == 3
    assert reason in done.stderr


def test_eval_works_after_a_sharded_prepare(cli: Cli, asked: list[EngineSettings]) -> None:
    del asked
    prepare(cli, "1/2", "2/2")
    trained_run(Path("out"), "run-001")
    infer(cli, "--split", "val")
    Path("out/data/subset/val.json").unlink()  # eval puts it together itself
    report = evaluate(cli, "--split", "val")
    assert (report["overall"]["f1"], report["protocol"]["pictures"]) == (1, 2)


@pytest.mark.usefixtures("asked")
def test_runs_and_models_beside_them_are_compared_by_name(cli: Cli) -> None:
    prepare(cli)
    for name in ("run-001", "run-002"):
        trained_run(Path("out"), name)
        infer(cli, "--run", name)
    evaluate(cli, "--run", "run-001")
    done = cli("compare", "run-001", "run-002")
    assert done.exit_code == 2
    assert "error: The run run-002 has no report test: " in done.stderr
    evaluate(cli, "--run", "run-002")
    result = json.loads(cli("compare", "run-001", "run-002", "--json").stdout)
    assert (result["names"], result["measures"]["F1"]["values"]) == (["run-001", "run-002"], [1.0, 1.0])
    mixed = json.loads(cli("compare", "run-001", "out/runs/run-002/reports/test.json", "--json").stdout)
    assert mixed["names"] == ["run-001", "test"]
    assert cli("compare", "run-001", "run-009").exit_code == 2
    Path("out/reports").mkdir()
    Path("out/reports/base.json").write_text(Path("out/runs/run-002/reports/test.json").read_text())
    beside = json.loads(cli("compare", "base", "run-001", "--json").stdout)
    assert beside["names"] == ["base", "run-001"]
    infer(cli, "--run", "run-001", "--split", "val")
    evaluate(cli, "--run", "run-001", "--name", "val")
    done = cli("compare", "run-001", "run-002", "--name", "val")
    assert done.exit_code == 2
    assert "It has: test." in done.stderr


@pytest.mark.usefixtures("asked")
def test_viz_compares_two_runs_on_the_pictures_of_one_split(cli: Cli) -> None:
    prepare(cli)
    for run in ("run-001", "run-002"):
        trained_run(Path("out"), run)
        infer(cli, "--run", run)
    drawn = cli("viz", "run-001", "run-002", "--json")
    assert drawn.exit_code == 0, drawn.stderr
    index = Path(json.loads(drawn.stdout)["index"])
    assert index.parent == Path("out/runs/run-002/viz/test-run-001").resolve()
    assert '"runs":["run-001","run-002"]' in index.read_text()


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["run-001"], "Two runs are compared, not 1"),
        (["run-001", "run-003"], "run-003"),
        (["run-001", "run-002"], "No answers of run-002"),
        (["run-001", "run-002", "--run", "run-001"], "Runs are named, and files or --run too"),
    ],
)
def test_viz_of_two_runs_says_what_is_not_there(cli: Cli, arguments: list[str], error: str) -> None:
    prepare(cli)
    for run in ("run-001", "run-002"):
        trained_run(Path("out"), run)
    infer(cli, "--run", "run-001")
    drawn = cli("viz", *arguments)
    assert drawn.exit_code == 2
    assert error in drawn.stderr
