"""The whole job for real: ms-swift, the demo's model, and files; and what happens when it is disturbed.

The demo runs once for all tests of this module, by the very script that ``make demo`` runs.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from vlmdet_cli.demo import HERE
from vlmdet_cli.models import dialects, registry
from vlmdet_cli.models.qwen2_vl import QWEN2_VL
from vlmdet_cli.project import runs
from vlmdet_cli.prompts import lengths

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),  # the first of these tests waits for the whole demo
    pytest.mark.skipif(shutil.which("swift") is None and not (Path(sys.executable).parent / "swift").exists(),
                       reason="needs the extra `train`"),
]  # fmt: skip

Run = subprocess.CompletedProcess[str]


def environment() -> dict[str, str]:
    """As in a plain shell: the environment's own programs first on PATH, wide tables."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "100"}


def vlmdet(cwd: Path, *arguments: str, code: int = 0) -> Run:
    command = [sys.executable, "-m", "vlmdet_cli", *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The demo's folder after its script, and what the script printed."""
    folder = tmp_path_factory.mktemp("run")
    script = ["sh", str(HERE / "run.sh"), "demo"]
    done = subprocess.run(script, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "demo", done.stdout


def results(folder: Path, file: str) -> Path:
    """A file of the first run, or of the models that are no run."""
    path = folder / "out" / "runs" / "run-001" / file
    return path if path.is_file() else folder / "out" / file


def latest_checkpoint(folder: Path) -> Path:
    return runs.find_run(folder / "out" / "runs").latest_checkpoint()


def report(folder: Path, name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(results(folder, f"reports/{name}.json").read_text())
    return document


def answers(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in results(folder, f"answers/{name}.jsonl").read_text().splitlines()]


def answer_with_boxes(folder: Path) -> dict[str, Any]:
    """The first answer of the test split with a box in it."""
    rows = (row for row in answers(folder, "test") if row.get("kind", "detection") == "detection")
    return next(row for row in rows if "(" in row["text"])


def test_the_demo_learns_what_the_base_model_cannot(demo: tuple[Path, str]) -> None:
    folder, shown = demo
    base, tuned = report(folder, "base"), report(folder, "test")
    assert base["overall"]["f1"] < 0.3
    assert tuned["overall"]["f1"] >= 0.8
    assert tuned["protocol"]["pictures"] == base["protocol"]["pictures"] == 120
    accuracy = {kind: (base["tasks"][kind]["accuracy"], task["accuracy"]) for kind, task in tuned["tasks"].items()}
    assert set(accuracy) == {"count", "full", "partial", "none"}
    for kind in ("count", "full", "partial"):
        assert accuracy[kind][1] > accuracy[kind][0] + 0.1, kind
    assert accuracy["none"][1] > 0.9
    last = shown[shown.rindex("measure") :]
    assert f"{base['overall']['f1']:.3f}" in last
    assert f"{tuned['overall']['f1']:.3f}" in last
    assert shown.rstrip().endswith("Pictures: demo/out/runs/run-001/viz/test/index.html")


def test_every_artefact_of_a_run_is_there(demo: tuple[Path, str]) -> None:
    folder, _ = demo
    for name in (
        "data/subset/train.json", "data/detections_test.json", "data/coco_final_val.jsonl", "augment/count.json",
        "augment/fully-overlapped.json", "augment/partial-overlapped.json", "augment/non-overlapping.json",
        "augment/train.jsonl", *(f"runs/run-001/{name}" for name in (
            "vlmdet.toml", "run.json", "swift.log", "merged/config.json", "merged/README.md", "answers/test.jsonl",
            "answers/test.detections.json", "reports/test.json", "viz/test/index.html", "viz/test/curve.png",
            "viz/test/sheet.jpg",
        )),
    ):  # fmt: skip
        assert (folder / "out" / name).is_file(), name
    card = (folder / "out" / "runs" / "run-001" / "merged" / "README.md").read_text()
    assert f"| test | 120 | {report(folder, 'test')['overall']['f1']:.3f} " in card
    run = json.loads((folder / "out" / "runs" / "run-001" / "run.json").read_text())
    assert run["state"] == "done"
    assert run["dataset"]["rows"] == len((folder / "out" / "augment" / "train.jsonl").read_text().splitlines())
    assert {"vlmdet", "ms-swift", "torch", "transformers"} <= set(run["versions"])


def test_swift_read_every_row_that_was_written(demo: tuple[Path, str]) -> None:
    folder, _ = demo
    run = json.loads((folder / "out" / "runs" / "run-001" / "run.json").read_text())
    log = (folder / "out" / "runs" / "run-001" / "swift.log").read_text()
    rows_taken = re.search(r"train_dataset: Dataset\(\{.*?num_rows: (\d+)", log, re.S)
    assert rows_taken is not None
    assert int(rows_taken[1]) == run["dataset"]["rows"]


def test_the_merged_model_answers_as_the_adapter_does(demo: tuple[Path, str]) -> None:
    """Merging has changed results between versions of swift."""
    record = runs.find_run(demo[0] / "out" / "runs").record.merge
    assert record
    assert (record.state, record.checkpoints[0]) == (
        "verified", latest_checkpoint(demo[0]).relative_to(demo[0] / "out").as_posix(),
    )  # fmt: skip
    check = record.check
    assert check
    assert (check.split, check.answers, check.dtype) == ("val", 8, "float32")
    assert check.equal >= 7  # float32 sums in another order may tip a digit
    assert check.difference is not None
    assert check.difference < check.bound < check.effect / 100


def test_the_engine_swift_gives_the_same_answers_and_survives_a_bad_picture(
    demo: tuple[Path, str], tmp_path: Path
) -> None:
    folder = _copy(demo[0], tmp_path)
    images = sorted((folder / "out" / "data" / "subset" / "images" / "test").glob("*.jpg"))
    images[3].write_bytes(images[3].read_bytes()[:400])
    done = vlmdet(folder, "infer", "--set", "infer.engine=swift", "--name", "by-swift", "--json")
    assert json.loads(done.stdout)["failed"] > 0
    expected, rows = answers(folder, "test"), answers(folder, "by-swift")
    assert len(rows) == len(expected)
    for row, other in zip(rows, expected, strict=True):
        if row["image"].endswith(images[3].name):
            assert (row.get("finish"), row.get("error"), row.get("text", "")) == ("error", "truncated", "")
        else:
            assert (row["text"], row.get("finish")) == (other["text"], other.get("finish"))
            assert [token for token, _ in row["tokens"]] == [token for token, _ in other["tokens"]]
            logprobs = [[logprob for _, logprob in answer["tokens"]] for answer in (row, other)]
            assert logprobs[0] == pytest.approx(logprobs[1], abs=0.02)
    assert any("<|box_start|>" in row.get("text", "") for row in rows)


def test_texts_token_ids_pictures_and_lengths_are_as_swifts_own_template_makes_them(
    demo: tuple[Path, str], tmp_path: Path
) -> None:
    folder, _ = demo
    document = json.loads((folder / "out" / "data" / "subset" / "test.json").read_text())
    names = {category["id"]: category["name"] for category in document["categories"]}
    rows: list[dict[str, Any]] = []
    for image in document["images"][:25]:
        objects = [a for a in document["annotations"] if a["image_id"] == image["id"] and not a["iscrowd"]]
        boxes = [(x, y, x + w, y + h) for x, y, w, h in (a["bbox"] for a in objects)]
        pairs = [(names[a["category_id"]], box) for a, box in zip(objects, boxes, strict=True)]
        text = dialects.get("qwen2_vl").render(pairs, (image["width"], image["height"]))
        rows.append(
            {
                "messages": [{"role": "user", "content": "<image>Draw the bounding box of objects"},
                             {"role": "assistant", "content": text}],
                "images": [str(folder / "out" / "data" / "subset" / "images" / "test" / image["file_name"])],
                "placeholders": "<ref-object><bbox>" * len(pairs) or "No objects.",
                "objects": {"ref": [label for label, _ in pairs], "bbox": boxes},
            }
        )  # fmt: skip
    script = [sys.executable, str(Path(__file__).parent / "swift_encode.py"), str(folder / "model"), "encoded.json"]
    done = subprocess.run(script, cwd=tmp_path, input=json.dumps(rows), env=environment(), capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    from transformers import AutoTokenizer

    from vlmdet_cli.engines import EngineSettings
    from vlmdet_cli.engines.settings import TransformersOptions
    from vlmdet_cli.engines.transformers import LoadedModel

    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    pad = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    family = registry.family_of(str(folder / "model"))
    limit = family.pixel_limit(folder / "model")
    model = LoadedModel(
        EngineSettings(model=folder / "model", family=family, max_pixels=limit, options=TransformersOptions())
    )
    count = lengths.token_counter(family, str(folder / "model"), family.pixel_limit(folder / "model"))
    assert count.exact
    for row, encoded in zip(rows, json.loads((tmp_path / "encoded.json").read_text()), strict=True):
        question, answer = (turn["content"] for turn in row["messages"])
        assert encoded["ids"] == encoded["objects"]
        assert encoded["ids"].count(pad) == 36
        assert encoded["patches"] == 144
        assert count.row(question, answer, (224, 224)) == len(encoded["ids"])
        assert tokenizer.decode(encoded["labels"]) == f"{answer}<|im_end|>\n"
        row_ids = tokenizer(family.row_text(question, answer))["input_ids"]
        assert [token for token in row_ids if token != pad] == [token for token in encoded["ids"] if token != pad]
        assert _pixels(model, row["images"][0]) == pytest.approx(encoded["pixels"], abs=1e-4)
        assert _prompt_ids(tokenizer, question) == [token for token in encoded["prompt"] if token != pad]


def _pixels(model: Any, path: str) -> list[float]:
    """Every hundredth number of what our engine feeds for a picture."""
    from vlmdet_cli.engines import Request

    request = Request(key="", image=Path(path), prompt="x")
    inputs = model.inputs([(request, model.read(request))])
    return inputs["pixel_values"].flatten()[::100].tolist()  # type: ignore[no-any-return]


def _prompt_ids(tokenizer: Any, question: str) -> list[int]:
    """What our engine feeds, without picture tokens."""
    pad = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    return [token for token in tokenizer(QWEN2_VL.request_text(question))["input_ids"] if token != pad]


def test_pictures_reach_the_model(demo: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = demo
    Image.new("RGB", (224, 224), (128, 128, 128)).save(tmp_path / "grey.png")
    shutil.copy(folder / "out" / answer_with_boxes(folder)["image"], tmp_path / "real.jpg")
    done = vlmdet(
        tmp_path,
        "infer",
        "--model",
        str(folder / "out" / "runs" / "run-001" / "merged"),
        "grey.png",
        "real.jpg",
        "--json",
    )
    grey, real = json.loads(done.stdout)
    assert grey["object"] == {}
    assert real["object"]


def test_pieces_of_an_answer_are_its_text_and_rank_its_boxes(demo: tuple[Path, str]) -> None:
    folder, _ = demo
    for row in answers(folder, "test"):
        assert "".join(text for text, _ in row["tokens"]) == row["text"]
        assert all(chance <= 0 for _, chance in row["tokens"])
    scored = report(folder, "test")
    assert scored["scores"]["source"] == "logprob"
    files = ("--truth", "out/data/subset/test.json", "--predictions", "out/runs/run-001/answers/test.jsonl", "--json")
    constant = json.loads(vlmdet(folder, "eval", *files, "--scores", "constant").stdout)
    assert scored["coco"]["AP50"] > constant["coco"]["AP50"]
    assert scored["overall"] == constant["overall"]


def test_tiles_are_answered_as_the_pictures_that_they_show_and_their_boxes_moved(
    demo: tuple[Path, str], tmp_path: Path
) -> None:
    """Four pictures of the test split pasted together, and cut apart again by ``infer.tiles``."""
    folder, _ = demo
    rows = [row for row in answers(folder, "test") if row.get("kind", "detection") == "detection"][:4]
    mosaic = Image.new("RGB", (448, 448))
    corners = [(0, 0), (224, 0), (0, 224), (224, 224)]
    for row, corner in zip(rows, corners, strict=True):
        mosaic.paste(Image.open(folder / "out" / row["image"]).convert("RGB"), corner)
    mosaic.save(tmp_path / "mosaic.png")
    model = str(folder / "out" / "runs" / "run-001" / "merged")
    cut = ("--set", "infer.tiles=[2, 2, 0.0]", "--set", "infer.max_tokens=256")
    document = json.loads(vlmdet(tmp_path, "infer", "--model", model, "mosaic.png", "--json", *cut).stdout)
    assert [answer["text"] for answer in document["answers"]] == [row["text"] for row in rows]
    expected: dict[str, list[list[float]]] = {}
    for row, (left, top) in zip(rows, corners, strict=True):
        for label, boxes in dialects.get("qwen2_vl").parse(row["text"], (224, 224)).by_label().items():
            moved = [[x1 + left, y1 + top, x2 + left, y2 + top] for x1, y1, x2, y2 in boxes]
            expected[label] = expected.get(label, []) + moved
    assert document["object"] == expected


def test_scores_calibrated_on_val_are_nearer_to_probabilities_on_test(demo: tuple[Path, str]) -> None:
    folder, _ = demo
    vlmdet(folder, "infer", "-q", "--split", "val", "--set", "infer.questions=false")
    plain, calibrated = (json.loads(vlmdet(folder, "eval", "--json", *more).stdout) for more in ([], ["--calibrate"]))
    assert calibrated["coco"] == plain["coco"]
    assert calibrated["protocol"]["calibration"]["boxes"] > 100
    errors = [part["scores"]["calibration"]["expected_calibration_error"] for part in (plain, calibrated)]
    assert errors[1] < errors[0] < 0.35


def test_one_picture_gives_one_json_document(demo: tuple[Path, str]) -> None:
    folder, _ = demo
    full = answer_with_boxes(folder)
    done = vlmdet(folder, "infer", "--model", "out/runs/run-001/merged", f"out/{full['image']}", "--json")
    answer = json.loads(done.stdout)
    assert answer["text"] == full["text"]
    assert answer["size"] == [224, 224]
    assert answer["object"]
    assert all(len(box) == 4 for boxes in answer["object"].values() for box in boxes)


def test_a_bad_picture_is_recorded_and_the_others_go_on(demo: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = demo
    for number, source in enumerate(sorted((folder / "images" / "test").glob("*.jpg"))[:3]):
        shutil.copy(source, tmp_path / f"{number}.jpg")
    data = (tmp_path / "1.jpg").read_bytes()
    (tmp_path / "1.jpg").write_bytes(data[: len(data) // 3])
    (tmp_path / "2.jpg").write_bytes(b"")
    done = vlmdet(tmp_path, "infer", "--model", str(folder / "out" / "runs" / "run-001" / "merged"), ".", "--json")
    results = json.loads(done.stdout)
    assert [result["finish"] for result in results] == ["stop", "error", "error"]
    assert all(result["error"] for result in results[1:])


@contextlib.contextmanager
def started(cwd: Path, *arguments: str) -> "Iterator[subprocess.Popen[str]]":
    """A vlmdet at work; what is left of it and its children ends with the test.

    It heeds SIGINT although this process may ignore it, as the background job of a plain shell does.
    """
    script = (
        "import signal;signal.signal(signal.SIGINT, signal.default_int_handler);from vlmdet_cli.cli import main;main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments], cwd=cwd, env=environment(), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        for member in [*children_of(process.pid), process]:
            with contextlib.suppress(psutil.Error):
                member.kill()
        process.communicate()


def children_of(pid: int) -> list[psutil.Process]:
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.Error:
        return []


def runs_on(process: psutil.Process) -> bool:
    """Whether a process has not ended; an orphan that nobody has waited for has."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def until(condition: Any, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_inference_killed_half_way_goes_on_and_ends_with_the_same_bytes(demo: tuple[Path, str]) -> None:
    folder, _ = demo
    file = folder / "out" / "runs" / "run-001" / "answers" / "again.jsonl"
    with started(folder, "infer", "--name", "again", "--set", "infer.batch=8") as process:
        until(lambda: file.exists() and file.stat().st_size > 0)
        process.kill()
    stopped = file.read_bytes()
    vlmdet(folder, "infer", "--name", "again", "--set", "infer.batch=8")
    vlmdet(folder, "infer", "--name", "whole", "--set", "infer.batch=8")
    assert len(stopped) < len(file.read_bytes())
    assert file.read_bytes() == (folder / "out" / "runs" / "run-001" / "answers" / "whole.jsonl").read_bytes()


def test_an_interrupted_training_ends_swift_and_resumes(demo: tuple[Path, str], tmp_path: Path) -> None:
    folder = _copy(demo[0], tmp_path)
    settings = ("train.save_steps=5", "train.swift.save_only_model=false", "train.logging_steps=1")
    sets = [part for setting in settings for part in ("--set", setting)]
    with started(folder, "train", *sets, "--", "--max_steps", "400") as process:
        until(lambda: list((folder / "out" / "runs").glob("run-002/*/checkpoint-5/trainer_state.json")), 240)
        children = children_of(process.pid)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert re.search(r"error: Interrupted\nhint: `vlmdet train --resume` goes on from checkpoint-\d+\.\n$", err), err
    assert len(children) >= 1
    assert [child for child in children if runs_on(child)] == []
    run = runs.find_run(folder / "out" / "runs", "run-002")
    assert run.record.state == "interrupted"
    assert run.record.exit_code != 0
    refused = vlmdet(folder, "train", "--resume", *sets, "--", "--max_steps", "12", code=2)
    assert "  train.swift.max_steps: 400 → 12\n" in refused.stderr
    last = runs.step_of(run.latest_checkpoint()) + 3
    again = ("train", "--resume", "--force", "--json", *sets, "--", "--max_steps", str(last))
    result = json.loads(vlmdet(folder, *again).stdout)
    assert result["steps"] == last
    assert Path(result["run"]) == run.folder
    record = runs.find_run(folder / "out" / "runs").record
    assert (record.name, record.exit_code) == ("run-002", 0)
    assert [resume.state for resume in record.resumes] == ["interrupted"]
    assert record.resumes[0].changed == {"train.swift.max_steps": ("400", str(last))}
    assert re.search(r"resume_from_checkpoint='?\S*run-002\S*checkpoint-\d+", run.log.read_text())


def test_two_runs_side_by_side_are_trained_merged_and_asked_alike(demo: tuple[Path, str], tmp_path: Path) -> None:
    """One with a flag after ``--``, which is not repeated to any later command."""
    folder = _copy(demo[0], tmp_path)
    steps = ("--", "--max_steps", "3")
    with (
        started(folder, "train", "--run", "small-pictures", *steps, "--max_pixels", "6272") as first,
        started(folder, "train", "--set", "train.lora_rank=8", *steps) as second,
    ):
        assert [process.wait(timeout=600) for process in (first, second)] == [0, 0]
    pixels = {}
    for name in ("small-pictures", "run-002"):
        run = runs.find_run(folder / "out" / "runs", name)
        assert (run.record.state, run.record.exit_code, run.record.steps) == ("done", 0, 3)
        vlmdet(folder, "merge", "--run", name, "--verify", "2")
        vlmdet(folder, "infer", "--run", name, "--set", "infer.questions=false")
        pixels[name] = json.loads(run.answers("test").with_suffix(".meta.json").read_text())["max_pixels"]
        assert (trained := runs.trained_settings(run.merged))
        assert (trained.max_pixels, trained.template) == (pixels[name], "vlmdet_demo")
    assert pixels == {"small-pictures": 6272, "run-002": 28224}
    listed = {run["name"]: run["differs"] for run in json.loads(vlmdet(folder, "runs", "--json").stdout)["runs"]}
    assert listed["small-pictures"]["train.swift.max_pixels"] == "6272"
    assert listed["run-002"]["train.lora_rank"] == 8


def _copy(demo: Path, to: Path) -> Path:
    """A project that is moved still trains: rows name no machine."""
    return Path(shutil.copytree(demo, to / "moved"))


def test_a_flag_that_swift_does_not_know_shows_its_words_and_its_log(demo: tuple[Path, str], tmp_path: Path) -> None:
    folder = _copy(demo[0], tmp_path)
    done = vlmdet(folder, "train", "--", "--no_such_flag", "1", code=4)
    assert done.stderr.splitlines()[1].startswith("error: swift sft failed: exit code 1")
    assert "no_such_flag" in done.stderr
    assert "The whole log: " in done.stderr
    record = runs.find_run(folder / "out" / "runs", "run-002").record
    assert (record.state, record.exit_code, record.steps) == ("failed", 1, 0)
    assert runs.find_run(folder / "out" / "runs").name == "run-001"


def test_rows_that_swift_does_not_take_stop_the_training(demo: tuple[Path, str], tmp_path: Path) -> None:
    """Here swift is asked for the first fifty; it leaves out rows that it does not accept in the same way."""
    folder = _copy(demo[0], tmp_path)
    rows = folder / "out" / "augment" / "train.jsonl"
    count = len(rows.read_text().splitlines())
    done = vlmdet(folder, "train", "--", "--dataset", f"{rows}#50", code=4)
    assert f"error: swift took 50 of {count:,} rows\n" in done.stderr
    run = sorted((folder / "out" / "runs").glob("run-*"))[-1]
    assert json.loads((run / "run.json").read_text())["state"] == "failed"
    assert not list(run.rglob("checkpoint-*"))


def test_swift_trains_on_rows_in_its_own_form_as_on_text(demo: tuple[Path, str], tmp_path: Path) -> None:
    """The same tokens in, so the same loss out, to the last digit that swift prints."""
    folder = _copy(demo[0], tmp_path)
    shutil.rmtree(folder / "out" / "augment")
    sets = ["train.num_train_epochs=1", "train.swift.max_steps=4", "train.logging_steps=1", "subset.pictures=40"]
    losses = []
    for form in ("text", "objects"):
        given = [part for setting in [*sets, f"format.rows={form}"] for part in ("--set", setting)]
        for step in ("prepare", "train"):
            vlmdet(folder, step, *given)
        log = runs.runs(folder / "out" / "runs")[-1].training_log()
        assert log
        losses.append([row["loss"] for row in map(json.loads, log.read_text().splitlines()) if "loss" in row])
    rows = (folder / "out" / "data" / "coco_final_train.jsonl").read_text().splitlines()
    assert any("objects" in json.loads(row) for row in rows)  # a row of an empty picture has none
    assert len(losses[0]) >= 4
    assert losses[0] == losses[1]


def test_a_failed_merge_leaves_the_merged_model_as_it_was(demo: tuple[Path, str], tmp_path: Path) -> None:
    folder = _copy(demo[0], tmp_path)
    before = (folder / "out" / "runs" / "run-001" / "merged" / "model.safetensors").read_bytes()
    adapter = latest_checkpoint(folder) / "adapter_model.safetensors"
    adapter.write_bytes(adapter.read_bytes()[:1000])
    vlmdet(folder, "merge", code=4)
    assert (folder / "out" / "runs" / "run-001" / "merged" / "model.safetensors").read_bytes() == before
    shutil.rmtree(folder / "out" / "runs" / "run-001" / "merged")
    done = vlmdet(folder, "infer", code=2)
    assert done.stderr.startswith(f"error: No merged model of run-001: {folder}/out/runs/run-001/merged\n")


def test_swifts_own_answers_are_read_and_scored_alike(demo: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = demo
    rows = (folder / "out" / "data" / "coco_final_test.jsonl").read_text().splitlines()
    (tmp_path / "rows.jsonl").write_text("\n".join(rows[:40]) + "\n")
    command = [
        "swift", "infer", "--model", str(folder / "out" / "runs" / "run-001" / "merged"),
        "--model_type", "qwen2_vl", "--template", "vlmdet_demo",
        "--external_plugins", str(folder / "plugin.py"), "--val_dataset", "rows.jsonl",
        "--result_path", "result.jsonl", "--max_batch_size", "16", "--temperature", "0", "--max_new_tokens", "256",
        "--torch_dtype", "float32", "--max_pixels", str(168 * 168),
    ]  # fmt: skip
    env = {**environment(), "ROOT_IMAGE_DIR": str(folder / "out")}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    swift_texts = [json.loads(line)["response"] for line in (tmp_path / "result.jsonl").read_text().splitlines()]
    own_texts = [row["text"] for row in answers(folder, "test") if row.get("kind", "detection") == "detection"][:40]
    assert sum(own == other for own, other in zip(own_texts, swift_texts, strict=True)) >= 38
    truth = str(folder / "out" / "data" / "subset" / "test.json")
    scored = json.loads(vlmdet(tmp_path, "eval", "--truth", truth, "--predictions", "result.jsonl", "--json").stdout)
    assert scored["protocol"]["form"] == "swift infer"
    assert scored["ledger"]["pictures"]["kept"] == 40
    assert scored["overall"]["precision"] > 0.6


def test_real_coco_pictures_go_through_all_seven_commands(
    demo: tuple[Path, str], tiny_coco: Path, tmp_path: Path
) -> None:
    shutil.copytree(demo[0] / "model", tmp_path / "model")
    shutil.copy(demo[0] / "plugin.py", tmp_path)
    (tmp_path / "vlmdet.toml").write_text(
        '[project]\noutput = "out"\n'
        + "".join(
            f'[data.{split}]\nannotations = "{tiny_coco}/annotations/instances_{name}.json"\n'
            f'images = "{tiny_coco}/images/{name}"\n'
            for split, name in (("train", "train2017"), ("test", "val2017"))
        )
        + "[data.split]\nval = 0.1\n[subset]\nempty = 0.2\n"
        '[train]\nmodel = "model"\nnum_train_epochs = 1\nlogging_steps = 1\n'
        '[train.swift]\nmodel_type = "qwen2_vl"\ntemplate = "vlmdet_demo"\nexternal_plugins = "plugin.py"\n'
        "[infer]\nmax_tokens = 64\n"
    )
    for step in ("prepare", "augment", "train", "merge", "infer", "eval", "viz"):
        ledgers = list(accounts(json.loads(vlmdet(tmp_path, step, "--json").stdout)))
        assert bool(ledgers) == (step not in {"train", "merge"}), step
        for account in ledgers:
            assert account["in"] == account["kept"] + sum(account["dropped"].values())
    scored = report(tmp_path, "test")
    assert scored["ledger"]["pictures"]["dropped"] == {}
    assert scored["overall"]["fn"] + scored["overall"]["tp"] == scored["protocol"]["objects"] > 0
    rows = answers(tmp_path, "test")
    assert {row.get("finish", "stop") for row in rows} <= {"stop", "length"}
    assert sum(row.get("kind", "detection") == "detection" for row in rows) == scored["protocol"]["pictures"]


def accounts(tree: Any) -> Iterator[dict[str, Any]]:
    """The accounts of the ledgers anywhere in a JSON document."""
    if isinstance(tree, dict) and {"in", "kept", "dropped"} <= set(tree):
        yield tree
    elif isinstance(tree, dict | list):
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from accounts(part)


def test_the_wheel_runs_where_swift_is_not_on_path(tmp_path: Path) -> None:
    """As pipx installs it: an environment of its own whose programs are not on PATH."""
    built = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), "."]
    root = Path(__file__).parents[2]
    subprocess.run(built, cwd=root, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("vlmdet-*.whl")
    target = tmp_path / "installed"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    env = {**os.environ, "PATH": "/usr/bin:/bin", "PYTHONPATH": str(target)}
    command = [sys.executable, "-c", "from vlmdet_cli.cli import main; main()"]
    init = [*command, "init", "--demo", "d"]
    subprocess.run(init, cwd=tmp_path, env=env, check=True, capture_output=True)
    for step in ("prepare", "augment"):
        subprocess.run([*command, step, "-q"], cwd=tmp_path / "d", env=env, check=True, capture_output=True)
    done = subprocess.run([*command, "train", "--dry-run"], cwd=tmp_path / "d", env=env, capture_output=True, text=True,
                          check=True)  # fmt: skip
    assert str(Path(sys.executable).parent / "swift") in done.stdout
