"""train --method grpo: swift's command, what is refused, rows, why a reward is 0, and the real thing on the demo."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.conftest import Cli, vlmdet, write_project
from tests.stages.test_train import PICTURES, dry, flags, write_model, write_run
from tests.stages.test_train import prepared as prepared  # noqa: PLC0414  (a fixture)
from vlmdet_cli import project as projects
from vlmdet_cli.errors import DataError
from vlmdet_cli.metrics.rewards import RewardRules, RowTruth
from vlmdet_cli.project import runs
from vlmdet_cli.project.run_record import Evaluation, write_record
from vlmdet_cli.stages.training import reward_functions, train_plan
from vlmdet_cli.stages.training.reward_functions import REWARDS_LOG, RewardJob, Scorer, picture_tokens
from vlmdet_cli.stages.training.reward_rows import write_rows
from vlmdet_cli.stages.training.reward_watch import RewardWatch
from vlmdet_cli.stages.training.train_plan import TrainOptions
from vlmdet_cli.stages.training.train_reward import ADAPTER, PLUGIN
from vlmdet_cli.training.log_reader import Step
from vlmdet_cli.training.settings import Reward

GRPO = ("--method", "grpo")
CHECKPOINT = "v0-1/checkpoint-5"


def write_sft(name: str = "run-001", state: str = "done", sets: tuple[str, ...] = ()) -> Path:
    """An SFT run with an adapter at its checkpoint; returns its folder."""
    folder = write_run(name, state, sets=sets)
    (folder / CHECKPOINT / "adapter_config.json").write_text("{}")
    (folder / CHECKPOINT / ADAPTER).write_bytes(name.encode())
    return folder


def refused(cli: Cli, *arguments: str) -> str:
    """The message of ``train --dry-run``, which must end with exit code 2."""
    done = cli("train", "--dry-run", *arguments)
    assert done.exit_code == 2
    return done.stderr


# --- the command ---------------------------------------------------------------------------------------------


def test_a_training_by_reward_goes_on_with_the_adapter_of_the_latest_sft_run(prepared: Cli, tmp_path: Path) -> None:
    for name, state in (("run-001", "done"), ("run-002", "done"), ("run-003", "failed")):
        write_sft(name, state)
    env, words = dry(prepared, *GRPO)
    adapter = f"{tmp_path}/out/runs/run-002/{CHECKPOINT}"
    assert words[1:4] == ["rlhf", "--rlhf_type", "grpo"]
    assert env["VLMDET_REWARD"] == f"{tmp_path}/out/runs/run-004/reward.json"
    text = " ".join(words)
    for expected in (
        f"--adapters {adapter} --ref_adapters {adapter}",
        f"--dataset {tmp_path}/out/runs/run-004/reward_rows.jsonl",
        "--truncation_strategy delete",
        "--use_vllm false",
        "--learning_rate 1e-05",
        "--num_train_epochs 1",
        "--per_device_train_batch_size 8",
        "--num_generations 8",
        "--max_completion_length 1024",
        "--beta 0.04",
        "--reward_funcs vlmdet_detection vlmdet_silence vlmdet_form vlmdet_count vlmdet_area",
        "--reward_weights 1.0 1.0 0.2 1.0 1.0",
        f"--external_plugins {PLUGIN}",
        "--callbacks vlmdet_reward",
    ):
        assert f" {expected} " in f"{text} "
    assert PLUGIN.is_file()
    assert f"runs/run-001/{CHECKPOINT}" in " ".join(dry(prepared, *GRPO, "--from", "run-001")[1])


def test_settings_of_the_reward_take_the_place_of_those_of_sft(prepared: Cli) -> None:
    write_sft()
    sets = ("train.swift.max_steps=9", "train.swift.weight_decay=0.1", "train.reward.swift.max_steps=7",
            "train.reward.beta=0", "train.reward.learning_rate=2e-5", "train.reward.area=0", "infer.max_tokens=99",
            "train.effective_batch=6", 'train.evaluate="f1"', 'train.swift.callbacks="lisa"')  # fmt: skip
    words = dry(prepared, *GRPO, *(part for text in sets for part in ("--set", text)))[1]
    text = f"{' '.join(words)} "
    assert "--ref_adapters" not in text  # no KL term, no reference
    for expected in ("--max_steps 7", "--weight_decay 0.1", "--learning_rate 2e-05", "--max_completion_length 99",
                     "--callbacks lisa vlmdet_evaluation vlmdet_reward", "--gradient_accumulation_steps 4",
                     "--reward_weights 1.0 1.0 0.2 1.0"):  # fmt: skip
        assert f" {expected} " in text


def test_the_checkpoint_that_a_run_was_trained_to_keep_is_where_a_reward_begins(prepared: Cli) -> None:
    run = runs.Run(write_sft(sets=('train.evaluate="f1"', 'train.keep="best"')))
    best = run.folder / "v0-1" / "checkpoint-3"
    best.mkdir()
    for name in ("trainer_state.json", ADAPTER):
        (best / name).write_text("{}")
    for step, f1 in ((3, 0.9), (5, 0.8)):
        run.add_evaluation(Evaluation(step=step, f1=f1))
    assert flags(dry(prepared, *GRPO)[1][2:])["adapters"].endswith("checkpoint-3")


# --- what is refused -----------------------------------------------------------------------------------------


def test_without_a_done_run_or_its_adapter_there_is_nothing_to_begin_with(prepared: Cli) -> None:
    assert refused(prepared, *GRPO).startswith("error: No run to go on from: ")
    folder = write_sft()
    (folder / CHECKPOINT / ADAPTER).unlink()
    assert refused(prepared, *GRPO).startswith("error: The checkpoint is not a LoRA adapter alone: ")
    for name in (ADAPTER, "vit.safetensors"):
        (folder / CHECKPOINT / name).touch()
    assert "  It also has vit.safetensors." in refused(prepared, *GRPO)
    assert "No run run-01: did you mean run-001?" in refused(prepared, *GRPO, "--from", "run-01")
    assert refused(prepared, "--from", "run-001") == (
        "error: --from is for a training by reward\nhint: vlmdet train --method grpo --from run-001\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--set", "train.reward.num_generations=6"),
            "The answers of a step are not whole groups: 32, train.reward.num_generations = 6",
        ),
        (
            ("--", "--per_device_train_batch_size", "3"),
            "The answers of a step are not whole groups: 12, train.reward.num_generations = 8",
        ),
        (("--set", "train.tuner_type=lora_llm"), 'train.tuner_type = "lora_llm" has no training by reward'),
        (("--", "--callbacks", "x"), "--method grpo needs --callbacks too"),
        (
            ("--set", "train.reward={detection = 0, silence = 0, count = 0, area = 0}"),
            "Every weight in [train.reward] is 0",
        ),
        (("--set", "train.reward.detektion=1"), "The project file has a problem: "),
        (("--set", "train.reward.swift.use_vllm=true"), "vLLM cannot sample here"),
    ],
)
def test_settings_that_swift_would_fail_on_are_refused_by_name(
    prepared: Cli, arguments: tuple[str, ...], message: str
) -> None:
    write_sft()
    assert refused(prepared, *GRPO, *arguments).splitlines()[0].startswith(f"error: {message}")


def test_an_unknown_weight_is_told_with_the_nearest(prepared: Cli) -> None:
    stderr = refused(prepared, *GRPO, "--set", "train.reward.silense=1", "--set", "train.reward.form=-1")
    assert "train.reward.silense: unknown key; did you mean silence?" in stderr
    assert "train.reward.form: expected a number >= 0.0, got -1" in stderr


def test_an_adapter_of_another_base_or_asked_in_another_way_is_refused(prepared: Cli, tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    sets = ("train.model=model",)
    write_sft(sets=sets)
    same = ("--set", sets[0])
    assert dry(prepared, *GRPO, *same)
    stderr = refused(prepared, *GRPO, *same, "--set", "train.swift.max_pixels=7840", "--set", 'train.swift.system="hi"')
    assert stderr.splitlines()[:3] == [
        "error: run-001 was trained to be asked otherwise than the reward would",
        "  max_pixels: None → 7840",
        "  system: None → hi",
    ]
    (tmp_path / "model" / "model.safetensors").write_bytes(b"\1" * 4000)
    assert refused(prepared, *GRPO, *same).startswith("error: The adapter is of another base model: ")


# --- a continuation, and the record --------------------------------------------------------------------------


def test_a_run_by_reward_goes_on_with_the_reference_that_it_had(prepared: Cli, tmp_path: Path) -> None:
    write_sft()
    project = projects.load(tmp_path)
    planned = train_plan.plan(project, TrainOptions(method="grpo", run="paid"))
    from vlmdet_cli.stages.training.train import _record

    record = _record(project, planned, 4)
    assert (record.method, record.dataset.file) == ("grpo", "data/coco_final_train.jsonl")
    assert record.parent is not None
    assert (record.parent.run, record.parent.checkpoint) == ("run-001", CHECKPOINT)
    checkpoint = planned.run.folder / "v0-2" / "checkpoint-7"
    checkpoint.mkdir(parents=True)
    (checkpoint / "trainer_state.json").write_text("{}")
    write_record(planned.run.folder, msgspec.structs.replace(record, state="interrupted", process=None))
    given = flags(dry(prepared, "--resume")[1][2:])
    assert given["resume_from_checkpoint"] == str(checkpoint)
    assert given["ref_adapters"].endswith(f"run-001/{CHECKPOINT}")
    sets = ("train.reward.beta=0.1", "train.reward.thresholds=[0.5]", "train.reward.swift.epsilon=0.3")
    changed = refused(prepared, "--resume", *(part for text in sets for part in ("--set", text)))
    assert "  train.reward.beta: 0.04 → 0.1\n" in changed
    assert "  train.reward.swift.epsilon: not set → 0.3\n" in changed
    assert "  train.reward.thresholds: " in changed
    (tmp_path / "out/runs/run-001" / CHECKPOINT / ADAPTER).write_bytes(b"other")
    assert refused(prepared, "--resume").startswith("error: The adapter that the run began with has changed: ")


# --- rows ----------------------------------------------------------------------------------------------------


def rows_of(tmp_path: Path, cli: Cli, text: str, pictures: Any = None) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The rows of a project and their numbers by task or reason."""
    write_project(tmp_path, pictures or {**PICTURES, "empty.jpg": []}, text)
    assert cli("prepare").exit_code == 0
    project = projects.load(tmp_path)
    counts = write_rows(project, project.rows("train"), tmp_path / "rows.jsonl", Reward().weights)
    return [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()], dict(counts)


def test_rows_have_the_truth_in_a_column_and_no_answer_and_do_not_name_the_machine(cli: Cli, tmp_path: Path) -> None:
    rows, counts = rows_of(tmp_path, cli, "[subset]\nempty = 1.0\n")
    assert counts == {"detection": 4, "silence": 1}
    by_image = {row["images"][0]: row for row in rows}
    row = by_image["data/subset/images/train/0.jpg"]
    assert [message["role"] for message in row["messages"]] == ["user"]
    truth = msgspec.json.decode(row["truth"], type=RowTruth)
    assert truth == RowTruth(size=(64, 48), objects=(("cat", (4.0, 6.0, 24.0, 26.0)),))
    assert str(tmp_path) not in (tmp_path / "rows.jsonl").read_text()
    assert all(isinstance(row["truth"], str) for row in rows)


def test_crowds_small_objects_and_classes_that_are_not_asked_for_are_as_eval_takes_them(
    cli: Cli, tmp_path: Path
) -> None:
    pictures = {
        "a.jpg": [
            ("cat", (4, 6, 20, 20)),
            ("dog", (30, 6, 20, 20)),
            ("cat", (1, 1, 3, 3)),
            ("crowd:cat", (0, 30, 60, 9)),
        ]
    }
    settings = '[subset]\nmin_box_size = 5\n[format]\nask = "each"\nnegatives_per_row = 0\n'
    rows, _ = rows_of(tmp_path, cli, settings, pictures)
    cat, dog = (msgspec.json.decode(row["truth"], type=RowTruth) for row in rows)
    assert "cat" in rows[0]["messages"][0]["content"]
    assert (cat.objects, dog.objects) == ((("cat", (4.0, 6.0, 24.0, 26.0)),), (("dog", (30.0, 6.0, 50.0, 26.0)),))
    assert (cat.crowds, cat.ignored) == ((("cat", (0.0, 30.0, 60.0, 39.0)),), (("cat", (1.0, 1.0, 4.0, 4.0)),))
    assert dog.crowds == dog.ignored == ()


def test_rows_of_tasks_without_a_weight_are_left_out_and_none_at_all_is_an_error(cli: Cli, tmp_path: Path) -> None:
    rows_of(tmp_path, cli, "[subset]\nempty = 1.0\n")
    project, file = projects.load(tmp_path), tmp_path / "rows.jsonl"
    counts = write_rows(project, project.rows("train"), file, ("silence", "form"))
    assert counts == {"silence": 1, "train.reward.detection = 0": 4}
    with pytest.raises(DataError, match="No row has a reward"):
        write_rows(project, project.rows("train"), file, ("count", "form"))


# --- inside swift's process ----------------------------------------------------------------------------------

JOB = RewardJob(names=("detection", "form"), rules=RewardRules(dialect="qwen2_vl", categories=("cat", "dog")))
TRUTH = RowTruth(size=(100, 100), objects=(("cat", (10.0, 10.0, 50.0, 50.0)),))
RIGHT = "cat(100,100),(500,500)"


def test_a_generation_is_marked_once_for_all_functions_and_logged(tmp_path: Path) -> None:
    scorer, log = Scorer(JOB, tmp_path / REWARDS_LOG), tmp_path / REWARDS_LOG
    texts = [RIGHT, "bird(100,100),(500,500)"]
    truths = [msgspec.json.encode(TRUTH).decode()] * 2
    first, again = (scorer.marks(texts, truths, {"is_truncated": [False, True]}) for _ in range(2))
    assert first is again
    assert [mark.value for mark in first] == [1, 0]
    (row,) = [json.loads(line) for line in log.read_text().splitlines()]
    assert row == {
        "step": 0, "answers": 2, "rewards": {"detection": 0.5, "form": 0.5}, "health": {"ok": 1, "partial": 1},
        "problems": {"unknown_label": 1}, "unknown": ["bird"], "cut": 0.5,
    }  # fmt: skip


def test_picture_tokens_are_known_by_the_names_of_the_model_and_its_processor() -> None:
    class Config:
        def to_dict(self) -> dict[str, Any]:
            return {"image_token_id": 5, "vision_start_token_id": 6, "video_token_id": None, "eos_token_id": 1,
                    "image_token_index": -1}  # fmt: skip

    class Processor:
        video_token_id, image_token, pad_token_id = 7, "<image>", 0

    assert picture_tokens(Config(), Processor()) == {5, 6, 7}


# --- a reward that is always 0 -------------------------------------------------------------------------------


def said(tmp_path: Path, texts: list[str], *, cut: bool = False, detection: float = 0.0) -> list[str]:
    """The warnings of 25 steps in which the model answers ``texts``."""
    reward_functions.write_job(tmp_path, JOB)
    scorer, warnings = Scorer(JOB, tmp_path / REWARDS_LOG), list[str]()
    watch = RewardWatch(tmp_path, warnings.append)
    for step in range(1, 26):
        scorer.marks(
            list(texts), [msgspec.json.encode(TRUTH).decode()] * len(texts), {"is_truncated": [cut] * len(texts)}
        )
        watch(Step(step=step, steps=30, loss=0.0, reward=0.2, detection=detection))
    return warnings


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("Cats(100,100),(500,500)", 'the answers name "Cats", and the categories are "cat", "dog". Is a label spelled'),
        ("[{'bbox': 3}]", "100% of the answers hold no box in the dialect qwen2_vl."),
        ("No objects.", "100% of the answers say that there is nothing."),
        ("cat(10,10),(50,50)", "boxes are read, but none overlaps an object by an IoU of 0.5."),
    ],
)
def test_a_reward_that_is_always_0_is_said_once_with_the_likely_cause(tmp_path: Path, text: str, cause: str) -> None:
    (warning,) = said(tmp_path, [text, text])
    assert warning.startswith(f"the reward for detection is 0 in all of the first 20 steps: {cause}")


def test_answers_that_are_cut_off_are_the_cause_whatever_they_say(tmp_path: Path) -> None:
    (warning,) = said(tmp_path, ["cat(10,10),(5"], cut=True)
    assert "100% of the answers are cut off. Raise train.reward.max_completion_length." in warning


def test_nothing_is_said_of_a_reward_that_is_paid(tmp_path: Path) -> None:
    assert said(tmp_path, [RIGHT], detection=0.1) == []


# --- the real thing ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(find_spec("swift") is None, reason="needs the extra `train`")
def test_the_demo_goes_on_by_reward_and_its_run_is_one_like_any_other(tmp_path: Path) -> None:
    vlmdet(tmp_path, "init", "--demo", "demo")
    folder = tmp_path / "demo"
    generation = folder / "model" / "generation_config.json"  # as that of Qwen2-VL: top_k, and no token suppressed
    generation.write_text(json.dumps({"do_sample": True, "top_k": 1, "eos_token_id": [2, 0], "pad_token_id": 0}))
    settings = ("subset.pictures=40", "subset.val_pictures=2", "subset.test_pictures=4", "train.swift.max_steps=8",
                "train.reward.swift.max_steps=3", "train.logging_steps=1", "infer.max_tokens=64",
                "train.reward.gradient_accumulation_steps=1", "train.reward.learning_rate=1e-4")  # fmt: skip
    sets = [part for setting in settings for part in ("--set", setting)]
    for step in ("prepare", "augment", "train"):
        vlmdet(folder, step, *sets)
    done = vlmdet(folder, "train", *GRPO, *sets)
    run = runs.find_run(folder / "out" / "runs", "run-002")
    record, log = run.record, run.training_log()
    assert (record.state, record.method, record.steps) == ("done", "grpo", 3)
    assert record.parent is not None
    assert record.parent.run == "run-001"
    assert log is not None
    logged = [row for row in map(json.loads, log.read_text().splitlines()) if "reward" in row]
    rewards = [json.loads(line) for line in (run.folder / REWARDS_LOG).read_text().splitlines()]
    assert [row["step"] for row in rewards] == [1, 2, 3]
    for row, own in zip(logged, rewards, strict=True):
        for name, value in own["rewards"].items():
            assert row[f"rewards/{name}/mean"] == pytest.approx(value, abs=1e-5)
    assert max(row["reward_std"] for row in logged) > 0  # not the same answer eight times
    assert logged[0]["kl"] == pytest.approx(0, abs=1e-6)  # without dropout, the model is at first its own reference
    assert f"reward {record.reward:.3f}" in done.stdout
    # the adapter has moved, and the run is merged, asked and measured like any other
    weights = [
        path / ADAPTER for path in (folder / "out/runs/run-001" / record.parent.checkpoint, run.kept_checkpoint())
    ]
    assert weights[0].read_bytes() != weights[1].read_bytes()
    for step in ("merge", "infer", "eval"):
        vlmdet(folder, step, "--run", "run-002", *sets)
    assert run.report("test").is_file()
