"""Output folders of versions before ``runs/``: their trainings are in ``train/run-*``, the merged model in ``merged/``.

A command that needs a run refuses such a folder (``runs.refuse_old_layout``) and names the command that moves it. An
interrupted move can be repeated: a run's record is rewritten first, then its folder is renamed.
"""

import shlex
import shutil
from pathlib import Path
from typing import Any

import msgspec
import tomli

from vlmdet_cli.core.files import read_json, write_json
from vlmdet_cli.errors import UsageError
from vlmdet_cli.project import runs
from vlmdet_cli.project.run_record import (
    RECORD,
    DatasetRecord,
    ModelRecord,
    Resume,
    RunRecord,
    TrainedSettings,
    write_record,
)


def _old_runs(output: Path) -> list[Path]:
    return sorted(file.parent for file in (output / "train").glob(f"run-*/{RECORD}"))


def migrate(output: Path) -> list[tuple[str, str]]:
    """Move the runs, and the merged model into its run. Returns (from, to), relative to the output folder.

    Answers, reports and drawings stay: nothing tells which run they are of. Raises ``UsageError`` before anything is
    moved where a name is taken.
    """
    old = _old_runs(output)
    taken = [folder.name for folder in old if (output / "runs" / folder.name).exists()]
    if taken:
        raise UsageError(
            f"There are runs of the same name already: {', '.join(taken)}",
            why=f"In {output / 'train'} and in {output / 'runs'}.",
            hint="Rename or remove one of the two folders.",
        )
    moves = [_move_run(folder, output) for folder in old]
    moves += _move_merged(output)
    for leftover in (output / "train" / ".lock", output / "merging" / ".lock"):
        leftover.unlink(missing_ok=True)
    for folder in (output / "train", output / "merging"):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    return moves


def _move_run(folder: Path, output: Path) -> tuple[str, str]:
    document = read_json(folder / RECORD, "run's record")
    if "schema" not in document:
        write_record(folder, _converted(folder, document))
    target = output / "runs" / folder.name
    target.parent.mkdir(exist_ok=True)
    folder.rename(target)
    return f"train/{folder.name}", f"runs/{folder.name}"


def _converted(folder: Path, document: dict[str, Any]) -> RunRecord:
    """The record of an earlier version as one of this version."""
    from vlmdet_cli.training.log_reader import last_step

    run, dataset = runs.Run(folder), document["dataset"]
    words = shlex.split(document["command"])
    env = dict(word.split("=", 1) for word in words if word.partition("=")[0].isupper())
    file = folder / "vlmdet.toml"
    settings = tomli.loads(file.read_text("utf-8")) if file.is_file() else {}
    trained = TrainedSettings(dialect=settings.get("format", {}).get("dialect", ""))
    if arguments := run.swift_arguments():
        trained = runs.with_arguments(trained, arguments)
    log = run.training_log()
    step = last_step(log) if log else None
    checkpoint = document.get("resumed_from")
    return RunRecord(
        name=folder.name,
        state="interrupted" if document["state"] == "running" else document["state"],
        started=document["started"],
        seconds=document.get("seconds"),
        command=document["command"],
        argv=tuple(words[len(env) :]),
        env=env,
        versions=document.get("versions", {}),
        dataset=DatasetRecord(file=dataset["file"], rows=dataset["rows"], hash=dataset["blake2b"]),
        model=ModelRecord(name=settings.get("train", {}).get("model", trained.model)),
        settings=settings,
        trained=msgspec.structs.replace(trained, family=_family(trained)),
        steps=step.step if step else 0,
        loss=step.loss if step else None,
        resumes=(Resume(started=document["started"], checkpoint=checkpoint, state="interrupted"),)
        if checkpoint
        else (),
    )


def _family(trained: TrainedSettings) -> str:
    from vlmdet_cli.models import registry

    try:
        return registry.family_of(trained.model, trained.model_type).name
    except UsageError:
        return ""


def _move_merged(output: Path) -> list[tuple[str, str]]:
    """Move the merged model into the run that its marker names."""
    merged = output / "merged"
    file = merged / runs.MARKER
    if not file.is_file():
        return []
    marker: dict[str, Any] = read_json(file, "merged model's marker")
    checkpoint = Path(marker.get("checkpoint", ""))
    if checkpoint.parts[:1] != ("train",):
        return []
    checkpoint = Path("runs", *checkpoint.parts[1:])
    run = runs.Run(output / "runs" / checkpoint.parts[1])
    if not (run.folder / RECORD).is_file() or run.merged.exists():
        return []
    trained = run.record.trained
    if trained.max_pixels is None:
        trained = msgspec.structs.replace(trained, max_pixels=marker.get("max_pixels"))
    write_json(file, {"schema": 1, **marker, "run": run.name, "checkpoint": str(checkpoint),
                      "trained": msgspec.to_builtins(trained)})  # fmt: skip
    merged.rename(run.merged)
    log = output / "merging" / "swift.log"
    if log.is_file():
        shutil.move(log, run.folder / "merge.log")
    return [("merged", f"runs/{run.name}/merged")]
