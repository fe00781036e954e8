"""Text ↔ boxes: the dialects by name. A new dialect is one module and its line in ``_DIALECTS``."""

import functools
import importlib

from vlmdet_cli.errors import UsageError, nearest
from vlmdet_cli.models.dialects.base import Dialect

__all__ = ["Dialect", "get", "names"]

# name: the module here, and the dialect's object in it; a module is imported when it is asked for
_DIALECTS = {
    "qwen2_vl": "qwen2_vl.QWEN2_VL",
    "qwen2_5_vl": "json_list.QWEN2_5_VL",
    "qwen3_vl": "json_list.QWEN3_VL",
    "internvl": "internvl.INTERNVL",
    "paligemma": "location_tokens.PALIGEMMA",
    "florence2": "location_tokens.FLORENCE2",
    "swift": "swift_default.SWIFT",
}


def names() -> tuple[str, ...]:
    return tuple(_DIALECTS)


@functools.cache
def get(name: str, max_pixels: int | None = None) -> Dialect:
    """The dialect of that name, for pictures that are shrunk to ``max_pixels`` first (None or 0: to no limit).

    Raises ``UsageError`` with the nearest known name.
    """
    if name not in _DIALECTS:
        raise UsageError(f"No such dialect: {nearest(name, _DIALECTS)}", hint=f"There are: {', '.join(_DIALECTS)}.")
    module, _, attribute = _DIALECTS[name].partition(".")
    dialect = getattr(importlib.import_module(f"vlmdet_cli.models.dialects.{module}"), attribute)
    assert isinstance(dialect, Dialect)  # noqa: S101  (a slip of ours, not of a user)
    return dialect.limited(max_pixels) if max_pixels else dialect
