"""export: other programs and our own reader find the same boxes in the files as eval does; bad input is refused."""

import json
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np
import pytest
from defusedxml.ElementTree import fromstring  # type: ignore[import-untyped]

from tests.conftest import Cli, coco_document, picture, write_project
from vlmdet_cli.core.boxes import xywh_to_xyxy
from vlmdet_cli.stages.evaluation.evaluate import evaluate

SIZE = (320, 240)
HOSTILE = '<b>"cat" & dog\x07</b>'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two pictures in COCO, with a crowd, and COCO results with scores, one of them beyond the border."""
    monkeypatch.chdir(tmp_path)
    boxes = {
        "a b.jpg": [("cat", (20, 20, 100, 100)), ("crowd:dog", (150, 10, 100.5, 90))],
        "deep/c.jpg": [("dog", (10.25, 20, 50, 60))],
    }
    Path("truth.json").write_text(json.dumps(coco_document(boxes, size=SIZE)))  # type: ignore[arg-type]
    results = [
        {"image_id": 1, "category_id": 1, "bbox": [22, 19, 101, 99], "score": 0.75},
        {"image_id": 2, "category_id": 1, "bbox": [250, 200, 100, 100], "score": 0.5},
    ]
    Path("results.json").write_text(json.dumps(results))
    for name in boxes:
        picture(tmp_path / "images", name, SIZE)
    return tmp_path


def export(cli: Cli, to: str, *more: str, code: int = 0) -> Any:
    files = ("--truth", "truth.json", "--predictions", "results.json", "--output", "export")
    result = cli("export", "--to", to, *files, *more, "--json")
    assert result.exit_code == code, result.stderr
    return json.loads(result.stdout) if code == 0 else result.stderr


@pytest.mark.parametrize("to", ["coco", "fiftyone", "supervision"])
def test_exported_coco_files_evaluate_to_the_same_numbers(cli: Cli, folder: Path, to: str) -> None:
    files = export(cli, to)["files"]
    assert files == ["export/truth.json", "export/predictions.json", "export/predicted_instances.json"]
    before = evaluate(folder / "truth.json", folder / "results.json")
    after = evaluate(folder / files[0], folder / files[1])
    assert (after.overall, after.per_class) == (before.overall, before.per_class)
    assert after.coco == before.coco
    assert after.protocol["crowds"] == 1


def test_supervision_reads_truth_and_predictions(cli: Cli, folder: Path) -> None:
    import supervision

    export(cli, "supervision")
    for name, expected in {
        "truth.json": [[20, 20, 120, 120], [150, 10, 250.5, 100], [10.25, 20, 60.25, 80]],
        "predicted_instances.json": [[22, 19, 123, 118], [250, 200, 350, 300]],
    }.items():
        data = supervision.DetectionDataset.from_coco(str(folder / "images"), str(folder / "export" / name))
        assert data.classes == ["cat", "dog"]
        boxes = np.concatenate([detections.xyxy for _, _, detections in data])
        assert boxes.tolist() == expected


def test_cvat_has_every_box_with_its_kind_score_and_flags(cli: Cli, folder: Path) -> None:
    export(cli, "cvat")
    root = fromstring((folder / "export/annotations.xml").read_bytes())
    assert [(i.get("name"), i.get("width"), i.get("height")) for i in root.findall("image")] == [
        ("a b.jpg", "320", "240"),
        ("deep/c.jpg", "320", "240"),
    ]
    assert [read_cvat(box) for box in root.iter("box")] == [
        ("cat", "manual", [20, 20, 120, 120], {"kind": "truth", "score": "", "crowd": "false", "ignored": ""}),
        ("dog", "manual", [150, 10, 250.5, 100], {"kind": "truth", "score": "", "crowd": "true", "ignored": ""}),
        ("cat", "auto", [22, 19, 123, 118], {"kind": "prediction", "score": "0.7500", "crowd": "false", "ignored": ""}),
        ("dog", "manual", [10.25, 20, 60.25, 80], {"kind": "truth", "score": "", "crowd": "false", "ignored": ""}),
        (
            "cat",
            "auto",
            [250, 200, 320, 240],
            {"kind": "prediction", "score": "0.5000", "crowd": "false", "ignored": ""},
        ),
    ]
    labels = json.loads((folder / "export/labels.json").read_text())
    assert [label["name"] for label in labels] == ["cat", "dog"]
    assert {attribute["name"] for attribute in labels[0]["attributes"]} == {"kind", "score", "crowd", "ignored"}


def read_cvat(box: Element) -> tuple[str | None, str | None, list[float], dict[str, str]]:
    values = {str(attribute.get("name")): attribute.text or "" for attribute in box}
    return (
        box.get("label"),
        box.get("source"),
        [float(box.get(key) or "nan") for key in ("xtl", "ytl", "xbr", "ybr")],
        values,
    )


def test_label_studio_has_percent_boxes_and_both_kinds(cli: Cli, folder: Path) -> None:
    export(cli, "label-studio")
    tasks = json.loads((folder / "export/tasks.json").read_text())
    assert [task["data"]["image"] for task in tasks] == [
        "/data/local-files/?d=a%20b.jpg",
        "/data/local-files/?d=deep/c.jpg",
    ]
    first = tasks[0]
    truth, predicted = first["annotations"][0]["result"], first["predictions"][0]["result"]
    assert [pixels(region) for region in truth] == [[20, 20, 100, 100], [150, 10, 100.5, 90]]
    assert [pixels(region) for region in predicted] == [[22, 19, 101, 99]]
    assert [region.get("meta") for region in truth] == [None, {"text": ["crowd"]}]
    assert (predicted[0]["score"], first["predictions"][0]["score"]) == (0.75, 0.75)
    assert first["predictions"][0]["model_version"] == "results"
    ids = [region["id"] for task in tasks for part in ("annotations", "predictions")
           for region in task[part][0]["result"]]  # fmt: skip
    assert len(set(ids)) == len(ids) == 5
    config = fromstring((folder / "export/label_config.xml").read_text())
    assert [label.get("value") for label in config.iter("Label")] == ["cat", "dog"]
    names = {config.find(tag).get("name") for tag in ("Image", "RectangleLabels")}
    assert names == {truth[0]["to_name"], truth[0]["from_name"]}


def pixels(region: dict[str, Any]) -> list[float]:
    """A region's left, top, width and height in pixels."""
    sides = {"x": 320, "y": 240, "width": 320, "height": 240}
    return [round(region["value"][key] * side / 100, 3) for key, side in sides.items()]


def test_an_address_stands_before_the_names_of_pictures(cli: Cli, folder: Path) -> None:
    export(cli, "label-studio", "--address", "https://example.org/p/")
    tasks = json.loads((folder / "export/tasks.json").read_text())
    assert tasks[1]["data"]["image"] == "https://example.org/p/deep/c.jpg"


def test_any_label_is_written_alike_in_all_files(cli: Cli, folder: Path) -> None:
    document = json.loads(Path("truth.json").read_text())
    document["categories"][0]["name"] = HOSTILE
    Path("truth.json").write_text(json.dumps(document))
    truth, *_, annotations, config, tasks = (
        (folder / file).read_text("utf-8")
        for to in ("coco", "cvat", "label-studio")
        for file in export(cli, to)["files"]
    )
    assert json.loads(truth)["categories"][0]["name"] == HOSTILE
    shown = HOSTILE.replace("\x07", "\ufffd")
    assert fromstring(annotations).findtext("meta/task/labels/label/name") == shown
    assert fromstring(annotations).find("image/box").get("label") == shown
    assert json.loads((folder / "export/labels.json").read_text())[0]["name"] == shown
    assert fromstring(config).find("RectangleLabels/Label").get("value") == shown
    assert json.loads(tasks)[0]["annotations"][0]["result"][0]["value"]["rectanglelabels"] == [shown]


def test_sizes_and_ids_that_the_truth_does_not_have_come_from_the_pictures_and_numbers(cli: Cli, folder: Path) -> None:
    rows = [{"image_path": "a b.jpg", "object": {"cat": [[20, 20, 120, 120]]}}]
    Path("truth.json").write_text(json.dumps(rows))
    Path("results.json").write_text(json.dumps([{"image_path": "a b.jpg", "object": {"bird": [[1, 2, 3, 4]]}}]))
    assert "does not state the size of 1 picture" in export(cli, "coco", code=3)
    result = export(cli, "coco", "--images", "images")
    assert result["notes"] == ["The predictions have no scores: none are written."]
    assert result["ledger"]["predicted boxes"]["kept"] == 0
    truth, results, instances = (json.loads((folder / file).read_text()) for file in result["files"])
    assert truth["images"] == [{"id": 1, "file_name": "a b.jpg", "width": 320, "height": 240}]
    assert results == []
    assert instances["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "bird"}]
    assert xywh_to_xyxy([instances["annotations"][0]["bbox"]]).tolist() == [[1, 2, 3, 4]]
    assert "score" not in instances["annotations"][0]
    assert "is not known" in export(cli, "coco", "--images", ".", code=3)


def test_an_unknown_format_and_a_file_that_would_be_replaced_are_refused(cli: Cli, folder: Path) -> None:
    assert "did you mean label-studio?" in export(cli, "labelstudio", code=2)
    before = (folder / "truth.json").read_bytes()
    assert "would replace its own input" in export(cli, "coco", "--output", ".", code=2)
    assert (folder / "truth.json").read_bytes() == before


def test_a_projects_answers_are_exported_beside_them_and_without_answers_the_truth(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_project(
        tmp_path, {"a.jpg": [("cat", (10, 10, 20, 20)), ("dog", (30, 10, 2, 2))]}, "[subset]\nmin_box_size = 5"
    )
    monkeypatch.chdir(tmp_path)
    assert cli("prepare").exit_code == 0
    alone = cli("export", "--to", "cvat", "--split", "train", "--name", "base", "--json")
    assert json.loads(alone.stdout)["notes"] == ["There are no predictions: only the truth is written."]
    answers = tmp_path / "out/answers/base.jsonl"
    answers.parent.mkdir(exist_ok=True)
    text = "<|object_ref_start|>cat<|object_ref_end|><|box_start|>(100,100),(500,500)<|box_end|>"
    answers.write_text(json.dumps({"image": "a.jpg", "image_id": 1, "size": [64, 48], "text": text}) + "\n")
    result = cli("export", "--to", "label-studio", "--split", "train", "--name", "base", "--json")
    assert result.exit_code == 0, result.stderr
    task = json.loads((tmp_path / "out/export/base/tasks.json").read_text())[0]
    assert task["predictions"][0]["model_version"] == "base"
    assert len(task["predictions"][0]["result"]) == 1
    assert [region.get("meta") for region in task["annotations"][0]["result"]] == [
        None,
        {"text": ["ignored: too small"]},
    ]
