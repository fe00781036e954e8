"""merge: a LoRA checkpoint and its base model to one model folder, by the real ``swift export``.

The folder is made beside its final place and moved there when it is whole, its marker ``vlmdet.json`` written
before the move; so ``merged/`` is always the last whole merge or absent, never a half or a stale one.
"""

import datetime
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from vlmdet_cli.core.files import file_hash, read_json, write_json
from vlmdet_cli.core.locks import lock
from vlmdet_cli.errors import DataError, EngineError, UsageError
from vlmdet_cli.project import Project, runs
from vlmdet_cli.training import swift

HINT = "The log tells more; `vlmdet doctor` checks the machine."


class MergeResult(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    checkpoint: str
    command: str
    megabytes: float
    seconds: float


def merge(project: Project, checkpoint: str = "", tick: Callable[[], None] = lambda: None) -> MergeResult:
    """Merge a checkpoint (by default the project's, else that of the latest run that is done) into its run."""
    source = _find_checkpoint(project, checkpoint or project.config.merge.checkpoint)
    if not (source / "adapter_config.json").is_file():
        raise DataError(f"The checkpoint holds no adapter: {source}", hint="A fully tuned model needs no merge.")
    swift.require()
    started = time.monotonic()
    owner = _owner(project, source)
    with lock(owner, ".merge.lock"):
        command = _export(project, source, owner, tick)
        _publish(project, source, owner)
    target = owner / "merged"
    return MergeResult(
        model=str(target),
        checkpoint=str(source),
        command=command.quoted(),
        megabytes=round(sum(path.stat().st_size for path in target.rglob("*")) / 1e6, 1),
        seconds=round(time.monotonic() - started, 1),
    )


def _find_checkpoint(project: Project, name: str) -> Path:
    """A checkpoint by folder, by step (of the newest run that has it), or the latest of the latest run that is done."""
    if not name:
        return project.run().latest_checkpoint()
    folder = project.root / name
    if (folder / "adapter_config.json").is_file():
        return folder
    every = [checkpoint for run in runs.runs(project.runs) for checkpoint in run.checkpoints()]
    for checkpoint in reversed(every):
        if name in {str(runs.step_of(checkpoint)), checkpoint.name}:
            return checkpoint
    known = ", ".join(checkpoint.name for checkpoint in every)
    raise UsageError(
        f"No checkpoint {name}: {project.runs}", hint=f"There are: {known}." if known else "Run `vlmdet train` first."
    )


def _owner(project: Project, checkpoint: Path) -> Path:
    """The folder that the merged model goes into: the checkpoint's run, or the output folder for one of no run."""
    parents = (path for path in checkpoint.absolute().parents if path.parent == project.runs.absolute())
    return next(parents, project.output)


def _export(project: Project, source: Path, owner: Path, tick: Callable[[], None]) -> swift.Command:
    work = owner / "merging"
    shutil.rmtree(work, ignore_errors=True)
    cpu = swift.gpus() == 0
    extra = {**({"torch_dtype": "float32"} if cpu else {}), **project.config.merge.swift}
    argv = swift.export(project.config.train, checkpoint=source, output=work, root=project.root, extra=extra)
    command = swift.Command(argv, swift.environment(root_images=project.output, visible="", processes=1, cpu=True))
    log = owner / "merge.log"
    log.unlink(missing_ok=True)
    swift.run(command, log, cwd=project.root, watch=tick, hint=HINT)
    if not (work / "config.json").is_file() or not any(work.glob("*.safetensors")):
        raise EngineError("swift export ended well but left no whole model", why=f"Searched in {work}.", hint=HINT)
    return command


def _publish(project: Project, source: Path, owner: Path) -> None:
    """Mark the new folder and put it in the old one's place; a stop in between leaves no model, not a wrong one."""
    when = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    marker = {
        "schema": 1,
        "run": owner.name if owner != project.output else None,
        "checkpoint": str(source.relative_to(project.output) if source.is_relative_to(project.output) else source),
        "adapter": _adapter_hash(source),
        "merged": when,
        "trained": msgspec.to_builtins(runs.trained_settings(source)),
    }
    work, old, target = owner / "merging", owner / "merged.old", owner / "merged"
    write_json(work / runs.MARKER, marker)
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    work.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _adapter_hash(checkpoint: Path) -> str | None:
    weights = checkpoint / "adapter_model.safetensors"
    return file_hash(weights) if weights.is_file() else None


def merged_model(run: runs.Run) -> tuple[Path, str]:
    """A run's merged model, and a warning where the run has a newer checkpoint than the model's own.

    Raises ``UsageError`` where the run is not merged.
    """
    marker = run.merged / runs.MARKER
    if not marker.is_file():
        raise UsageError(
            f"No merged model of {run.name}: {run.merged}",
            hint=f"Run `vlmdet merge --run {run.name}`, or name a model with --model.",
        )
    document: dict[str, Any] = read_json(marker, "merged model's marker")
    checkpoints = run.checkpoints()
    if checkpoints and document.get("adapter") not in {None, _adapter_hash(checkpoints[-1])}:
        return run.merged, f"the merged model is of {document['checkpoint']}, and {checkpoints[-1].name} is newer."
    return run.merged, ""
