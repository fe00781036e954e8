"""A base model by its content: by what a run tells whether it goes on with the model that it began with.

A folder's hash is of its ``config.json`` and of its weights: of each file's name and size, and of three short parts of
each tensor (of a file without a readable list of tensors: of the whole file, in three parts). Any training changes
the values of a tensor throughout, so that the parts tell two models apart; gigabytes are not read for it.
"""

import os
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

import orjson

PART = 1024  # bytes of a tensor's start, middle and end


def model_hash(model: str) -> str:
    """The hash of a model's folder, or of a hub's name that is cached on this machine; "" where there is neither."""
    folder = Path(model) if Path(model).is_dir() else cached_folder(model)
    if folder is None:
        return ""
    digest = blake2b(digest_size=16)
    config = folder / "config.json"
    digest.update(config.read_bytes() if config.is_file() else b"")
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        with file.open("rb") as opened:
            for part in _parts(opened, file):
                digest.update(part)
    return digest.hexdigest()


def _parts(file: BinaryIO, path: Path) -> Iterator[bytes]:
    """The file's name and size, the header of a safetensors file, and the parts of its tensors."""
    size = path.stat().st_size
    yield f"{path.name} {size}".encode()
    length = int.from_bytes(file.read(8), "little")
    header = file.read(length) if length < size else b""
    yield header
    for start, end in _tensors(header) or [(0, size)]:
        for offset in (start, (start + end) // 2, max(end - PART, start)):
            file.seek(offset)
            yield file.read(min(PART, end - offset))


def _tensors(header: bytes) -> list[tuple[int, int]]:
    """(start, end) of each tensor in the file, in bytes; [] for a header that is not a safetensors file's."""
    try:
        offsets = [tensor["data_offsets"] for name, tensor in orjson.loads(header).items() if name != "__metadata__"]
        begin = 8 + len(header)
        return [(begin + start, begin + end) for start, end in offsets]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


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
