"""What the command line of ``infer`` chooses: the model, the form in which it is asked, and the file of its answers."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.conftest import Cli, picture, write_project
from tests.engines.fake_engine import FakeEngine
from tests.models.test_adapters import adapter_weights, weights
from vlmdet_cli import engines
from vlmdet_cli.core.answers import Answer
from vlmdet_cli.engines import EngineSettings
from vlmdet_cli.engines.answers import read_answers, read_meta
from vlmdet_cli.engines.settings import TransformersOptions
from vlmdet_cli.project.run_record import DatasetRecord, ModelRecord, RunRecord, TrainedSettings, write_record
from vlmdet_cli.project.runs import MARKER

TRAINED = TrainedSettings(
    family="qwen2_vl", dialect="qwen3_vl", max_pixels=7056, system="Be brief.", template="qwen2_vl", model="base"
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[EngineSettings]:
    """The settings of every engine that is created; the fake one takes the place of transformers."""
    created: list[EngineSettings] = []

    def create(name: str, settings: EngineSettings) -> FakeEngine:
        created.append(settings)
        return FakeEngine(engine=name, model=settings.model.name)

    monkeypatch.setattr(engines, "create", create)
    return created


def model_folder(folder: Path, model_type: str = "qwen2_vl", trained: TrainedSettings | None = None) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    if trained:
        document = {"schema": 1, "checkpoint": "checkpoint-1", "trained": msgspec.to_builtins(trained)}
        (folder / MARKER).write_text(json.dumps(document))
    return folder


def trained_run(output: Path, name: str, started: str = "2026-01-01") -> Path:
    """A run that is done and merged."""
    folder = output / "runs" / name
    model_folder(folder / "merged", trained=TRAINED)
    dataset, model = DatasetRecord(file="train.jsonl", rows=1, hash=""), ModelRecord(name="base")
    write_record(folder, RunRecord(name=name, state="done", started=started, command="", dataset=dataset, model=model,
                                   trained=TRAINED))  # fmt: skip
    return folder


def prepared(cli: Cli, text: str = "") -> Path:
    """A prepared project of two pictures whose split ``train`` is asked; its output folder."""
    pictures = {"a.jpg": [("cat", (0, 0, 9, 9))], "b.jpg": [("dog", (5, 5, 20, 20))]}
    write_project(Path(), pictures, f'[infer]\nsplit = "train"\n{text}')
    result = cli("prepare", "-q")
    assert result.exit_code == 0, result.stderr
    return Path("out")


def ask(cli: Cli, *arguments: str) -> dict[str, Any]:
    result = cli("infer", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def test_the_latest_done_run_answers_and_keeps_its_answers(cli: Cli, asked: list[EngineSettings]) -> None:
    output = prepared(cli)
    trained_run(output, "run-001")
    latest = trained_run(output, "run-002", "2026-01-02")
    result = ask(cli)
    assert Path(result["answers"]).resolve() == (latest / "answers" / "train.jsonl").resolve()
    assert (result["rows"], asked[0].model.parent.name) == (2, "run-002")


def test_a_run_is_named_with_run(cli: Cli, asked: list[EngineSettings]) -> None:
    output = prepared(cli)
    first = trained_run(output, "run-001")
    trained_run(output, "run-002", "2026-01-02")
    result = ask(cli, "--run", "run-001", "--name", "again")
    assert Path(result["answers"]).resolve() == (first / "answers" / "again.jsonl").resolve()
    meta = read_meta(Path(result["answers"]))
    assert meta is not None
    assert (meta.run, meta.split, len(asked)) == ("run-001", "train", 1)


def test_a_model_is_asked_as_it_was_trained_and_not_as_the_project_file_says_today(
    cli: Cli, asked: list[EngineSettings]
) -> None:
    output = prepared(cli, '[format]\ndialect = "qwen2_vl"\n[train.swift]\nmax_pixels = 50176\nsystem = "Be long."\n')
    trained_run(output, "run-001")
    result = cli("infer", "--json")
    assert result.exit_code == 0
    assert (
        "warning: the rows are written in qwen2_vl, and the model was trained to answer in qwen3_vl.\n" in result.stderr
    )
    (settings,) = asked
    assert (settings.max_pixels, settings.system) == (7056, "Be brief.")
    answers = read_answers(Path(json.loads(result.stdout)["answers"]))
    assert {(answer.dialect, answer.max_pixels) for answer in answers} == {("qwen3_vl", 7056)}


def test_a_model_of_which_nothing_is_recorded_is_asked_as_the_project_file_says(
    cli: Cli, asked: list[EngineSettings], tmp_path: Path
) -> None:
    output = prepared(cli, '[train.swift]\nmax_pixels = 50176\nsystem = "Be long."\n')
    model_folder(tmp_path / "base")
    result = ask(cli, "--model", "base")
    assert Path(result["answers"]).resolve() == (output / "answers" / "base-train.jsonl").resolve()
    assert (asked[0].max_pixels, asked[0].system) == (50176, "Be long.")
    meta = read_meta(Path(result["answers"]))
    assert meta is not None
    assert (meta.run, meta.dialect, meta.family) == (None, "qwen2_vl", "qwen2_vl")


def test_a_merged_model_without_a_project_is_asked_as_it_was_trained(
    cli: Cli, asked: list[EngineSettings], tmp_path: Path
) -> None:
    run = trained_run(tmp_path / "elsewhere", "run-001")
    picture(tmp_path, "a.jpg")
    document = ask(cli, "--model", str(run / "merged"), "a.jpg")
    assert (document["image"], document["size"]) == ("a.jpg", [64, 48])
    assert (asked[0].max_pixels, asked[0].system) == (7056, "Be brief.")
    assert document["health"] == "unparsed"  # the fake engine answers in another dialect than the model was trained in


def test_an_adapter_is_asked_on_its_base_and_keeps_its_answers_in_its_run(
    cli: Cli, asked: list[EngineSettings], tmp_path: Path
) -> None:
    output = prepared(cli)
    run = trained_run(output, "run-001")
    trained_run(output, "run-002", "2026-01-02")
    base = model_folder(tmp_path / "base")
    checkpoint = run / "v0-1" / "checkpoint-7"
    checkpoint.mkdir(parents=True)
    (checkpoint / "adapter_config.json").write_text("{}")
    (checkpoint / "args.json").write_text(json.dumps({"model": str(base), "max_pixels": 3136, "system": None}))
    result = ask(cli, "--adapter", str(checkpoint))
    assert Path(result["answers"]).resolve() == (run / "answers" / "checkpoint-7-train.jsonl").resolve()
    assert (asked[0].model, asked[0].adapter, asked[0].max_pixels) == (base, checkpoint, 3136)


def test_an_adapter_of_another_model_is_refused_with_both_names_before_anything_is_loaded(
    cli: Cli, asked: list[EngineSettings], tmp_path: Path
) -> None:
    picture(tmp_path, "a.jpg")
    large, small = (model_folder(tmp_path / name) for name in ("Qwen2-VL-7B", "Qwen2-VL-2B"))
    weights(large / "model.safetensors", {"model.layers.0.self_attn.q_proj.weight": (3584, 3584)})
    weights(small / "model.safetensors", {"model.layers.0.self_attn.q_proj.weight": (1536, 1536)})
    base = "Qwen/Qwen2-VL-7B"
    adapter_weights(tmp_path / "a", {"model.language_model.layers.0.self_attn.q_proj": (3584, 3584)}, base)
    result = cli("infer", "--adapter", "a", "--model", "Qwen2-VL-2B", "a.jpg")
    assert (result.exit_code, result.stdout, asked) == (2, "", [])
    assert result.stderr == (
        "error: The adapter was trained on another model: a\n"
        "  It is of Qwen/Qwen2-VL-7B; the model is Qwen2-VL-2B.\n"
        "  layers.0.self_attn.q_proj is 3584 x 3584 in the adapter, 1536 x 1536 in the model.\n"
        "hint: Name the model that it was trained on with --model.\n"
    )
    large.rename(tmp_path / "mine")
    result = cli("infer", "--adapter", "a", "--model", "mine", "a.jpg", "--json")
    assert (result.exit_code, len(asked)) == (0, 1)
    assert result.stderr == "warning: the adapter was trained on Qwen/Qwen2-VL-7B, and it is put on mine.\n"
    (tmp_path / "hub" / "models--Qwen--Qwen2-VL-7B").mkdir(parents=True)
    (tmp_path / "mine").rename(tmp_path / "hub" / "models--Qwen--Qwen2-VL-7B" / "snapshot")
    result = cli("infer", "--adapter", "a", "--model", "hub/models--Qwen--Qwen2-VL-7B/snapshot", "a.jpg", "--json")
    assert (result.exit_code, result.stderr) == (0, "")


def test_the_truth_that_the_answers_belong_to_is_recorded(cli: Cli, asked: list[EngineSettings]) -> None:
    trained_run(prepared(cli), "run-001")
    metas = []
    for category in ("cat", "tiger"):
        file = Path("annotations.json")
        file.write_text(file.read_text().replace('"cat"', f'"{category}"'))
        assert cli("prepare", "-q").exit_code == 0
        result = ask(cli)
        metas.append(read_meta(Path(result["answers"])))
    assert (result["asked"], result["refreshed"], len(asked)) == (0, 1, 2)
    assert all(meta is not None for meta in metas)
    assert len({meta.data for meta in metas if meta}) == 2
    expected = {answer.image: answer.expected for answer in read_answers(Path(result["answers"]))}
    assert "tiger" in str(expected["data/subset/images/train/a.jpg"])


def test_failed_rows_are_asked_again_with_retry_failed(cli: Cli, asked: list[EngineSettings]) -> None:
    output = prepared(cli)
    trained_run(output, "run-001")
    image = output / "data" / "subset" / "images" / "train" / "a.jpg"
    data = image.read_bytes()
    image.unlink()
    image.write_bytes(b"")
    assert ask(cli)["failed"] == 1
    image.write_bytes(data)
    assert ask(cli)["asked"] == 0
    result = ask(cli, "--retry-failed")
    assert (result["asked"], result["failed"], result["ledger"]["rows"]["dropped"]) == (1, 0, {})
    assert len(asked) == 3


def test_answers_to_named_pictures_are_kept_where_the_output_says(
    cli: Cli, asked: list[EngineSettings], tmp_path: Path
) -> None:
    model_folder(tmp_path / "base")
    for name in ("a.jpg", "b.jpg", "c.txt"):
        picture(tmp_path / "folder", name.replace("txt", "png"))
    documents = json.loads(cli("infer", "--model", "base", "folder", "--output", "x/answers.jsonl", "--json").stdout)
    assert [document["image"] for document in documents] == ["folder/a.jpg", "folder/b.jpg", "folder/c.png"]
    answers: list[Answer] = list(read_answers(tmp_path / "x" / "answers.jsonl"))
    assert [answer.text for answer in answers] == [document["text"] for document in documents]
    assert asked[0].family.name == "qwen2_vl"


def test_a_model_of_an_unknown_family_is_refused_by_name(cli: Cli, tmp_path: Path) -> None:
    model_folder(tmp_path / "llava", "llava_next")
    picture(tmp_path, "a.jpg")
    result = cli("infer", "--model", "llava", "a.jpg")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: Not a model of a known family: llava\n  Its model_type is llava_next.\n")


def test_an_unknown_engine_is_a_users_error(cli: Cli, tmp_path: Path) -> None:
    model_folder(tmp_path / "base")
    prepared(cli)
    result = cli("infer", "--model", "base", "--set", "infer.engine=transformer")
    assert (result.exit_code, result.stderr) == (
        2,
        "error: No such engine: transformer: did you mean transformers?\n"
        f"hint: Known engines: {', '.join(engines.names())}.\n",
    )  # fmt: skip


def test_what_is_not_there_is_named(cli: Cli, tmp_path: Path) -> None:
    write_project(Path(), {"a.jpg": [("cat", (0, 0, 9, 9))]})
    (tmp_path / "m").mkdir()
    for arguments, code, message in (
        ((), 2, f"error: No run: {tmp_path}/out/runs\nhint: Run `vlmdet train` first.\n"),
        (("--model", "m"), 2, "error: No model folder: m\nhint: A model folder holds config.json and weights. A hub's "
         "name is ORGANISATION/NAME.\n"),
        (("--adapter", "m"), 2, "error: No LoRA adapter: m\nhint: An adapter folder holds adapter_config.json.\n"),
        (("--split", "x"), 2, "error: No such split: x\nhint: There are train, val, test.\n"),
    ):  # fmt: skip
        result = cli("infer", *arguments)
        assert (result.exit_code, result.stdout, result.stderr) == (code, "", message)
    (tmp_path / "m" / "config.json").write_text('{"model_type": "qwen2_vl"}')
    result = cli("infer", "--model", "m", "gone.jpg")
    assert (result.exit_code, result.stderr) == (3, "error: No such picture: gone.jpg\nhint: Check the path.\n")
    result = cli("infer", "--model", "m", "--split", "train")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: The split train is not prepared: {tmp_path}/out/data/subset/train.json\n")


def test_settings_of_the_command_line_count_without_a_project(
    cli: Cli, asked: list[EngineSettings], tmp_path: Path
) -> None:
    model, path = model_folder(tmp_path / "model"), picture(tmp_path, "a.jpg")
    ask(cli, "--model", str(model), str(path), "--set", "infer.batch=3", "--set", "infer.transformers.dtype=float16")
    assert (asked[0].batch, asked[0].options) == (3, TransformersOptions(dtype="float16"))
    done = cli("infer", "--model", str(model), str(path), "--set", "infer.bach=3", "--set", "train.epochs=2")
    assert (done.exit_code, done.stderr.splitlines()[:3]) == (2, [
        "error: A setting of inference is wrong",
        "  train: where a model and pictures are named, only settings of [infer] count",
        "  infer.bach: unknown key; did you mean batch?",
    ])  # fmt: skip


def test_swift_is_told_of_a_model_what_it_was_told_in_training(cli: Cli, asked: list[EngineSettings]) -> None:
    Path("plugin.py").write_text("")
    output = prepared(cli, '[train.swift]\ntemplate = "today"\nexternal_plugins = "plugin.py"')
    flags = {"template": "own_template", "model_type": "qvq"}
    plugins = ("/gone/plugin.py",)  # the project was moved since: the one of the project file takes its place
    model_folder(output / "m", trained=msgspec.structs.replace(TRAINED, external_plugins=plugins, **flags))
    ask(cli, "--model", str(output / "m"))
    model_folder(output / "plain")
    ask(cli, "--model", str(output / "plain"))
    swift = [settings.swift for settings in asked]
    assert [(model.model_type, model.template) for model in swift] == [("qvq", "own_template"), ("qwen2_vl", "today")]
    assert [model.plugins for model in swift] == [(Path("plugin.py").resolve(),)] * 2
