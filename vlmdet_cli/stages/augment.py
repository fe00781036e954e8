"""augment: questions about counts and space for every prepared split, and the mixed train file.

For train: one JSON file a kind, and ``train.jsonl``, the detection rows and at most ``mix`` questions for each
of them, shuffled by seed. For val and test: ``questions_{split}.jsonl``, which ``infer`` asks and ``eval``
scores. A picture that admits no true question of a kind stands in the ledger with the reason.

Every draw among rows goes by a hash of seed and row: it does not depend on the order of work.
"""

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import orjson

from vlmdet_cli import questions, rows, runs, workers
from vlmdet_cli.dataset import Dataset, keys
from vlmdet_cli.dialects import Dialect
from vlmdet_cli.dialects.base import BOX_PLACE
from vlmdet_cli.project import SPLITS, Augment, Project
from vlmdet_cli.questions import Refused
from vlmdet_cli.records import Ledger, QuestionKind, Sample, lock, no_collection, read_bytes, whole_file, write_json
from vlmdet_cli.stages import pieces
from vlmdet_cli.stages.gather import Progress, no_progress
from vlmdet_cli.stages.prepare import read_split

FILES: dict[QuestionKind, str] = {
    "count": "count.json",
    "full": "fully-overlapped.json",
    "partial": "partial-overlapped.json",
    "none": "non-overlapping.json",
    "region": "region.json",
    "class": "class.json",
    "largest": "largest.json",
    "left": "left-of.json",
}
SAME, OVER_QUOTA, OVER_MIX = "the same question again", "over per_kind", "over mix"
Rows = list[bytes]
Hashes = npt.NDArray[np.uint64]


class AugmentResult(msgspec.Struct, frozen=True, kw_only=True):
    train_file: str
    rows: dict[str, int]
    files: dict[str, str]
    ledger: dict[str, dict[str, dict[str, Any]]]


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of one kind about some pictures, a row a line, and how often there was none for which reason."""

    rows: bytes
    refused: dict[str, int]


def augment(project: Project, progress: Progress = no_progress) -> AugmentResult:
    """Questions for every prepared split; train must be one of them."""
    read = {
        split: read_split(project, split) for split in SPLITS if split == "train" or project.subset(split).is_file()
    }
    with lock(project.texts / "augment"), no_collection():
        ledgers = {split: _split(project, split, data, progress) for split, data in read.items()}
    ledger: dict[str, dict[str, dict[str, Any]]] = {split: one.as_dict() for split, one in ledgers.items()}
    folder = project.train_file.parent
    return AugmentResult(
        train_file=str(project.train_file),
        rows={name: line["kept"] for name, line in ledger["train"].items()},
        files={kind: str(folder / FILES[kind]) for kind in _kinds(project)},
        ledger=ledger,
    )


def _kinds(project: Project) -> tuple[QuestionKind, ...]:
    return tuple(dict.fromkeys(project.config.augment.questions))


def _split(project: Project, split: str, data: Dataset, progress: Progress) -> Ledger:
    ledger = Ledger()
    asked = _ask_all(project, split, data, ledger, progress)
    if split != "train":
        _write(project.questions(split), [row for kind in asked.values() for row in kind])
        return ledger
    folder = project.train_file.parent
    for kind, name in FILES.items():
        if kind in asked:
            _write(folder / name, asked[kind], array=True)
        else:
            (folder / name).unlink(missing_ok=True)
    _write(project.train_file, _mixed(project, [row for kind in asked.values() for row in kind], ledger))
    write_json(folder / "ledger.json", {"source": runs.fingerprint(project.rows("train")), **ledger.as_dict()})
    return ledger


def _write(path: Path, made: Rows, *, array: bool = False) -> None:
    """Rows as one JSON array, or a row a line."""
    with whole_file(path) as temporary, temporary.open("wb") as file:
        if array:
            file.write(b"[" + b",".join(made) + b"]\n")
        else:
            file.writelines(row + b"\n" for row in made)


def _ask_all(
    project: Project, split: str, data: Dataset, ledger: Ledger, progress: Progress
) -> dict[QuestionKind, Rows]:
    """Rows by kind, in the pictures' order, within the quotas."""
    recipe, wanted, kinds = pieces.recipe(project, split), project.config.augment, _kinds(project)
    out: dict[QuestionKind, Rows] = {kind: [] for kind in kinds}
    parts, work = pieces.Parts(data), functools.partial(ask_piece, recipe, wanted)
    for done, made in zip(parts.ends(), workers.ordered(work, parts, project.config.data.workers), strict=True):
        for kind, one in made.items():
            out[kind] += one.rows.splitlines()
            for reason, count in one.refused.items():
                ledger.drop(kind, reason, count)
        progress(f"{split}: questions", done, len(data.images))
    for kind, found in out.items():
        out[kind] = _within_quota(found, wanted.per_kind, recipe.seed)
        ledger.keep(kind, len(out[kind]))
        ledger.drop(kind, OVER_QUOTA, len(found) - len(out[kind]))
    return out


def ask_piece(how: pieces.Recipe, wanted: Augment, data: Dataset) -> dict[QuestionKind, Asked]:
    """The questions of each kind about some pictures."""
    with no_collection():
        own = keys(data.images, how.seed, "questions")
        return {kind: _ask_kind(kind, data, how, wanted, own) for kind in dict.fromkeys(wanted.questions)}


def _ask_kind(kind: QuestionKind, data: Dataset, how: pieces.Recipe, wanted: Augment, own: Hashes) -> Asked:
    times, refused = 1 if kind == "count" else wanted.per_picture, Counter[str]()
    asked = [questions.ask(kind, data, own, how.dialect, number=n, images=how.images) for n in range(times)]
    kept = list(_different(asked, refused))
    sizes = dict(zip((how.images + one.file_name for one in data.images), data.sizes.tolist(), strict=True))
    made = [_placed(one, how.dialect, sizes[one.image]) for one in kept] if how.format.rows == "objects" else (
        one.row() for one in kept
    )  # fmt: skip
    return Asked(rows=b"\n".join([orjson.dumps(row) for row in made]), refused=dict(refused))


def _different(asked: Sequence[Sequence[Sample | Refused]], refused: "Counter[str]") -> Iterator[Sample]:
    """Picture by picture, the questions that differ."""
    if len(asked) == 1:
        refused.update(one.reason for one in asked[0] if isinstance(one, Refused))
        yield from (one for one in asked[0] if isinstance(one, Sample))
        return
    for of_picture in zip(*asked, strict=True):
        prompts = set[str]()
        for one in of_picture:
            if isinstance(one, Refused):
                refused[one.reason] += 1
            elif one.prompt in prompts:
                refused[SAME] += 1
            else:
                prompts.add(one.prompt)
                yield one


def _placed(one: Sample, dialect: Dialect, size_wh: list[float]) -> dict[str, Any]:
    """A question in swift's ``objects`` form."""
    size = (size_wh[0], size_wh[1])
    prompt, answer, boxes = one.prompt, one.answer, list[tuple[str, Any]]()
    if one.area is not None:
        text = dialect.render_box(one.area, size)
        boxes += [("", one.area)] * (prompt.count(text) + (answer.count(text) if one.objects is None else 0))
        prompt = prompt.replace(text, BOX_PLACE)
        answer = answer.replace(text, BOX_PLACE) if one.objects is None else answer
    if one.objects is not None:
        answer, more = rows.detection(one.objects, dialect)
        boxes += more
    return rows.placed(one.image, prompt, answer, boxes, dialect)


def _hashes(made: Sequence[bytes], seed: int, purpose: str) -> Hashes:
    """``(R,)`` numbers to draw by, each of the seed and the row alone."""
    key = f"{seed}:{purpose}".encode()
    digests = b"".join([blake2b(row, digest_size=8, key=key).digest() for row in made])
    return np.frombuffer(digests, ">u8").astype(np.uint64)


def _within_quota(made: Rows, quota: int, seed: int) -> Rows:
    if not quota or len(made) <= quota:
        return made
    drawn = np.argsort(_hashes(made, seed, "quota"), kind="stable")[:quota]
    return [made[place] for place in np.sort(drawn).tolist()]


def _mixed(project: Project, asked: Rows, ledger: Ledger) -> Rows:
    """Detection rows and a draw of the questions, shuffled."""
    seed, detection = project.config.project.seed, read_bytes(project.rows("train"), "detection rows").splitlines()
    most = int(project.config.augment.mix * len(detection) + 1e-9)
    drawn = _within_quota(asked, most, seed) if most else []
    made = [*detection, *drawn]
    ledger.keep("mixed rows", len(made))
    ledger.drop("mixed rows", OVER_MIX, len(asked) - len(drawn))
    return [made[place] for place in np.argsort(_hashes(made, seed, "order"), kind="stable").tolist()]
