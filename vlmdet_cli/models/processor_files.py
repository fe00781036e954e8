"""What the files of a model folder say of its processor, as transformers writes them.

Older folders have the picture processor's settings in ``preprocessor_config.json``, newer ones in a part of
``processor_config.json``.
"""

from pathlib import Path
from typing import Any

from vlmdet_cli.core.files import read_json


def processor_settings(folder: Path) -> dict[str, Any]:
    """The settings of the whole processor; empty where the folder states none."""
    file = folder / "processor_config.json"
    return _settings(file) if file.is_file() else {}


def picture_processor_settings(folder: Path) -> dict[str, Any]:
    """The settings of the picture processor; empty where the folder states none."""
    file = folder / "preprocessor_config.json"
    if file.is_file():
        return _settings(file)
    return processor_settings(folder).get("image_processor") or {}


def _settings(file: Path) -> dict[str, Any]:
    settings: dict[str, Any] = read_json(file, "processor's settings")
    return settings
