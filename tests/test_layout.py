"""The layout and the rules that CONTRIBUTING describes are true of the code: rooms, imports, names."""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "vlmdet_cli"
# from the lowest: a room imports only from the rooms before it
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
EMPTY_WORDS = {
    "one",
    "made",
    "found",
    "how",
    "place",
    "wanted",
    "look",
    "bring",
    "said",
    "told",
    "thing",
    "many",
    "mine",
    "theirs",
}
HEAVY = {
    "torch", "transformers", "swift", "peft", "torchvision", "qwen_vl_utils", "ray", "vllm", "openai", "httpx", "httpx2"
}  # fmt: skip
MODULES = sorted(PACKAGE.rglob("*.py"))
IN_ROOMS = [path for path in MODULES if path.relative_to(PACKAGE).parts[0].removesuffix(".py") in ROOMS]


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def imported(nodes: Iterable[ast.AST]) -> set[str]:
    """The dotted names of all import statements among the nodes."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


def run_at_import(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that Python runs when it imports a module: not in functions, not under ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        is_for_types = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        if not isinstance(child, ast.FunctionDef) and not is_for_types:
            yield child
            yield from run_at_import(child)


def room_of(dotted: str) -> str | None:
    """The room of a dotted name; None where it belongs to no room of the package."""
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
    rooms = {room_of(name) for name in imported(ast.walk(ast.parse(path.read_text())))} - {None, own}
    above = {room for room in rooms if room and ROOMS.index(room) > ROOMS.index(own)}
    assert not above


def test_the_page_on_architecture_lists_what_each_room_imports() -> None:
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    lines = page.partition("<!-- rooms -->")[2].partition("\n\n")[0].split("\n")[1:]
    described = {room: set(others.split(", ")) for room, others in (line.split(maxsplit=1) for line in lines)}
    actual: dict[str, set[str]] = {}
    for path in IN_ROOMS:
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        names = {room_of(name) for name in imported(ast.walk(ast.parse(path.read_text())))}
        actual.setdefault(room, set()).update(name for name in names if name and name != room)
    assert described == {room: others for room, others in actual.items() if others}


def importers(packages: set[str]) -> set[str]:
    """The modules that import one of these packages, with those anywhere below them."""
    trees = {name_of(path): ast.parse(path.read_text()) for path in MODULES}
    return {
        module
        for module, tree in trees.items()
        if any(f"{name}.".startswith(f"{package}.") for name in imported(ast.walk(tree)) for package in packages)
    }


def test_errors_belong_to_no_room_and_only_init_imports_the_demo() -> None:
    assert not {name for name in imported(ast.walk(ast.parse((PACKAGE / "errors.py").read_text()))) if "vlmdet" in name}
    assert {name for name in importers({"vlmdet_cli.demo"}) if not name.startswith("demo/")} == {"stages/init.py"}


def test_only_the_command_line_knows_typer_and_rich() -> None:
    modules = importers({"typer", "rich"})
    assert {name.partition("/")[0] for name in modules} == {"cli", "console.py"}


def test_only_the_upper_rooms_know_the_project() -> None:
    modules = importers({"vlmdet_cli.project"})
    assert {name.partition("/")[0] for name in modules} == {"cli", "project", "stages"}


@pytest.mark.parametrize("path", IN_ROOMS, ids=name_of)
def test_heavy_packages_are_imported_inside_the_functions_that_use_them(path: Path) -> None:
    names = imported(run_at_import(ast.parse(path.read_text())))
    assert not {name.partition(".")[0] for name in names} & HEAVY


def test_the_engine_and_the_demo_do_import_heavy_packages() -> None:
    assert {"engines/transformers.py", "demo/tiny.py"} <= importers(HEAVY)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_names_say_what_they_name(path: Path) -> None:
    names = {(line, name) for line, name in defined(ast.parse(path.read_text())) if name.strip("_") in EMPTY_WORDS}
    assert not names


def defined(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of every function, class, parameter, variable and field that a module defines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
