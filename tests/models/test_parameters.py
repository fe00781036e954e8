"""The sizes of models: from headers, from a configuration, and of a real adapter."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.models import tiny_models
from vlmdet_cli.demo import HERE
from vlmdet_cli.errors import DataError
from vlmdet_cli.models.parameters import Stack, model_size, part_of


def test_the_demos_sizes_are_read_from_its_files_without_torch() -> None:
    size = model_size(HERE / "model")
    assert size.language == Stack(layers=4, hidden=160, intermediate=448, heads=5)
    assert size.vision == Stack(layers=4, hidden=128, intermediate=384, heads=4)
    assert (size.vocabulary, size.patches_per_token) == (506, 4)
    # what swift says of this model with LoRA of rank 32 on everything: "3.1921M Params (0.6810M Trainable …)"
    lora = 32 * sum(part.linear_sides for part in size.parts.values())
    assert (lora, lora + size.parameters) == (680_960, 3_192_064)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("visual.blocks.0.attn.qkv.weight", "vision"),
        ("model.visual.merger.mlp.0.weight", "aligner"),
        ("model.visual.deepstack_merger_list.0.norm.weight", "aligner"),
        ("model.vision_tower.encoder.layer.0.weight", "vision"),
        ("multi_modal_projector.linear_1.weight", "aligner"),
        ("model.language_model.layers.0.mlp.up_proj.weight", "language"),
        ("lm_head.weight", "language"),
    ],
)
def test_a_parameter_belongs_to_a_part_by_its_name(name: str, part: str) -> None:
    assert part_of(name) == part


@pytest.mark.parametrize("text", [None, "{", "{}", '{"hidden_size": 8}'])
def test_a_folder_that_does_not_tell_is_an_error(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(DataError, match="The sizes of the model are not known"):
        model_size(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("transformers") is None, reason="needs the extra `train`")
@pytest.mark.parametrize("name", sorted(tiny_models.builders()))
def test_weights_and_configuration_give_the_same_sizes(
    tiny_model_folders: dict[str, Path], tmp_path: Path, name: str
) -> None:
    """The second way builds the real model on the meta device and counts its parameters."""
    folder = tiny_model_folders[name]
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    by_weights, by_configuration = model_size(folder), model_size(tmp_path)
    assert by_weights == by_configuration
    assert by_weights.parameters > json.loads((folder / "config.json").read_bytes())["text_config"]["vocab_size"] * 64
