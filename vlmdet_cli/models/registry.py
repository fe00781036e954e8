"""The model families, by name and by model. A new family is one module and its line in ``_FAMILIES``."""

from pathlib import Path
from typing import Any

from vlmdet_cli.core.files import read_json
from vlmdet_cli.errors import UsageError, nearest
from vlmdet_cli.models import dialects
from vlmdet_cli.models.family import Family
from vlmdet_cli.models.internvl import INTERNVL
from vlmdet_cli.models.other import OTHER
from vlmdet_cli.models.paligemma import PALIGEMMA
from vlmdet_cli.models.qwen2_5_vl import QWEN2_5_VL
from vlmdet_cli.models.qwen2_vl import QWEN2_VL
from vlmdet_cli.models.qwen3_vl import QWEN3_VL

_FAMILIES = {family.name: family for family in (QWEN2_VL, QWEN2_5_VL, QWEN3_VL, INTERNVL, PALIGEMMA)}


def names() -> tuple[str, ...]:
    return tuple(_FAMILIES)


def get(name: str) -> Family:
    """The family of that name. Raises ``UsageError`` with the nearest known one."""
    if name == OTHER.name:
        return OTHER
    if name not in _FAMILIES:
        raise UsageError(f"No such model family: {nearest(name, _FAMILIES)}", hint=_known())
    return _FAMILIES[name]


def family_of(model: str, model_type: str | None = None, *, dialect: str = "") -> Family:
    """The family of a model: a folder, whose ``config.json`` decides, or a hub's name.

    A folder's family is ``configured`` by its files. A hub's name is matched by its last part. ``model_type``,
    ms-swift's flag, decides where neither tells anything. A model of no known family is ``OTHER`` where its ``dialect``
    is named; else ``UsageError``, with its ``model_type``.
    """
    folder = Path(model)
    stated = _stated_model_type(folder) if folder.is_dir() else None
    family = _by_model_type(stated) if stated else _by_name(folder.name) or _by_model_type(model_type)
    if family is None:
        if dialect:
            return OTHER
        stated = stated or model_type
        why = (
            f"Its model_type is {stated}."
            if stated
            else "Neither its name nor train.swift.model_type tells its family."
        )
        raise UsageError(
            f"Not a model of a known family: {model}",
            why=why,
            hint=f"{_known()} For another model that ms-swift knows, name how it writes boxes in format.dialect: "
            f"{', '.join(dialects.names())}.",
        )
    return family.configured(folder)


def _stated_model_type(folder: Path) -> str | None:
    file = folder / "config.json"
    settings: Any = read_json(file, "model's settings") if file.is_file() else {}
    stated = settings.get("model_type") if isinstance(settings, dict) else None
    return stated if isinstance(stated, str) else None


def _by_model_type(model_type: object) -> Family | None:
    return next(
        (
            family
            for family in _FAMILIES.values()
            if model_type in family.model_types or model_type == family.swift_model_type
        ),
        None,
    )


def _by_name(name: str) -> Family | None:
    plain = name.casefold().replace("-", "").replace("_", "")
    return next((family for family in _FAMILIES.values() if family.hub_names.search(plain)), None)


def _known() -> str:
    return f"Known families: {', '.join(_FAMILIES)}."
