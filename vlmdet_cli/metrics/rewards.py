"""What a reward pays for an answer: the measures of ``eval`` for single answers, as numbers in 0…1.

    detection  F1 of one-to-one matched boxes, the mean over IoU thresholds; of pictures with objects to find
    silence    1 if a picture without objects gets no box that counts as false and the answer can be read, else 0
    form       1 if the answer can be read without any problem (``core.answers.Problem``), else 0
    count      F1 of the lines of category and number
    area       1 if a question of another kind is answered right (``metrics.tasks``), else 0

A row has one task: detection, silence, count or area; the rewards of the other tasks are None. Form is of all rows.

Matching is that of ``metrics.matching``, and nothing pays that does not pay in ``eval``: a box beyond the objects, a
second box for an object, an exact repeat and a label that the picture does not have are false; objects in crowds and
objects that are ignored neither pay nor cost, and neither do boxes of categories that were not searched for. An answer
to a prompt that names classes is measured on their objects alone, and boxes of other classes are false.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, get_args

import msgspec
import numpy as np

from vlmdet_cli.core.annotations import Box
from vlmdet_cli.core.answers import Answer, ParsedDetections
from vlmdet_cli.core.rows import Kind
from vlmdet_cli.core.settings import RewardName
from vlmdet_cli.metrics.detection import THRESHOLDS, group_counts
from vlmdet_cli.metrics.matching import Floats, ObjectBoxes, PredictedBoxes, match, overlapping, raised
from vlmdet_cli.metrics.repeats import with_repeats, without_label
from vlmdet_cli.metrics.sentences import read, read_expected
from vlmdet_cli.metrics.tasks import BOX_KINDS, tasks
from vlmdet_cli.models import dialects

REWARDS: tuple[RewardName, ...] = get_args(RewardName)
LabelledBoxes = tuple[tuple[str, Box], ...]


class RowTruth(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is true of the picture of a row. Boxes are xyxy pixels; ``size`` is the picture's width and height.

    ``objects``: those to find, of the classes that the prompt asks for; ``crowds`` and ``ignored`` are others.
    ``exhaustive``: the categories that were searched for, None for all. ``answer``: the true answer to a question.
    """

    kind: Kind = "detection"
    size: tuple[int, int]
    objects: LabelledBoxes = ()
    crowds: LabelledBoxes = ()
    ignored: LabelledBoxes = ()
    exhaustive: tuple[str, ...] | None = None
    answer: str = ""

    @property
    def task(self) -> RewardName:
        """The reward that is of the row's own task."""
        if self.kind == "detection":
            return "detection" if self.objects else "silence"
        return "count" if self.kind == "count" else "area"


class RewardRules(msgspec.Struct, frozen=True, kw_only=True):
    """How answers are read, and the IoU thresholds. ``max_pixels``: the limit of a picture, 0 for none.
    ``noise_label``: of boxes that the model invents because it was trained to, "" for none; they do not count.
    """

    dialect: str
    categories: tuple[str, ...]
    max_pixels: int = 0
    noise_label: str = ""
    thresholds: tuple[float, ...] = THRESHOLDS


class Mark(NamedTuple):
    """The rewards of an answer: ``value`` of its row's own ``task``, and ``form``. ``parsed``: the boxes that were read
    in an answer to a detection prompt, None for an answer to a question.
    """

    task: RewardName
    value: float
    form: float
    parsed: ParsedDetections | None = None

    def reward(self, name: RewardName) -> float | None:
        """The reward ``name``, None where it is of another task."""
        return self.form if name == "form" else self.value if name == self.task else None


def marks(texts: Sequence[str], truths: Sequence[RowTruth], rules: RewardRules) -> list[Mark]:
    """The rewards of N answers to N rows. Never raises on an answer."""
    answers = list(zip(texts, truths, strict=True))
    parsed = [_parsed(*answer, rules) if answer[1].kind == "detection" else None for answer in answers]
    boxes = [(index, of_answer) for index, of_answer in enumerate(parsed) if of_answer is not None]
    values = _detection([entry[1] for entry in boxes], [truths[entry[0]] for entry in boxes], rules)
    by_index = dict(zip([entry[0] for entry in boxes], values, strict=True))
    return [
        by_index[index] if index in by_index else _question(text, truth, rules)
        for index, (text, truth) in enumerate(answers)
    ]


def _parsed(text: str, truth: RowTruth, rules: RewardRules) -> ParsedDetections:
    """The boxes of an answer, without those of the noise class."""
    dialect = dialects.get(rules.dialect, rules.max_pixels or None)
    if not rules.noise_label:
        return dialect.parse(text, truth.size, rules.categories)
    parsed = dialect.parse(text, truth.size, [*rules.categories, rules.noise_label])
    return without_label(parsed, rules.noise_label)


# --- boxes ---------------------------------------------------------------------------------------------------


def _detection(parsed: Sequence[ParsedDetections], truths: Sequence[RowTruth], rules: RewardRules) -> list[Mark]:
    """The marks of answers to detection prompts: each answer is matched as a picture of its own."""
    f1, silent = _f1_and_silence(parsed, truths, rules)
    result = list[Mark]()
    for of_answer, truth, value, is_silent in zip(parsed, truths, f1.tolist(), silent.tolist(), strict=True):
        form = float(of_answer.health in {"ok", "empty"})
        own = value if truth.objects else float(is_silent and of_answer.health != "unparsed")
        result.append(Mark(truth.task, own, form, of_answer))
    return result


def _f1_and_silence(
    parsed: Sequence[ParsedDetections], truths: Sequence[RowTruth], rules: RewardRules
) -> tuple[Floats, Floats]:
    """``(N,)`` each: the mean F1 over the thresholds, 0 where undefined; whether no box is false at the lowest."""
    index: dict[str, int] = {}
    predictions, objects = _predictions(parsed, truths, index, rules), _objects(truths, index)
    overlaps, ascending = overlapping(predictions, objects), sorted(rules.thresholds)
    lowest = match(overlaps, ascending[0])
    targets = objects.picture[objects.targets]
    counts = [
        group_counts(predictions.picture, targets, raised(lowest, overlaps, threshold), len(truths))
        for threshold in ascending
    ]
    tp, fp, fn, _ = np.moveaxis(np.array(counts).reshape(len(ascending), len(truths), 4), 2, 0)  # each (T, N)
    f1 = 2 * tp / np.maximum(2 * tp + fp + fn, 1)
    return f1.mean(axis=0), fp[0] == 0


def _predictions(
    parsed: Sequence[ParsedDetections], truths: Sequence[RowTruth], index: dict[str, int], rules: RewardRules
) -> PredictedBoxes:
    """The boxes of all answers, exact repeats too; ``index`` (label to number) gets the labels that it lacks."""
    boxes = [(number, box) for number, of_answer in enumerate(parsed) for box in with_repeats(of_answer)]
    rows = [(number, index.setdefault(box.label, len(index)), box.box) for number, box in boxes]
    searched = [_is_searched(box.label, truths[number], rules.categories) for number, box in boxes]
    return PredictedBoxes.from_rows(rows)._replace(searched=np.array(searched, bool))


def _is_searched(label: str, truth: RowTruth, categories: Sequence[str]) -> bool:
    """Whether a box of that label counts. A label that is no category is false in every picture."""
    return truth.exhaustive is None or label in truth.exhaustive or label not in categories


def _objects(truths: Sequence[RowTruth], index: dict[str, int]) -> ObjectBoxes:
    rows = [
        (number, index.setdefault(label, len(index)), box, is_crowd, is_ignored)
        for number, truth in enumerate(truths)
        for group, is_crowd, is_ignored in (
            (truth.objects, False, False), (truth.crowds, True, False), (truth.ignored, False, True),
        )
        for label, box in group
    ]  # fmt: skip
    columns = ObjectBoxes.from_rows([row[:4] for row in rows])
    return columns._replace(ignored=np.array([row[4] for row in rows], bool))


# --- questions -----------------------------------------------------------------------------------------------


def _question(text: str, truth: RowTruth, rules: RewardRules) -> Mark:
    if truth.kind == "count":
        return Mark("count", _count(text, truth.answer), _sentence_form(text, truth))
    form = float(_parsed(text, truth, rules).health == "ok") if truth.kind in BOX_KINDS else _sentence_form(text, truth)
    answer = Answer(
        image="",
        size=truth.size,
        kind=truth.kind,
        text=text,
        expected=truth.answer,
        dialect=rules.dialect,
        max_pixels=rules.max_pixels,
    )
    return Mark("area", float(tasks([answer])[truth.kind]["accuracy"]), form)


def _sentence_form(text: str, truth: RowTruth) -> float:
    return float(read(text, (), truth.kind).kind != "unparsed")


def _count(text: str, expected: str) -> float:
    """F1 of the pairs of category and number; zeros count for nothing, and a pair that is there twice is false once."""
    answer, truth = read(text, (), "count"), read_expected(expected, "count")
    given, true = (Counter(pair for pair in side.counts if pair[1]) for side in (answer, truth))
    if answer.kind != "count":
        return 0.0
    total = given.total() + true.total()
    return 2 * (given & true).total() / total if total else 1.0
