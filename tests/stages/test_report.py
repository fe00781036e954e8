"""What stands in a report beside the headline: intervals, scores, errors, counting; comparison, gates and exports."""

import csv
import io
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import Boxes, Cli, coco_document
from vlmdet_cli.core.settings import ScoreRule
from vlmdet_cli.metrics import bootstrap, counting
from vlmdet_cli.metrics.detection import detection, group_counts
from vlmdet_cli.metrics.matching import ObjectBoxes, PredictedBoxes
from vlmdet_cli.metrics.sweep import match_by_score, sweep
from vlmdet_cli.models import dialects

PICTURES: dict[str, Boxes] = {
    f"{n}.jpg": [("cat", (5, 5, 20, 20)), ("dog", (50, 50, 30, 30))][: n % 3] for n in range(12)
}


def truth() -> str:
    Path("truth.json").write_text(json.dumps(coco_document(PICTURES, size=(100, 100))))
    return "truth.json"


def results(name: str, wrong: int, *, scores: bool = True) -> str:
    """Perfect boxes, of which the first ``wrong`` are off; a lower score for those."""
    document = coco_document(PICTURES, size=(100, 100))
    rows = [
        {"image_id": a["image_id"], "category_id": a["category_id"],
         "bbox": [90, 90, 5, 5] if n < wrong else a["bbox"], **({"score": 0.2 if n < wrong else 0.9} if scores else {})}
        for n, a in enumerate(document["annotations"])
    ]  # fmt: skip
    Path(name).write_text(json.dumps(rows))
    return name


def evaluated(cli: Cli, predictions: str, *more: str, code: int = 0) -> dict[str, Any]:
    done = cli("eval", "--truth", truth(), "--predictions", predictions, "--json", *more)
    assert done.exit_code == code, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def saved(cli: Cli, name: str, wrong: int, *more: str) -> str:
    Path(name).write_text(json.dumps(evaluated(cli, results("p.json", wrong), *more)))
    return name


def random_objects(rng: np.random.Generator, count: int, pictures: int, classes: int) -> ObjectBoxes:
    corner, sides = rng.uniform(0, 60, (count, 2)), rng.uniform(5, 40, (count, 2))
    return ObjectBoxes(
        rng.integers(0, pictures, count),
        rng.integers(0, classes, count),
        np.hstack([corner, corner + sides]),
        rng.random(count) < 0.1,
        np.zeros(count, bool),
    )


def random_predictions(rng: np.random.Generator, count: int, pictures: int, classes: int) -> PredictedBoxes:
    boxes = random_objects(rng, count, pictures, classes)
    return PredictedBoxes(boxes.picture, boxes.label, boxes.box, np.ones(count, bool))


# --- intervals -----------------------------------------------------------------------------------------------


def test_intervals_hold_the_value_and_the_same_seed_gives_the_same(cli: Cli) -> None:
    result = evaluated(cli, results("p.json", 4))
    assert result["intervals"] == evaluated(cli, "p.json")["intervals"]
    assert (result["intervals"]["level"], result["intervals"]["resamples"]) == (0.95, 1000)
    for name in ("precision", "recall", "f1", "mean_iou"):
        low, high = result["intervals"][name]
        assert low <= result["overall"][name] <= high
    assert result["intervals"]["f1"][0] < result["overall"]["f1"] < result["intervals"]["f1"][1]


def test_counts_by_picture_add_up_to_the_whole_and_resampling_draws_whole_pictures() -> None:
    rng = np.random.default_rng(3)
    predictions, objects = random_predictions(rng, 80, 9, 2), random_objects(rng, 60, 9, 2)
    measured = detection(predictions, objects, ["a", "b"])
    counts = group_counts(predictions.picture, objects.picture[objects.targets], measured.match, 9)
    total = measured.overall
    assert counts.sum(axis=0) == pytest.approx([total.tp, total.fp, total.fn, (total.mean_iou or 0) * total.tp])
    (sums,) = bootstrap.resampled([np.eye(9)], seed=5, resamples=50)
    assert (sums.sum(axis=1) == 9).all()
    assert len(np.unique(sums, axis=0)) > 40


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """200 samples of 60 pictures from a world whose recall is known."""
    rng, covered = np.random.default_rng(0), 0
    for number in range(200):
        hit = rng.random((60, 5)) < rng.beta(4, 2, (60, 1))
        counts = np.column_stack([hit.sum(1), np.zeros(60), 5 - hit.sum(1), hit.sum(1)]).astype(float)
        low, high = bootstrap.intervals(counts, number)["recall"]
        covered += low <= 4 / 6 <= high
    assert 178 <= covered <= 199


# --- scores --------------------------------------------------------------------------------------------------


def test_each_point_of_the_curve_is_what_counting_above_its_threshold_gives() -> None:
    rng = np.random.default_rng(1)
    predictions, objects = random_predictions(rng, 60, 5, 2), random_objects(rng, 40, 5, 2)
    scores = rng.integers(1, 20, 60) / 20
    targets = int(np.count_nonzero(objects.targets))
    result = sweep(scores, match_by_score(predictions, scores, objects, 0.3), targets)
    assert result["best"]["f1"] == max(point["f1"] for point in result["curve"])
    for point in result["curve"]:
        above = scores >= point["threshold"]
        matched = match_by_score(predictions.where(above), scores[above], objects, 0.3)
        again = sweep(scores[above], matched, targets)["curve"][-1]
        assert again == pytest.approx(point)


def test_scores_come_from_where_they_are_said_to(cli: Cli) -> None:
    result = evaluated(cli, results("p.json", 4))
    assert result["protocol"]["score_source"] == result["coco"]["score_source"] == result["scores"]["source"] == "file"
    assert result["scores"]["best"] == {"threshold": 0.9, "precision": 1.0, "recall": pytest.approx(2 / 3), "f1": 0.8}
    assert sum(entry["count"] for entry in result["scores"]["calibration"]["bins"]) == result["protocol"]["predictions"]
    flat_ = evaluated(cli, "p.json", "--scores", "constant")
    assert (flat_["coco"]["score_source"], flat_["scores"]) == ("constant", {})
    assert flat_["coco"]["AP"] < result["coco"]["AP"]
    assert evaluated(cli, results("q.json", 1, scores=False))["protocol"]["score_source"] == "constant"
    done = cli("eval", "--truth", "truth.json", "--predictions", "q.json", "--scores", "logprob")
    assert (done.exit_code, done.stderr) == (
        2,
        "error: The predictions file has no scores of the kind logprob: q.json\n  Its form is COCO results, its "
        "scores are constant.\nhint: Log-probabilities are kept with infer.scores = true.\n",
    )


def test_a_boxs_score_is_its_labels_chance_and_the_mean_of_its_coordinates() -> None:
    ref, end, box, box_end = "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>"
    tokens = [
        (ref, -9.0), ("traffic", -0.1), (" light", -0.2), (end, -9.0), (box, -9.0), ("(", 0.0), ("1", -0.4), ("0", 0.0),
        (",", 0.0), ("2", 0.0), ("),(", -0.4), ("30", -0.8), (",", 0.0), ("40", 0.0), (")", 0.0), (box_end, -9.0),
    ]  # fmt: skip
    text = "".join(token for token, _ in tokens)
    rule: ScoreRule = "label_times_mean"
    parsed = dialects.get("qwen2_vl").parse(text + text.replace("1", "5"), None, None, tokens + tokens, rule)
    assert [entry.score for entry in parsed.detections] == [pytest.approx(np.exp(-0.3 - 1.6 / 4))] * 2
    plain = [("cat", -0.5), ("(1,2),", -0.4), ("(3,4)", -0.4)]
    (entry,) = dialects.get("qwen2_vl").parse("cat(1,2),(3,4)", None, None, plain, rule).detections
    assert entry.score == pytest.approx(np.exp(-0.5 - 0.8 / 4))


def scored_answers(name: str = "a.jsonl") -> list[dict[str, Any]]:
    """Answers to all pictures with a cat that is right and a dog that is wrong, which is less certain."""
    rows = []
    for n in range(12):
        sure = [("cat", -0.01), ("(50,50),(250,250)", -0.04)]
        unsure = [("dog", -2.0), ("(500,500),(800,700)", -1.0)]
        tokens = sure + unsure
        rows.append({"image": f"{n}.jpg", "image_id": n + 1, "size": [100, 100], "prompt": "<image>x",
                     "text": "".join(text for text, _ in tokens), "tokens": tokens})  # fmt: skip
    write_answers(name, rows)
    return rows


def write_answers(name: str, rows: list[dict[str, Any]]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_answers_with_log_probabilities_are_scored_and_half_of_them_are_refused(cli: Cli) -> None:
    rows = scored_answers()
    result = evaluated(cli, "a.jsonl", "--score-rule", "label_times_mean")
    assert (result["scores"]["source"], result["scores"]["rule"]) == ("logprob", "label_times_mean")
    thresholds = [entry["threshold"] for entry in result["scores"]["curve"]]
    assert thresholds == [pytest.approx(np.exp(-0.02)), pytest.approx(np.exp(-2.25))]
    del rows[3]["tokens"]
    rows[5]["tokens"] = [["another text", -1.0]]
    write_answers("a.jsonl", rows)
    done = cli("eval", "--truth", "truth.json", "--predictions", "a.jsonl")
    assert (done.exit_code, done.stderr) == (
        3,
        "error: 2 of 12 answers lack log-probabilities: a.jsonl\n  3.jpg\n  5.jpg\nhint: Answer all in one run with "
        "infer.scores = true.\n",
    )


def test_the_rule_of_scores_is_chosen_and_named_and_never_mixed_up(cli: Cli) -> None:
    scored_answers()
    chances = {"label": (-0.01, -2.0), "min_coordinate": (-0.04, -1.0), "product": (-0.05, -3.0)}
    for rule, logs in chances.items():
        result = evaluated(cli, "a.jsonl", "--score-rule", rule)
        assert [point["threshold"] for point in result["scores"]["curve"]] == pytest.approx(np.exp(logs))
        assert {result[part]["score_rule"] for part in ("protocol", "coco")} == {rule}
        Path(f"{rule}.json").write_text(json.dumps(result))
    assert "AP ranks boxes by: logprob, label" in cli(
        "eval", "--truth", "truth.json", "--predictions", "a.jsonl", "--score-rule", "label"
    ).stdout  # fmt: skip
    assert evaluated(cli, "a.jsonl", "--scores", "constant")["protocol"]["score_rule"] is None
    done = cli("compare", "label.json", "product.json")
    assert done.exit_code == 2
    assert "score_rule: label in label.json, product in product.json" in done.stderr


def test_a_report_of_a_version_that_named_no_rule_has_the_rule_of_that_version(cli: Cli) -> None:
    scored_answers()
    for rule in ("label", "label_times_mean"):
        Path(f"{rule}.json").write_text(json.dumps(evaluated(cli, "a.jsonl", "--score-rule", rule)))
    earlier = json.loads(Path("label_times_mean.json").read_text())
    del earlier["protocol"]["score_rule"], earlier["coco"]["score_rule"], earlier["scores"]["rule"]
    Path("earlier.json").write_text(json.dumps(earlier))
    assert cli("compare", "earlier.json", "label_times_mean.json").exit_code == 0
    assert "score_rule: label_times_mean in earlier.json" in cli("compare", "earlier.json", "label.json").stderr
    plain = evaluated(cli, results("p.json", 4))
    del plain["protocol"]["score_rule"]
    Path("plain.json").write_text(json.dumps(plain))
    evaluated(cli, "p.json", "--no-worse-than", "plain.json")


# --- errors, counting, protocols -----------------------------------------------------------------------------


def test_what_is_taken_for_what_and_how_it_is_counted(cli: Cli) -> None:
    pictures: dict[str, Boxes] = {"a.jpg": [("cat", (0, 0, 20, 20)), ("dog", (50, 50, 20, 20))], "b.jpg": []}
    Path("t.json").write_text(json.dumps(coco_document(pictures, size=(100, 100))))
    detections = [{"image_path": "a.jpg", "object": {"dog": [[0, 0, 20, 20], [50, 50, 70, 70]]}},
             {"image_path": "b.jpg", "object": {"ufo": [[0, 0, 9, 9]]}}]  # fmt: skip
    Path("p.json").write_text(json.dumps(detections))
    done = cli("eval", "--truth", "t.json", "--predictions", "p.json", "--json")
    result = json.loads(done.stdout)
    assert result["confusion"]["pairs"] == {"cat": {"dog": 1}, "dog": {"dog": 1}}
    assert result["confusion"]["false"] == {"ufo": 1}
    assert result["errors"]["wrong class"]["count"] == 1
    assert result["errors"]["background"]["count"] == 1
    per_class = result["counting"]["per_class"]
    assert {name: entry["bias"] for name, entry in per_class.items()} == {"cat": -1.0, "dog": 1.0, "ufo": 1.0}
    assert (result["counting"]["n"], result["counting"]["mean_absolute_error"], result["counting"]["exact"]) == (
        3,
        1.0,
        0.0,
    )


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000))
def test_counting_equals_counting_by_hand(seed: int) -> None:
    rng = np.random.default_rng(seed)
    predictions, objects = random_predictions(rng, 20, 3, 3), random_objects(rng, 15, 3, 3)
    result = counting.from_detections(predictions, objects, ["a", "b", "c"])
    errors = []
    for picture in range(3):
        for label in range(3):
            predicted = sum((predictions.picture == picture) & (predictions.label == label))
            true = sum((objects.picture == picture) & (objects.label == label))
            if predicted or true:
                errors.append(int(predicted) - int(true))
    assert result["n"] == len(errors)
    assert result["mean_absolute_error"] == pytest.approx(np.abs(errors).mean())
    assert result["exact"] == pytest.approx(np.mean(np.array(errors) == 0))


def test_the_protocol_of_present_classes_is_one_flag_and_never_mixed_up(cli: Cli) -> None:
    document = coco_document(PICTURES, size=(100, 100))
    rows = [{"image_path": entry["file_name"], "object": {"cat": [[5, 5, 25, 25]], "dog": [[0, 0, 9, 9]]}}
            for entry in document["images"]]  # fmt: skip
    Path("p.json").write_text(json.dumps(rows))
    every, present = evaluated(cli, "p.json"), evaluated(cli, "p.json", "--classes", "present")
    assert (every["overall"]["fp"], present["overall"]["fp"]) == (16, 4)
    assert present["protocol"]["classes"] == "present"
    assert present["ledger"]["predicted boxes"] == {
        "in": 24, "kept": 12, "dropped": {"class absent from the picture": 12}
    }  # fmt: skip
    for name, entry in (("all.json", every), ("present.json", present)):
        Path(name).write_text(json.dumps(entry))
    done = cli("compare", "all.json", "present.json")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == (
        "error: The reports have different protocols\n  classes: all in all.json, present in present.json\nhint: "
        "Evaluate all against the same truth with the same settings, or compare them anyway with --force.\n"
    )
    assert "protocols differ: classes" in cli("compare", "all.json", "present.json", "--force").stdout


# --- comparison ----------------------------------------------------------------------------------------------


def test_compare_tells_differences_with_paired_intervals(cli: Cli) -> None:
    result = json.loads(cli("compare", saved(cli, "base.json", 8), saved(cli, "tuned.json", 1), "--json").stdout)
    assert result["names"] == ["base", "tuned"]
    f1 = result["measures"]["F1"]
    assert f1["differences"] == [pytest.approx(f1["values"][1] - f1["values"][0])]
    ((low, high),) = f1["intervals"]
    assert 0 < low < f1["differences"][0] < high
    same = json.loads(cli("compare", "base.json", "base.json", "base.json", "--json").stdout)
    assert same["measures"]["F1"]["intervals"] == [[0.0, 0.0], [0.0, 0.0]]
    shown = cli("compare", "base.json", "tuned.json").stdout
    assert f"{f1['values'][0]:.3f}" in shown
    assert f"{f1['differences'][0]:+.3f} [" in shown


def test_compare_tells_settings_that_differ(cli: Cli) -> None:
    for name, rank in (("a.json", 8), ("b.json", 32)):
        result = evaluated(cli, results("p.json", 2))
        Path(name).write_text(json.dumps({**result, "config": {"train": {"lora_rank": rank, "seed": 1}}}))
    assert json.loads(cli("compare", "a.json", "b.json", "--json").stdout)["settings"] == {"train.lora_rank": [8, 32]}


def test_a_setting_that_an_earlier_report_does_not_know_has_its_default(cli: Cli) -> None:
    for name in ("earlier.json", "later.json"):
        saved(cli, name, 1)
    report = json.loads(Path("earlier.json").read_text())
    report["config"] = {"train": {"lora_rank": 16}}
    Path("earlier.json").write_text(json.dumps(report))
    report["config"] = {"train": {"lora_rank": 16, "patience": 0, "vit_lr": 1e-5}}
    Path("later.json").write_text(json.dumps(report))
    settings = json.loads(cli("compare", "earlier.json", "later.json", "--json").stdout)["settings"]
    assert settings == {"train.vit_lr": [0.0, 1e-5]}


def test_reports_of_other_pictures_are_refused_with_what_differs(cli: Cli) -> None:
    saved(cli, "a.json", 1)
    Path("one.json").write_text(json.dumps(coco_document({"a.jpg": [("cat", (0, 0, 9, 9))]})))
    Path("p.json").write_text('[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 1}]')
    Path("b.json").write_text(cli("eval", "--truth", "one.json", "--predictions", "p.json", "--json").stdout)
    done = cli("compare", "a.json", "b.json")
    assert done.exit_code == 2
    assert "pictures or objects: 12 pictures, 12 objects (" in done.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "error: Not a report of `vlmdet eval`: bad.json\n  Expected `object`, got `array`.\nhint: Reports are "
               "written to reports/, and by `vlmdet eval --json`.\n"),
        ('{"a": 1}', "error: Not a report of `vlmdet eval`: bad.json\n  Object missing required field `protocol`.\n"
                     "hint: Reports are written to reports/, and by `vlmdet eval --json`.\n"),
    ],
)  # fmt: skip
def test_what_is_no_report_is_said_to_be_none(cli: Cli, content: str, message: str) -> None:
    Path("bad.json").write_text(content)
    done = cli("compare", "bad.json", "bad.json")
    assert (done.exit_code, done.stderr) == (3, message)


# --- gates and exports ---------------------------------------------------------------------------------------


def test_no_worse_than_a_baseline_with_a_tolerance(cli: Cli) -> None:
    saved(cli, "baseline.json", 1)
    evaluated(cli, results("p.json", 1), "--no-worse-than", "baseline.json")
    evaluated(cli, results("p.json", 3), "--no-worse-than", "baseline.json", code=1)
    evaluated(cli, "p.json", "--no-worse-than", "baseline.json", "--tolerance", "0.5")
    done = cli(
        "eval", "--truth", "truth.json", "--predictions", "p.json", "--no-worse-than", "baseline.json", "--iou", "0.7"
    )
    assert done.exit_code == 2
    assert "iou: 0.5 in baseline.json, 0.7 in this report" in done.stderr


def test_gates_are_written_as_junit_xml(cli: Cli) -> None:
    arguments = ("--fail-under", "f1=0.99", "--fail-under", "recall=0.1", "--junit", "gates.xml")
    evaluated(cli, results("p.json", 3), *arguments, code=1)
    (suite,) = ET.parse("gates.xml").getroot()  # noqa: S314
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    first, second = suite
    assert first.get("name") == "f1 >= 0.99"
    assert [child.tag for child in first] == ["failure"]
    assert list(second) == []


def test_csv_has_a_row_a_class_and_markdown_is_harmless(cli: Cli) -> None:
    names = ('=a"b,c', "<img src=x>|*y*")
    pictures: dict[str, Boxes] = {"a.jpg": [(name, (0, 0, 9, 9)) for name in names]}
    Path("t.json").write_text(json.dumps(coco_document(pictures, categories=names)))
    Path("p.json").write_text('[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 1}]')
    files = ("--truth", "t.json", "--predictions", "p.json")
    rows = list(csv.DictReader(io.StringIO(cli("eval", *files, "--csv").stdout)))
    assert [(row["class"], row["recall"], row["precision"]) for row in rows] == [
        ("'" + names[0], "1.0", "1.0"),
        (names[1], "0.0", ""),
    ]
    shown = cli("eval", *files, "--markdown", "--fail-under", "f1=0.1").stdout
    assert "| F1 | 0.667 |" in shown
    assert "- ✅ f1 = 0.667, required ≥ 0.1" in shown
    assert "<img" not in shown
    assert r"&lt;img src=x&gt;\|\*y\*" in shown
    assert cli("eval", *files, "--csv", "--json").exit_code == 2


def test_tables_fit_eighty_columns(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    saved(cli, "base.json", 5)
    for arguments in (
        ("eval", "--truth", "truth.json", "--predictions", "p.json"),
        ("compare", "base.json", "base.json"),
    ):
        assert max(map(len, cli(*arguments).stdout.splitlines())) <= 80
