"""init --model: the settings that fit a model's family, and what is no model."""

import json
from pathlib import Path

import pytest

from tests.conftest import Cli
from vlmdet_cli import project
from vlmdet_cli.models import registry
from vlmdet_cli.project.new_file import TEMPLATE, project_text

MODELS = {
    "qwen2_vl": "Qwen/Qwen2-VL-2B-Instruct",
    "qwen2_5_vl": "Qwen/Qwen2.5-VL-3B-Instruct",
    "qwen3_vl": "Qwen/Qwen3-VL-4B-Instruct",
    "internvl": "OpenGVLab/InternVL3-1B-hf",
    "paligemma": "google/paligemma2-3b-pt-448",
}


def test_every_family_is_tried_here() -> None:
    assert set(MODELS) == set(registry.names())


@pytest.mark.parametrize(("family", "model"), MODELS.items())
def test_a_project_for_a_family_has_its_dialect_and_room_for_a_photograph_and_a_long_answer(
    cli: Cli, family: str, model: str
) -> None:
    done = cli("init", "mine", "--model", model, "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    result = json.loads(done.stdout)
    loaded = project.load(Path("mine"))
    train = loaded.config.train
    assert (result["family"], train.model, loaded.family.name) == (family, model, family)
    assert loaded.dialect_name == registry.get(family).dialect
    assert result["settings"]["train.max_length"] == train.max_length
    photographs = [(640, 480), (4032, 3024), (1080, 1920), (6000, 1000)]
    tokens = loaded.family.image_tokens(photographs, loaded.max_pixels)
    assert train.max_length - tokens.max() >= 700


def test_the_settings_of_the_model_are_shown_and_the_rest_of_the_file_is_the_template(cli: Cli) -> None:
    done = cli("init", "mine", "--model", MODELS["qwen3_vl"])
    assert "For the model family qwen3_vl: train.model = Qwen/Qwen3-VL-4B-Instruct, train.max_length = 2048" in (
        done.stdout.replace("\n", " ")
    )
    written, template = Path("mine/vlmdet.toml").read_text().split("\n"), TEMPLATE.read_text().split("\n")
    assert [line for line in written if line not in template] == [
        'model = "Qwen/Qwen3-VL-4B-Instruct"  # a folder, or a name on swift\'s hub',
        "max_pixels = 1048576",
    ]
    assert [line for line in template if line not in written] == [
        'model = "Qwen/Qwen2-VL-2B-Instruct"  # a folder, or a name on swift\'s hub'
    ]


def test_a_model_folder_is_named_from_the_project_and_its_own_settings_count(cli: Cli) -> None:
    folder = Path("models/mine")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "internvl"}')
    (folder / "preprocessor_config.json").write_text('{"max_patches": 6}')
    assert cli("init", "work", "--model", "models/mine").exit_code == 0
    loaded = project.load(Path("work"))
    assert loaded.config.train.model == "../models/mine"
    assert loaded.family.name == "internvl"
    assert loaded.config.train.max_length == 7 * 256 + 768


@pytest.mark.parametrize("model", ["nonsense", "./no/folder", "Qwen/", "a/b/c", "empty"])
def test_what_is_no_model_is_refused_and_nothing_is_written(cli: Cli, model: str) -> None:
    Path("empty").mkdir()
    done = cli("init", "mine", "--model", model)
    assert (done.exit_code, done.stdout, done.stderr) == (
        2,
        "",
        f"error: Neither a model folder nor a hub's name: {model}\n"
        "hint: A model folder holds config.json and weights. A hub's name is ORGANISATION/NAME.\n",
    )
    assert not Path("mine").exists()


def test_the_demo_takes_no_other_model(cli: Cli) -> None:
    done = cli("init", "mine", "--demo", "--model", MODELS["qwen2_vl"])
    assert (done.exit_code, done.stderr.splitlines()[0]) == (2, "error: The demo has a model of its own")


def test_without_values_the_text_is_the_template() -> None:
    assert project_text({}) == TEMPLATE.read_text()


def test_a_key_that_the_template_has_not_is_the_first_of_its_table() -> None:
    text = project_text({("train.swift", "deepspeed"): "zero3", ("infer", "scores"): True})
    assert '[train.swift]         # any other flag of `swift sft`, passed through\ndeepspeed = "zero3"\n' in text
    assert "\nscores = true         # keep each token's log-probability: gives boxes a score\n" in text


@pytest.mark.parametrize(
    ("model", "dialect"), [("llava-hf/llava-1.5-7b-hf", "swift"), ("OpenGVLab/InternVL3-1B", "internvl")]
)
def test_a_project_for_a_model_of_no_family_leaves_boxes_and_pictures_to_swift(
    cli: Cli, model: str, dialect: str
) -> None:
    done = cli("init", "mine", "--model", model, "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    expected = {"train.model": model, "format.rows": "objects", "format.dialect": dialect}
    assert json.loads(done.stdout)["settings"] == expected
    loaded = project.load(Path("mine"))
    assert (loaded.config.format.rows, loaded.dialect_name, loaded.family.name) == ("objects", dialect, "other")
