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
from vlmdet_cli.core.files import file_hash, read_bytes, read_json, whole_file, write_json
from vlmdet_cli.core.locks import lock
from vlmdet_cli.data.dataset import leaves
from vlmdet_cli.errors import DataError, EngineError, UsageError, counted, first_few
from vlmdet_cli.models import dialects
from vlmdet_cli.project import Project, runs
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
    """What a run will do, before anything is written."""

    command: swift.Command
    folder: Path
    dataset: Path
    cpu: bool
    resumed: Path | None = None


def plan(project: Project, extra: Sequence[str] = (), *, resume: bool = False) -> Plan:
    """The command of the next run (or, with ``resume``, of the latest run's continuation); writes nothing."""
    train, dataset = project.config.train, dataset_of(project)
    limit = _pixel_limit(project)
    if limit:  # swift itself does not heed what the model's processor states
        train = msgspec.structs.replace(train, swift={"max_pixels": limit, **train.swift})
    cpu = swift.gpus() == 0
    checkpoint = runs.latest_checkpoint(project.runs) if resume else None
    folder = checkpoint.parent.parent if checkpoint else runs.next_run(project.runs)
    again = ("--resume_from_checkpoint", str(checkpoint)) if checkpoint else ()
    argv = swift.sft(
        train,
        model=project.model(train.model),
        dataset=dataset,
        output=folder,
        root=project.root,
        cpu=cpu,
        extra=(*again, *extra),
    )
    env = swift.environment(root_images=project.output, visible=train.gpus, processes=train.nproc_per_node, cpu=cpu)
    if project.config.format.rows == "objects":
        env |= dialects.get(project.config.format.dialect).swift_environment
    return Plan(command=swift.Command(argv, env), folder=folder, dataset=dataset, cpu=cpu, resumed=checkpoint)


def _pixel_limit(project: Project) -> int | None:
    train = project.config.train
    return lengths.pixel_limit(project.model(train.model), train.swift.get("max_pixels"))


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
    with lock(project.runs):
        return _run(project, planned, on_step, warn, checked=(rows, len(long), exact))


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
    folder, started, (rows, too_long, exact) = planned.folder, time.monotonic(), checked
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / "vlmdet.toml") as temporary:
        temporary.write_bytes(tomli_w.dumps(_without_none(project.config)).encode())
    record = _record(planned, rows)
    write_json(folder / "run.json", {**record, "state": "running"})
    watcher, log = Watcher(folder, on_step), folder / "swift.log"
    counted = RowCount(log, rows, warn, must_match=project.config.train.rows_must_match)

    def watch() -> None:
        counted()
        watcher()

    try:
        swift.run(planned.command, log, cwd=project.root, watch=watch, hint=HINT)
        made = runs.checkpoints(folder)
        if not made:
            raise EngineError("swift ended well but left no checkpoint", why=f"In {folder}.", hint=HINT)
    except KeyboardInterrupt:
        write_json(folder / "run.json", {**record, "state": "interrupted"})
        raise KeyboardInterrupt(_go_on(folder)) from None
    except BaseException:
        write_json(folder / "run.json", {**record, "state": "failed"})
        raise
    seconds = round(time.monotonic() - started, 1)
    write_json(folder / "run.json", {**record, "state": "done", "seconds": seconds})
    last = watcher.last
    return TrainResult(
        run=str(folder),
        command=planned.command.quoted(),
        rows=rows,
        too_long=too_long,
        exact_lengths=exact,
        checkpoints=[str(path) for path in made],
        steps=last.step if last else 0,
        loss=last.loss if last else None,
        seconds=seconds,
    )


def _go_on(folder: Path) -> str:
    made = runs.checkpoints(folder)
    return f"`vlmdet train --resume` goes on from {made[-1].name}." if made else "No checkpoint was written yet."


def _without_none(config: Any) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(config)
    plain["data"] = {name: value for name, value in plain["data"].items() if value is not None}
    return plain


def _record(planned: Plan, rows: int) -> dict[str, Any]:
    return {
        "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": planned.command.quoted(),
        "resumed_from": str(planned.resumed) if planned.resumed else None,
        "dataset": {"file": str(planned.dataset), "rows": rows, "blake2b": file_hash(planned.dataset)},
        "versions": {"vlmdet": __version__, **installed(STACK)},
    }


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
            if leaves(image) and not Path(image).is_absolute():
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
