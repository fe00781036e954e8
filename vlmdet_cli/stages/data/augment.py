"""augment: questions about counts and space for every prepared split, and the mixed train file.

For train: a JSON file of each kind, and ``train.jsonl``, the detection rows with at most ``question_ratio`` questions
for each of them, shuffled by seed. For val and test: ``questions_{split}.jsonl``, which ``infer`` asks and ``eval``
scores. A picture that admits no true question of a kind is counted in the ledger with the reason.
"""

import contextlib
import functools
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from vlmdet_cli.core.files import file_hash, read_bytes, write_json
from vlmdet_cli.core.ledger import Ledger
from vlmdet_cli.core.locks import lock
from vlmdet_cli.core.memory import no_collection
from vlmdet_cli.core.rows import QuestionKind
from vlmdet_cli.core.workers import WorkerPool
from vlmdet_cli.data.dataset import Dataset
from vlmdet_cli.project import SPLITS, Project
from vlmdet_cli.stages.data import chunks, shards
from vlmdet_cli.stages.data.prepare import read_split
from vlmdet_cli.stages.data.question_rows import (
    KIND_FILES,
    QuestionStats,
    RowFile,
    Rows,
    question_chunk,
    row_hashes,
    shuffled,
    write_rows,
)
from vlmdet_cli.stages.data.split_selection import Progress, no_progress

OVER_QUOTA, OVER_RATIO = "over per_kind", "over question_ratio"


class AugmentResult(msgspec.Struct, frozen=True, kw_only=True):
    train_file: str
    rows: dict[str, int]
    files: dict[str, str]
    ledger: dict[str, dict[str, dict[str, Any]]]


def augment(project: Project, progress: Progress = no_progress) -> AugmentResult:
    """Write questions for every prepared split. Train must be one of them: ``UsageError`` where it is not."""
    with WorkerPool(project.config.data.workers) as pool, no_collection():
        data = {"train": read_split(project, "train")}
        data |= {split: read_split(project, split) for split in SPLITS[1:] if project.subset(split).is_file()}
        with lock(project.texts / "augment"), contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".rows-", dir=_folder(project))))
            ledgers = {split: Ledger() for split in data}
            files = {split: _ask(project, split, data[split], pool, folder, ledgers[split], progress) for split in data}
            _write_all(project, files, ledgers)
    ledger: dict[str, dict[str, dict[str, Any]]] = {split: account.as_dict() for split, account in ledgers.items()}
    return AugmentResult(
        train_file=str(project.train_file),
        rows={kind: line["kept"] for kind, line in ledger["train"].items()},
        files={kind: str(_folder(project) / KIND_FILES[kind]) for kind in _kinds(project)},
        ledger=ledger,
    )


def _folder(project: Project) -> Path:
    return project.train_file.parent


def _kinds(project: Project) -> tuple[QuestionKind, ...]:
    return tuple(dict.fromkeys(project.config.augment.questions))


def _ask(
    project: Project,
    split: str,
    data: Dataset,
    pool: WorkerPool,
    folder: Path,
    ledger: Ledger,
    progress: Progress,
) -> dict[QuestionKind, RowFile]:
    """The questions about a split by kind, within the quotas, in the order of the pictures; as files in ``folder``."""
    settings, kinds = chunks.row_settings(project, split), _kinds(project)
    paths = [folder / f"{split}-{kind}" for kind in kinds]
    stats = chunks.write_chunks(
        pool,
        functools.partial(question_chunk, settings, project.config.augment),
        data,
        paths,
        lambda done, total: progress(f"{split}: questions", done, total),
    )
    return {
        kind: _draw_kind(project, kind, path, [chunk[number] for chunk in stats], ledger)
        for number, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    }


def _draw_kind(
    project: Project, kind: QuestionKind, path: Path, stats: Sequence[QuestionStats], ledger: Ledger
) -> RowFile:
    """The rows of a kind within ``per_kind``; those dropped are counted by reason."""
    rows = RowFile.of_chunks(path, stats)
    drawn = rows.draw(project.config.augment.limit(kind) or len(rows.hashes))
    ledger.keep(kind, len(drawn.hashes))
    for reason, count in sum((Counter(chunk.dropped) for chunk in stats), Counter[str]()).items():
        ledger.drop(kind, reason, count)
    ledger.drop(kind, OVER_QUOTA, len(rows.hashes) - len(drawn.hashes))
    return drawn


def _write_all(project: Project, files: dict[str, dict[QuestionKind, RowFile]], ledgers: dict[str, Ledger]) -> None:
    """Replace the files of all splits; the train ledger, which states that they are complete, comes last."""
    mixed = _mix(project, list(files["train"].values()), ledgers["train"])
    shards.forget_questions(project)
    for kind, name in KIND_FILES.items():
        if kind in files["train"]:
            write_rows(_folder(project) / name, files["train"][kind].read(), as_list=True)
        else:
            (_folder(project) / name).unlink(missing_ok=True)
    for split, by_kind in files.items():
        if split != "train":
            write_rows(project.questions(split), [row for rows in by_kind.values() for row in rows.read()])
    write_rows(project.train_file, mixed)
    source = {"source": file_hash(project.rows("train"))}
    write_json(_folder(project) / "ledger.json", source | ledgers["train"].as_dict())


def _mix(project: Project, questions: Sequence[RowFile], ledger: Ledger) -> Rows:
    """The detection rows and a draw of the questions, shuffled."""
    detection = read_bytes(project.rows("train"), "detection rows").splitlines()
    limit = int(project.config.augment.question_ratio * len(detection) + 1e-9)
    hashes = np.sort(np.concatenate([np.empty(0, np.uint64), *(rows.hashes for rows in questions)]))
    drawn = hashes[:limit]
    counts = [int(np.count_nonzero(rows.hashes <= drawn[-1])) if len(drawn) else 0 for rows in questions]
    files = [rows.draw(count) for rows, count in zip(questions, counts, strict=True)]
    rows = [*detection, *(row for file in files for row in file.read())]
    ledger.keep("mixed rows", len(rows))
    ledger.drop("mixed rows", OVER_RATIO, len(hashes) - len(drawn))
    detection_hashes = row_hashes(detection, project.config.project.seed)
    return shuffled(rows, np.concatenate([detection_hashes, *(file.hashes for file in files)]))
