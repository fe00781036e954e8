"""A merged model's folder: what makes it whole, its marker, and whether it is of the checkpoint that its run keeps."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from vlmdet_cli.core.files import file_hash, read_json, write_json
from vlmdet_cli.errors import UsageError
from vlmdet_cli.project import runs
from vlmdet_cli.project.run_record import MergeRecord


def write_marker(folder: Path, run: str | None, record: MergeRecord, checkpoints: Sequence[Path]) -> None:
    """Mark a folder as a whole merged model. ``checkpoints``: the adapters that are merged, the last one the run's."""
    marker = {
        "schema": 1,
        "run": run,
        "checkpoint": record.checkpoints[-1],
        "checkpoints": record.checkpoints,
        "adapter": adapter_hash(checkpoints[-1]),
        "merged": record.merged,
        "check": msgspec.to_builtins(record.check),
        "trained": msgspec.to_builtins(runs.trained_settings(checkpoints[-1])),
    }
    write_json(folder / runs.MARKER, marker)


def complete(folder: Path, base: Path) -> None:
    """Give a merged folder what ``swift export`` left out of the base's: generation settings, the chat template."""
    name, settings = "generation_config.json", dict[str, Any]()
    for model in (base, folder):
        if (model / name).is_file():
            settings |= read_json(model / name, "generation settings")
    if settings:
        write_json(folder / name, settings)
    templates = ("chat_template.jinja", "chat_template.json")
    if not any((folder / template).is_file() for template in templates):
        for template in templates:
            if (base / template).is_file():
                shutil.copy(base / template, folder / template)


def adapter_hash(checkpoint: Path) -> str | None:
    """The hash of an adapter's weights, None where they are in another file than usual."""
    weights = checkpoint / "adapter_model.safetensors"
    return file_hash(weights) if weights.is_file() else None


def merged_model(run: runs.Run) -> tuple[Path, str]:
    """A run's merged model, and a warning where the run has another checkpoint to keep than the model's own.

    Raises ``UsageError`` where the run is not merged.
    """
    marker = run.merged / runs.MARKER
    if not marker.is_file():
        raise UsageError(
            f"No merged model of {run.name}: {run.merged}",
            hint=f"Run `vlmdet merge --run {run.name}`, or name a model with --model.",
        )
    document: dict[str, Any] = read_json(marker, "merged model's marker")
    if not run.checkpoints() or document.get("adapter") is None:
        return run.merged, ""
    kept = run.kept_checkpoint()
    if document["adapter"] == adapter_hash(kept):
        return run.merged, ""
    difference = "newer" if kept == run.checkpoints()[-1] else "better"
    return run.merged, f"the merged model is of {document['checkpoint']}, and {kept.name} is {difference}."
