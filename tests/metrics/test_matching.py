"""Matching against a brute-force reference, and laws that hold for every matching."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmdet_cli.metrics.detection import detection
from vlmdet_cli.metrics.matching import Flat, flat, match, overlapping

Row = tuple[int, int, tuple[float, float, float, float], bool]
NAMES = ("a", "b", "c")


def box(x: int, y: int, wide: int, high: int) -> tuple[float, float, float, float]:
    return (float(x), float(y), float(x + wide), float(y + high))


# a coarse grid: many boxes overlap, and equal overlaps are common
BOXES = st.builds(box, st.integers(0, 6), st.integers(0, 6), st.integers(1, 6), st.integers(1, 6))
PREDICTIONS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), BOXES, st.just(False)), max_size=12)
OBJECTS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 1), BOXES, st.sampled_from([False, False, True])), max_size=12
)


def overlap(one: Row, two: Row) -> tuple[float, float]:
    """IoU, and the share of the first box inside the second, the slow way."""
    (a1, b1, a2, b2), (c1, d1, c2, d2) = one[2], two[2]
    common = max(0.0, min(a2, c2) - max(a1, c1)) * max(0.0, min(b2, d2) - max(b1, d1))
    own, other = (a2 - a1) * (b2 - b1), (c2 - c1) * (d2 - d1)
    return common / (own + other - common), common / own


def reference(predictions: list[Row], objects: list[Row], threshold: float) -> tuple[list[int], list[bool]]:
    """The definition, word by word: take the best remaining candidate until none is left."""
    found, used = [-1] * len(predictions), [False] * len(objects)
    while True:
        best: tuple[float, int, int] | None = None
        for p, one in enumerate(predictions):
            for o, two in enumerate(objects):
                if found[p] >= 0 or used[o] or two[3] or one[:2] != two[:2]:
                    continue
                value = overlap(one, two)[0]
                if value >= threshold and (best is None or (-value, p, o) < best):
                    best = (-value, p, o)
        if best is None:
            break
        found[best[1]], used[best[2]] = best[2], True
    ignored = [
        found[p] < 0 and any(two[3] and one[:2] == two[:2] and overlap(one, two)[1] >= threshold for two in objects)
        for p, one in enumerate(predictions)
    ]
    return found, ignored


def matched(predictions: list[Row], objects: list[Row], threshold: float) -> tuple[list[int], list[bool]]:
    pairs, crowds = overlapping(flat(predictions), flat(objects))
    made = match(pairs, crowds, len(predictions), threshold)
    return made.object.tolist(), made.ignored.tolist()


@settings(max_examples=1500, deadline=None)
@given(PREDICTIONS, OBJECTS, st.sampled_from([0.3, 0.5, 0.75]))
def test_matching_equals_the_definition(predictions: list[Row], objects: list[Row], threshold: float) -> None:
    assert matched(predictions, objects, threshold) == reference(predictions, objects, threshold)


@settings(max_examples=200, deadline=None)
@given(PREDICTIONS, OBJECTS, st.randoms(use_true_random=False))
def test_the_counts_do_not_depend_on_the_order_of_pictures_and_classes(
    predictions: list[Row], objects: list[Row], random: "st.DataObject"
) -> None:
    pictures, classes = [0, 1, 2], [0, 1, 2]
    random.shuffle(pictures)  # type: ignore[attr-defined]
    random.shuffle(classes)  # type: ignore[attr-defined]

    def renamed(rows: list[Row]) -> Flat:
        return flat([(pictures[p], classes[c], b, crowd) for p, c, b, crowd in rows])

    names = [NAMES[classes.index(number)] for number in range(3)]
    one, two = (
        detection(flat(predictions), flat(objects), NAMES),
        detection(renamed(predictions), renamed(objects), names),
    )
    assert (one.overall.tp, one.overall.fp, one.overall.fn) == (two.overall.tp, two.overall.fp, two.overall.fn)
    assert {n: (s.tp, s.fp, s.fn) for n, s in one.per_class.items()} == {
        n: (s.tp, s.fp, s.fn) for n, s in two.per_class.items()
    }


@settings(max_examples=200, deadline=None)
@given(PREDICTIONS, OBJECTS)
def test_f1_lies_between_precision_and_recall_and_counts_add_up(predictions: list[Row], objects: list[Row]) -> None:
    made = detection(flat(predictions), flat(objects), NAMES)
    score = made.overall
    assert score.tp + score.fp + score.ignored == len(predictions)
    assert score.tp + score.fn == sum(not one[3] for one in objects)
    if score.precision is not None and score.recall is not None and score.f1 is not None:
        low, high = sorted((score.precision, score.recall))
        assert low - 1e-12 <= score.f1 <= high + 1e-12
    for total in ("tp", "fp", "fn", "ignored"):
        assert sum(getattr(one, total) for one in made.per_class.values()) == getattr(score, total)


@settings(max_examples=200, deadline=None)
@given(PREDICTIONS, OBJECTS)
def test_removing_a_false_prediction_never_lowers_precision(predictions: list[Row], objects: list[Row]) -> None:
    found, ignored = matched(predictions, objects, 0.5)
    before = detection(flat(predictions), flat(objects), NAMES).overall.precision
    for number, (one, left_out) in enumerate(zip(found, ignored, strict=True)):
        if one < 0 and not left_out:
            fewer = predictions[:number] + predictions[number + 1 :]
            after = detection(flat(fewer), flat(objects), NAMES).overall.precision
            assert after is None or before is None or after >= before


@settings(max_examples=100, deadline=None)
@given(OBJECTS)
def test_the_truth_as_prediction_is_perfect(objects: list[Row]) -> None:
    unique = list({one[:3]: one for one in objects}.values())
    targets = [(p, c, b, False) for p, c, b, crowd in unique if not crowd]
    score = detection(flat(targets), flat(unique), NAMES).overall
    assert (score.fp, score.fn, score.tp) == (0, 0, len(targets))
    assert score.f1 == (1.0 if targets else None)
    assert score.mean_iou is None or np.isclose(score.mean_iou, 1.0)


def test_a_crowd_is_neither_found_nor_missed_and_excuses_what_lies_in_it() -> None:
    objects: list[Row] = [(0, 0, (0, 0, 100, 100), True), (0, 0, (200, 0, 210, 10), False)]
    predictions: list[Row] = [
        (0, 0, (10, 10, 20, 20), False),
        (0, 1, (10, 10, 20, 20), False),
        (0, 0, (90, 90, 130, 130), False),
    ]
    score = detection(flat(predictions), flat(objects), NAMES).overall
    assert (score.tp, score.fp, score.fn, score.ignored) == (0, 2, 1, 1)
