"""Question rows: those of one chunk of pictures, and files of them from which rows are drawn without reading all.

Each row has a hash of the seed and its own text. Draws take the rows with the lowest hashes, so they depend neither on
the order of work nor on what other rows there are.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import orjson

from vlmdet_cli.core.files import whole_file
from vlmdet_cli.core.memory import no_collection
from vlmdet_cli.core.rows import InstructionRow, QuestionKind
from vlmdet_cli.data.dataset import Dataset, image_hashes
from vlmdet_cli.models.dialects import Dialect
from vlmdet_cli.models.dialects.base import BOX_PLACEHOLDER
from vlmdet_cli.project import Augment
from vlmdet_cli.prompts import object_rows, questions
from vlmdet_cli.prompts.base import NoQuestion
from vlmdet_cli.prompts.draws import splitmix64
from vlmdet_cli.stages.data.chunks import RowSettings

KIND_FILES: dict[QuestionKind, str] = {
    "count": "count.json",
    "full": "fully-overlapped.json",
    "partial": "partial-overlapped.json",
    "none": "non-overlapping.json",
    "region": "region.json",
    "class": "class.json",
    "largest": "largest.json",
    "left": "left-of.json",
}
REPEATED, TOO_LONG = "the same question again", "over max_length"
Rows = list[bytes]
Hashes = npt.NDArray[np.uint64]


class QuestionStats(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of one kind about a chunk of pictures: the length of each in bytes with its newline, as int64; its hash,
    as uint64; and how many questions were not asked, by reason.
    """

    lengths: bytes
    hashes: bytes
    dropped: dict[str, int]


# --- the rows of a chunk -------------------------------------------------------------------------------------


def question_chunk(settings: RowSettings, augment: Augment, data: Dataset) -> tuple[list[bytes], list[QuestionStats]]:
    """A chunk's rows of each kind, a row a line, and their statistics."""
    with no_collection():
        keys = image_hashes(data.images, settings.seed, "questions")
        names = [settings.images + image.file_name for image in data.images]
        sizes = dict(zip(names, data.sizes.tolist(), strict=True))
        kinds = dict.fromkeys(augment.questions)
        results = [_rows_of_kind(kind, data, settings, augment, keys, sizes) for kind in kinds]
        return [content for content, _ in results], [stats for _, stats in results]


def _rows_of_kind(
    kind: QuestionKind,
    data: Dataset,
    settings: RowSettings,
    augment: Augment,
    keys: Hashes,
    sizes: Mapping[str, list[float]],
) -> tuple[bytes, QuestionStats]:
    dialect, dropped = settings.dialect, Counter[str]()
    rounds = [
        questions.generate_questions(kind, data, keys, dialect, number=number, images=settings.images)
        for number in range(1 if kind == "count" else augment.per_picture)
    ]
    asked = list(_distinct_questions(rounds, dropped))
    if settings.split == "train" and asked:
        asked = _drop_too_long(asked, settings, sizes, dropped)
    rows = [
        _objects_row(question, dialect, sizes[question.image]) if settings.format.rows == "objects" else question.row()
        for question in asked
    ]
    lines = [orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows]
    lengths = np.array(list(map(len, lines)), np.int64)
    hashes = row_hashes([line[:-1] for line in lines], settings.seed)
    return b"".join(lines), QuestionStats(lengths=lengths.tobytes(), hashes=hashes.tobytes(), dropped=dict(dropped))


def _distinct_questions(
    rounds: Sequence[Sequence[InstructionRow | NoQuestion]], dropped: "Counter[str]"
) -> Iterator[InstructionRow]:
    """Picture by picture, the questions that differ; ``rounds`` holds a question for each picture in each round."""
    if len(rounds) == 1:  # no question is there twice
        dropped.update(question.reason for question in rounds[0] if isinstance(question, NoQuestion))
        yield from (question for question in rounds[0] if isinstance(question, InstructionRow))
        return
    for of_picture in zip(*rounds, strict=True):
        prompts = set[str]()
        for question in of_picture:
            if isinstance(question, NoQuestion):
                dropped[question.reason] += 1
            elif question.prompt in prompts:
                dropped[REPEATED] += 1
            else:
                prompts.add(question.prompt)
                yield question


def _drop_too_long(
    asked: list[InstructionRow], settings: RowSettings, sizes: Mapping[str, list[float]], dropped: "Counter[str]"
) -> list[InstructionRow]:
    """The questions within ``train.max_length``; tokens are counted only where an upper bound is over it."""
    counter, limit = settings.length_limit.counter, settings.max_length
    prompts, answers = [question.prompt for question in asked], [question.answer for question in asked]
    all_sizes = np.array(list(sizes.values()))
    costliest = all_sizes[[counter.pictures(all_sizes).argmax()]]
    doubtful = np.flatnonzero(counter.max_rows(prompts, answers, costliest) > limit)
    texts = [prompts[index] for index in doubtful.tolist()], [answers[index] for index in doubtful.tolist()]
    sizes_wh = np.array([sizes[asked[index].image] for index in doubtful.tolist()]).reshape(-1, 2)
    too_long = set(doubtful[counter.rows(*texts, sizes_wh) > limit].tolist())
    dropped[TOO_LONG] += len(too_long)
    return [question for index, question in enumerate(asked) if index not in too_long] if too_long else asked


def _objects_row(question: InstructionRow, dialect: Dialect, size_wh: list[float]) -> dict[str, Any]:
    """A question in swift's ``objects`` form: placeholders in place of the area and of the boxes of the answer."""
    prompt, answer, boxes = question.prompt, question.answer, list[tuple[str, Any]]()
    if question.area is not None:
        text = dialect.render_box(question.area, (size_wh[0], size_wh[1]))
        in_answer = answer.count(text) if question.objects is None else 0
        boxes += [("", question.area)] * (prompt.count(text) + in_answer)
        prompt = prompt.replace(text, BOX_PLACEHOLDER)
        answer = answer.replace(text, BOX_PLACEHOLDER) if question.objects is None else answer
    if question.objects is not None:
        answer, answer_boxes = object_rows.detection(question.objects, dialect)
        boxes += answer_boxes
    return object_rows.placed(question.image, prompt, answer, boxes, dialect)


# --- rows in files -------------------------------------------------------------------------------------------


class RowFile(NamedTuple):
    """A file with a row in each line, without reading it: the first and last byte (R, 2) and the hash (R,) of each."""

    path: Path
    spans: npt.NDArray[np.int64]
    hashes: Hashes

    @classmethod
    def of_chunks(cls, path: Path, stats: Sequence[QuestionStats]) -> "RowFile":
        """The file to which the rows of the chunks were appended."""
        ends = np.cumsum(np.frombuffer(b"".join(chunk.lengths for chunk in stats), np.int64))
        starts = np.concatenate([[0], ends[:-1]])[: len(ends)]
        hashes = np.frombuffer(b"".join(chunk.hashes for chunk in stats), np.uint64)
        return cls(path, np.stack([starts, ends], axis=1), hashes)

    def draw(self, count: int) -> "RowFile":
        """The ``count`` rows with the lowest hashes, or all, in the order of the file."""
        if len(self.hashes) <= count:
            return self
        drawn = np.sort(np.argsort(self.hashes, kind="stable")[:count])
        return self._replace(spans=self.spans[drawn], hashes=self.hashes[drawn])

    def read(self) -> Rows:
        """The rows, without their newlines."""
        content = self.path.read_bytes()
        return [content[start : end - 1] for start, end in self.spans.tolist()]


def row_hashes(rows: Sequence[bytes], seed: int) -> Hashes:
    """``(R,)`` unsigned 64-bit hashes, each of the seed and the row alone."""
    key = f"{seed}:row".encode()
    digests = b"".join([blake2b(row, digest_size=8, key=key).digest() for row in rows])
    return np.frombuffer(digests, np.uint64)


def shuffled(rows: Rows, hashes: Hashes) -> Rows:
    """The rows in the order of their hashes (R,), hashed once more: drawn rows, with the lowest, would come first."""
    order = np.argsort(splitmix64(hashes), kind="stable")
    return [rows[index] for index in order.tolist()]


def write_rows(path: Path, rows: Rows, *, as_list: bool = False) -> None:
    """Write rows whole: a row a line, or with ``as_list`` as one JSON list."""
    with whole_file(path) as temporary, temporary.open("wb") as file:
        if as_list:
            file.write(b"[" + b",".join(rows) + b"]\n")
        elif rows:
            file.write(b"\n".join(rows) + b"\n")
