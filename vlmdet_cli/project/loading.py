"""Reads the project file: the border where a file and ``--set`` overrides become frozen records.

Every key is checked against the records of ``config``; all problems are reported at once, each with its key path.
Paths in the file are relative to the file.
"""

import difflib
import json
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import tomli

from vlmdet_cli.core.settings import dotted_items
from vlmdet_cli.engines.settings import Infer
from vlmdet_cli.errors import UsageError
from vlmdet_cli.project.config import Config, Data, Sources
from vlmdet_cli.project.experiments import overridden
from vlmdet_cli.project.paths import Project
from vlmdet_cli.project.runs import RUN_NAME
from vlmdet_cli.project.searches import is_search, read_search

FILE_NAME = "vlmdet.toml"
# keys of earlier versions and what they are called now; both as table.key
RENAMED_KEYS: dict[str, str] = {
    "format.also": "format.extra_formats",
    "format.absent": "format.negatives_per_row",
    "augment.mix": "augment.question_ratio",
}


def load(path: Path, overrides: Sequence[str] = ()) -> Project:
    """The project of a file (or of the folder that holds one) with ``KEY=VALUE`` overrides applied.

    Keys of earlier versions are read under their present names; ``notes`` names them. Raises ``UsageError`` for a
    missing or invalid file and for all wrong keys together.
    """
    path = path / FILE_NAME if path.is_dir() else path
    config, notes = _convert(_read(path), overrides, str(path))
    return Project(path.parent.absolute(), config, notes=notes)


def convert(tree: dict[str, Any], overrides: Sequence[str] = (), name: str = FILE_NAME) -> Config:
    """Settings of parsed TOML; ``name`` is what errors call the file."""
    return _convert(tree, overrides, name)[0]


def infer_settings(tree: Mapping[str, Any], overrides: Sequence[str] = ()) -> Infer:
    """The settings of inference where no project file is read; ``tree``: those of ``[infer]``.

    Raises ``UsageError`` that names every wrong one, and every override that is of another table.
    """
    tables: dict[str, Any] = {"infer": dict(tree)}
    problems = [problem for override in overrides for problem in _apply_override(tables, override, [])]
    others = [name for name in tables if name != "infer"]
    problems += [f"{name}: where a model and pictures are named, only settings of [infer] count" for name in others]
    problems += _problems(tables["infer"], Infer, ("infer",))
    if problems:
        raise UsageError("A setting of inference is wrong", why=problems, hint=_HINT)
    return _record(tables["infer"], Infer, "A setting of inference is wrong", "infer")


def _convert(tree: dict[str, Any], overrides: Sequence[str], name: str) -> tuple[Config, tuple[str, ...]]:
    problems, notes = list[str](), list[str]()
    for old, new in RENAMED_KEYS.items():
        problems += _rename(tree, old, new, notes)
    for override in overrides:
        problems += _apply_override(tree, override, notes)
    problems += _problems(tree, Config, ())
    problems += _experiment_problems(tree.get("experiments"))
    if problems:
        count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise UsageError(f"The project file has {count}: {name}", why=problems, hint=_HINT)
    return _record(tree, Config, f"The project file has a problem: {name}"), tuple(notes)


Record = typing.TypeVar("Record", bound=msgspec.Struct)


def _record(tree: Any, kind: type[Record], what: str, path: str = "") -> Record:
    """A tree whose values have the right types as a record; ``UsageError`` for what the record itself refuses."""
    try:
        return msgspec.convert(tree, kind)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at `$")
        table = ".".join(filter(None, [path, where.strip("`.")]))
        raise UsageError(what, why=f"{table}.{message}", hint=_HINT) from None


_HINT = "`vlmdet init` writes a file with every key explained."


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomli.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UsageError(
            f"No project file: {path}",
            hint="Write one with `vlmdet init`, or name one with -p or VLMDET_PROJECT.",
        ) from None
    except OSError as error:
        raise UsageError(f"Cannot read the project file: {path}", why=f"{error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"The project file is not UTF-8: {path}", why=f"Byte {error.start}.") from None
    except tomli.TOMLDecodeError as error:
        raise UsageError(
            f"The project file is not valid TOML: {path}",
            why=f"{error}.",
            hint='Text values need quotes: output = "out"',
        ) from None


def _apply_override(tree: dict[str, Any], text: str, notes: list[str]) -> Iterator[str]:
    """Put one ``KEY=VALUE`` into the tree; the value is TOML, or plain text where it is not. Yields problems.

    The key of an earlier version sets its present name and adds a note.
    """
    key, equals, value = text.partition("=")
    key = key.strip()
    if key in RENAMED_KEYS:
        notes.append(f"--set {key}: the key is now called {RENAMED_KEYS[key]}")
        key = RENAMED_KEYS[key]
    *tables, last = key.split(".")
    if not equals or not last or not all(tables):
        yield f"--set {text}: expected KEY=VALUE, such as train.lora_rank=16"
        return
    for name in tables:
        inner: Any = tree.setdefault(name, {})
        if isinstance(inner, dict):
            tree = inner
        else:
            yield f"--set {text}: {name} is not a table"
            return
    try:
        tree[last] = tomli.loads(f"v = {value}")["v"]
    except tomli.TOMLDecodeError:
        tree[last] = value


def _rename(tree: dict[str, Any], old: str, new: str, notes: list[str]) -> Iterator[str]:
    """Move the value of the key ``old`` to ``new`` and add a note. Yields a problem where both are set."""
    table, _, key = old.partition(".")
    new_table, _, new_key = new.partition(".")
    source = tree.get(table)
    if not isinstance(source, dict) or key not in source:
        return
    value, target = source.pop(key), tree.setdefault(new_table, {})
    if new_key in target:
        yield f"{old}: is now called {new}, which is set too; remove {old}"
        return
    target[new_key] = value
    notes.append(f"the key {old} is now called {new}; rename it in the project file")


def _experiment_problems(experiments: Any) -> Iterator[str]:
    """Those of the names and the values of experiments."""
    for name, table in experiments.items() if isinstance(experiments, dict) else ():
        if not RUN_NAME.fullmatch(name):
            yield f"experiments.{name}: a name has letters, digits, `_`, `-` and `.`"
        if isinstance(table, dict):
            yield from _search_problems(name, table) if is_search(table) else _grid_problems(name, table)


def _grid_problems(name: str, table: dict[str, Any]) -> Iterator[str]:
    """Those of the values in an experiment, a value of a list by itself."""
    for key, value in dotted_items(table):
        if value == []:
            yield f"experiments.{name}.{key}: an empty list has no value to try"
        for choice in value if isinstance(value, list) else [value]:
            for problem in _problems(overridden({}, {key: choice}), Config, ("experiments", name), is_whole=False):
                needs_list = isinstance(value, list) and ": expected a list" in problem
                yield problem + ("; a list as a value is written [[…]]" if needs_list else "")


def _search_problems(name: str, table: dict[str, Any]) -> Iterator[str]:
    """Those of a search, and of the values that it may choose."""
    try:
        search = read_search(name, table)
    except ValueError as error:
        yield f"experiments.{name}.{error}" if str(error).startswith("search") else f"experiments.{name}: {error}"
        return
    for key, axis in search.space.items():
        for choice in axis if isinstance(axis, list) else [axis.low, axis.high]:
            yield from _problems(overridden({}, {key: choice}), Config, ("experiments", name), is_whole=False)
    for key, value in search.values.items():
        yield from _problems(overridden({}, {key: value}), Config, ("experiments", name), is_whole=False)


def _problems(
    tree: Any, record: type[msgspec.Struct], path: tuple[str, ...], *, is_whole: bool = True
) -> Iterator[str]:
    """The wrong keys and values of a tree. ``is_whole``: keys that the record requires must be there."""
    if not isinstance(tree, dict):
        yield f"{'.'.join(path)}: expected a table, got {type(tree).__name__}"
        return
    fields = {field.name: field for field in msgspec.structs.fields(record)}
    for key in tree:
        if key not in fields:
            yield _unknown(key, path, fields)
    for name, field in fields.items():
        if name in tree:
            yield from _value_problems(tree[name], field.type, (*path, name), is_whole=is_whole)
        elif field.required and is_whole:
            yield f"{'.'.join((*path, name))}: missing"
    if is_whole and record is Data and "train" not in tree and not {"val", "test"} & set(tree):
        yield "data.train: missing"


def _value_problems(value: Any, kind: Any, path: tuple[str, ...], *, is_whole: bool) -> Iterator[str]:
    record = _record_of(kind)
    if record is not None:
        if isinstance(value, list) and value and kind == Sources | None:
            for number, item in enumerate(value):
                yield from _problems(item, record, (*path, str(number)), is_whole=is_whole)
        else:
            yield from _problems(value, record, path, is_whole=is_whole)
        return
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        yield f"{'.'.join(path)}: {_expectation(kind, str(error))}, got {_short(value)}"


_TOML_WORDS = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false", "array": "a list"}


def _expectation(kind: Any, message: str) -> str:
    """What a key takes, in the words of TOML, from msgspec's message."""
    choices = typing.get_args(kind) if typing.get_origin(kind) is Literal else ()
    if choices:
        return f"expected one of {', '.join(map(str, choices))}"
    if message.startswith("Invalid enum value"):  # text for a number or a word, such as float | Literal["auto"]
        number, word = typing.get_args(kind)
        return f"expected {' or '.join(map(str, typing.get_args(word)))} or {_TOML_WORDS[number.__origin__.__name__]}"
    expected, _, item = message.partition(" - at ")
    expected = expected.replace("`", "").removeprefix("Expected ").partition(", got ")[0]
    types_, _, bounds = expected.partition(" ") if " | " not in expected else (expected, "", "")
    words = " or ".join(_TOML_WORDS.get(name, name) for name in types_.split(" | "))
    item = item.strip("`").removeprefix("$")
    return " ".join(["expected", words, *([bounds] if bounds else []), *([f"at {item}"] if item else [])])


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else text[:39] + "…"


def _record_of(kind: Any) -> type[msgspec.Struct] | None:
    options: Iterable[Any] = (kind,)
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        options = typing.get_args(kind)
    return next((option for option in options if isinstance(option, type) and issubclass(option, msgspec.Struct)), None)


def _unknown(key: str, path: tuple[str, ...], fields: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(key, fields, n=1)
    if near:
        hint = f"did you mean {near[0]}?"
    elif path == ("train",):
        hint = "other swift flags belong in [train.swift]"
    else:
        hint = f"known are {', '.join(fields)}"
    return f"{'.'.join((*path, key))}: unknown key; {hint}"
