"""The hash of a model folder or of an adapter's, by content and in a fraction of a second at any size.

Small files that decide the texts (settings, tokenizer) are hashed whole. Of a weights file the hash takes the size, the
header and, of each tensor, three windows of 4 KiB: the first, the middle and the last. Training changes every tensor
that it trains at almost every number, so two trainings of one model differ in the windows; a copy elsewhere does not.
Reading all of a 2B model takes five seconds, the windows 0.05 s. Two models that differ only between the windows, such
as in a few edited rows of the embedding, have the same hash: put their answers under names of their own.
"""

import json
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import IO

WINDOW = 4096
_SMALL = (
    "config.json", "generation_config.json", "adapter_config.json", "preprocessor_config.json",
    "processor_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt",
)  # fmt: skip
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "adapter_model.bin")


def model_folder_hash(folder: Path) -> str:
    """32 hexadecimal digits. Raises ``OSError`` for a file that cannot be read."""
    digest = blake2b(digest_size=16)
    for path in (folder / name for name in _SMALL):
        if path.is_file():
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    for path in sorted(path for pattern in _WEIGHTS for path in folder.glob(pattern)):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        for part in sampled_bytes(path):
            digest.update(part)
    return digest.hexdigest()


def sampled_bytes(path: Path) -> Iterator[bytes]:
    """The bytes of a weights file that the hash takes: its header, and windows of each tensor."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header_size, header = _header(file, size)
        yield header
        for start, end in _tensors(header, header_size, size):
            for offset in _window_offsets(start, end):
                file.seek(offset)
                yield file.read(min(WINDOW, end - offset))


def _header(file: IO[bytes], size: int) -> tuple[int, bytes]:
    """A safetensors file begins with its header's length, 8 bytes, and the header; (0, b"") for any other file."""
    length = int.from_bytes(file.read(8), "little")
    if file.name.endswith(".safetensors") and 8 + length <= size:
        return 8 + length, file.read(length)
    return 0, b""


def _tensors(header: bytes, header_size: int, size: int) -> Iterator[tuple[int, int]]:
    """First and last offset of each tensor; a file without a valid header is cut into 256 equal parts."""
    try:
        entries = json.loads(header)
        spans = [entry["data_offsets"] for name, entry in sorted(entries.items()) if name != "__metadata__"]
        yield from ((header_size + int(start), header_size + int(end)) for start, end in spans)
    except (ValueError, KeyError, TypeError, AttributeError):
        step = max(size // 256, 1)
        yield from ((start, min(start + step, size)) for start in range(0, size, step))


def _window_offsets(start: int, end: int) -> Iterator[int]:
    """Where windows begin: those that cover the whole of a short span, else three."""
    if end - start <= 3 * WINDOW:
        yield from range(start, end, WINDOW)
    else:
        yield from (start, (start + end - WINDOW) // 2, end - WINDOW)
