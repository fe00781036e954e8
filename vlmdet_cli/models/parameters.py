"""How many parameters a model folder's parts have, and the sizes that the memory of training depends on.

Shapes come from the headers of the weights files, so they are exact for any model and need no torch; a folder that has
only a ``config.json`` is built by transformers without memory for its weights.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from vlmdet_cli.errors import DataError, EngineError
from vlmdet_cli.models.adapters import Shape, tensor_shapes

Part = Literal["vision", "aligner", "language"]
PARTS: tuple[Part, ...] = ("vision", "aligner", "language")
_ALIGNER = re.compile(r"visual\.(?:merger|deepstack_merger_list)\.|multi_modal_projector\.|mlp1\.")
_VISION = re.compile(r"(?:^|\.)(?:visual|vision_tower|vision_model)\.")
# linear layers, which LoRA adapts: not the word table, the head, or tables of positions
_NOT_LINEAR = re.compile(r"embed|lm_head|position")


class PartSize(NamedTuple):
    """``parameters``: all of a part. ``linear_sides``: inputs and outputs of its linear layers, added up: LoRA of rank
    r has r times as many parameters.
    """

    parameters: int
    linear_sides: int


class Stack(NamedTuple):
    """The layers of a transformer: their number, the width of the stream and of the feed-forward part, the heads."""

    layers: int
    hidden: int
    intermediate: int
    heads: int


class ModelSize(NamedTuple):
    """The sizes of a model. ``patches_per_token``: patches of the tower that become a token of the language model."""

    parts: Mapping[Part, PartSize]
    language: Stack
    vision: Stack
    vocabulary: int
    patches_per_token: int

    @property
    def parameters(self) -> int:
        return sum(part.parameters for part in self.parts.values())


def model_size(folder: Path) -> ModelSize:
    """The sizes of a model folder. Raises ``DataError`` where its ``config.json`` does not tell them."""
    config = _config(folder)
    shapes = list(tensor_shapes(folder)) or list(shapes_of_config(folder))
    if config.get("tie_word_embeddings", config["text_config"].get("tie_word_embeddings")):
        shapes = [(name, shape) for name, shape in shapes if not name.endswith("lm_head.weight")]
    vision = config["vision_config"]
    merge = int(vision.get("spatial_merge_size") or round(1 / float(config.get("downsample_ratio", 1.0))))
    return ModelSize(
        parts=_parts(shapes),
        language=_stack(config["text_config"]),
        vision=_stack(vision),
        vocabulary=int(config["text_config"]["vocab_size"]),
        patches_per_token=merge**2,
    )


def _config(folder: Path) -> dict[str, Any]:
    """``config.json`` with both parts' own configurations; an older Qwen2-VL has the language model's on top."""
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_bytes())
        config.setdefault("text_config", {name: config[name] for name in config if not isinstance(config[name], dict)})
        _stack(config["text_config"]), _stack(config["vision_config"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"The sizes of the model are not known: {folder}",
            why=f"config.json: {error}.",
            hint="Name a folder with the config.json of a vision-language model.",
        ) from None
    return config


def _stack(config: Mapping[str, Any]) -> Stack:
    """Of a language model or a vision tower; Qwen's towers call the same things otherwise."""
    hidden = int(config.get("embed_dim") or config["hidden_size"])
    return Stack(
        layers=int(config.get("depth") or config["num_hidden_layers"]),
        hidden=hidden,
        intermediate=int(config.get("intermediate_size") or config.get("mlp_ratio", 4) * hidden),
        heads=int(config.get("num_heads") or config["num_attention_heads"]),
    )


def _parts(shapes: Iterable[tuple[str, Shape]]) -> dict[Part, PartSize]:
    counts, sides = dict.fromkeys(PARTS, 0), dict.fromkeys(PARTS, 0)
    for name, shape in shapes:
        part = part_of(name)
        counts[part] += math.prod(shape)
        if len(shape) == 2 and name.endswith(".weight") and not _NOT_LINEAR.search(name):
            sides[part] += sum(shape)
    return {part: PartSize(counts[part], sides[part]) for part in PARTS}


def part_of(name: str) -> Part:
    """The part of a model that a parameter belongs to, by its name."""
    if _ALIGNER.search(name):
        return "aligner"
    return "vision" if _VISION.search(name) else "language"


def shapes_of_config(folder: Path) -> Iterator[tuple[str, Shape]]:
    """The shapes of the model that ``config.json`` describes, without weights; a tied head is not listed."""
    try:
        import torch
        from transformers import AutoConfig, AutoModelForImageTextToText
    except ImportError:
        raise EngineError(
            f"The folder has no weights, and transformers is not installed: {folder}",
            hint="Install the training stack: pip install 'vlmdet[train]'.",
        ) from None
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder))
    for name, parameter in model.named_parameters():
        yield name, tuple(parameter.shape)
