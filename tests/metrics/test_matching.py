"""Matching against a brute-force reference, and laws that hold for every matching."""

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmdet_cli.core.annotations import Box
from vlmdet_cli.metrics.detection import detection
from vlmdet_cli.metrics.matching import (
    IN_CROWD,
    MATCHES_IGNORED,
    NOT_SEARCHED,
    ObjectBoxes,
    PredictedBoxes,
    match,
    overlapping,
    raised,
)

Predicted = tuple[int, int, Box]
Annotated = tuple[int, int, Box, str]  # the last: "", "crowd" or "ignored"
NAMES = ("a", "b", "c")
NOT_EXHAUSTIVE = {(2, 0), (2, 1)}  # picture and class in which not all objects are annotated


def box(x: int, y: int, wide: int, high: int) -> Box:
    return (float(x), float(y), float(x + wide), float(y + high))


# a coarse grid: many boxes overlap, and equal overlaps are common
BOXES = st.builds(box, st.integers(0, 6), st.integers(0, 6), st.integers(1, 6), st.integers(1, 6))
PREDICTIONS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), BOXES), max_size=12)
OBJECTS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 1), BOXES, st.sampled_from(["", "", "crowd", "ignored"])), max_size=12
)


def predicted_boxes(rows: list[Predicted]) -> PredictedBoxes:
    searched = np.array([row[:2] not in NOT_EXHAUSTIVE for row in rows], bool)
    return PredictedBoxes.from_rows(rows)._replace(searched=searched)


def object_boxes(rows: list[Annotated]) -> ObjectBoxes:
    columns = ObjectBoxes.from_rows([(*row[:3], row[3] == "crowd") for row in rows])
    return columns._replace(ignored=np.array([row[3] == "ignored" for row in rows], bool))


def overlap(first: Box, second: Box) -> tuple[float, float]:
    """IoU, and the share of the first box inside the second, the slow way."""
    (a1, b1, a2, b2), (c1, d1, c2, d2) = first, second
    common = max(0.0, min(a2, c2) - max(a1, c1)) * max(0.0, min(b2, d2) - max(b1, d1))
    own, other = (a2 - a1) * (b2 - b1), (c2 - c1) * (d2 - d1)
    return common / (own + other - common), common / own


def greedy(predictions: dict[int, Predicted], objects: dict[int, Annotated], threshold: float) -> dict[int, int]:
    """Take the best remaining pair until none is left: prediction to object."""
    pairs = sorted(
        (-overlap(predicted[2], annotated[2])[0], p, o)
        for p, predicted in predictions.items()
        for o, annotated in objects.items()
        if predicted[:2] == annotated[:2] and overlap(predicted[2], annotated[2])[0] >= threshold
    )
    partner: dict[int, int] = {}
    for _, p, o in pairs:
        if p not in partner and o not in partner.values():
            partner[p] = o
    return partner


def reference(predictions: list[Predicted], objects: list[Annotated], threshold: float) -> tuple[list[int], list[int]]:
    """The definition, word by word: partners, and reasons of predictions that are left out of account."""
    kinds = {kind: {o: row for o, row in enumerate(objects) if row[3] == kind} for kind in ("", "crowd", "ignored")}
    partner = greedy(dict(enumerate(predictions)), kinds[""], threshold)
    reasons = [0] * len(predictions)
    free = {p: row for p, row in enumerate(predictions) if p not in partner}
    for p, row in free.items():
        crowds = [crowd for crowd in kinds["crowd"].values() if crowd[:2] == row[:2]]
        if any(overlap(row[2], crowd[2])[1] >= threshold for crowd in crowds):
            reasons[p] = IN_CROWD
        elif row[:2] in NOT_EXHAUSTIVE:
            reasons[p] = NOT_SEARCHED
    for p in greedy({p: row for p, row in free.items() if not reasons[p]}, kinds["ignored"], threshold):
        reasons[p] = MATCHES_IGNORED
    return [partner.get(p, -1) for p in range(len(predictions))], reasons


def matched(predictions: list[Predicted], objects: list[Annotated], threshold: float) -> tuple[list[int], list[int]]:
    result = match(overlapping(predicted_boxes(predictions), object_boxes(objects)), threshold)
    return result.object.tolist(), result.left_out.tolist()


@settings(max_examples=1500, deadline=None)
@given(PREDICTIONS, OBJECTS, st.sampled_from([0.3, 0.5, 0.75]))
def test_matching_equals_the_definition(
    predictions: list[Predicted], objects: list[Annotated], threshold: float
) -> None:
    assert matched(predictions, objects, threshold) == reference(predictions, objects, threshold)


@settings(max_examples=300, deadline=None)
@given(PREDICTIONS, OBJECTS, st.sampled_from([0.5, 0.7, 0.9]))
def test_raising_the_threshold_equals_matching_anew(
    predictions: list[Predicted], objects: list[Annotated], threshold: float
) -> None:
    overlaps = overlapping(predicted_boxes(predictions), object_boxes(objects))
    higher = raised(match(overlaps, 0.3), overlaps, threshold)
    assert (higher.object.tolist(), higher.left_out.tolist()) == matched(predictions, objects, threshold)


@settings(max_examples=200, deadline=None)
@given(PREDICTIONS, OBJECTS, st.randoms(use_true_random=False))
def test_the_counts_do_not_depend_on_the_order_of_pictures_and_classes(
    predictions: list[Predicted], objects: list[Annotated], random: Random
) -> None:
    pictures, classes = [0, 1, 2], [0, 1, 2]
    random.shuffle(pictures)
    random.shuffle(classes)
    names = [NAMES[classes.index(number)] for number in range(3)]
    moved = predicted_boxes(predictions)
    there = object_boxes(objects)
    results = (
        detection(moved, there, NAMES),
        detection(
            moved._replace(
                picture=np.array(pictures, np.int64)[moved.picture], label=np.array(classes, np.int64)[moved.label]
            ),
            there._replace(
                picture=np.array(pictures, np.int64)[there.picture], label=np.array(classes, np.int64)[there.label]
            ),
            names,
        ),
    )
    first, second = ({n: (s.tp, s.fp, s.fn, s.ignored) for n, s in outcome.per_class.items()} for outcome in results)
    assert first == second
    first_total, second_total = ((outcome.overall.tp, outcome.overall.fp, outcome.overall.fn) for outcome in results)
    assert first_total == second_total


@settings(max_examples=200, deadline=None)
@given(PREDICTIONS, OBJECTS)
def test_f1_lies_between_precision_and_recall_and_counts_add_up(
    predictions: list[Predicted], objects: list[Annotated]
) -> None:
    metrics = detection(predicted_boxes(predictions), object_boxes(objects), NAMES)
    score = metrics.overall
    assert score.tp + score.fp + score.ignored == len(predictions)
    assert score.tp + score.fn == sum(not row[3] for row in objects)
    if score.precision is not None and score.recall is not None and score.f1 is not None:
        low, high = sorted((score.precision, score.recall))
        assert low - 1e-12 <= score.f1 <= high + 1e-12
    for total in ("tp", "fp", "fn", "ignored"):
        assert sum(getattr(outcome, total) for outcome in metrics.per_class.values()) == getattr(score, total)


@settings(max_examples=200, deadline=None)
@given(PREDICTIONS, OBJECTS)
def test_removing_a_false_prediction_never_lowers_precision(
    predictions: list[Predicted], objects: list[Annotated]
) -> None:
    partners, reasons = matched(predictions, objects, 0.5)
    before = detection(predicted_boxes(predictions), object_boxes(objects), NAMES).overall.precision
    for number, (partner, reason) in enumerate(zip(partners, reasons, strict=True)):
        if partner < 0 and not reason:
            fewer = predictions[:number] + predictions[number + 1 :]
            after = detection(predicted_boxes(fewer), object_boxes(objects), NAMES).overall.precision
            assert after is None or before is None or after >= before


@settings(max_examples=100, deadline=None)
@given(OBJECTS)
def test_the_truth_as_prediction_is_perfect(objects: list[Annotated]) -> None:
    unique = list({row[:3]: row for row in objects}.values())
    targets = [row[:3] for row in unique if not row[3]]
    score = detection(predicted_boxes(targets), object_boxes(unique), NAMES).overall
    assert (score.fp, score.fn, score.tp) == (0, 0, len(targets))
    assert score.f1 == (1.0 if targets else None)
    assert score.mean_iou is None or np.isclose(score.mean_iou, 1.0)


def test_a_crowd_is_neither_found_nor_missed_and_excuses_what_lies_in_it() -> None:
    objects = object_boxes([(0, 0, (0, 0, 100, 100), "crowd"), (0, 0, (200, 0, 210, 10), "")])
    predictions = predicted_boxes([
        (0, 0, (10, 10, 20, 20)), (0, 1, (10, 10, 20, 20)), (0, 0, (90, 90, 130, 130)),
    ])  # fmt: skip
    score = detection(predictions, objects, NAMES).overall
    assert (score.tp, score.fp, score.fn, score.ignored) == (0, 2, 1, 1)


def test_an_ignored_object_excuses_one_prediction_by_iou_and_not_what_merely_lies_in_it() -> None:
    objects = object_boxes([(0, 0, (0, 0, 10, 10), "ignored")])
    predictions = predicted_boxes([(0, 0, (0, 0, 10, 10)), (0, 0, (0, 0, 10, 9)), (0, 0, (1, 1, 4, 4))])
    score = detection(predictions, objects, NAMES).overall
    assert (score.tp, score.fp, score.fn, score.ignored) == (0, 2, 0, 1)


@pytest.mark.parametrize(("picture", "counts"), [(0, (1, 1, 0, 0)), (2, (1, 0, 0, 1))])
def test_an_unmatched_prediction_counts_only_where_its_class_was_searched_for(
    picture: int, counts: tuple[int, int, int, int]
) -> None:
    objects = object_boxes([(picture, 0, (0, 0, 10, 10), "")])
    predictions = predicted_boxes([(picture, 0, (0, 0, 10, 10)), (picture, 0, (50, 50, 60, 60))])
    score = detection(predictions, objects, NAMES).overall
    assert (score.tp, score.fp, score.fn, score.ignored) == counts
