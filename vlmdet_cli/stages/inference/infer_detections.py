"""The detections file: detection JSON of all pictures, written while their answers are read.

    [{"image_path": "data/subset/images/test/7.jpg", "object": {"cat": [[10.0, 20.0, 30.0, 40.0]]}}, …]

The boxes of a picture that has several rows stand together. A picture's answers are kept in memory only until the
last of them is there.
"""

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import orjson

from vlmdet_cli.core.answers import Answer
from vlmdet_cli.core.files import whole_file
from vlmdet_cli.engines.infer_rows import InferRow
from vlmdet_cli.stages.inference.answer_reading import PictureAnswers, ReadingRules, picture_answers


class CompletePictures:
    """The answers of detection to ``rows``, put together by picture, in the order of the pictures' first rows."""

    def __init__(self, rows: Iterable[InferRow], rules: ReadingRules) -> None:
        self._rules = rules
        self._rows_left = Counter(row.image for row in rows if row.kind == "detection")
        self._waiting = dict[str, list[Answer]]()

    def add(self, answer: Answer) -> Iterator[PictureAnswers]:
        """The pictures that the answer to the next row completes; those before it come first."""
        if answer.kind != "detection":
            return
        self._waiting.setdefault(answer.image, []).append(answer)
        self._rows_left[answer.image] -= 1
        while self._waiting and not self._rows_left[first := next(iter(self._waiting))]:
            yield picture_answers(self._waiting.pop(first), self._rules)


class DetectionsWriter:
    """Writes pictures to ``file``."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._before = b"["

    def add(self, picture: PictureAnswers) -> None:
        document = {"image_path": picture.answers[0].image, "object": picture.whole.by_label()}
        self._file.write(self._before + orjson.dumps(document))
        self._before = b","

    def finish(self) -> None:
        self._file.write(b"]\n" if self._before == b"," else b"[]\n")


@contextlib.contextmanager
def detections_file(path: Path) -> Iterator[DetectionsWriter]:
    """A writer of the file ``path``, which is written whole: it is there when the block has ended well."""
    with whole_file(path) as temporary, temporary.open("wb") as file:
        writer = DetectionsWriter(file)
        yield writer
        writer.finish()
