"""What ``run.json`` says of a run, and what later stages must know of its training.

    {"schema": 1, "name": "run-001", "state": "done", "exit_code": 0, "command": "swift sft …", "dataset": {…}, …}

The record is written whole when a run starts and again at each change of its state.
"""

from pathlib import Path
from typing import Any, Literal

import msgspec

from vlmdet_cli.core.files import read_bytes, write_json
from vlmdet_cli.core.processes import Process
from vlmdet_cli.errors import DataError
from vlmdet_cli.training.settings import Method

RECORD = "run.json"
RunState = Literal["running", "done", "interrupted", "failed"]


class TrainedSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a model was trained with: later stages ask it the same way.

    ``max_pixels``: the limit of a picture, None where the family's own holds. ``system``: the system prompt, None
    for the family's. ``model``: the base model as swift was given it. ``external_plugins``: swift's plug-ins, as paths.
    ``noise_label``: of the invented boxes in its rows (``train.noise_boxes``), "" where there are none.
    """

    family: str = ""
    dialect: str = ""
    max_pixels: int | None = None
    max_length: int | None = None
    system: str | None = None
    template: str = ""
    model_type: str = ""
    model: str = ""
    external_plugins: tuple[str, ...] = ()
    noise_label: str = ""


class DatasetRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The training file. ``hash``: of its content. ``rows``: of it and of ``train.replay``, whose hash is
    ``replay_hash``.
    """

    file: str
    rows: int
    hash: str
    replay_hash: str = ""


class ModelRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The base model. ``hash``: of its content (``core.model_hash``), "" where it is not on this machine."""

    name: str
    hash: str = ""


class ParentRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The run whose adapter a training went on with. ``checkpoint``: relative to its folder. ``adapter``: the hash of
    the adapter's weights.
    """

    run: str
    checkpoint: str
    adapter: str


class Resume(msgspec.Struct, frozen=True, kw_only=True):
    """A continuation of a run. ``state`` and ``exit_code`` are those that the run had before it.

    ``changed``: settings that ``--force`` let differ, each with its old and its new value.
    """

    started: str
    checkpoint: str
    state: RunState
    exit_code: int | None = None
    changed: dict[str, tuple[Any, Any]] = {}


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """Detection measured at a checkpoint, on the validation split. ``seconds``: what it took."""

    step: int
    f1: float
    precision: float | None = None
    recall: float | None = None
    seconds: float = 0.0


class MergeCheck(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter on its base and the merged model, which answered the same pictures of ``split``.

    ``equal``: answers with the same text, of ``answers``; ``share``: of all. ``difference``: the largest between two
    logits at ``positions`` tokens of the answers, None where a logit is no number; ``largest``: the largest logit
    itself. ``bound``: the difference up to which rounding in ``dtype`` explains it. ``effect``: the largest difference
    that the adapter makes to its base. ``reason``: why the two are not the same model, "" where they are.
    """

    split: str
    answers: int
    equal: int
    share: float
    positions: int
    difference: float | None
    largest: float
    bound: float
    effect: float
    dtype: str
    device: str
    seconds: float
    reason: str = ""


class MergeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The latest merge of the run. ``checkpoints``: the adapters, in the order in which they were merged.

    ``differs``: the merged model is another one than the adapter on its base, and is not in use. ``reason``: why it is
    ``unverified``, or differs.
    """

    checkpoints: tuple[str, ...]
    merged: str
    state: Literal["verified", "unverified", "differs"]
    check: MergeCheck | None = None
    reason: str = ""


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One training. ``command``, ``argv``, ``env``, ``settings`` and ``versions`` are those of the latest start.

    ``method``: from answers, or by reward from the adapter of ``parent``. ``process``: the vlmdet that started it,
    ``swift``: what that started. ``exit_code``: swift's own. ``seconds``: of all starts together. ``arguments``:
    swift's flags from after ``--``. ``loss``, ``reward``: those that were logged last.
    """

    schema: int = 1
    name: str
    method: Method = "sft"
    parent: ParentRecord | None = None
    state: RunState
    exit_code: int | None = None
    started: str
    ended: str | None = None
    seconds: float | None = None
    command: str
    argv: tuple[str, ...] = ()
    env: dict[str, str] = {}
    arguments: tuple[str, ...] = ()
    versions: dict[str, str] = {}
    machine: dict[str, Any] = {}
    process: Process | None = None
    swift: Process | None = None
    dataset: DatasetRecord
    model: ModelRecord
    settings: dict[str, Any] = {}
    trained: TrainedSettings = TrainedSettings()
    steps: int = 0
    loss: float | None = None
    reward: float | None = None
    resumes: tuple[Resume, ...] = ()
    merge: MergeRecord | None = None

    def at_work(self) -> bool | None:
        """Whether vlmdet or the swift that it started still runs; None where only another machine can tell."""
        answers = {process.runs() for process in (self.process, self.swift) if process}
        return True if True in answers else None if None in answers else False


def read_record(folder: Path) -> RunRecord:
    """The record in a run's folder. Raises ``DataError`` where it is missing or of another form."""
    file = folder / RECORD
    try:
        return msgspec.json.decode(read_bytes(file, "run's record"), type=RunRecord)
    except msgspec.DecodeError as error:
        raise DataError(f"Not a run's record: {file}", why=f"{error}.") from None


def write_record(folder: Path, record: RunRecord) -> None:
    write_json(folder / RECORD, msgspec.to_builtins(record))
