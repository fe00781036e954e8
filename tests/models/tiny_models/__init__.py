"""Tiny models: complete folders of a real architecture with random weights, written without a download.

A builder writes one folder: configuration, weights, the family's own processor and tokenizer, special tokens at the
ids of the published models. Sizes are tiny, layers few. A module of builders has ``BUILDERS``, which maps the name of
a model to its builder, and its line in ``_MODULES``; in ``_WITHOUT_FAMILY`` where vlmdet has no module for the model's
family. The first model of a family has the family's name; further ones have names of their own and appear in
``FAMILIES``.

torch and transformers are imported in the builders. They print and warn, so ``write`` runs them in a process of its
own.
"""

import importlib
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

Builder = Callable[[Path], None]
_MODULES = ("qwen", "internvl", "paligemma")
_WITHOUT_FAMILY = ("llava",)
FAMILIES = {"qwen3_vl_moe": "qwen3_vl", "internvl3_5": "internvl"}  # of the models that do not have their family's name
ROOT = Path(__file__).resolve().parents[3]


def builders(*, without_family: bool = False) -> dict[str, Builder]:
    """The builders of the known families' models by name, or those of models without a family."""
    names = _WITHOUT_FAMILY if without_family else _MODULES
    modules = (importlib.import_module(f"{__name__}.{name}") for name in names)
    return {name: builder for module in modules for name, builder in module.BUILDERS.items()}


def family_name(model: str) -> str:
    """The name of the family of a tiny model."""
    return FAMILIES.get(model, model)


def write(models: Sequence[str], folder: Path) -> dict[str, Path]:
    """Write each model into ``folder/NAME``, all in one process; the paths by name."""
    paths = {model: folder / model for model in models}
    command = [sys.executable, "-m", __name__, str(folder), *models]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return paths
