"""The text of a new project file: the template, in which every key is explained, with other values at some keys."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

TEMPLATE = Path(__file__).parent / "template.toml"
Value = bool | int | float | str
Values = Mapping[tuple[str, str], Value]  # by table and key, such as ("train.swift", "max_pixels")
_TABLE = re.compile(r"\[([\w.]+)\]")
_KEY = re.compile(r"(?P<key>\w+) = (?P<value>.*?)( *(?P<remark>  # .*))?")


def project_text(values: Values) -> str:
    """The template with ``values``; a key that it does not have is the first of its table."""
    left, lines, headers, table = dict(values), TEMPLATE.read_text("utf-8").split("\n"), dict[str, int](), ""
    for number, line in enumerate(lines):
        if header := _TABLE.match(line):
            table = header[1]
            headers[table] = number
        elif (match := _KEY.fullmatch(line)) and (table, match["key"]) in left:
            remark = match["remark"] or ""
            setting = f"{match['key']} = {_toml(left.pop((table, match['key'])))}"
            lines[number] = setting.ljust(len(line) - len(remark)) + remark if remark else setting
    for (table, key), value in left.items():
        lines[headers[table]] += f"\n{key} = {_toml(value)}"
    return "\n".join(lines)


def _toml(value: Value) -> str:
    return json.dumps(value, ensure_ascii=False)
