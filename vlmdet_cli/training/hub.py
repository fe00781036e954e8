"""Models of a hub: where one is on this machine, and its download by ms-swift itself.

ms-swift takes models from ModelScope, with ``USE_HF=1`` from Hugging Face. Its downloader and its cache are used as
they are, so that training and inference share one copy.
"""

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from vlmdet_cli.errors import EngineError
from vlmdet_cli.training import swift

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_INDEX = "model.safetensors.index.json"


def is_hub_name(model: str) -> bool:
    """Whether ``model`` reads as a hub's name, such as ``Qwen/Qwen2-VL-2B-Instruct``, and not as a path.

    Where its first part is a folder here, it is a path.
    """
    return bool(_NAME.fullmatch(model)) and not Path(model).parts[0].startswith(".") and not Path(model).parent.is_dir()


def cached_folder(name: str) -> Path | None:
    """The folder of the hub's model ``name``, such as ``Qwen/Qwen2-VL-2B-Instruct``; None where it is not cached."""
    hubs = [_hugging_face, _modelscope] if _uses_hugging_face() else [_modelscope, _hugging_face]
    return next((folder for hub in hubs for folder in hub(name) if (folder / "config.json").is_file()), None)


def model_folder(name: str, *, show_progress: bool = False) -> Path:
    """The folder of the hub's model ``name``; ms-swift downloads what of it is missing.

    ``show_progress``: the hub's own progress bars go to stderr. Raises ``EngineError`` where it cannot be had.
    """
    folder = cached_folder(name)
    if folder is not None and _is_complete(folder):
        return folder
    swift.require()
    with _downloader_output(show_progress=show_progress):
        from swift.utils import safe_snapshot_download

        try:
            return Path(safe_snapshot_download(name))
        except Exception as error:
            raise _not_downloaded(name, error) from error


def _not_downloaded(name: str, error: Exception) -> EngineError:
    """``error``: what the hub's downloader raised; ModelScope and Hugging Face have many kinds of their own."""
    hub, other = ("Hugging Face", "USE_HF=0") if _uses_hugging_face() else ("ModelScope", "USE_HF=1")
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return EngineError(
        f"Cannot download the model from {hub}: {name}",
        why=reason[0][:300],
        hint=f"Check the name and the network; {other} takes the other hub. Offline, name a folder: --model DIR.",
    )


def _is_complete(folder: Path) -> bool:
    """Whether all weights are there: a download that was stopped leaves some out."""
    index = folder / _INDEX
    if index.is_file():
        try:
            files = set(orjson.loads(index.read_bytes())["weight_map"].values())
        except (orjson.JSONDecodeError, KeyError, AttributeError, TypeError):
            return False
        return all((folder / name).is_file() for name in files)
    return any(folder.glob("*.safetensors")) or any(folder.glob("*.bin"))


@contextlib.contextmanager
def _downloader_output(*, show_progress: bool) -> Iterator[None]:
    """Send what the downloader prints to stderr; without ``show_progress`` it shows no bars."""
    variables = {} if show_progress else {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    variables |= {"LOG_LEVEL": "ERROR"}  # of swift's own remarks
    before: dict[str, Any] = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _uses_hugging_face() -> bool:
    return os.environ.get("USE_HF", "").strip().lower() in {"1", "true", "yes", "on"}


def _modelscope(name: str) -> list[Path]:
    """The folders that ModelScope's library uses, the one of today first."""
    cache = os.environ.get("MODELSCOPE_CACHE")
    roots = [Path(cache)] if cache else [Path("~/.cache/modelscope"), Path("~/.cache/modelscope/hub")]
    escaped = name.replace(".", "___")  # as earlier versions write a dot
    parts = (f"models/{name.replace('/', '--')}/snapshots/master", f"models/{escaped}", escaped)
    return [root.expanduser() / part for root in roots for part in parts]


def _hugging_face(name: str) -> list[Path]:
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    repository = Path(os.environ.get("HF_HUB_CACHE") or home / "hub") / f"models--{name.replace('/', '--')}"
    revision = repository / "refs" / "main"
    return [repository / "snapshots" / revision.read_text().strip()] if revision.is_file() else []
