"""``eval --calibrate``: fitted on the same model's answers to val, never on what it is applied to."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Cli
from tests.stages.test_eval_inputs import asked, evaluate, forget_meta, infer, prepare
from tests.stages.test_infer_inputs import trained_run

__all__ = ["asked"]
SCORES = ("--set", "infer.scores=true")
RIGHT, FALSE, SURE, UNSURE = True, False, -0.7, -2.5


def answer(split: str, boxes: list[tuple[bool, float]], *, name: str = "") -> Path:
    """The answers file in which all answers have each of the boxes: right or false, and its label's log-probability."""
    path = Path("out/runs/run-001/answers") / f"{name or split}.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for number, row in enumerate(rows):
        true = row["expected"].replace("<|object_ref_start|>", "").replace("<|box_start|>", "")
        label, _, box = true.partition("<|object_ref_end|>")
        tokens = []
        for index, (right, chance) in enumerate(boxes):
            tokens += [
                (label, chance),
                (box.partition("<|box_end|>")[0] if right else f"({index},{number}),(900,9)", 0.0),
            ]
        row |= {"dialect": "qwen2_vl", "tokens": tokens, "text": "".join(text for text, _ in tokens)}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def answered(cli: Cli) -> None:
    """Val and test answered alike: of the unsure boxes half are right, of the sure ones most."""
    prepare(cli)
    trained_run(Path("out"), "run-001")
    for split in ("val", "test"):
        infer(cli, "--split", split, *SCORES)
        answer(split, [(RIGHT, SURE), (FALSE, UNSURE), (FALSE, UNSURE - 0.1)])


@pytest.mark.usefixtures("asked")
def test_scores_are_calibrated_on_val_and_the_report_says_so(cli: Cli) -> None:
    answered(cli)
    plain, calibrated = evaluate(cli), evaluate(cli, "--calibrate")
    stated = calibrated["protocol"].pop("calibration")
    assert plain["protocol"].pop("calibration") is None
    assert {name: stated[name] for name in ("method", "split", "iou", "boxes", "right")} == {
        "method": "platt", "split": "val", "iou": 0.5, "boxes": 6, "right": 2,
    }  # fmt: skip
    assert stated["slope"] > 0
    assert stated["truth_hash"] == evaluate(cli, "--name", "val")["protocol"]["truth_hash"]
    assert stated["truth_hash"] != calibrated["protocol"]["truth_hash"]
    before, after = calibrated["scores"].pop("before_calibration"), calibrated["scores"]["calibration"]
    assert before == plain["scores"]["calibration"]
    assert after["expected_calibration_error"] < before["expected_calibration_error"]
    for same in ("overall", "coco", "per_class", "intervals"):
        assert calibrated[same] == plain[same]
    for one, other in zip(plain["scores"]["curve"], calibrated["scores"]["curve"], strict=True):
        assert one.pop("threshold") != other.pop("threshold")
        assert one == other
    shown = cli("eval", "--calibrate", "--full").stdout
    assert f"Reliability before calibration: error {before['expected_calibration_error']:.3f}" in shown
    assert "by Platt's map, fitted on 6 boxes of val" in shown
    assert f"Reliability when calibrated: error {after['expected_calibration_error']:.3f}" in shown


@pytest.mark.usefixtures("asked")
def test_what_is_right_is_matched_at_the_iou_of_the_evaluation(cli: Cli) -> None:
    answered(cli)
    for path in (Path("out/runs/run-001/answers") / f"{split}.jsonl" for split in ("val", "test")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for (
            row
        ) in rows:  # at an IoU of 0.9 the boxes that were right are false, and those with the same score are there
            row["tokens"] = [[text.replace("),(", "),(9"), chance] for text, chance in row["tokens"]]
            row["text"] = "".join(text for text, _ in row["tokens"])
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert evaluate(cli, "--calibrate", "--iou", "0.01")["protocol"]["calibration"]["right"] > 0
    done = cli("eval", "--calibrate", "--iou", "0.9")
    assert done.exit_code == 3
    assert "0 of them right at IoU 0.9" in done.stderr


@pytest.mark.usefixtures("asked")
def test_scores_are_never_calibrated_on_what_is_evaluated(cli: Cli) -> None:
    answered(cli)
    done = cli("eval", "--name", "val", "--calibrate")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "error: Scores are not calibrated on the answers that are evaluated: " in done.stderr
    assert "hint: Evaluate another split: vlmdet eval --split test --calibrate\n" in done.stderr
    done = cli("eval", "--calibrate", "--truth", "out/data/subset/val.json")  # by another door
    assert (done.exit_code, done.stdout) == (2, "")
    assert "error: The scores would be calibrated on the pictures that are evaluated: " in done.stderr


@pytest.mark.usefixtures("asked")
def test_without_answers_of_the_same_model_to_val_the_command_that_makes_them_is_named(cli: Cli) -> None:
    prepare(cli)
    trained_run(Path("out"), "run-001")
    infer(cli, *SCORES)
    answer("test", [(RIGHT, SURE), (FALSE, UNSURE)])
    done = cli("eval", "--calibrate")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "error: No answers of this model to the split val: " in done.stderr
    assert "hint: Run `vlmdet infer --split val --set infer.scores=true` with the same model and settings.\n" in (
        done.stderr
    )
    infer(cli, "--split", "val")  # without scores
    done = cli("eval", "--calibrate")
    assert done.exit_code == 2
    assert "Of another model, or of other settings of infer: val.jsonl" in done.stderr
    infer(cli, "--split", "val", "--name", "any-name", *SCORES)
    answer("val", [(RIGHT, SURE), (FALSE, UNSURE)], name="any-name")
    assert evaluate(cli, "--calibrate")["protocol"]["calibration"]["boxes"] == 4
    forget_meta(Path("out/runs/run-001/answers/test.jsonl"))
    assert "that state their split" in cli("eval", "--calibrate").stderr


@pytest.mark.usefixtures("asked")
def test_of_several_files_of_answers_the_whole_split_is_taken_and_a_part_alone_is_refused(cli: Cli) -> None:
    answered(cli)
    whole = Path("out/runs/run-001/answers/val.jsonl")
    part = whole.with_name("val.shard-1-of-2.jsonl")
    part.write_text(whole.read_text().splitlines()[0] + "\n")
    part.with_suffix(".meta.json").write_text(whole.with_suffix(".meta.json").read_text())
    assert evaluate(cli, "--calibrate")["protocol"]["calibration"]["boxes"] == 6
    whole.unlink()
    done = cli("eval", "--calibrate")
    assert (done.exit_code, done.stdout) == (3, "")
    assert "error: The answers to val are not complete: " in done.stderr
    assert "1 of 2 pictures are answered." in done.stderr


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([(RIGHT, SURE)], "boxes of both kinds are needed, right and false"),
        ([(FALSE, SURE)], "boxes of both kinds are needed, right and false"),
        ([(FALSE, SURE), (RIGHT, UNSURE)], "they rank false boxes above right ones"),
    ],
)
@pytest.mark.usefixtures("asked")
def test_scores_that_no_map_can_mend_are_an_error(cli: Cli, boxes: list[Any], message: str) -> None:
    answered(cli)
    answer("val", boxes)
    done = cli("eval", "--calibrate")
    assert (done.exit_code, done.stdout) == (3, "")
    assert f"error: The scores cannot be calibrated on val: {message}" in done.stderr


@pytest.mark.usefixtures("asked")
def test_there_must_be_scores_and_a_project(cli: Cli) -> None:
    answered(cli)
    done = cli("eval", "--calibrate", "--scores", "constant")
    assert (done.exit_code, "error: There are no scores to calibrate: " in done.stderr) == (2, True)
    files = ("--truth", "out/data/subset/test.json", "--predictions", "out/runs/run-001/answers/test.jsonl")
    done = cli("eval", "--calibrate", *files)
    assert (done.exit_code, "error: Scores are calibrated on answers of a project" in done.stderr) == (2, True)


@pytest.mark.usefixtures("asked")
def test_reports_calibrated_differently_are_compared_but_for_their_calibration_errors(cli: Cli) -> None:
    answered(cli)
    for name, options in (("plain", ()), ("calibrated", ("--calibrate",))):
        Path(f"{name}.json").write_text(json.dumps(evaluate(cli, *options)))
    earlier = json.loads(Path("plain.json").read_text())
    del earlier["protocol"]["calibration"]
    Path("earlier.json").write_text(json.dumps(earlier))
    result = json.loads(cli("compare", "plain.json", "calibrated.json", "--json").stdout)
    assert result["measures"]["COCO AP"]["differences"] == [0.0]
    row = result["measures"]["calibration error"]
    assert (row["values"][0] > row["values"][1], row["differences"]) == (True, [None])
    assert result["notes"] == [
        "calibration: none in plain.json, platt on val in calibrated.json; calibration errors have no difference"
    ]
    for pair in (("plain.json", "earlier.json"), ("calibrated.json", "calibrated.json")):
        same = json.loads(cli("compare", *pair, "--json").stdout)
        assert (same["measures"]["calibration error"]["differences"], same["notes"]) == ([0.0], [])
    assert "calibration: none in plain.json" in cli("compare", "plain.json", "calibrated.json").stdout
