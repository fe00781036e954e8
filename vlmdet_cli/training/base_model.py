"""A base model by its content: by what a run tells whether it goes on with the model that it began with."""

import os
from pathlib import Path

from vlmdet_cli.core.model_hash import model_folder_hash


def model_hash(model: str) -> str:
    """The hash of a model's folder, or of a hub's name that is cached on this machine; "" where there is neither."""
    folder = Path(model) if Path(model).is_dir() else cached_folder(model)
    return model_folder_hash(folder) if folder else ""


def cached_folder(name: str) -> Path | None:
    """The folder of a hub's model in the caches of ModelScope or Hugging Face, where it is."""
    modelscope = Path(os.environ.get("MODELSCOPE_CACHE") or Path.home() / ".cache" / "modelscope" / "hub")
    # ModelScope's own library replaces a dot in the name by three underscores
    candidates = [modelscope / "models" / name.replace(".", "___"), modelscope / name.replace(".", "___")]
    hub = (
        os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser() / "hub"
    )
    repository = Path(hub) / f"models--{name.replace('/', '--')}"
    revision = repository / "refs" / "main"
    if revision.is_file():
        candidates.append(repository / "snapshots" / revision.read_text().strip())
    return next((folder for folder in candidates if (folder / "config.json").is_file()), None)
