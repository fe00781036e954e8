"""Write the pages that say what the code says: ``python docs/reference.py`` makes commands.md and settings.md anew.

Commands come from the Typer app, settings from the file that ``vlmdet init`` writes. A test compares both pages.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from vlmdet_cli.cli import app
from vlmdet_cli.cli.session import GlobalOptions

DOCS = Path(__file__).parent
TEMPLATE = DOCS.parent / "vlmdet_cli" / "project" / "template.toml"
EXIT_CODES = """
| exit code | meaning |
|---|---|
| 0 | done |
| 1 | it ran, and the answer is no: a gate is missed, or `doctor` has found a problem |
| 2 | wrong usage, or a wrong project file |
| 3 | wrong input data |
| 4 | swift or an engine failed; its own code is in the message |
| 70 | a bug of vlmdet's |
| 130 | interrupted |
"""


def commands() -> str:
    """The page on commands."""
    group: Any = typer.main.get_command(app)
    shared = [parameter for parameter in group.params if parameter.name in GlobalOptions._fields]
    lines = [
        "# Commands",
        "",
        "Results go to stdout, all else to stderr.",
        EXIT_CODES,
        "## Options of every command",
        "",
    ]
    lines += _options(shared)
    for name, command in group.commands.items():
        text, _, example = command.help.partition("Example: ")
        own = [parameter for parameter in command.params if parameter.name != "help"]
        lines += ["", f"## vlmdet {name}", "", " ".join(text.split())]
        lines += ["", f"    {' '.join(example.split())}"] if example else []
        lines += ["", *_options(own)] if own else []
    return "\n".join(lines) + "\n"


def _options(parameters: list[Any]) -> Iterator[str]:
    yield "| option | what it does | default |"
    yield "|---|---|---|"
    for parameter in parameters:
        metavar = parameter.metavar or ""
        is_option = parameter.param_type_name == "option"
        name = ", ".join(f"`{spelling}`" for spelling in parameter.opts) if is_option else f"`{metavar}`"
        value = f" {metavar}" if is_option and metavar else ""
        default = _default(parameter)
        yield f"| {name}{_cell(value)} | {_cell(parameter.help or '')} | {_cell(default)} |"


def _default(parameter: Any) -> str:
    if isinstance(parameter.show_default, str):
        return str(parameter.show_default)
    value = parameter.default
    return "" if callable(value) or value in (None, False, "", ()) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def settings() -> str:
    """The page on the keys of the project file."""
    lines = [
        "# Settings", "",
        "Every key of `vlmdet.toml` with its default. `--set train.lora_rank=16` overrides one for a command.",
    ]  # fmt: skip
    for name, remark, entries in _tables(TEMPLATE.read_text()):
        lines += ["", f"## [{name}]", *(["", _sentence(remark)] if remark else [])]
        if entries:
            lines += ["", "| key | default | meaning |", "|---|---|---|"]
            lines += [f"| `{key}` | `{_cell(value)}` | {_cell(meaning)} |" for key, value, meaning in entries]
    return "\n".join(lines) + "\n"


def _tables(text: str) -> Iterator[tuple[str, str, list[tuple[str, str, str]]]]:
    """Name, remark and entries (key, default, meaning) of each table of the file."""
    name, remark, entries = "", "", list[tuple[str, str, str]]()
    for line in text.splitlines():
        if header := re.match(r"\[+([\w.]+)\]+\s*(?:#\s*(.*))?$", line):
            if name:
                yield name, remark, entries
            name, remark, entries = header[1], header[2] or "", []
        elif entry := re.match(r"(\w+) = ((?:\"[^\"]*\"|\[[^\]]*\]|[^#\s])+)\s*(?:#\s*(.*))?$", line):
            entries.append((entry[1], entry[2], entry[3] or ""))
        elif (more := re.match(r"\s+# (.*)$", line)) and entries:
            key, value, meaning = entries[-1]
            entries[-1] = (key, value, f"{meaning} {more[1]}")
    yield name, remark, entries


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


PAGES = {"commands.md": commands, "settings.md": settings}

if __name__ == "__main__":
    for page, write in PAGES.items():
        (DOCS / page).write_text(write())
