"""train: the real ``swift sft`` on the prepared rows, watched, recorded, resumable.

Before swift starts, every row is checked for what swift would drop without a word: a broken form, a missing
picture, more tokens than ``max_length``. While it runs, its own log file is followed. The run's folder keeps
the settings, the command, versions and data hashes.
"""

import datetime
import importlib.metadata
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import orjson
import tomli_w

from vlmdet_cli import __version__
from vlmdet_cli.core.files import file_hash, read_bytes, read_json, whole_file
from vlmdet_cli.core.locks import lock, this_process
from vlmdet_cli.data.dataset import escapes_folder
from vlmdet_cli.errors import DataError, EngineError, UsageError, counted, first_few
from vlmdet_cli.models import dialects
from vlmdet_cli.project import Project, old_layout, runs
from vlmdet_cli.project.run_record import (
    DatasetRecord,
    ModelRecord,
    Resume,
    RunRecord,
    RunState,
    TrainedSettings,
    write_record,
)
from vlmdet_cli.prompts import lengths
from vlmdet_cli.prompts.object_rows import texts
from vlmdet_cli.stages import chunks
from vlmdet_cli.training import swift
from vlmdet_cli.training.log_reader import Report, RowCount, Watcher

STACK = ("ms-swift", "torch", "torchvision", "transformers", "peft", "accelerate", "qwen-vl-utils")
HINT = "The log tells more; `vlmdet doctor` checks the machine."


class TrainResult(msgspec.Struct, frozen=True, kw_only=True):
    run: str
    command: str
    rows: int
    too_long: int
    exact_lengths: bool
    checkpoints: list[str]
    steps: int
    loss: float | None
    seconds: float


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a run will do, before anything is written. ``resumed``: the checkpoint that training goes on from."""

    command: swift.Command
    run: runs.Run
    dataset: Path
    cpu: bool
    arguments: tuple[str, ...] = ()
    resumed: Path | None = None


def plan(project: Project, extra: Sequence[str] = (), *, resume: bool = False) -> Plan:
    """The command of the next run (or, with ``resume``, of the latest run's continuation); writes nothing."""
    old_layout.refuse(project.runs)
    if not resume:
        return _plan(project, runs.Run(project.runs / runs.next_name(project.runs)), extra)
    run = _resumable(project)
    return _plan(project, run, extra, run.latest_checkpoint())


def _resumable(project: Project) -> runs.Run:
    """The latest run that has a checkpoint to go on from."""
    for run in reversed(runs.runs(project.runs)):
        if run.checkpoints():
            return run
    raise UsageError(f"No run with a checkpoint to go on from: {project.runs}", hint="Run `vlmdet train` first.")


def _plan(project: Project, run: runs.Run, extra: Sequence[str], checkpoint: Path | None = None) -> Plan:
    train, dataset = project.config.train, dataset_of(project)
    limit = project.max_pixels
    if limit:  # swift itself does not heed what the model's processor states
        train = msgspec.structs.replace(train, swift={"max_pixels": limit, **train.swift})
    cpu = swift.gpus() == 0
    again = ("--resume_from_checkpoint", str(checkpoint)) if checkpoint else ()
    argv = swift.sft(
        train,
        model=project.model(train.model),
        dataset=dataset,
        output=run.folder,
        root=project.root,
        cpu=cpu,
        extra=(*again, *extra),
    )
    env = swift.environment(root_images=project.output, visible=train.gpus, processes=train.nproc_per_node, cpu=cpu)
    if project.config.format.rows == "objects":
        env |= dialects.get(project.dialect_name).swift_environment
    command = swift.Command(argv, env)
    return Plan(command=command, run=run, dataset=dataset, cpu=cpu, arguments=tuple(extra), resumed=checkpoint)


def dataset_of(project: Project) -> Path:
    """The mixed file where ``augment`` has made one of the present data, else the detection rows."""
    mixed, rows = project.train_file, project.rows("train")
    if not mixed.is_file():
        return rows
    account = project.output / "augment" / "ledger.json"
    made = read_json(account, "account of augment") if account.is_file() else {}  # none beside a file put together
    if made and rows.is_file() and made.get("source") != file_hash(rows):
        raise UsageError(f"The augmented rows were made from other data: {mixed}", hint="Run `vlmdet augment` again.")
    return mixed


def train(project: Project, planned: Plan, on_step: Report, warn: Callable[[str], None]) -> TrainResult:
    """Run the plan to its end. Raises ``DataError`` for rows, ``EngineError`` if swift fails."""
    swift.require()
    rows, long, exact = check_rows(project, planned.dataset)
    if long:
        warn(_too_long(long, rows, project.config.train.max_length, exact=exact))
    if exact and len(long) == rows:
        raise DataError(f"Every row is too long: {planned.dataset}", hint="Raise train.max_length.")
    if planned.cpu:
        warn("no GPU found: training on the CPU in float32.")
    checked = (rows, len(long), exact)
    if planned.resumed:
        with lock(planned.run.folder):
            return _run(project, planned, on_step, warn, checked=checked)
    run = runs.new_run(project.runs)
    if run != planned.run:  # another vlmdet has taken the number meanwhile
        planned = _plan(project, run, planned.arguments)
    with lock(run.folder):
        return _run(project, planned, on_step, warn, checked=checked)


def _too_long(long: Sequence[tuple[int, int]], rows: int, limit: int, *, exact: bool) -> str:
    sure = "have" if exact else "may have"
    few = "; ".join(first_few([f"line {number}: {tokens}" for number, tokens in long]))
    return (
        f"{len(long):,} of {rows:,} rows {sure} more than max_length = {limit} tokens, and swift leaves such rows out "
        f"({few}). Raise train.max_length or lower subset.max_objects."
    )


def _run(
    project: Project, planned: Plan, on_step: Report, warn: Callable[[str], None], *, checked: tuple[int, int, bool]
) -> TrainResult:
    run, started, (rows, too_long, exact) = planned.run, time.monotonic(), checked
    with whole_file(run.folder / "vlmdet.toml") as temporary:
        temporary.write_bytes(tomli_w.dumps(_without_none(project.config)).encode())
    record = _record(project, planned, rows)
    write_record(run.folder, record)
    watcher = Watcher(run.folder, on_step)
    counted = RowCount(run.log, rows, warn, must_match=project.config.train.rows_must_match)

    def watch() -> None:
        counted()
        watcher()

    def ended(state: RunState, exit_code: int | None) -> RunRecord:
        last, file = watcher.last, next(iter(sorted(run.folder.glob("*/args.json"))[::-1]), None)
        done = msgspec.structs.replace(
            record,
            state=state,
            exit_code=exit_code,
            ended=_now(),
            seconds=round((record.seconds or 0) + time.monotonic() - started, 1),
            steps=last.step if last else record.steps,
            loss=last.loss if last else record.loss,
            trained=runs.with_arguments(record.trained, file) if file else record.trained,
        )
        write_record(run.folder, done)
        return done

    try:
        swift.run(planned.command, run.log, cwd=project.root, watch=watch, hint=HINT)
        checkpoints = run.checkpoints()
        if not checkpoints:
            raise EngineError("swift ended well but left no checkpoint", why=f"In {run.folder}.", hint=HINT)
    except KeyboardInterrupt:
        ended("interrupted", None)
        raise KeyboardInterrupt(_go_on(run)) from None
    except BaseException:
        ended("failed", None)
        raise
    done = ended("done", 0)
    return TrainResult(
        run=str(run.folder),
        command=planned.command.quoted(),
        rows=rows,
        too_long=too_long,
        exact_lengths=exact,
        checkpoints=[str(path) for path in checkpoints],
        steps=done.steps,
        loss=done.loss,
        seconds=done.seconds or 0.0,
    )


def _go_on(run: runs.Run) -> str:
    checkpoints = run.checkpoints()
    if not checkpoints:
        return "No checkpoint was written yet."
    return f"`vlmdet train --resume` goes on from {checkpoints[-1].name}."


def _without_none(config: Any) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(config)
    plain["data"] = {name: value for name, value in plain["data"].items() if value is not None}
    return plain


def _record(project: Project, planned: Plan, rows: int) -> RunRecord:
    train = project.config.train
    before = planned.run.record if planned.resumed else None
    record = RunRecord(
        name=planned.run.name,
        state="running",
        started=before.started if before else _now(),
        command=planned.command.quoted(),
        argv=planned.command.argv,
        env=planned.command.env,
        arguments=planned.arguments,
        versions={"vlmdet": __version__, **installed(STACK)},
        process=this_process(),
        dataset=DatasetRecord(file=str(planned.dataset), rows=rows, hash=file_hash(planned.dataset)),
        model=ModelRecord(name=train.model),
        settings=_without_none(project.config),
        trained=TrainedSettings(
            family=project.family.name, dialect=project.dialect_name, model=project.model(train.model)
        ),
    )
    if before is None:
        return record
    resume = Resume(
        started=_now(), checkpoint=str(planned.resumed), state=planned.run.state, exit_code=before.exit_code
    )
    return msgspec.structs.replace(
        record, seconds=before.seconds, steps=before.steps, loss=before.loss, resumes=(*before.resumes, resume)
    )


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def installed(names: Sequence[str]) -> dict[str, str]:
    """Versions of the packages that are installed."""
    out: dict[str, str] = {}
    for name in names:
        try:
            out[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return out


def check_rows(project: Project, dataset: Path) -> tuple[int, list[tuple[int, int]], bool]:
    """Number of rows, those over ``max_length`` as (line, tokens), and whether tokens were counted exactly."""
    rows = list(read_rows(dataset))
    if not rows:
        raise DataError(f"No rows to train on: {dataset}", hint="Run `vlmdet prepare` again.")
    sizes, recipe = (
        picture_sizes(project.output, [row["images"][0] for row in rows], dataset),
        chunks.row_settings(project, "train"),
    )
    dialect, count = recipe.dialect, recipe.guard.counter
    measured = [
        (*texts(row, dialect, size := sizes[row["images"][0]], f"{dataset}, line {number}"), size)
        for number, row in enumerate(rows, 1)
    ]
    return len(rows), lengths.too_long(measured, count, project.config.train.max_length), count.exact


def read_rows(dataset: Path) -> Iterator[dict[str, Any]]:
    """The rows; one that swift would not take is a ``DataError``."""
    if not dataset.is_file():
        raise UsageError(f"No rows to train on: {dataset}", hint="Run `vlmdet prepare` first.")
    for number, line in enumerate(read_bytes(dataset, "train file").splitlines(), 1):
        try:
            row = orjson.loads(line)
            (user, assistant), (image,) = row["messages"], row["images"]
            roles, contents = (user["role"], assistant["role"]), (user["content"], assistant["content"])
            sound = roles == ("user", "assistant") and contents[0].count("<image>") == 1 and isinstance(image, str)
        except (ValueError, KeyError, TypeError, AttributeError):
            sound = False
        if not sound:
            raise DataError(
                f"A row is malformed: {dataset}, line {number}",
                why="A row has one user and one assistant message, one <image> and one path in `images`.",
                hint="Run `vlmdet prepare` and `vlmdet augment` again.",
            )
        yield row


def picture_sizes(folder: Path, images: Sequence[str], dataset: Path) -> dict[str, tuple[int, int]]:
    """Width and height of each picture, read from its header. ``DataError`` for those that are not there."""
    from PIL import Image, UnidentifiedImageError

    sizes, bad = dict[str, tuple[int, int]](), list[str]()
    for image in dict.fromkeys(images):
        try:
            if escapes_folder(image) and not Path(image).is_absolute():
                raise ValueError(image)
            with Image.open(folder / image) as opened:
                sizes[image] = opened.size
        except (OSError, ValueError, UnidentifiedImageError):
            bad.append(image)
    if bad:
        raise DataError(
            f"Cannot read {counted(len(bad), 'picture')} of the train file: {dataset}",
            why=first_few(bad),
            hint="Run `vlmdet prepare` again.",
        )
    return sizes
