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

from vlmdet_cli.errors import UsageError
from vlmdet_cli.project.config import Config, Data, Sources
from vlmdet_cli.project.paths import Project

FILE_NAME = "vlmdet.toml"


def load(path: Path, overrides: Sequence[str] = ()) -> Project:
    """The project of a file (or of the folder that holds one) with ``KEY=VALUE`` overrides applied.

    Raises ``UsageError`` for a missing or invalid file and for all wrong keys together.
    """
    path = path / FILE_NAME if path.is_dir() else path
    return Project(path.parent.absolute(), convert(_read(path), overrides, str(path)))


def convert(tree: dict[str, Any], overrides: Sequence[str] = (), name: str = FILE_NAME) -> Config:
    """Settings of parsed TOML; ``name`` is what errors call the file."""
    bad_sets = [problem for one in overrides for problem in _override(tree, one)]
    problems = [*bad_sets, *_problems(tree, Config, ())]
    if problems:
        count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise UsageError(f"The project file has {count}: {name}", why=problems, hint=_HINT)
    return msgspec.convert(tree, Config)


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


def _override(tree: dict[str, Any], text: str) -> Iterator[str]:
    """Put one ``KEY=VALUE`` into the tree; the value is TOML, or plain text where it is not. Yields problems."""
    key, equals, value = text.partition("=")
    *tables, last = key.strip().split(".")
    if not equals or not last or not all(tables):
        yield f"--set {text}: wants KEY=VALUE, such as train.lora_rank=16"
        return
    for name in tables:
        inner: Any = tree.setdefault(name, {})
        if isinstance(inner, dict):
            tree = inner
        else:
            yield f"--set {text}: {name} is no table"
            return
    try:
        tree[last] = tomli.loads(f"v = {value}")["v"]
    except tomli.TOMLDecodeError:
        tree[last] = value


def _problems(tree: Any, record: type[msgspec.Struct], place: tuple[str, ...]) -> Iterator[str]:
    if not isinstance(tree, dict):
        yield f"{'.'.join(place)}: expected a table, got {type(tree).__name__}"
        return
    fields = {field.name: field for field in msgspec.structs.fields(record)}
    for key in tree:
        if key not in fields:
            yield _unknown(key, place, fields)
    for name, field in fields.items():
        here = (*place, name)
        if name in tree:
            yield from _value_problems(tree[name], field.type, here)
        elif field.required:
            yield f"{'.'.join(here)}: missing"
    if record is Data and "train" not in tree and not {"val", "test"} & set(tree):
        yield "data.train: missing"


def _value_problems(value: Any, kind: Any, place: tuple[str, ...]) -> Iterator[str]:
    record = _record_of(kind)
    if record is not None:
        several = isinstance(value, list) and value and kind == Sources | None
        for number, one in enumerate(value if several else [value]):
            yield from _problems(one, record, (*place, str(number)) if several else place)
        return
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        yield f"{'.'.join(place)}: {_wanted(kind, str(error))}, got {_short(value)}"


_WORDS = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false", "array": "a list"}


def _wanted(kind: Any, message: str) -> str:
    """What a key takes, in the words of TOML, from msgspec's message."""
    choices = typing.get_args(kind) if typing.get_origin(kind) is Literal else ()
    if choices:
        return f"expected one of {', '.join(map(str, choices))}"
    expected, _, place = message.partition(" - at ")
    expected = expected.replace("`", "").removeprefix("Expected ").partition(", got ")[0]
    words = expected.split(" | ") if " | " in expected else [expected]
    first, *rest = words[0].split(" ", 1)
    return " ".join(["expected", " or ".join([_WORDS.get(first, first), *words[1:]]), *rest, *_item(place)])


def _item(place: str) -> list[str]:
    found = place.strip("`").removeprefix("$")
    return [f"at {found}"] if found else []


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else text[:39] + "…"


def _record_of(kind: Any) -> type[msgspec.Struct] | None:
    options: Iterable[Any] = (kind,)
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        options = typing.get_args(kind)
    return next((o for o in options if isinstance(o, type) and issubclass(o, msgspec.Struct)), None)


def _unknown(key: str, place: tuple[str, ...], fields: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(key, fields, n=1)
    if near:
        guess = f"did you mean {near[0]}?"
    elif place == ("train",):
        guess = "other swift flags stand in [train.swift]"
    else:
        guess = f"known are {', '.join(fields)}"
    return f"{'.'.join((*place, key))}: unknown key; {guess}"
