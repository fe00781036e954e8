"""A project's runs on disk: their names, states, checkpoints and results. Files only; starts nothing.

runs/run-001/run.json       what was run, and its end (``run_record``)
             vlmdet.toml    the settings as resolved
             swift.log      swift's whole output
             evaluations.jsonl, evaluations/    with train.evaluate: F1 and raw answers at each checkpoint
             v0-…/          swift's own folder: args.json, logging.jsonl, checkpoint-N/
             merged/        the model folder that ``merge`` writes
             answers/ reports/ viz/ export/
"""

import re
from pathlib import Path
from typing import Any

import msgspec

from vlmdet_cli.core.files import read_json
from vlmdet_cli.errors import UsageError, nearest
from vlmdet_cli.project.run_record import RECORD, Evaluation, RunRecord, RunState, TrainedSettings, read_record

MARKER = "vlmdet.json"  # in a merged model's folder: which run it is of, and what that was trained with
ARGS = "args.json"  # swift writes its resolved arguments there, into its own folder and into each checkpoint
EVALUATIONS = "evaluations.jsonl"
_STEP = re.compile(r"checkpoint-(\d+)$")
_VERSION = re.compile(r"v(\d+)")
_NUMBERED = re.compile(r"run-(\d+)$")
RUN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class ResultFolder(msgspec.Struct, frozen=True):
    """Answers, reports and drawings of a run, or (in the output folder) of models that are no run."""

    folder: Path

    def answers(self, name: str) -> Path:
        return self.folder / "answers" / f"{name}.jsonl"

    def report(self, name: str) -> Path:
        return self.folder / "reports" / f"{name}.json"

    def viz(self, name: str) -> Path:
        return self.folder / "viz" / name

    def export(self, name: str) -> Path:
        return self.folder / "export" / name


class Run(ResultFolder, frozen=True):
    """One training and all that was derived from it; its folder is its identity."""

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def record(self) -> RunRecord:
        """Read from ``run.json`` at each call."""
        return read_record(self.folder)

    @property
    def state(self) -> RunState:
        """The recorded state; a run whose processes are gone without a word is ``interrupted``."""
        record = self.record
        return "interrupted" if record.state == "running" and record.at_work() is False else record.state

    @property
    def merged(self) -> Path:
        return self.folder / "merged"

    @property
    def log(self) -> Path:
        return self.folder / "swift.log"

    def checkpoints(self) -> list[Path]:
        """Whole checkpoints, oldest first: the trainer writes its state last."""
        states = [*self.folder.glob("checkpoint-*/trainer_state.json"),
                  *self.folder.glob("*/checkpoint-*/trainer_state.json")]  # fmt: skip
        folders = [path.parent for path in states if _STEP.search(path.parent.name)]
        return sorted(folders, key=lambda path: (_version(path), step_of(path)))

    def latest_checkpoint(self) -> Path:
        """Raises ``UsageError`` where there is none."""
        checkpoints = self.checkpoints()
        if not checkpoints:
            raise UsageError(f"The run has no checkpoint: {self.folder}", hint="Run `vlmdet train` again.")
        return checkpoints[-1]

    def evaluations(self) -> list[Evaluation]:
        """The detection measures of its checkpoints, by step; of a step that was evaluated twice, the last."""
        file = self.folder / EVALUATIONS
        lines = file.read_bytes().splitlines() if file.is_file() else []
        entries = [msgspec.json.decode(line, type=Evaluation) for line in lines]
        return sorted({entry.step: entry for entry in entries}.values(), key=lambda entry: entry.step)

    def add_evaluation(self, evaluation: Evaluation) -> None:
        """Append a row to ``evaluations.jsonl``."""
        with (self.folder / EVALUATIONS).open("ab") as file:
            file.write(msgspec.json.encode(evaluation) + b"\n")

    def best_checkpoint(self) -> Path:
        """The checkpoint with the highest F1 of those that are there; of equal ones the earliest.

        Raises ``UsageError`` where none was evaluated.
        """
        steps = {step_of(checkpoint): checkpoint for checkpoint in self.checkpoints()}
        measured = [entry for entry in self.evaluations() if entry.step in steps]
        if not measured:
            raise UsageError(
                f"No checkpoint of the run was evaluated: {self.folder}",
                hint='Train with train.evaluate = "f1", or name a checkpoint with --checkpoint.',
            )
        return steps[max(measured, key=lambda entry: entry.f1).step]

    def kept_checkpoint(self) -> Path:
        """The checkpoint that the run was trained to keep: its latest, or its best. Raises ``UsageError`` for none."""
        train: dict[str, Any] = self.record.settings.get("train", {})
        return self.best_checkpoint() if train.get("keep") == "best" else self.latest_checkpoint()

    def swift_arguments(self) -> Path | None:
        """The ``args.json`` that swift wrote last."""
        files = [*self.folder.glob(ARGS), *self.folder.glob(f"v*/{ARGS}")]
        return max(files, key=_version, default=None)

    def training_log(self) -> Path | None:
        """The ``logging.jsonl`` that swift wrote last, with a row each ``logging_steps``."""
        logs = [*self.folder.glob("logging.jsonl"), *self.folder.glob("*/logging.jsonl")]
        return max(logs, key=_version, default=None)


def step_of(checkpoint: Path) -> int:
    """The number in ``checkpoint-N``, -1 where there is none."""
    match = _STEP.search(checkpoint.name)
    return int(match[1]) if match else -1


def _version(path: Path) -> int:
    match = _VERSION.match(path.parent.name)
    return int(match[1]) if match else -1


def runs(folder: Path) -> list[Run]:
    """The runs in ``folder``, oldest first; a folder without ``run.json`` is none."""
    entries = [Run(path.parent) for path in folder.glob(f"*/{RECORD}")]
    return sorted(entries, key=lambda run: (run.record.started, _number(run.name), run.name))


def _number(name: str) -> int:
    match = _NUMBERED.match(name)
    return int(match[1]) if match else -1


def refuse_old_layout(folder: Path) -> None:
    """Raises ``UsageError`` where runs of a version before ``runs/`` are beside the runs' ``folder``."""
    if any((folder.parent / "train").glob(f"run-*/{RECORD}")):
        raise UsageError(
            f"The runs are in the layout of an earlier version: {folder.parent / 'train'}",
            hint="Move them with `vlmdet runs --migrate`.",
        )


def next_name(folder: Path) -> str:
    """``run-NNN`` with the number after the highest that is taken."""
    return f"run-{max([_number(path.name) for path in folder.glob('run-*')], default=0) + 1:03d}"


def check_name(folder: Path, name: str) -> None:
    """Raises ``UsageError`` for a name that is taken or cannot be a folder's."""
    if not RUN_NAME.fullmatch(name):
        raise UsageError(f"Not a name of a run: {name}", hint="A name has letters, digits, `_`, `-` and `.`.")
    if (folder / name).exists():
        raise UsageError(
            f"There is a run {name} already: {folder / name}",
            hint=f"Choose another name, or go on with it: vlmdet train --resume --run {name}",
        )


def new_run(folder: Path, name: str = "") -> Run:
    """A new run's folder, created: ``name``, or the next number. Two processes never get the same one.

    Raises ``UsageError`` where the name is taken or not a plain one.
    """
    refuse_old_layout(folder)
    if name:
        check_name(folder, name)
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        run = Run(folder / (name or next_name(folder)))
        try:
            run.folder.mkdir()
        except FileExistsError:
            if name:
                check_name(folder, name)
        else:
            return run


def latest_done(folder: Path) -> Run | None:
    """The newest run that ended well."""
    return next((run for run in reversed(runs(folder)) if run.state == "done"), None)


def find_run(folder: Path, name: str = "") -> Run:
    """The run ``name``, or the latest that is done. Raises ``UsageError`` that says what there is instead."""
    refuse_old_layout(folder)
    if not name:
        return latest_done(folder) or _no_run_is_done(folder)
    if RUN_NAME.fullmatch(name) and (folder / name / RECORD).is_file():
        return Run(folder / name)
    names = [run.name for run in runs(folder)]
    raise UsageError(
        f"No run {nearest(name, names)}",
        why=f"Searched in {folder}.",
        hint=f"There are: {', '.join(names)}." if names else "Run `vlmdet train` first.",
    )


def _no_run_is_done(folder: Path) -> Run:
    states = [f"{run.name}: {run.state}" for run in runs(folder)]
    if not states:
        raise UsageError(f"No run: {folder}", hint="Run `vlmdet train` first.")
    raise UsageError(
        f"No run is done: {folder}",
        why=states,
        hint="Go on with `vlmdet train --resume`, or name a run with --run.",
    )


def trained_settings(folder: Path) -> TrainedSettings | None:
    """What the model in ``folder`` was trained with; None where nothing tells.

    ``folder`` is a merged model (its ``vlmdet.json``) or a checkpoint (swift's ``args.json``, and the run's record
    for what swift does not know).
    """
    if (marker := folder / MARKER).is_file():
        document: dict[str, Any] = read_json(marker, "merged model's marker")
        if document.get("trained"):
            return msgspec.convert(document["trained"], TrainedSettings)
    recorded = next((Run(path).record.trained for path in folder.parents if (path / RECORD).is_file()), None)
    file = next((path for path in (folder / ARGS, folder.parent / ARGS) if path.is_file()), None)
    return with_arguments(recorded or TrainedSettings(), file) if file else recorded


_ARGUMENTS = ("max_pixels", "max_length", "system", "template", "model_type", "model", "external_plugins")


def with_arguments(settings: TrainedSettings, file: Path) -> TrainedSettings:
    """``settings`` with what swift's ``args.json`` says instead of what was recorded before it ran."""
    arguments: dict[str, Any] = read_json(file, "swift's arguments")
    unset = {name: None for name in ("max_pixels", "system") if name in arguments}  # None says: the family's own
    values = {name: arguments[name] for name in _ARGUMENTS if arguments.get(name) is not None}
    return msgspec.convert({**msgspec.to_builtins(settings), **unset, **values}, TrainedSettings)
