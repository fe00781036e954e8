"""augment: questions about counts and space for every prepared split, and the mixed train file.

For train: one JSON file a kind, and ``train.jsonl``, the detection rows and at most ``question_ratio`` questions for each
of them, shuffled by seed. For val and test: ``questions_{split}.jsonl``, which ``infer`` asks and ``eval``
scores. A picture that admits no true question of a kind stands in the ledger with the reason.

Every draw among rows goes by a hash of seed and row: it does not depend on the order of work.
"""

import contextlib
import functools
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import orjson

from vlmdet_cli.core import workers
from vlmdet_cli.core.files import file_hash, read_bytes, whole_file, write_json
from vlmdet_cli.core.ledger import Ledger
from vlmdet_cli.core.locks import lock
from vlmdet_cli.core.memory import no_collection
from vlmdet_cli.core.rows import InstructionRow, QuestionKind
from vlmdet_cli.data.dataset import Dataset, image_hashes
from vlmdet_cli.models.dialects import Dialect
from vlmdet_cli.models.dialects.base import BOX_PLACE
from vlmdet_cli.project import SPLITS, Augment, Project
from vlmdet_cli.prompts import object_rows, questions
from vlmdet_cli.prompts.base import NoQuestion
from vlmdet_cli.prompts.draws import splitmix64
from vlmdet_cli.stages import chunks
from vlmdet_cli.stages.prepare import read_split
from vlmdet_cli.stages.split_selection import Progress, no_progress

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
SAME, OVER_QUOTA, OVER_MIX = "the same question again", "over per_kind", "over question_ratio"
TOO_LONG = "over max_length"
CHAT = 200  # more tokens than the chat form takes
Rows = list[bytes]
Hashes = npt.NDArray[np.uint64]


class AugmentResult(msgspec.Struct, frozen=True, kw_only=True):
    train_file: str
    rows: dict[str, int]
    files: dict[str, str]
    ledger: dict[str, dict[str, dict[str, Any]]]


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """Of the rows of one kind about some pictures: the length of each with its line's end, a number each to draw by;
    and how often there was none for which reason.
    """

    lengths: bytes
    hashes: bytes
    refused: dict[str, int]


class Pile(NamedTuple):
    """Rows of a file, a row a line, without reading it: where each begins and ends (R, 2), and a number each (R,) that
    they are drawn by.
    """

    file: Path
    places: npt.NDArray[np.int64]
    hashes: Hashes

    def drawn(self, most: int) -> "Pile":
        """At most so many rows: those with the lowest numbers, in the order that they stand in."""
        if len(self.hashes) <= most:
            return self
        chosen = np.sort(np.argsort(self.hashes, kind="stable")[:most])
        return self._replace(places=self.places[chosen], hashes=self.hashes[chosen])

    def rows(self) -> Rows:
        content = self.file.read_bytes()
        return [content[start : end - 1] for start, end in self.places.tolist()]


def augment(project: Project, progress: Progress = no_progress) -> AugmentResult:
    """Questions for every prepared split; train must be one of them."""
    there = [split for split in SPLITS if split == "train" or project.subset(split).is_file()]
    with workers.Crew(project.config.data.workers, __name__) as crew, no_collection():
        read = {split: read_split(project, split) for split in there}
        with lock(project.texts / "augment"):
            ledgers = {split: _split(project, split, data, crew, progress) for split, data in read.items()}
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


def _split(project: Project, split: str, data: Dataset, crew: workers.Crew, progress: Progress) -> Ledger:
    ledger, folder = Ledger(), project.train_file.parent
    kinds = _kinds(project)
    with contextlib.ExitStack() as files:
        written = [files.enter_context(_working_file(folder / f"{split}-{kind}")) for kind in kinds]
        piles = _ask_all(project, split, data, crew, written, ledger, progress)
        if split != "train":
            _write(project.questions(split), [row for kind in kinds for row in piles[kind].rows()])
            return ledger
        for kind, name in FILES.items():
            if kind in piles:
                _write(folder / name, piles[kind].rows(), array=True)
            else:
                (folder / name).unlink(missing_ok=True)
        _write(project.train_file, _mixed(project, list(piles.values()), ledger))
    write_json(folder / "ledger.json", {"source": file_hash(project.rows("train")), **ledger.as_dict()})
    return ledger


@contextlib.contextmanager
def _working_file(path: Path) -> Iterator[Path]:
    """An empty file that is gone when the block ends."""
    file = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        file.write_bytes(b"")
        yield file
    finally:
        file.unlink(missing_ok=True)


def _write(path: Path, made: Rows, *, array: bool = False) -> None:
    """Rows as one JSON array, or a row a line."""
    with whole_file(path) as temporary, temporary.open("wb") as file:
        if array:
            file.write(b"[" + b",".join(made) + b"]\n")
        elif made:
            file.write(b"\n".join(made) + b"\n")


def _ask_all(
    project: Project,
    split: str,
    data: Dataset,
    crew: workers.Crew,
    files: Sequence[Path],
    ledger: Ledger,
    progress: Progress,
) -> dict[QuestionKind, Pile]:
    """Rows by kind, in the pictures' order, within the quotas. ``files``: one a kind, for all rows."""
    recipe, wanted = chunks.row_settings(project, split), project.config.augment
    parts, kinds, asked = chunks.Parts(data), _kinds(project), list[list[Asked]]()
    for made in crew.written(functools.partial(ask_piece, recipe, wanted), parts, files):
        asked.append(made)
        progress(f"{split}: questions", parts.ends()[len(asked) - 1], len(data.images))
    out: dict[QuestionKind, Pile] = {}
    for kind, file, ones in zip(kinds, files, zip(*asked, strict=True), strict=True):
        whole = _pile(file, ones)
        out[kind] = whole.drawn(wanted.per_kind or len(whole.hashes))
        ledger.keep(kind, len(out[kind].hashes))
        for reason, count in sum((Counter(one.refused) for one in ones), Counter[str]()).items():
            ledger.drop(kind, reason, count)
        ledger.drop(kind, OVER_QUOTA, len(whole.hashes) - len(out[kind].hashes))
    return out


def _pile(file: Path, asked: Sequence[Asked]) -> Pile:
    ends = np.cumsum(np.frombuffer(b"".join(one.lengths for one in asked), np.int64))
    places = np.stack([np.concatenate([[0], ends[:-1]])[: len(ends)], ends], axis=1)
    return Pile(file, places, np.frombuffer(b"".join(one.hashes for one in asked), np.uint64))


def ask_piece(how: chunks.RowSettings, wanted: Augment, data: Dataset) -> tuple[list[bytes], list[Asked]]:
    """The questions of each kind about some pictures: their rows, and what is told of them."""
    with no_collection():
        own = image_hashes(data.images, how.seed, "questions")
        made = [_ask_kind(kind, data, how, wanted, own) for kind in dict.fromkeys(wanted.questions)]
        return [rows_ for rows_, _ in made], [told for _, told in made]


def _ask_kind(
    kind: QuestionKind, data: Dataset, how: chunks.RowSettings, wanted: Augment, own: Hashes
) -> tuple[bytes, Asked]:
    times, refused = 1 if kind == "count" else wanted.per_picture, Counter[str]()
    asked = [
        questions.generate_questions(kind, data, own, how.dialect, number=n, images=how.images) for n in range(times)
    ]
    sizes = dict(zip((how.images + one.file_name for one in data.images), data.sizes.tolist(), strict=True))
    kept = list(_fitting(_different(asked, refused), how, sizes, refused))
    made = [_placed(one, how.dialect, sizes[one.image]) for one in kept] if how.format.rows == "objects" else (
        one.row() for one in kept
    )  # fmt: skip
    encoded = [orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in made]
    lengths = np.array(list(map(len, encoded)), np.int64)
    hashes = _hashes([row[:-1] for row in encoded], how.seed)
    return b"".join(encoded), Asked(lengths=lengths.tobytes(), hashes=hashes.tobytes(), refused=dict(refused))


def _different(
    asked: Sequence[Sequence[InstructionRow | NoQuestion]], refused: "Counter[str]"
) -> Iterator[InstructionRow]:
    """Picture by picture, the questions that differ."""
    if len(asked) == 1:
        refused.update(one.reason for one in asked[0] if isinstance(one, NoQuestion))
        yield from (one for one in asked[0] if isinstance(one, InstructionRow))
        return
    for of_picture in zip(*asked, strict=True):
        prompts = set[str]()
        for one in of_picture:
            if isinstance(one, NoQuestion):
                refused[one.reason] += 1
            elif one.prompt in prompts:
                refused[SAME] += 1
            else:
                prompts.add(one.prompt)
                yield one


def _fitting(
    asked: Iterator[InstructionRow], how: chunks.RowSettings, sizes: Mapping[str, list[float]], refused: "Counter[str]"
) -> Iterator[InstructionRow]:
    """Those that are not too long for training: the very most, and only a long text is counted."""
    if how.split != "train":
        yield from asked
        return
    counter, limit = how.guard.counter, how.max_length
    most_of_picture = int(counter.pictures(list(sizes.values())).max(initial=0))
    for one in asked:
        # a byte is at most a token, and a character at most four bytes; the chat's own words come on top
        if 4 * (len(one.prompt) + len(one.answer)) + most_of_picture + CHAT > limit and (
            int(counter.rows([one.prompt], [one.answer], [sizes[one.image]])[0]) > limit
        ):
            refused[TOO_LONG] += 1
        else:
            yield one


def _placed(one: InstructionRow, dialect: Dialect, size_wh: list[float]) -> dict[str, Any]:
    """A question in swift's ``objects`` form."""
    size = (size_wh[0], size_wh[1])
    prompt, answer, boxes = one.prompt, one.answer, list[tuple[str, Any]]()
    if one.area is not None:
        text = dialect.render_box(one.area, size)
        boxes += [("", one.area)] * (prompt.count(text) + (answer.count(text) if one.objects is None else 0))
        prompt = prompt.replace(text, BOX_PLACE)
        answer = answer.replace(text, BOX_PLACE) if one.objects is None else answer
    if one.objects is not None:
        answer, more = object_rows.detection(one.objects, dialect)
        boxes += more
    return object_rows.placed(one.image, prompt, answer, boxes, dialect)


def _hashes(made: Sequence[bytes], seed: int) -> Hashes:
    """``(R,)`` numbers to draw by, each of the seed and the row alone."""
    key = f"{seed}:row".encode()
    digests = b"".join([blake2b(row, digest_size=8, key=key).digest() for row in made])
    return np.frombuffer(digests, np.uint64)


def _mixed(project: Project, asked: Sequence[Pile], ledger: Ledger) -> Rows:
    """Detection rows and a draw of the questions, shuffled."""
    detection = read_bytes(project.rows("train"), "detection rows").splitlines()
    most, total = (
        int(project.config.augment.question_ratio * len(detection) + 1e-9),
        sum(len(one.hashes) for one in asked),
    )
    lowest = np.sort(np.concatenate([np.empty(0, np.uint64), *(one.hashes for one in asked)]))[: min(most, total)]
    drawn = [one.drawn(int(np.count_nonzero(one.hashes <= lowest[-1]))) for one in asked] if len(lowest) else []
    hashes = np.concatenate([_hashes(detection, project.config.project.seed), *(one.hashes for one in drawn)])
    made = [*detection, *(row for one in drawn for row in one.rows())]
    ledger.keep("mixed rows", len(made))
    ledger.drop("mixed rows", OVER_MIX, total - len(lowest))
    # hashed once more: those drawn are the lowest
    return [made[place] for place in np.argsort(splitmix64(hashes), kind="stable").tolist()]
