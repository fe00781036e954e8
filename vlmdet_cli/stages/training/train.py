"""train: the real ``swift sft`` on the prepared rows, watched, recorded, resumable.

Before swift starts, every row is checked (``train_rows``). While it runs, its own log file is followed. The run's
record is written whole when it starts, and again when it ends, is interrupted or fails.
"""

import datetime
import os
import platform
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import tomli_w

from vlmdet_cli import __version__
from vlmdet_cli.core import gpus, programs
from vlmdet_cli.core.files import whole_file
from vlmdet_cli.core.locks import lock
from vlmdet_cli.core.packages import installed
from vlmdet_cli.core.processes import Process, this_process
from vlmdet_cli.errors import DataError, EngineError, UsageError, first_few
from vlmdet_cli.project import Project, runs
from vlmdet_cli.project.config import plain
from vlmdet_cli.project.run_record import Evaluation, Resume, RunRecord, RunState, write_record
from vlmdet_cli.stages.data import chunks
from vlmdet_cli.stages.training import train_changes, train_plan, train_reward
from vlmdet_cli.stages.training.join import join
from vlmdet_cli.stages.training.reward_watch import RewardWatch
from vlmdet_cli.stages.training.train_evaluation import write_job
from vlmdet_cli.stages.training.train_file import write_train_file
from vlmdet_cli.stages.training.train_plan import Plan, TrainOptions
from vlmdet_cli.stages.training.train_rows import RowCheck, check_rows
from vlmdet_cli.training import launch, swift
from vlmdet_cli.training.log_reader import Report, RowCount, Silence, Step, Watcher

STACK = ("ms-swift", "torch", "torchvision", "transformers", "peft", "accelerate", "qwen-vl-utils")
HINT = "The log says more; `vlmdet doctor` checks the machine."
Note = Callable[[str], None]


class TrainResult(msgspec.Struct, frozen=True, kw_only=True):
    """``run``: the run's folder. ``seconds``: of all starts together. ``best``: of its evaluated checkpoints.
    ``ledger``: of what was added to the rows, empty where that is nothing.
    """

    run: str
    command: str
    rows: int
    too_long: int
    exact_lengths: bool
    checkpoints: list[str]
    steps: int
    loss: float | None
    seconds: float
    reward: float | None = None
    best: Evaluation | None = None
    ledger: dict[str, dict[str, Any]] = {}


def train(project: Project, options: TrainOptions, on_step: Report, warn: Note, detail: Note) -> TrainResult | None:
    """Train to the end. None on a machine that only takes part: the first one has the result.

    Raises ``DataError`` for rows, ``UsageError`` for the run, ``EngineError`` if swift fails.
    """
    swift.require()
    launch.require_meeting_point(project.config.train)
    if rank := launch.node_rank(project.config.train):
        join(project, options.run, rank)
        return None
    project = train_plan.with_data(project, options)
    planned = train_plan.plan(project, options)
    train_plan.refuse_impossible(project, planned)
    check = check_rows(_as_flagged(project, planned), planned.dataset)
    for warning in _warnings(project, planned, check):
        warn(warning)
    if check.exact and len(check.too_long) == check.rows:
        raise DataError(f"Every row is too long: {planned.dataset}", hint="Raise train.max_length.")
    if not options.resume:
        run = runs.new_run(project.runs, options.run)
        if run != planned.run:  # another vlmdet has taken the number meanwhile
            planned = train_plan.plan_for(project, run, planned.arguments, parent=planned.parent)
    detail(planned.command.quoted())
    with lock(planned.run.folder):
        ledger = dict[str, dict[str, Any]]()
        if planned.train_file != planned.dataset and not planned.parent:
            written = write_train_file(_as_flagged(project, planned), planned.dataset, planned.train_file)
            check, ledger = msgspec.structs.replace(check, rows=check.rows + written.replayed), written.ledger
        result = Training(project, planned, check, warn).run(_watched(planned, on_step, warn))
        return msgspec.structs.replace(result, ledger=ledger)


def _warnings(project: Project, planned: Plan, check: RowCheck) -> Iterator[str]:
    """What is to be said before a training starts."""
    if check.too_long:
        yield _too_long(check, int(planned.flags["max_length"]))
    if uncounted := chunks.lengths_warning(project):
        yield uncounted
    if planned.cpu and project.config.train.device == "auto":
        yield "no GPU is visible: training on the CPU in float32."
    if remark := launch.batch_remark(project.config.train, planned.flags):
        yield remark


def _watched(planned: Plan, on_step: Report, warn: Note) -> Report:
    """``on_step``, for a training by reward with a watch on it."""
    if planned.parent is None:
        return on_step
    watch = RewardWatch(planned.run.folder, warn)

    def watched(step: Step) -> None:
        on_step(step)
        watch(step)

    return watched


def _as_flagged(project: Project, planned: Plan) -> Project:
    """The project with the limits of length and pixels that flags after ``--`` set."""
    train, flags = project.config.train, planned.flags
    if flags.get("max_pixels", "").isdecimal():
        swift_flags = {**train.swift, "max_pixels": int(flags["max_pixels"])}
        train = msgspec.structs.replace(train, swift=swift_flags)
    if not flags.get("max_length", "").isdecimal():
        raise UsageError(f"Not a number of tokens: --max_length {flags.get('max_length')}")
    train = msgspec.structs.replace(train, max_length=int(flags["max_length"]))
    return msgspec.structs.replace(project, config=msgspec.structs.replace(project.config, train=train))


def _too_long(check: RowCheck, limit: int) -> str:
    verb = "have" if check.exact else "may have"
    few = "; ".join(first_few([f"line {number}: {tokens}" for number, tokens in check.too_long]))
    return (
        f"{len(check.too_long):,} of {check.rows:,} rows {verb} more than max_length = {limit} tokens, and swift "
        f"leaves such rows out ({few}). Raise train.max_length or lower subset.max_objects."
    )


class Training:
    """One start of swift for a run whose lock is held, and the run's record while it goes on."""

    def __init__(self, project: Project, planned: Plan, check: RowCheck, warn: Note) -> None:
        self._project = project
        self._planned = planned
        self._check = check
        self._warn = warn
        self._started = time.monotonic()
        self._exit_code: int | None = None
        self._record = _record(project, planned, check.rows)

    def run(self, on_step: Report) -> TrainResult:
        run = self._planned.run
        with whole_file(run.folder / "vlmdet.toml") as temporary:
            temporary.write_bytes(tomli_w.dumps(_settings(self._project)).encode())
        if self._project.config.train.evaluate != "none":
            write_job(self._project, run, self._record.trained)
        if self._planned.parent:
            rows = train_reward.write_job(self._project, run, self._planned.dataset, self._record.trained, self._warn)
            self._check = msgspec.structs.replace(self._check, rows=rows)
        write_record(run.folder, self._record)
        watcher = Watcher(run.folder, on_step)
        try:
            self._start_swift(watcher)
            if not run.checkpoints():
                raise EngineError("swift ended well but left no checkpoint", why=f"In {run.folder}.", hint=HINT)
        except KeyboardInterrupt:
            self._end("interrupted", watcher)
            raise KeyboardInterrupt(_go_on(run)) from None
        except BaseException:
            self._end("failed", watcher)
            raise
        return self._result(self._end("done", watcher))

    def _start_swift(self, watcher: Watcher) -> None:
        train, log = self._project.config.train, self._planned.run.log
        count = RowCount(log, self._check.rows, self._warn, must_match=train.rows_must_match)

        silence = Silence(log, self._warn, train.stop_silent)

        def watch() -> None:
            count()
            silence()
            watcher()

        def on_exit(code: int | None) -> None:
            self._exit_code = code

        programs.run(
            self._planned.command,
            log,
            cwd=self._project.root,
            watch=watch,
            hint=HINT,
            on_start=self._on_start,
            on_exit=on_exit,
        )

    def _on_start(self, pid: int) -> None:
        self._record = msgspec.structs.replace(self._record, swift=Process.of(pid))
        write_record(self._planned.run.folder, self._record)

    def _end(self, state: RunState, watcher: Watcher) -> RunRecord:
        """Write the end of the training, and the settings that swift reports."""
        record, run, last = self._record, self._planned.run, watcher.last
        file, checkpoints = run.swift_arguments(), run.checkpoints()
        steps = [record.steps, *([last.step] if last else []), *map(runs.step_of, checkpoints[-1:])]
        ended = msgspec.structs.replace(
            record,
            merge=run.record.merge,  # a checkpoint may have been merged meanwhile
            state=state,
            exit_code=self._exit_code,
            ended=_now(),
            seconds=round((record.seconds or 0.0) + time.monotonic() - self._started, 1),
            steps=max(steps),
            loss=last.loss if last else record.loss,
            reward=last.reward if last else record.reward,
            model=train_changes.model_record(self._project, self._planned),  # a hub's model is cached by now
            trained=runs.with_arguments(record.trained, file) if file else record.trained,
        )
        write_record(run.folder, ended)
        return ended

    def _result(self, record: RunRecord) -> TrainResult:
        return TrainResult(
            run=str(self._planned.run.folder),
            command=record.command,
            rows=self._check.rows,
            too_long=len(self._check.too_long),
            exact_lengths=self._check.exact,
            checkpoints=[str(path) for path in self._planned.run.checkpoints()],
            steps=record.steps,
            loss=record.loss,
            seconds=record.seconds or 0.0,
            reward=record.reward,
            best=max(self._planned.run.evaluations(), key=lambda entry: entry.f1, default=None),
        )


def _go_on(run: runs.Run) -> str:
    checkpoints = run.checkpoints()
    if not checkpoints:
        return "No checkpoint was written yet."
    return f"`vlmdet train --resume` goes on from {checkpoints[-1].name}."


def _settings(project: Project) -> dict[str, Any]:
    """The settings as resolved, with the dialect that they leave to the model."""
    settings = plain(project.config)
    settings["format"]["dialect"] = project.dialect_name
    return settings


def _record(project: Project, planned: Plan, rows: int) -> RunRecord:
    """The record of a run that starts now, with the history of the starts before it."""
    command, now = planned.command, _now()
    record = RunRecord(
        name=planned.run.name,
        method="grpo" if planned.parent else "sft",
        parent=planned.parent.record() if planned.parent else None,
        state="running",
        started=now,
        command=command.quoted(),
        argv=command.argv,
        env=command.env,
        arguments=planned.arguments,
        versions={"vlmdet": __version__, **installed(STACK)},
        machine=_machine(),
        process=this_process(),
        dataset=train_changes.dataset_record(project, planned, rows),
        model=train_changes.model_record(project, planned),
        settings=_settings(project),
        trained=train_plan.trained_settings(project, planned),
    )
    if planned.checkpoint is None:
        return record
    before = planned.run.record
    resume = Resume(
        started=now,
        checkpoint=planned.checkpoint.relative_to(planned.run.folder).as_posix(),
        state=planned.run.state,
        exit_code=before.exit_code,
        changed=planned.changes,
    )
    history = {name: getattr(before, name) for name in ("started", "seconds", "steps", "loss", "reward", "merge")}
    return msgspec.structs.replace(record, resumes=(*before.resumes, resume), **history)


def _machine() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "gpus_gb": [round(size) for size in gpus.gpu_memory()],
    }


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
