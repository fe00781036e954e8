"""init: writes a project file with every key explained, or the whole embedded demo. It overwrites nothing.

For a model that is named, the file has the settings that fit the model's family. A model of no family here may be one
that ms-swift knows: the file then leaves boxes, chat and pictures to swift.
"""

import os
from pathlib import Path

import msgspec

from vlmdet_cli.core.files import whole_file
from vlmdet_cli.errors import UsageError
from vlmdet_cli.models import parameters, registry
from vlmdet_cli.models.family import Family
from vlmdet_cli.project import FILE_NAME
from vlmdet_cli.project.new_file import Value, project_text
from vlmdet_cli.training import hub, presets
from vlmdet_cli.training.settings import Train

_SWIFT_ROWS = {("format", "rows"): "objects", ("format", "dialect"): "swift"}


class InitResult(msgspec.Struct, frozen=True, kw_only=True):
    """The path of the written project file, and whether it is the demo's.

    ``family``: of the model that is named, "" where none is, "other" for a model of no family here. ``preset``: of the
    GPUs. ``settings``: the keys that were set for both.
    """

    project: str
    demo: bool
    family: str = ""
    preset: str = ""
    settings: dict[str, Value] = {}


def init(folder: Path, *, demo: bool, model: str = "", preset: str = "") -> InitResult:
    """Write into ``folder``. Raises ``UsageError`` where a file of ours would be overwritten, for no model, and for a
    preset that there is not.
    """
    if demo and (model or preset):
        raise UsageError("The demo has a model of its own", hint="Leave out --demo, or --model and --preset.")
    file = folder / FILE_NAME
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"Not a folder: {folder}", hint="Name another folder.")
    if file.exists():
        raise UsageError(f"There is a project file already: {file}", hint="Name another folder, or remove the file.")
    family = _family(model) if model else None
    settings = _settings(model, family, folder) if family else {}
    if preset:
        settings |= {("train", key): value for key, value in presets.settings(preset, _billions(model)).items()}
    if demo:
        _demo(folder)
    text = _demo_file().read_text("utf-8") if demo else project_text(settings)
    with whole_file(file) as temporary:
        temporary.write_text(text, "utf-8")
    changed = {f"{table}.{key}": value for (table, key), value in settings.items()}
    return InitResult(
        project=str(file), demo=demo, family=family.name if family else "", preset=preset, settings=changed
    )


def _billions(model: str) -> float:
    """Of the model's parameters: by its name, else by its folder; without a model, of the default one."""
    model = model or Train().model
    billions = presets.billions_of(model)
    if not billions and (folder := Path(model).expanduser()).is_dir():
        return parameters.model_size(folder).parameters / 1e9
    return billions


def _family(model: str) -> Family:
    folder = Path(model).expanduser()
    if not (folder / "config.json").is_file() and (folder.is_dir() or not hub.is_hub_name(model)):
        raise UsageError(
            f"Neither a model folder nor a hub's name: {model}",
            hint="A model folder holds config.json and weights. A hub's name is ORGANISATION/NAME.",
        )
    return registry.family_of(str(folder), dialect=_SWIFT_ROWS["format", "dialect"])


def _settings(model: str, family: Family, folder: Path) -> dict[tuple[str, str], Value]:
    """What the project file says of the model, by table and key. The dialect follows the model by itself."""
    path = Path(model).expanduser()
    if path.is_dir() and not path.is_absolute():
        model = os.path.relpath(path, folder)
    flags: dict[str, Value] = {"model": model, **family.fitting_flags()}
    return {
        **{("train" if name in Train.__struct_fields__ else "train.swift", name): flags[name] for name in flags},
        **({} if family.is_known else _swift_rows(path.name)),
    }


def _swift_rows(name: str) -> dict[tuple[str, str], str]:
    """The keys that leave the boxes to swift; the dialect is the form in which its template writes them."""
    internvl = {("format", "dialect"): "internvl"} if "internvl" in name.casefold() else {}
    return {**_SWIFT_ROWS, **internvl}


def _demo_file() -> Path:
    return Path(__file__).parent.parent / "demo" / FILE_NAME


def _demo(folder: Path) -> None:
    """Write pictures, annotations, model and plug-in. The project file, written last, marks the demo as complete."""
    from vlmdet_cli.demo import write_demo

    present = [name for name in ("annotations", "images", "model", "plugin.py") if (folder / name).exists()]
    if present:
        raise UsageError(
            f"The folder is not empty: {folder}", why=f"It has {', '.join(present)}.", hint="Name a new folder."
        )
    write_demo(folder)
