"""init: writes a project file with every key explained, or the whole embedded demo. It overwrites nothing."""

from pathlib import Path

import msgspec

from vlmdet_cli.core.files import whole_file
from vlmdet_cli.errors import UsageError
from vlmdet_cli.project import FILE_NAME

TEMPLATE = Path(__file__).parent.parent / "project" / "template.toml"


class InitResult(msgspec.Struct, frozen=True, kw_only=True):
    """The path of the written project file, and whether it is the demo's."""

    project: str
    demo: bool


def init(folder: Path, *, demo: bool) -> InitResult:
    """Write into ``folder``. Raises ``UsageError`` where a file of ours would be overwritten."""
    file = folder / FILE_NAME
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"Not a folder: {folder}", hint="Name another folder.")
    if file.exists():
        raise UsageError(f"There is a project file already: {file}", hint="Name another folder, or remove the file.")
    if demo:
        _demo(folder)
    text = (_demo_file() if demo else TEMPLATE).read_text("utf-8")
    with whole_file(file) as temporary:
        temporary.write_text(text, "utf-8")
    return InitResult(project=str(file), demo=demo)


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
