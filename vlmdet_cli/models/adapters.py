"""A LoRA adapter and the model that it is put on: do they fit?

Shapes are read from the headers of the weights files; no weights are. A module is known by its name from its layer on,
``layers.3.self_attn.q_proj``, since transformers names what is before it differently in a file and in memory. LoRA
multiplies ``B`` (out, r) by ``A`` (r, in): they fit where the model's weight is (out, in). What cannot be compared,
such as quantized weights, is taken to fit.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Shape = tuple[int, ...]
_IN_LAYER = re.compile(r"(?:layers?|blocks|h)\.\d+\..*")
_NUMBER = re.compile(r"\.\d+\.")


def base_name(adapter: Path) -> str:
    """The model that an adapter was trained on, as it was named then; empty where nothing tells."""
    name = _json(adapter / "adapter_config.json").get("base_model_name_or_path")
    return name if isinstance(name, str) else ""


def misfits(adapter: Path, model: Path) -> list[str]:
    """What of an adapter does not fit a model, each as a sentence; empty where it fits or nothing can be compared."""
    if "quantization_config" in _json(model / "config.json"):
        return []
    shapes: dict[str, set[Shape]] = {}
    for name, shape in tensor_shapes(model):
        shapes.setdefault(_module(name, ".weight"), set()).add(shape)
    kinds = {_NUMBER.sub(".", module, count=1) for module in shapes}
    sentences = []
    for module, shape in _lora_shapes(dict(tensor_shapes(adapter))).items():
        known = {shape for shape in shapes.get(module, ()) if len(shape) == 2}
        if known and shape not in known:
            sizes = " or ".join(_size(shape) for shape in sorted(known))
            sentences.append(f"{module} is {_size(shape)} in the adapter, {sizes} in the model.")
        elif module not in shapes and _NUMBER.sub(".", module, count=1) in kinds:
            sentences.append(f"The model has no {module}.")
    return sentences


def _lora_shapes(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Module to the shape of the weight that the adapter adds to."""
    pairs = {
        _module(name, ".lora_B.weight"): (shape, shapes.get(name.replace(".lora_B.", ".lora_A.")))
        for name, shape in shapes.items()
        if name.endswith(".lora_B.weight")
    }
    return {module: (b[0], a[1]) for module, (b, a) in pairs.items() if module and a and len(a) == len(b) == 2}


def _module(name: str, ending: str) -> str:
    """A weight's module from its layer on; empty for a weight outside layers."""
    match = _IN_LAYER.search(name.removesuffix(ending))
    return match[0] if match else ""


def tensor_shapes(folder: Path) -> Iterator[tuple[str, Shape]]:
    """The tensors in the safetensors files of a folder, by name."""
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = file.read(length) if 8 + length <= path.stat().st_size else b""
        for name, entry in _document(header).items():
            if name != "__metadata__":
                yield name, tuple(entry["shape"])


def _json(path: Path) -> dict[str, Any]:
    return _document(path.read_bytes()) if path.is_file() else {}


def _document(data: bytes) -> dict[str, Any]:
    """A JSON object; an empty one where the bytes are none."""
    try:
        document = json.loads(data)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _size(shape: Shape) -> str:
    return " x ".join(map(str, shape))
