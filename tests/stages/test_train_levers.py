"""Levers in swift's command, in a continuation, and in real trainings of the demo."""

import json
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.conftest import Cli, picture, vlmdet, write_project
from tests.stages.test_train import dry, flags, write_run
from tests.stages.test_train import prepared as prepared  # noqa: PLC0414  (a fixture)
from vlmdet_cli import project as projects
from vlmdet_cli.core.answers import Answer
from vlmdet_cli.errors import DataError
from vlmdet_cli.project import runs
from vlmdet_cli.stages.inference.answer_reading import ReadingRules, picture_answers
from vlmdet_cli.stages.training.plugins import LOSS_PLUGIN
from vlmdet_cli.stages.training.replay import HELD_OUT
from vlmdet_cli.stages.training.train_file import TrainFile, write_train_file

WEIGHT = ("--set", "train.coordinate_weight=2")


def test_a_weight_of_coordinates_is_a_plug_in_a_loss_scale_and_its_settings(prepared: Cli) -> None:
    assert "VLMDET_LOSS" not in dry(prepared)[0]
    env, words = dry(prepared, *WEIGHT, "--set", "train.swift.loss_scale=last_round")
    assert json.loads(env["VLMDET_LOSS"]) == {
        "dialect": "qwen2_vl", "coordinate_weight": 2.0, "noise_label": "",
    }  # fmt: skip
    assert flags(words)["external_plugins"] == str(LOSS_PLUGIN)
    assert flags(words)["loss_scale"] == "last_round+vlmdet"
    assert LOSS_PLUGIN.is_file()


def test_rows_with_objects_cannot_weigh_coordinates(prepared: Cli) -> None:
    done = prepared("train", "--dry-run", *WEIGHT, "--set", "format.rows=objects")
    assert done.exit_code == 2
    assert done.stderr.startswith('error: train.coordinate_weight needs format.rows = "text"\n')


def test_a_continuation_with_another_lever_names_its_key(prepared: Cli) -> None:
    write_run()
    sets = (*WEIGHT, "--set", "train.attention=sdpa", "--set", "train.vit_lr=1e-5")
    done = prepared("train", "--resume", "--dry-run", *sets)
    assert done.exit_code == 2
    for line in ("train.coordinate_weight: 1.0 → 2.0", "train.attention: not set → sdpa", "train.vit_lr: not set → 1"):
        assert f"  {line}" in done.stderr


def test_noise_gives_the_run_a_train_file_of_its_own_and_says_what_was_added(prepared: Cli, tmp_path: Path) -> None:
    env, words = dry(prepared, "--set", "train.noise_boxes=2")
    assert flags(words)["dataset"] == f"{tmp_path}/out/runs/run-001/train.jsonl"
    assert json.loads(env["VLMDET_LOSS"])["noise_label"] == "noise"
    project = projects.load(tmp_path, ["train.noise_boxes=2"])
    dataset, file = tmp_path / "out" / "data" / "coco_final_train.jsonl", tmp_path / "train.jsonl"
    assert write_train_file(project, dataset, file).ledger == {"noise boxes": {"in": 8, "kept": 8, "dropped": {}}}
    rows = [[json.loads(line) for line in path.read_text().splitlines()] for path in (dataset, file)]
    for plain, noisy in zip(*rows, strict=True):
        before, after = (row["messages"][1]["content"] for row in (plain, noisy))
        assert after.startswith(before)
        assert after.count("<|object_ref_start|>noise<|object_ref_end|>") == 2
        assert {**noisy, "messages": plain["messages"]} == plain
    first = file.read_bytes()
    write_train_file(project, dataset, file)
    assert file.read_bytes() == first
    longest = max(len(row["messages"][1]["content"]) for row in rows[0])
    short = projects.load(tmp_path, ["train.noise_boxes=2", f"train.max_length={longest}"])
    assert write_train_file(short, dataset, file).ledger["noise boxes"]["dropped"] == {"over max_length": 8}
    assert file.read_bytes() == dataset.read_bytes()


def test_a_category_called_noise_is_refused(cli: Cli, tmp_path: Path) -> None:
    write_project(Path(), {"a.jpg": [("Noise", (4, 6, 20, 20))]}, categories=["Noise"])
    assert cli("prepare").exit_code == 0
    project = projects.load(tmp_path, ["train.noise_boxes=0.5"])
    with pytest.raises(DataError, match="The data has a category called noise"):
        write_train_file(project, tmp_path / "out" / "data" / "coco_final_train.jsonl", tmp_path / "train.jsonl")


def row(question: str, answer: str, *images: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, **({"images": list(images)} if images else {})}


def write_rows(file: Path, rows: Sequence[Any]) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.usefixtures("prepared")
def test_rows_to_replay_stand_behind_the_own_ones_drawn_by_seed_with_absolute_paths(tmp_path: Path) -> None:
    general = tmp_path / "general"
    picture(general, "dog.png")
    talk = {"messages": [{"role": "system", "content": "Be kind."}, *row("Hi.", "Hello.")["messages"]]}
    rows = [row("<image>What is this?", f"Dog {n}.", "dog.png") for n in range(3)]
    write_rows(general / "rows.jsonl", [*rows, {**talk, "source": "talk"}, row("<image>Long?", "x" * 9000, "dog.png")])
    dataset, file = tmp_path / "out" / "data" / "coco_final_train.jsonl", tmp_path / "train.jsonl"

    def written(ratio: float, seed: int = 0) -> tuple[TrainFile, list[dict[str, Any]]]:
        sets = ["train.replay=general/rows.jsonl", f"train.replay_ratio={ratio}", f"project.seed={seed}"]
        result = write_train_file(projects.load(tmp_path, sets), dataset, file)
        lines = file.read_bytes().splitlines()
        assert lines[:4] == dataset.read_bytes().splitlines()
        return result, [json.loads(line) for line in lines[4:]]

    result, replayed = written(9)
    expected = [{**row, "images": [str(general / "dog.png")]} for row in rows]
    assert replayed == [*expected, talk]
    assert result == TrainFile(
        replayed=4, ledger={"replay rows": {"in": 5, "kept": 4, "dropped": {"over max_length": 1}}}
    )
    assert not (tmp_path / HELD_OUT).exists()  # all were drawn
    result, replayed = written(0.5)
    held_out = [json.loads(line) for line in (tmp_path / HELD_OUT).read_text().splitlines()]
    assert [row for row in [*expected, talk] if row not in replayed and "images" in row] == held_out
    assert result.ledger["replay rows"]["dropped"] == {"over replay_ratio": 2, "over max_length": 1}
    assert written(0.5)[1] == replayed
    assert len({json.dumps(written(0.5, seed)[1]) for seed in range(9)}) > 1


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"messages": []}, "no messages, or one of an unknown role."),
        ({"messages": [{"role": "user", "content": "Hi."}]}, "the last message must be the assistant's"),
        (row("<image><image>What?", "A dog.", "dog.png"), "2 times <image> for 1 picture."),
        (row("<image>What?", "A dog.", "none.png"), "{folder}/none.png"),
        ([], ""),
    ],
)
@pytest.mark.usefixtures("prepared")
def test_a_row_to_replay_that_swift_would_not_take_is_named(tmp_path: Path, bad: Any, why: str) -> None:
    picture(tmp_path, "dog.png")
    write_rows(tmp_path / "rows.jsonl", [row("<image>What?", "A dog.", "dog.png"), bad])
    project = projects.load(tmp_path, ["train.replay=rows.jsonl"])
    with pytest.raises(DataError) as error:
        write_train_file(project, tmp_path / "out" / "data" / "coco_final_train.jsonl", tmp_path / "train.jsonl")
    assert "train.replay" in error.value.what
    assert not why or error.value.why[0].startswith(why.format(folder=tmp_path))


def test_a_continuation_with_other_rows_to_replay_is_refused(prepared: Cli) -> None:
    write_rows(Path("rows.jsonl"), [row("Hi.", "Hello.")])
    sets = ("train.replay=rows.jsonl",)
    write_run(sets=sets)
    assert dry(prepared, "--resume", "--set", *sets)
    write_rows(Path("rows.jsonl"), [row("Hi.", "Hello!")])
    done = prepared("train", "--resume", "--dry-run", "--set", *sets)
    assert done.exit_code == 2
    assert "  train.replay (its rows): " in done.stderr


def test_boxes_of_noise_are_taken_out_and_counted_where_the_model_knows_them() -> None:
    text = "cat(0,0),(500,500)noise(1,1),(300,300)noise(1,1),(300,300)"
    answer = Answer(image="a.jpg", size=(100, 100), text=text, asked=["cat"])
    rules = ReadingRules(categories=("cat",), noise_label="noise")
    read = picture_answers([answer], rules)
    assert read.whole.by_label() == {"cat": [[0, 0, 50, 50]]}
    assert read.removed == {"noise": 2}
    assert [problem.kind for problem in read.whole.problems] == ["duplicate"]
    each = picture_answers([answer], msgspec.structs.replace(rules, ask="each"))
    assert (each.whole.by_label(), each.removed) == (read.whole.by_label(), {"noise": 2})
    other = picture_answers([answer], ReadingRules(categories=("cat",)))
    assert set(other.whole.by_label()) == {"cat", "noise"}
    assert other.removed == {}


@pytest.mark.slow
@pytest.mark.skipif(find_spec("swift") is None, reason="needs the extra `train`")
def test_swift_trains_with_the_levers_and_merges_the_vision_tower_that_was_trained_whole(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    vlmdet(tmp_path, "init", "--demo", "demo")
    folder = tmp_path / "demo"
    settings = ("train.swift.max_steps=2", "train.logging_steps=1", "subset.pictures=24", "subset.val_pictures=2",
                "subset.test_pictures=2")  # fmt: skip
    sets = [part for setting in settings for part in ("--set", setting)]
    vlmdet(folder, "prepare", *sets)
    vlmdet(folder, "train", "--run", "plain", *sets)
    image = str(next((folder / "images" / "val").iterdir()))
    questions = [row(f"<image>What {n}?", "A street.", image) for n in range(3)]
    write_rows(folder / "general.jsonl", [row("Hello.", "Hi."), *questions])
    levers = (
        "train.coordinate_weight=3",
        "train.noise_boxes=1",
        "train.tuner_type=lora_llm",
        "train.vit_lr=1e-3",
        "train.aligner_lr=2e-3",
        "train.replay=general.jsonl",
        "train.replay_ratio=0.084",
    )
    options = [part for lever in levers for part in ("--set", lever)]
    shown = vlmdet(folder, "train", "--run", "levers", *sets, *options).stdout
    assert re.search(r"replay rows +4 +2 +2", shown)
    run = runs.find_run(folder / "out" / "runs", "levers")
    assert "vit_lr: 0.001, aligner_lr: 0.002, llm_lr: 0.002" in run.log.read_text()
    assert run.record.dataset.rows == 24 + 2  # swift's own count was compared
    first = {name: _first_loss(folder, name) for name in ("plain", "levers")}
    assert first["plain"] < first["levers"] < 3 * first["plain"]  # the coordinates' part of it, three times
    vlmdet(folder, "merge", "--run", "levers")
    known = runs.trained_settings(run.merged)
    assert known
    assert known.noise_label == "noise"
    asked = json.loads(vlmdet(folder, "doctor", "--forgetting", "levers", "--json").stdout)
    assert asked["rows"] == len((run.folder / HELD_OUT).read_text().splitlines()) in {1, 2}
    assert asked["before"] == asked["after"] == 0  # neither can answer in words
    trained = load_file(run.latest_checkpoint() / "vit.safetensors")
    merged, base = (load_file(path / "model.safetensors") for path in (run.merged, folder / "model"))
    for name, values in trained.items():
        own = name.removeprefix("base_model.model.").replace("model.visual", "visual")
        (key,) = [key for key in merged if key.endswith(own)]
        assert merged[key].equal(values), name
        assert not base[key].equal(values), name


def _first_loss(folder: Path, name: str) -> float:
    log = runs.find_run(folder / "out" / "runs", name).training_log()
    assert log
    row: dict[str, Any] = json.loads(log.read_text().splitlines()[0])
    return float(row["loss"])
