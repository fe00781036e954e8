"""What ``merge`` works on: the adapters in their order, the run that they are of, and the base model.

An adapter that was trained from another one with swift's ``--adapters`` goes on with the same weights: it holds the
earlier training, and is merged alone. Adapters that are merged one after another were trained each on the merged model
of those before it.
"""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from vlmdet_cli.core import gpus
from vlmdet_cli.core.files import read_json
from vlmdet_cli.core.model_hash import model_folder_hash
from vlmdet_cli.errors import DataError, UsageError, first_few
from vlmdet_cli.models import adapters
from vlmdet_cli.project import Project, runs
from vlmdet_cli.project.run_record import RECORD
from vlmdet_cli.training import arguments
from vlmdet_cli.training.hub import cached_folder, is_hub_name
from vlmdet_cli.training.settings import Flag


class MergeSources(msgspec.Struct, frozen=True, kw_only=True):
    """``checkpoints``: the adapters in their order. ``owner``: the run of the last one, or the folder of models that
    are no run. ``base``: the model that the first was trained on; None where it is a hub's and not on this machine yet.
    """

    checkpoints: tuple[Path, ...]
    owner: runs.ResultFolder
    base_name: str
    base: Path | None

    @property
    def run(self) -> runs.Run | None:
        return self.owner if isinstance(self.owner, runs.Run) else None


def merge_sources(project: Project, run: str, names: Sequence[str], *, force: bool) -> MergeSources:
    """The checkpoints that are named, else the one that the run ``run``, or the latest done run, was trained to keep.

    Raises ``UsageError`` for a checkpoint that is not there, ``DataError`` for one that does not go with its base. With
    ``force`` a base that has changed since the training is taken.
    """
    checkpoints = tuple(find_checkpoint(project, run, name) for name in names or ("",))
    for checkpoint in checkpoints:
        if not (checkpoint / "adapter_config.json").is_file():
            raise DataError(
                f"The checkpoint holds no adapter: {checkpoint}", hint="A fully tuned model needs no merge."
            )
    _require_each_once(checkpoints)
    owner = owner_of(project, checkpoints[-1])
    base_name, base = base_model(project, checkpoints[0])
    if base is not None:
        _require_fit(project, checkpoints, base, force=force)
    return MergeSources(checkpoints=checkpoints, owner=owner, base_name=base_name, base=base)


def find_checkpoint(project: Project, run: str, name: str) -> Path:
    """A checkpoint by folder, or by step: of the run that is named, else of the newest run that has it.

    Where none is named, the one that the run was trained to keep; a run that is not done must then be named itself.
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


def owner_of(project: Project, checkpoint: Path) -> runs.ResultFolder:
    """The checkpoint's run; the output folder for a checkpoint of no run."""
    folder = next((path for path in checkpoint.absolute().parents if (path / RECORD).is_file()), None)
    return runs.Run(folder) if folder else project.results


def continued_from(checkpoint: Path) -> str:
    """The adapter that a training went on with (swift's ``--adapters``); empty where it began with a new one."""
    file = checkpoint / runs.ARGS
    named = read_json(file, "swift's arguments").get("adapters") if file.is_file() else None
    return str(named[0]) if isinstance(named, list) and named else ""


def _require_each_once(checkpoints: Sequence[Path]) -> None:
    """Raise ``UsageError`` where an adapter holds one before it already: its change would be added twice."""
    for number, checkpoint in enumerate(checkpoints):
        earlier = continued_from(checkpoint)
        held = {Path(earlier).parts[-3:]} if earlier else set()
        for other in checkpoints[:number]:
            if other.absolute().parts[-3:] in held or other.resolve() == checkpoint.resolve():
                raise UsageError(
                    f"The adapter holds the one before it already: {checkpoint}",
                    why=f"It went on from {earlier or other}; merging both would add that training twice.",
                    hint="Merge it alone.",
                )


def base_model(project: Project, checkpoint: Path) -> tuple[str, Path | None]:
    """The model that an adapter was trained on: its name, and its folder, None where it is a hub's and not here.

    Raises ``DataError`` where it was a folder and that is gone.
    """
    owner = owner_of(project, checkpoint)
    recorded = str(owner.record.settings.get("train", {}).get("model", "")) if isinstance(owner, runs.Run) else ""
    trained = runs.trained_settings(checkpoint)
    given = str(project.config.merge.swift.get("model", ""))
    named = (given, trained.model if trained else "", recorded, adapters.base_name(checkpoint))
    names = [name for name in named if name]
    for name in names:
        if (project.path(name) / "config.json").is_file():
            return name, project.path(name)
    for name in names:
        if is_hub_name(name):
            return name, cached_folder(name)
    raise DataError(
        f"The adapter's base model is not here: {names[0] if names else 'nothing names it'}",
        why=f"An adapter is only what a training changed of its base: {checkpoint}",
        hint="Put the model back where it was, or name it with --set merge.swift.model=DIR."
        + (" A merged model is made again by `vlmdet merge --run`." if names and "merged" in names[0] else ""),
    )


def _require_fit(project: Project, checkpoints: Sequence[Path], base: Path, *, force: bool) -> None:
    """Raise ``DataError`` where an adapter is of another base model, as far as shapes and the run's record tell."""
    for checkpoint in checkpoints:
        if sentences := adapters.misfits(checkpoint, base):
            raise DataError(
                f"The adapter was trained on another model: {checkpoint}",
                why=[f"The base model is {base}.", *first_few(sentences)],
                hint="Name the model that it was trained on with --set merge.swift.model=DIR.",
            )
    owner = owner_of(project, checkpoints[0])
    recorded = owner.record.model.hash if isinstance(owner, runs.Run) else ""
    if recorded and not force and model_folder_hash(base) != recorded:
        raise DataError(
            f"The base model is not as it was when the adapter was trained: {base}",
            why=f"Its settings, tokenizer or weights have changed since: {recorded[:8]}, now "
            f"{model_folder_hash(base)[:8]}.",
            hint="Put the model back, or merge all the same with --force.",
        )


def merge_dtype(project: Project, sources: MergeSources) -> str:
    """The dtype of the merged weights: as ``[merge.swift]`` says, float32 on a CPU, else that of the training."""
    if given := project.config.merge.swift.get("torch_dtype"):
        return str(given)
    train: dict[str, Any] = sources.run.record.settings.get("train", {}) if sources.run else {}
    return "float32" if gpus.gpus() == 0 else str(train.get("torch_dtype", "bfloat16"))


def require_space(project: Project, sources: MergeSources) -> None:
    """Raise ``DataError`` where the disk has no room for the merged model, as far as its base is here to tell."""
    shapes = adapters.tensor_shapes(sources.base) if sources.base else ()
    numbers = sum(math.prod(shape) for _, shape in shapes)
    models = min(len(sources.checkpoints), 2)  # while the next adapter is merged, the model before it is there
    needed = numbers * (4 if merge_dtype(project, sources) == "float32" else 2) * models
    folder = sources.owner.folder
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(
            f"Not enough space for the merged model: {folder}",
            why=f"It takes about {needed / 1e9:,.2g} GB, and {free / 1e9:,.2g} GB are free.",
            hint="Free some space, or remove checkpoints and merged models of runs that you do not need.",
        )


def model_flags(project: Project, checkpoint: Path) -> dict[str, Flag]:
    """The flags that describe the base model: as in the run that the checkpoint is of, not as in today's file."""
    owner, trained = owner_of(project, checkpoint), runs.trained_settings(checkpoint)
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
    return flags
