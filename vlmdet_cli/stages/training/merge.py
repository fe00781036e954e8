"""merge: a LoRA checkpoint and its base model to one model folder, by the real ``swift export``.

The model goes into the checkpoint's run. It is exported beside its final folder and moved there when it is whole, its
marker ``vlmdet.json`` written before the move; so ``merged/`` is always the last whole merge or absent, never a half
or a stale one.
"""

import datetime
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from vlmdet_cli.core import gpus, programs
from vlmdet_cli.core.files import file_hash, read_json, write_json
from vlmdet_cli.core.locks import lock
from vlmdet_cli.errors import DataError, EngineError, UsageError
from vlmdet_cli.project import Project, runs
from vlmdet_cli.project.run_record import RECORD
from vlmdet_cli.training import arguments, swift
from vlmdet_cli.training.settings import Flag

HINT = "The log says more; `vlmdet doctor` checks the machine."


class MergeResult(msgspec.Struct, frozen=True, kw_only=True):
    """``run``: the checkpoint's run, "" where it is of none."""

    run: str
    model: str
    checkpoint: str
    command: str
    megabytes: float
    seconds: float


def merge(
    project: Project, *, run: str = "", checkpoint: str = "", tick: Callable[[], None] = lambda: None
) -> MergeResult:
    """Merge a checkpoint into its run: a named one, else the latest of the run ``run`` or of the latest done run."""
    source = _find_checkpoint(project, run, checkpoint or project.config.merge.checkpoint)
    if not (source / "adapter_config.json").is_file():
        raise DataError(f"The checkpoint holds no adapter: {source}", hint="A fully tuned model needs no merge.")
    swift.require()
    started = time.monotonic()
    owner = _owner(project, source)
    with lock(owner.folder, ".merge.lock"):
        command = _export(project, source, owner, tick)
        _publish(project, source, owner)
    target = owner.folder / "merged"
    return MergeResult(
        run=owner.name if isinstance(owner, runs.Run) else "",
        model=str(target),
        checkpoint=str(source),
        command=command.quoted(),
        megabytes=round(sum(path.stat().st_size for path in target.rglob("*")) / 1e6, 1),
        seconds=round(time.monotonic() - started, 1),
    )


def _find_checkpoint(project: Project, run: str, name: str) -> Path:
    """A checkpoint by folder, or by step: of the run that is named, else of the newest run that has it.

    Where none is named, the latest or the best of the run, as it was trained to keep; a run that is not done must then
    be named itself.
    """
    if not name:
        return project.run(run).kept_checkpoint()
    folder = project.root / name
    if (folder / "adapter_config.json").is_file():
        return folder
    searched = [project.run(run)] if run else runs.runs(project.runs)
    checkpoints = [checkpoint for entry in searched for checkpoint in entry.checkpoints()]
    for checkpoint in reversed(checkpoints):
        if name in {str(runs.step_of(checkpoint)), checkpoint.name}:
            return checkpoint
    known = ", ".join(f"{checkpoint.parent.parent.name}/{checkpoint.name}" for checkpoint in checkpoints)
    raise UsageError(
        f"No checkpoint {name}: {project.runs}", hint=f"There are: {known}." if known else "Run `vlmdet train` first."
    )


def _owner(project: Project, checkpoint: Path) -> runs.ResultFolder:
    """The checkpoint's run; the output folder for a checkpoint of no run."""
    folder = next((path for path in checkpoint.absolute().parents if (path / RECORD).is_file()), None)
    return runs.Run(folder) if folder else project.results


def _export(project: Project, source: Path, owner: runs.ResultFolder, tick: Callable[[], None]) -> programs.Command:
    work = owner.folder / "merging"
    shutil.rmtree(work, ignore_errors=True)
    cpu = gpus.gpus() == 0
    flags: dict[str, Flag] = {
        **model_flags(project, source, owner),
        **({"torch_dtype": "float32"} if cpu else {}),
        **project.config.merge.swift,
    }
    argv = (swift.program(), *arguments.export(checkpoint=source, output=work, flags=flags))
    env = arguments.environment(root_images=project.output, visible="", processes=1, cpu=True)
    command, log = programs.Command(argv, env), owner.folder / "merge.log"
    log.unlink(missing_ok=True)
    programs.run(command, log, cwd=project.root, watch=tick, hint=HINT)
    if not (work / "config.json").is_file() or not any(work.glob("*.safetensors")):
        raise EngineError("swift export ended well but left no whole model", why=f"Searched in {work}.", hint=HINT)
    return command


def model_flags(project: Project, source: Path, owner: runs.ResultFolder) -> dict[str, Flag]:
    """The flags that describe the base model: as in the run that the checkpoint is of, not as in today's file."""
    trained = runs.trained_settings(source)
    if not isinstance(owner, runs.Run):
        written = {name: value for name, value in project.config.train.swift.items() if name in arguments.MODEL_FLAGS}
        return {name: arguments.absolute(name, value, project.root) for name, value in written.items()}
    record = owner.record
    train: dict[str, Any] = record.settings.get("train", {})
    written = {**train.get("swift", {}), **arguments.parse(record.arguments)}
    flags = {name: arguments.absolute(name, written[name], project.root) for name in arguments.MODEL_FLAGS
             if name in written}  # fmt: skip
    if trained:
        known = {"model_type": trained.model_type, "template": trained.template}
        flags |= {name: value for name, value in known.items() if value}
        base = project.path(str(train.get("model", "")))
        if not Path(trained.model).exists() and base.is_dir():  # the project was moved since
            flags["model"] = str(base)
    return flags


def _publish(project: Project, source: Path, owner: runs.ResultFolder) -> None:
    """Mark the new folder and let it replace the earlier one; a stop in between leaves no model, not a wrong one."""
    when = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    marker = {
        "schema": 1,
        "run": owner.name if isinstance(owner, runs.Run) else None,
        "checkpoint": str(source.relative_to(project.output) if source.is_relative_to(project.output) else source),
        "adapter": _adapter_hash(source),
        "merged": when,
        "trained": msgspec.to_builtins(runs.trained_settings(source)),
    }
    work, old, target = (owner.folder / name for name in ("merging", "merged.old", "merged"))
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
