"""Text ↔ boxes: one small module a model family. A new dialect is one file and one line in ``_DIALECTS``."""

import difflib
import functools
import importlib

from vlmdet_cli.errors import UsageError
from vlmdet_cli.models.dialects.base import Dialect

__all__ = ["Dialect", "get", "names"]

# name: the module here that has it, and what it is called there
_DIALECTS = {
    "qwen2_vl": "qwen2_vl.QWEN2_VL",
    "qwen2_5_vl": "json_list.QWEN2_5_VL",
    "qwen3_vl": "json_list.QWEN3_VL",
    "internvl": "tagged.INTERNVL",
    "paligemma": "tagged.PALIGEMMA",
    "florence2": "tagged.FLORENCE2",
}


def names() -> tuple[str, ...]:
    return tuple(_DIALECTS)


@functools.cache
def get(name: str, max_pixels: int | None = None) -> Dialect:
    """The dialect of that name, for pictures that are shrunk to ``max_pixels`` first (None or 0: to no limit).

    Raises ``UsageError`` with the nearest known one.
    """
    if name not in _DIALECTS:
        near = difflib.get_close_matches(name, _DIALECTS, n=1)
        guess = f"Did you mean {near[0]}? " if near else ""
        raise UsageError(f"No such dialect: {name}", hint=f"{guess}There are: {', '.join(_DIALECTS)}.")
    module, _, attribute = _DIALECTS[name].partition(".")
    found = getattr(importlib.import_module(f"vlmdet_cli.models.dialects.{module}"), attribute)
    assert isinstance(found, Dialect)  # noqa: S101  (a slip of ours, not of a user)
    return found.limited(max_pixels) if max_pixels else found
