"""Where a hub's model is on this machine after swift has fetched it: the caches of ModelScope and Hugging Face."""

import os
from pathlib import Path


def cached_folder(name: str) -> Path | None:
    """The folder of the hub's model ``name``, such as ``Qwen/Qwen2-VL-2B-Instruct``; None where it is not cached."""
    candidates = [*_modelscope(name), *_hugging_face(name)]
    return next((folder for folder in candidates if (folder / "config.json").is_file()), None)


def _modelscope(name: str) -> list[Path]:
    root = Path(os.environ.get("MODELSCOPE_CACHE") or "~/.cache/modelscope/hub").expanduser()
    escaped = name.replace(".", "___")  # as its library writes a dot
    return [root / "models" / escaped, root / escaped]


def _hugging_face(name: str) -> list[Path]:
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    repository = Path(os.environ.get("HF_HUB_CACHE") or home / "hub") / f"models--{name.replace('/', '--')}"
    revision = repository / "refs" / "main"
    return [repository / "snapshots" / revision.read_text().strip()] if revision.is_file() else []
