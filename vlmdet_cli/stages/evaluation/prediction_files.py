"""What every form of a predictions file is read to, and how its rows find their pictures in a truth."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from vlmdet_cli.core.annotations import ImageId
from vlmdet_cli.core.answers import Answer, ParsedDetections, PredictedBox
from vlmdet_cli.core.settings import Ask, ScoreRule
from vlmdet_cli.core.tiles import Tiling
from vlmdet_cli.data.ground_truth import Truth
from vlmdet_cli.errors import DataError, counted, first_few

WHAT = "predictions file"
Form = Literal["answers", "swift infer", "detection JSON", "COCO results"]


class Predictions(msgspec.Struct, frozen=True, kw_only=True):
    """All predicted boxes, exact repeats included.

    ``answered``: indices of the truth's pictures that have an answer, empty or not. ``score_rule``: of scores that come
    from log-probabilities. Of raw text alone: ``answers`` and ``parsed`` (of the detection rows, in their order),
    ``dialect`` with where it comes from, and ``asked``: the classes that prompts named, by picture, None where all
    objects can be found. ``ask``: what prompts asked for, and ``missing``: how many of them have no answer. ``tiles``:
    how the pictures were cut. ``dedupe``: the IoU from which boxes were taken for one, and ``removed``: boxes that were
    taken out when the answers were read, by reason. ``notes`` are sentences for the user.
    """

    path: Path
    form: Form
    boxes: list[PredictedBox]
    answered: set[int]
    score_source: Literal["constant", "file", "logprob"] = "constant"
    score_rule: ScoreRule | None = None
    answers: list[Answer] = []
    parsed: list[ParsedDetections] = []
    dialect: str | None = None
    dialect_source: Literal["answers", "content", "named"] | None = None
    ask: Ask = "rows"
    asked: dict[int, set[str]] | None = None
    missing: int = 0
    dedupe: float = 0.0
    tiles: Tiling | None = None
    removed: dict[str, int] = {}
    notes: list[str] = []


def unknown_form(path: Path) -> DataError:
    return DataError(
        f"The {WHAT} has none of the known forms: {path}",
        hint="Known are answers (JSONL), swift infer's result file, detection JSON and COCO results.",
    )


def convert(path: Path, document: Any, kind: Any) -> Any:
    """A document as records. ``DataError`` that names the wrong entry."""
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise DataError(f"The {WHAT} has a wrong entry: {path}", why=f"{error}.") from None


def locate(path: Path, keys: Iterable[tuple[ImageId | None, str]], truth: Truth) -> list[int]:
    """Indices of the truth's pictures by (id, path). ``DataError`` for those that the truth does not have."""
    finder, indices, unknown = truth.finder(), list[int](), list[str]()
    for image_id, image in keys:
        index = finder.by_id(image_id) if image_id is not None else None
        index = finder.by_path(image) if index is None and image else index
        if index is None:
            unknown.append(image or f"image_id {image_id!r}")
        else:
            indices.append(index)
    if unknown:
        raise DataError(
            f"The {WHAT} has {counted(len(unknown), 'answer')} for pictures that the truth does not have: {path}",
            why=[*first_few(list(dict.fromkeys(unknown))), f"Truth: {truth.path}"],
            hint="Are both of the same split?",
        )
    return indices


def repeated_rows(indices: Sequence[int]) -> list[int]:
    """Row numbers of the second and later rows of a picture."""
    seen, again = set[int](), list[int]()
    for number, index in enumerate(indices):
        if index in seen:
            again.append(number)
        seen.add(index)
    return again


def refuse_repeated(path: Path, images: Sequence[str]) -> None:
    """Raise ``DataError`` where there are rows for pictures that have one already."""
    if images:
        count = Counter(images)
        raise DataError(
            f"The {WHAT} has {counted(len(images), 'answer')} to a picture that is answered already: {path}",
            why=first_few([f"{image}, {number + 1} times" for image, number in count.items()]),
            hint="Keep one answer a picture.",
        )
