"""The project file: defaults, all problems at once, overrides, where it is looked for."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tomli

from tests.conftest import Cli
from vlmdet_cli import project
from vlmdet_cli.errors import UsageError
from vlmdet_cli.project import loading
from vlmdet_cli.project.new_file import TEMPLATE

MINIMAL = '[project]\noutput = "out"\n[data.train]\nannotations = "a.json"\nimages = "i"\n'


def test_the_smallest_file_gives_the_documented_run() -> None:
    train = project.convert(tomli.loads(MINIMAL)).train
    assert (train.model, train.tuner_type, train.lora_rank, train.lora_alpha) == (
        "Qwen/Qwen2-VL-2B-Instruct",
        "lora",
        32,
        64,
    )
    assert (train.learning_rate, train.num_train_epochs, train.max_length) == (5e-5, 10, 2048)
    assert (train.freeze_vit, train.freeze_aligner, train.freeze_llm) == (False, False, False)


def test_all_problems_are_told_at_once_with_key_paths_and_the_nearest_name() -> None:
    text = (
        "trian = {}\n[project]\noutpt = 'x'\nseed = -1\n[data.train]\nannotations = 3\n"
        "[train]\nlora_rank = 'x'\ntorch_dtype = 'bf16'\nlora_dropout = 0.1\n[subset]\ncategories = ['a', 1]\n"
    )
    with pytest.raises(UsageError) as caught:
        project.convert(tomli.loads(text), ["train.lora_alpha=x", "oops"], "my.toml")
    assert str(caught.value) == (
        "The project file has 11 problems: my.toml\n"
        "--set oops: expected KEY=VALUE, such as train.lora_rank=16\n"
        "trian: unknown key; did you mean train?\n"
        "project.outpt: unknown key; did you mean output?\n"
        "project.output: missing\n"
        "project.seed: expected a whole number >= 0, got -1\n"
        "data.train.annotations: expected text, got 3\n"
        'subset.categories: expected text at [1], got ["a", 1]\n'
        "train.lora_dropout: unknown key; other swift flags belong in [train.swift]\n"
        'train.lora_rank: expected a whole number, got "x"\n'
        'train.lora_alpha: expected a whole number, got "x"\n'
        'train.torch_dtype: expected one of bfloat16, float16, float32, got "bf16"\n'
        "`vlmdet init` writes a file with every key explained."
    )


@pytest.mark.parametrize(
    ("value", "expected"), [('"x"', "auto or a number"), ("-1", "a number >= 0.0"), ("true", "a number or text")]
)
def test_a_key_that_takes_a_number_or_a_word_says_so(value: str, expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        loading.infer_settings({}, [f"infer.ray.gpus={value}"])
    assert caught.value.why == (f"infer.ray.gpus: expected {expected}, got {value}",)
    assert loading.infer_settings({}, ["infer.ray.gpus=auto"]).ray.gpus == "auto"


def test_an_unknown_train_key_without_a_near_name_points_to_the_table_for_other_flags() -> None:
    with pytest.raises(UsageError) as caught:
        project.convert(tomli.loads(MINIMAL + "[train]\nzzz = 1\n"))
    assert caught.value.why == ("train.zzz: unknown key; other swift flags belong in [train.swift]",)


def test_overrides_take_toml_values_or_plain_text() -> None:
    sets = ["train.lora_rank=16", "format.prompt=Find all", "train.swift.deepspeed=zero2", "subset.categories=['a']"]
    config = project.convert(tomli.loads(MINIMAL), sets)
    assert config.train.lora_rank == 16
    assert config.format.prompt == "Find all"
    assert config.train.swift == {"deepspeed": "zero2"}
    assert config.subset.categories == ("a",)


def test_a_renamed_key_is_read_under_its_present_name_with_a_warning(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "RENAMED_KEYS", {"train.rank": "train.lora_rank", "old.seed": "project.seed"})
    (tmp_path / "vlmdet.toml").write_text(MINIMAL + "[train]\nrank = 8\n")
    loaded = project.load(tmp_path)
    assert loaded.config.train.lora_rank == 8
    assert loaded.notes == ("the key train.rank is now called train.lora_rank; rename it in the project file",)
    assert cli("merge").stderr.startswith(f"warning: {loaded.notes[0]}\n")
    # an override replaces the value of the file, whichever of the two names either of them uses
    loaded = project.load(tmp_path, ["train.rank=16"])
    assert loaded.config.train.lora_rank == 16
    assert loaded.notes[1] == "--set train.rank: the key is now called train.lora_rank"
    assert project.load(tmp_path, ["train.lora_rank=32"]).config.train.lora_rank == 32
    (tmp_path / "vlmdet.toml").write_text(MINIMAL + "[train]\nrank = 8\nlora_rank = 16\n")
    with pytest.raises(UsageError) as caught:
        project.load(tmp_path)
    assert caught.value.why == ("train.rank: is now called train.lora_rank, which is set too; remove train.rank",)


@pytest.mark.parametrize(
    ("old", "new", "value"),
    [
        ("format.also", "format.extra_formats", ("yolo",)),
        ("format.absent", "format.negatives_per_row", 3),
        ("augment.mix", "augment.question_ratio", 0.25),
    ],
)
def test_the_keys_of_the_first_version_are_read_from_the_file_and_from_overrides(
    tmp_path: Path, old: str, new: str, value: Any
) -> None:
    table, _, key = old.partition(".")
    written = json.dumps(value)
    (tmp_path / "vlmdet.toml").write_text(f"{MINIMAL}[{table}]\n{key} = {written}\n")
    in_file = project.load(tmp_path)
    (tmp_path / "vlmdet.toml").write_text(MINIMAL)
    overridden = project.load(tmp_path, [f"{old}={written}"])
    assert in_file.config == overridden.config == project.load(tmp_path, [f"{new}={written}"]).config
    assert getattr(getattr(in_file.config, table), new.partition(".")[2]) == value
    assert in_file.notes == (f"the key {old} is now called {new}; rename it in the project file",)
    assert overridden.notes == (f"--set {old}: the key is now called {new}",)


def test_the_written_template_holds_every_key_with_its_default() -> None:
    text = TEMPLATE.read_text()
    written = project.convert(tomli.loads(text))
    smallest = project.convert(tomli.loads(MINIMAL))
    assert written.train == smallest.train
    assert msgspec.structs.replace(written, data=smallest.data) == smallest
    tables = {"project": project.About, "subset": project.Subset, "format": project.Format, "train": project.Train}
    tree = tomli.loads(text)
    for name, record in tables.items():
        assert set(tree[name]) | {"swift"} >= set(record.__struct_fields__), name


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "error: No project file: vlmdet.toml\nhint: Write one with `vlmdet init`, or name one with -p or "
               "VLMDET_PROJECT.\n"),
        (b"[project\n", "error: The project file is not valid TOML: vlmdet.toml\n  Expected ']' at the end of a table "
                        'declaration (at line 1, column 9).\nhint: Text values need quotes: output = "out"\n'),
        (b"\xff\n", "error: The project file is not UTF-8: vlmdet.toml\n  Byte 0.\n"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_told_with_its_place(cli: Cli, content: bytes | None, message: str) -> None:
    if content is not None:
        Path("vlmdet.toml").write_bytes(content)
    done = cli("prepare")
    assert (done.exit_code, done.stderr, done.stdout) == (2, message, "")


def test_the_project_is_named_by_option_or_environment_before_or_after_the_command(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "No project file: a.toml" in cli("-p", "a.toml", "prepare").stderr
    assert "No project file: b.toml" in cli("prepare", "-p", "b.toml").stderr
    monkeypatch.setenv("VLMDET_PROJECT", "c.toml")
    assert "No project file: c.toml" in cli("prepare").stderr


def test_paths_start_at_the_file_and_rows_name_no_machine(tmp_path: Path) -> None:
    (tmp_path / "vlmdet.toml").write_text(MINIMAL)
    loaded = project.load(tmp_path)
    assert loaded.path("a.json") == tmp_path / "a.json"
    assert loaded.output == tmp_path / "out"
    assert loaded.image_row("train", "x/1.jpg") == "data/subset/images/train/x/1.jpg"
