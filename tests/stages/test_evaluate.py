"""eval through the command line: every form of predictions, every bad input, gates."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Boxes, Cli, coco_document
from vlmdet_cli.core.answers import Answer
from vlmdet_cli.engines import answer_lines
from vlmdet_cli.models import dialects

DOCS = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
PROMPT = "<image>Draw the bounding box of objects"
# the worked example of docs/metrics.md
EXAMPLE: dict[str, Boxes] = {"a.jpg": [("cat", (0, 0, 10, 10)), ("cat", (20, 0, 10, 10)), ("dog", (0, 20, 10, 10))]}
DETECTIONS = [{"image_path": "x/a.jpg", "object": {"cat": [[0, 0, 10, 8], [1, 0, 11, 10]], "dog": [[40, 40, 50, 50]]}}]


def write(name: str, document: Any) -> str:
    Path(name).write_text(document if isinstance(document, str) else json.dumps(document))
    return name


def truth(**pictures: Any) -> str:
    return write("truth.json", coco_document(pictures or EXAMPLE, size=(100, 100)))


def report(cli: Cli, truth_file: str, predictions: str, *options: str) -> dict[str, Any]:
    done = cli("eval", "--truth", truth_file, "--predictions", predictions, "--json", *options)
    assert (done.exit_code, done.stderr) == (0, "")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_the_worked_example_of_the_documents_holds(cli: Cli) -> None:
    result = report(cli, truth(), write("p.json", DETECTIONS))
    rows = {"all": result["overall"], **result["per_class"]}
    lines = DOCS.read_text().partition("<!-- example -->")[2].splitlines()[3:6]
    for line in lines:
        name, *values = [part.strip() for part in line.strip("| ").split("|")]
        entry = rows[name]
        shown = [
            entry["tp"],
            entry["fp"],
            entry["fn"],
            entry["precision"],
            entry["recall"],
            entry["f1"],
            entry["mean_iou"],
        ]
        texts = ["–" if v is None else f"{v:.3f}" if isinstance(v, float) else str(v) for v in shown]
        assert texts == values, name
    assert [line.split("|")[1].strip() for line in lines] == ["all", "cat", "dog"]


def answer(image: str, text: str, **more: Any) -> str:
    return json.dumps({"image": image, "text": text, "prompt": PROMPT, **more})


def test_all_forms_of_the_same_predictions_give_the_same_numbers(cli: Cli) -> None:
    text = "cat(0,0),(100,80)cat(10,0),(110,100)dog(400,400),(500,500)"
    swift = {"response": text, "messages": [{"role": "user", "content": PROMPT}], "images": [{"path": "/y/a.jpg"}]}
    results = [
        {"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 8], "score": 1},
        {"image_id": 1, "category_id": 1, "bbox": [1, 0, 10, 10], "score": 1},
        {"image_id": 1, "category_id": 2, "bbox": [40, 40, 10, 10], "score": 1},
    ]
    forms = {
        "detection JSON": write("any.txt", DETECTIONS),
        "COCO results": write("b", results),
        "answers": write("c.json", answer("data/a.jpg", text, image_id=1) + "\n"),
        "swift infer": write("d.dat", json.dumps(swift) + "\n"),
    }
    result = {form: report(cli, truth(), name) for form, name in forms.items()}
    assert {form: entry["protocol"]["form"] for form, entry in result.items()} == {form: form for form in forms}
    curves = {form: entry["overall"].pop("f1_by_iou") for form, entry in result.items()}
    first = result["detection JSON"]
    for form, entry in result.items():
        assert entry["overall"] == pytest.approx(first["overall"]), form
        assert curves[form] == pytest.approx(curves["detection JSON"]), form
        assert {k: v for k, v in entry["coco"].items() if k != "score_source"} == {
            k: v for k, v in first["coco"].items() if k != "score_source"
        }, form
    assert result["answers"]["protocol"]["prompt"] == ["Draw the bounding box of objects"]
    assert [result[form]["protocol"]["score_source"] for form in ("answers", "COCO results")] == ["constant", "file"]


def test_the_report_has_the_documented_fields(cli: Cli) -> None:
    result = report(cli, truth(), write("p.jsonl", answer("a.jpg", "cat(0,0),(100,80)") + "\n"))
    text = re.sub(r"\s+", " ", DOCS.read_text().partition("## `eval --json`")[2])
    for part in ("protocol", "overall", "answers"):
        documented = re.search(rf'"{part}": {{([^}}]*)}}', text)
        assert documented
        assert set(documented[1].replace(" ", "").split(",")) == set(result[part]), part
    assert list(result) == [
        "schema", "protocol", "overall", "intervals", "per_class", "sizes", "coco", "errors", "confusion", "counting",
        "scores", "tasks", "answers", "ledger", "config", "pictures", "notes",
    ]  # fmt: skip


def test_health_problems_unknown_labels_and_unanswered_pictures_are_counted(cli: Cli) -> None:
    pictures = {f"{name}.jpg": [("cat", (0, 0, 50, 50))] for name in "abcd"} | {"e.jpg": []}
    rows = [
        answer("a.jpg", "cat(0,0),(500,500)cat(0,0),(500,500)"),
        answer("b.jpg", "sorry"),
        answer("c.jpg", "unicorn(0,0),(500,500)", finish="length"),
        answer("e.jpg", "No objects."),
    ]
    result = report(cli, truth(**pictures), write("p.jsonl", "\n".join(rows) + "\n"))
    assert (result["overall"]["tp"], result["overall"]["fp"], result["overall"]["fn"]) == (1, 2, 3)
    assert result["answers"]["health"] == {"partial": 2, "unparsed": 1, "empty": 1}
    assert result["answers"]["problems"] == {"duplicate": 1, "unparsed": 1, "unknown_label": 1}
    assert result["answers"]["finish"] == {"stop": 3, "length": 1}
    assert result["per_class"]["unicorn"]["fp"] == 1
    assert result["ledger"]["pictures"] == {
        "in": 5, "kept": 4, "dropped": {"no answer, their objects count as missed": 1},
    }  # fmt: skip


def test_false_boxes_in_empty_pictures_count(cli: Cli) -> None:
    rows = [answer("a.jpg", "cat(0,0),(500,500)"), answer("b.jpg", "cat(0,0),(500,500)dog(0,0),(9,9)")]
    pictures = {"a.jpg": [("cat", (0, 0, 50, 50))], "b.jpg": []}
    result = report(cli, truth(**pictures), write("p.jsonl", "\n".join(rows) + "\n"))
    assert (result["overall"]["fp_in_empty_pictures"], result["overall"]["precision"]) == (2, pytest.approx(1 / 3))


def test_questions_are_scored_by_what_they_say(cli: Cli) -> None:
    full = 'The area X fully contains a "cat".'
    partial = 'The area X partially contains a "dog", about 60% is visible.'
    rows = [
        answer("a.jpg", "cat(0,0),(100,100)"),
        answer("a.jpg", full.replace("X", "(1,2),(3,4)"), kind="full", expected=full),
        answer("a.jpg", full.replace("cat", "dog"), kind="full", expected=full),
        answer("a.jpg", partial.replace("60", "70"), kind="partial", expected=partial),
        answer("a.jpg", partial.replace("60", "80"), kind="partial", expected=partial),
        answer("a.jpg", "cat: 3\ndog: 1", kind="count", expected="cat: 2\ndog: 1"),
        answer("a.jpg", "hm", kind="none", expected="The area X does not contain any object from the COCO categories."),
    ]
    result = report(cli, truth(), write("p.jsonl", "\n".join(rows) + "\n"))["tasks"]
    assert {kind: (entry["n"], entry["accuracy"]) for kind, entry in result.items()} == {
        "full": (2, 0.5), "partial": (2, 0.5), "count": (1, 0.0), "none": (1, 0.0),
    }  # fmt: skip
    assert (result["count"]["mean_absolute_error"], result["count"]["bias"]) == (0.5, 0.5)
    assert result["none"]["said"] == {"unparsed": 1}


def test_gates_decide_the_exit_code_and_say_so(cli: Cli) -> None:
    given = ("eval", "--truth", truth(), "--predictions", write("p.json", DETECTIONS))
    passed = cli(*given, "--fail-under", "f1=0.3", "--fail-under", "per_class.cat.recall=0.5")
    assert passed.exit_code == 0
    assert "gate passed: per_class.cat.recall = 0.5000 ≥ 0.5" in passed.stdout
    missed = cli(*given, "--fail-under", "f1=0.3", "--fail-under", "per_class.dog.mean_iou=0.1")
    assert missed.exit_code == 1
    assert "gate MISSED: per_class.dog.mean_iou = undefined < 0.1" in missed.stdout


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ("f1", "error: Not a gate: f1\nhint: A gate is METRIC=VALUE, such as f1=0.5.\n"),
        ("mean_iuo=0.5", "error: The report has no such measure: mean_iuo=0.5\nhint: Known here: mean_iou.\n"),
        ("zzz.a=0.5", "error: The report has no such measure: zzz.a=0.5\nhint: Known here: precision, recall, f1, "
                      "mean_iou, tp, fp, fn, ignored.\n"),
        ("coco.AP5=0.5", "error: The report has no such measure: coco.AP5=0.5\nhint: Known here: AP75, AP50, AP.\n"),
        ("per_class=1", "error: Not a number in the report: per_class=1\nhint: Name a measure, such as f1 or "
                        "coco.AP50.\n"),
    ],
)  # fmt: skip
def test_a_wrong_gate_is_a_usage_error(cli: Cli, wish: str, message: str) -> None:
    done = cli("eval", "--truth", truth(), "--predictions", write("p.json", DETECTIONS), "--fail-under", wish)
    assert (done.exit_code, done.stdout, done.stderr) == (2, "", message)


GOOD = answer("a.jpg", "cat(0,0),(100,80)")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "error: The predictions file is empty: p\nhint: Did the run that writes it end early?\n"),
        (GOOD + '\n{"image": "a', "error: The predictions file has a line that is not valid JSON: p\n"
         "  Line 2, the last one, column 13: unexpected end of data.\n"
         "hint: Run `vlmdet infer` again: it goes on where it was.\n"),
        (GOOD + "\n" + GOOD, "error: The predictions file has 1 answer to a picture that is answered already: p\n"
         "  a.jpg, 2 times\n"
         "hint: Keep one answer a picture.\n"),
        (answer("z.jpg", "") + "\n" + answer("y.jpg", ""), "error: The predictions file has 2 answers for pictures "
         "that the truth does not have: p\n  z.jpg\n  y.jpg\n  Truth: truth.json\nhint: Are both of the same split?\n"),
        ('[{"image_path": "a.jpg", "object": {"cat": [[5, 5, 1, 9]]}}]', "error: The predictions file has 1 wrong "
         "box: p\n  a.jpg cat [5.0, 5.0, 1.0, 9.0]\nhint: A box needs finite numbers and no negative side.\n"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 5, -5]}]', "error: The predictions file has 1 wrong "
         "box: p\n  row 0: bbox [0.0, 0.0, 5.0, -5.0]\nhint: A box needs finite numbers and no negative side.\n"),
        ('[{"image_id": 1, "category_id": 8, "bbox": [0, 0, 5, 5]}]', "error: The predictions file has 1 box of "
         "unknown categories: p\n  category_id 8\n"),
        ('[{"image_id": 1, "category_id": "1", "bbox": [0, 0, 5, 5]}]', "error: The predictions file has a wrong "
         "entry: p\n  Expected `int`, got `str` - at `$[0].category_id`.\n"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [0, 0, NaN, 5]}]', "error: The predictions file is not valid "
         "JSON: p\n  Line 1, column 51: unexpected character, expected a JSON value.\n"
         "hint: Was it cut while being copied? Check the file's end.\n"),
        ('[{"image_id": "1", "category_id": 1, "bbox": [0, 0, 5, 5]}]', "error: The predictions file has 1 answer for "
         "pictures that the truth does not have: p\n  image_id '1'\n  Truth: truth.json\nhint: Are both of the same "
         "split?\n"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5], "score": 1}, '
         '{"image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5]}]', "error: The predictions file has 1 row without a "
         "number as score: p\n  row 1: no score\n"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5]}, {"image_path": "a.jpg", "object": {}}]',
         "error: The predictions file has a wrong entry: p\n  Object missing required field `image_id` - at `$[1]`.\n"),
        (GOOD + '\n{"image_path": "a.jpg", "object": {}}', "error: The predictions file has none of the known forms: "
         "p\n"
         "hint: Known are answers (JSONL), swift infer's result file, detection JSON and COCO results.\n"),
        ('[{"a": 1}]', "error: The predictions file has none of the known forms: p\nhint: Known are answers (JSONL), "
         "swift infer's result file, detection JSON and COCO results.\n"),
        ('[{"image_id": 1,', "error: The predictions file is not valid JSON: p\n  Line 1, column 17: unexpected end of "
         "data.\nhint: Was it cut while being copied? Check the file's end.\n"),
    ],
)  # fmt: skip
def test_bad_predictions_are_told_whole(cli: Cli, content: str, message: str) -> None:
    done = cli("eval", "--truth", truth(), "--predictions", write("p", content))
    assert (done.exit_code, done.stdout, done.stderr) == (3, "", message)


def test_a_file_that_is_not_there_is_named(cli: Cli) -> None:
    done = cli("eval", "--truth", truth(), "--predictions", "nope.jsonl")
    assert (done.exit_code, done.stderr) == (
        3,
        "error: Cannot read the predictions file: nope.jsonl\n  No such file or directory.\nhint: Check the path.\n",
    )


def test_detection_json_can_be_the_truth(cli: Cli) -> None:
    result = report(cli, write("t.json", DETECTIONS), write("p.json", DETECTIONS))
    assert (result["overall"]["f1"], result["coco"]["AP"]) == (1.0, pytest.approx(1.0))
    done = cli("eval", "--truth", "t.json", "--predictions", write("raw.jsonl", answer("a.jpg", "cat(1,1),(5,5)")))
    assert (done.exit_code, done.stderr) == (
        3,
        "error: The size of a picture is not known: a.jpg\n"
        "  Neither t.json nor raw.jsonl has it, and answers are in thousandths of it.\n"
        "hint: Give the truth as COCO instances JSON.\n",
    )


# --- what does not count -------------------------------------------------------------------------------------


def counts(result: dict[str, Any]) -> tuple[int, int, int, int]:
    overall = result["overall"]
    return overall["tp"], overall["fp"], overall["fn"], overall["ignored"]


def detections(**pictures: dict[str, Any]) -> str:
    rows = [{"image_path": f"{name}.jpg", "object": objects} for name, objects in pictures.items()]
    return write("detections.json", rows)


def test_a_category_that_was_not_searched_for_in_a_picture_counts_in_no_measure(cli: Cli) -> None:
    """Cats in a: searched for. In b: not at all. In c: not all of them are annotated. Dogs: searched for nowhere."""
    document = coco_document({"a.jpg": [("cat", (0, 0, 20, 20))], "b.jpg": [], "c.jpg": [("cat", (0, 0, 20, 20))]},
                             size=(100, 100))  # fmt: skip
    for image in document["images"]:
        partly = [1] if image["file_name"] == "c.jpg" else []
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": partly}
    two = [[0, 0, 20, 20], [50, 50, 70, 70]]
    predictions = detections(a={"cat": two, "dog": two, "ufo": [[1, 1, 5, 5]]}, b={"cat": two}, c={"cat": two})
    result = report(cli, write("lvis.json", document), predictions)
    # found in a and c; false in a; a label that is no category is false everywhere
    assert counts(result) == (2, 2, 0, 5)
    assert {name: (entry["tp"], entry["fp"], entry["ignored"]) for name, entry in result["per_class"].items()} == {
        "cat": (2, 1, 3), "dog": (0, 0, 2), "ufo": (0, 1, 0),
    }  # fmt: skip
    assert result["ledger"]["predicted boxes"] == {
        "in": 9, "kept": 4, "dropped": {"category not searched for in the picture": 5},
    }  # fmt: skip
    assert [sum(result["pictures"][name]) for name in ("tp", "fp", "fn")] == [2, 2, 0]
    assert result["confusion"]["false"] == {"cat": 1, "ufo": 1}
    assert set(result["counting"]["per_class"]) == {"cat", "ufo"}
    assert result["counting"]["per_class"]["cat"] == {"n": 1, "mean_absolute_error": 1.0, "bias": 1.0, "exact": 0.0}
    assert (result["protocol"]["federated"], result["coco"]["AR100"]) == (True, None)
    assert result["coco"]["AR300"] == pytest.approx(1)


def subset_document(**changes: Any) -> dict[str, Any]:
    """A subset file: a counted cat, and a left-out object of a category and for a reason that can be changed."""
    document = coco_document({"a.jpg": [("cat", (0, 0, 20, 20))]}, size=(100, 100))
    left_out = {"id": 9, "image_id": 1, "category_id": 1, "bbox": [50, 50, 10, 10], "area": 100, "iscrowd": 0}
    return document | {"ignored": [left_out | {"category": "cat", "reason": "too small"} | changes]}


def test_an_object_left_out_as_too_small_is_neither_found_nor_missed_nor_false(cli: Cli) -> None:
    near, inside, far = [50, 50, 60, 59], [52, 52, 55, 55], [80, 80, 90, 90]
    predictions = detections(a={"cat": [[0, 0, 20, 20], near, inside, far]})
    result = report(cli, write("subset.json", subset_document()), predictions)
    assert counts(result) == (1, 2, 0, 1)
    assert result["ledger"]["predicted boxes"]["dropped"] == {"matches an object that is ignored": 1}
    assert (result["protocol"]["objects"], result["protocol"]["ignored_objects"]) == (1, 1)
    plain = report(cli, write("plain.json", subset_document() | {"ignored": []}), predictions)
    assert counts(plain) == (1, 3, 0, 0)
    assert result["protocol"]["truth_hash"] != plain["protocol"]["truth_hash"]


def test_a_crowd_left_out_by_policy_excuses_what_lies_in_it(cli: Cli) -> None:
    predictions = detections(a={"cat": [[52, 52, 55, 55]]})
    result = report(cli, write("subset.json", subset_document(iscrowd=1, reason="crowd")), predictions)
    assert counts(result) == (0, 0, 1, 1)


def test_left_out_objects_of_other_categories_have_no_effect(cli: Cli) -> None:
    document = subset_document(category_id=7, category="boat", reason="other category")
    result = report(cli, write("subset.json", document), detections(a={"boat": [[50, 50, 60, 60]]}))
    assert counts(result) == (0, 1, 1, 0)
    assert result["per_class"]["boat"]["fp"] == 1


@pytest.mark.parametrize("key", ["exhaustive_categories", "verified"])
def test_a_subset_file_says_what_was_searched_for_under_its_present_and_its_former_key(cli: Cli, key: str) -> None:
    document = coco_document({"a.jpg": [("cat", (0, 0, 20, 20))]}, size=(100, 100))
    document["images"][0][key] = ["cat"]
    predictions = detections(a={"cat": [[50, 50, 60, 60]], "dog": [[50, 50, 60, 60]]})
    assert counts(report(cli, write("subset.json", document), predictions)) == (0, 1, 1, 1)


# --- exact repeats -------------------------------------------------------------------------------------------


def test_exact_repeats_are_false_unless_the_protocol_removes_them(cli: Cli) -> None:
    """A loop of 200, and a box that comes again behind others."""
    cat, dog = "cat(0,0),(500,500)", "dog(500,500),(900,900)"
    pictures = {"a.jpg": [("cat", (0, 0, 50, 50))], "b.jpg": [("cat", (0, 0, 50, 50)), ("dog", (50, 50, 40, 40))]}
    rows = [answer("a.jpg", cat * 200), answer("b.jpg", cat + dog + cat)]
    files = (truth(**pictures), write("p.jsonl", "\n".join(rows) + "\n"))
    counted, removed = report(cli, *files), report(cli, *files, "--duplicates", "remove")
    assert (counts(counted), counts(removed)) == ((3, 200, 0, 0), (3, 0, 0, 0))
    for result, name in ((counted, "count"), (removed, "remove")):
        assert (result["protocol"]["duplicates"], result["protocol"]["repeats"]) == (name, 200)
        assert result["answers"]["duplicate_rate"] == pytest.approx(200 / 203)
    assert counted["ledger"]["predicted boxes"] == {"in": 203, "kept": 203, "dropped": {}}
    assert removed["ledger"]["predicted boxes"] == {"in": 203, "kept": 3, "dropped": {"exact repeat": 200}}
    for name, result in (("counted.json", counted), ("removed.json", removed)):
        write(name, result)
    compared = cli("compare", "counted.json", "removed.json")
    assert compared.exit_code == 2
    assert "duplicates: count in counted.json, remove in removed.json" in compared.stderr


def test_repeats_in_files_of_boxes_are_the_same_and_the_highest_score_stays(cli: Cli) -> None:
    results = [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "score": score} for score in (0.3, 0.9, 0.5)]
    removed = report(cli, truth(), write("results.json", results), "--duplicates", "remove")
    assert (counts(removed), removed["scores"]["best"]["threshold"]) == ((1, 0, 2, 0), 0.9)
    boxes = detections(a={"cat": [[0, 0, 10, 10]] * 3})
    assert counts(report(cli, truth(), boxes)) == (1, 2, 2, 0)
    assert counts(report(cli, truth(), boxes, "--duplicates", "remove")) == (1, 0, 2, 0)


def test_the_project_file_names_how_repeats_count(cli: Cli) -> None:
    assert cli("--set", "eval.duplicates=forget", "eval").exit_code == 2
    file = Path("vlmdet.toml")
    file.write_text('[project]\noutput = "out"\n[data.train]\nannotations = "a.json"\nimages = "i"\n'
                    '[eval]\nduplicates = "remove"\n')  # fmt: skip
    write("p.json", [{"image_path": "a.jpg", "object": {"cat": [[0, 0, 10, 10]] * 3}}])
    write("out/data/subset/test.json", "") if Path("out").is_dir() else Path("out/data/subset").mkdir(parents=True)
    write("out/data/subset/test.json", coco_document(EXAMPLE, size=(100, 100)))
    done = cli("eval", "--predictions", "p.json", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["protocol"]["duplicates"] == "remove"


# --- dialects ------------------------------------------------------------------------------------------------


def swift_row(text: str, image: str = "a.jpg") -> str:
    messages = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": text}]
    return json.dumps({"response": text, "messages": messages, "images": [f"/y/{image}"]})


@pytest.mark.parametrize("name", dialects.names())
def test_a_swift_result_file_is_read_in_its_own_dialect_by_content(cli: Cli, name: str) -> None:
    """The picture is larger than a thousand pixels, so that pixels and thousandths differ."""
    objects: list[tuple[str, Any]] = [("cat", (10, 20, 1300, 900)), ("dog", (1200, 40, 1390, 500))]
    truth_file = write("truth.json", coco_document(
        {"a.jpg": [(label, (x1, y1, x2 - x1, y2 - y1)) for label, (x1, y1, x2, y2) in objects]}, size=(1400, 1050)
    ))  # fmt: skip
    text = dialects.get(name).render(objects, (1400, 1050))
    predictions = write("swift.jsonl", swift_row(text) + "\n")
    result = json.loads(cli("eval", "--truth", truth_file, "--predictions", predictions, "--json").stdout)
    assert result["overall"]["f1"] == 1
    assert (result["protocol"]["dialect"], result["protocol"]["dialect_source"]) == (name, "content")
    named = report(cli, truth_file, predictions, "--dialect", name)
    assert (named["overall"]["f1"], named["protocol"]["dialect_source"]) == (1, "named")


def test_a_text_that_two_dialects_read_equally_well_is_pointed_out(cli: Cli) -> None:
    text = '[{"bbox_2d": [1, 1, 50, 50], "label": "cat"}]'
    predictions = write("swift.jsonl", swift_row(text) + "\n")
    done = cli("eval", "--truth", truth(), "--predictions", predictions, "--json")
    assert json.loads(done.stdout)["protocol"]["dialect"] == "qwen2_5_vl"
    assert done.stderr == (
        "warning: The answers read equally well as qwen2_5_vl and as qwen3_vl; taken as qwen2_5_vl. Name it with "
        "--dialect.\n"
    )
    assert report(cli, "truth.json", predictions, "--dialect", "qwen3_vl")["protocol"]["dialect"] == "qwen3_vl"
    done = cli("eval", "--truth", "truth.json", "--predictions", predictions, "--dialect", "qwen9")
    assert done.exit_code == 2
    assert "No such dialect: qwen9" in done.stderr


def test_an_answer_without_a_word_is_an_answer(cli: Cli) -> None:
    silent = Answer(image="a.jpg", prompt="<image>x", text="", dialect="qwen2_vl")
    Path("answers.jsonl").write_bytes(answer_lines.line(silent))
    measured = report(cli, truth(), "answers.jsonl")
    assert measured["answers"]["health"] == {"empty": 1}
    assert (measured["overall"]["tp"], measured["overall"]["fp"]) == (0, 0)
    assert "a.jpg" in cli("show", "answers.jsonl").stdout


def test_a_table_of_markup_and_escapes_shows_them_as_written(cli: Cli) -> None:
    labels = {"[red]x[/red]": [[1, 1, 5, 5]], "\x1b[31mred": [[1, 1, 5, 5]]}
    done = cli(
        "eval",
        "--full",
        "--truth",
        truth(),
        "--predictions",
        write("p.json", [{"image_path": "a.jpg", "object": labels}]),
    )
    assert done.exit_code == 0
    assert "[red]x[/red]" in done.stdout
    assert "\\x1b[31mred" in done.stdout
    assert "\x1b" not in done.stdout
