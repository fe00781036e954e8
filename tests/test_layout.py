"""The layout that CONTRIBUTING describes is true of the code: rooms import only what stands below them."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "vlmdet_cli"
# from the lowest; a room may import from those before it
ROOMS = (
    "core",
    "models",
    "data",
    "prompts",
    "metrics",
    "engines",
    "drawing",
    "training",
    "project",
    "stages",
    "console",
    "cli",
)
HEAVY = {"torch", "transformers", "swift", "peft", "torchvision", "qwen_vl_utils", "vllm"}
MODULES = sorted(PACKAGE.rglob("*.py"))
IN_ROOMS = [path for path in MODULES if path.relative_to(PACKAGE).parts[0].removesuffix(".py") in ROOMS]


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def imported(tree: ast.AST) -> Iterator[str]:
    """The dotted names that a tree imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(dotted: str) -> str | None:
    """The room of a dotted name of the package; None for what belongs to no room."""
    _, _, rest = dotted.partition("vlmdet_cli.")
    room = rest.partition(".")[0]
    return room if room in ROOMS else None


def test_the_rooms_are_those_of_the_package() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert folders == {*ROOMS, "demo"} - {"console"}


@pytest.mark.parametrize("path", IN_ROOMS, ids=name_of)
def test_a_module_imports_only_from_rooms_below_its_own(path: Path) -> None:
    own = room_of(f"vlmdet_cli.{'.'.join(path.relative_to(PACKAGE).with_suffix('').parts)}")
    assert own
    rooms = {room_of(name) for name in imported(ast.parse(path.read_text()))} - {None, own}
    above = {room for room in rooms if room and ROOMS.index(room) > ROOMS.index(own)}
    assert not above


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_the_command_line_knows_typer_and_rich(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    names = {name.partition(".")[0] for name in imported(ast.parse(path.read_text()))}
    assert room in {"cli", "console"} or not names & {"typer", "rich"}


@pytest.mark.parametrize("path", IN_ROOMS, ids=name_of)
def test_heavy_packages_are_imported_where_they_are_used(path: Path) -> None:
    tree = ast.parse(path.read_text())
    top = {name.partition(".")[0] for node in tree.body for name in imported(node) if not _for_types(node)}
    assert not top & HEAVY


def _for_types(node: ast.stmt) -> bool:
    return isinstance(node, ast.If | ast.FunctionDef | ast.ClassDef)
