"""The rewards: what pays is what ``eval`` measures, and the loopholes of other detection rewards do not pay."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmdet_cli.core.annotations import Box
from vlmdet_cli.metrics.detection import detection
from vlmdet_cli.metrics.matching import ObjectBoxes, PredictedBoxes
from vlmdet_cli.metrics.rewards import Mark, RewardRules, RowTruth, marks
from vlmdet_cli.models import dialects

RULES = RewardRules(dialect="qwen2_vl", categories=("cat", "dog", "cow"))
CAT, DOG = "cat(100,100),(300,300)", "dog(500,500),(900,900)"
OBJECTS = (("cat", (100.0, 100.0, 300.0, 300.0)), ("dog", (500.0, 500.0, 900.0, 900.0)))
SIZE = (1000, 1000)  # a pixel is a thousandth


def mark(text: str, rules: RewardRules = RULES, **truth: Any) -> Mark:
    return marks([text], [RowTruth(**{"size": SIZE, **truth})], rules)[0]


def detects(text: str, **truth: Any) -> float | None:
    return mark(text, **{"objects": OBJECTS, **truth}).reward("detection")


# --- detection -----------------------------------------------------------------------------------------------


def test_all_objects_and_nothing_else_is_the_most_and_a_missed_object_costs() -> None:
    assert detects(CAT + DOG) == 1
    assert detects(CAT) == pytest.approx(2 / 3)
    assert detects("No objects.") == detects("I see a cat.") == 0


def test_a_box_beyond_the_objects_costs() -> None:
    """It is free in Vision-R1's recall and precision of the matched pairs alone."""
    assert detects(CAT + DOG + "cat(600,100),(700,200)") == pytest.approx(4 / 5)


@pytest.mark.parametrize("double", ["cat(100,100),(300,301)", CAT])
def test_a_second_box_for_an_object_costs_a_near_double_like_an_exact_repeat(double: str) -> None:
    """It is free in Rex-Omni's F1 of the mean best overlaps."""
    assert detects(CAT + DOG + double) == pytest.approx(4 / 5)
    assert detects(CAT + DOG + double * 9) == pytest.approx(4 / 13)


@pytest.mark.parametrize("absent", ["cow", "unicorn"])
def test_a_label_that_the_picture_does_not_have_costs(absent: str) -> None:
    """It is skipped in VLM-R1's average precision."""
    assert detects(f"{CAT}{DOG}{absent}(600,100),(700,200)") == pytest.approx(4 / 5)


def test_a_box_at_the_right_place_with_another_label_finds_nothing() -> None:
    assert detects(CAT + DOG.replace("dog", "cow")) == pytest.approx(2 / 4)


def test_the_mean_over_the_thresholds_pays_for_exact_boxes() -> None:
    loose = "cat(100,100),(300,253)"  # an IoU of 0.765 with the cat
    assert detects(loose, objects=OBJECTS[:1]) == pytest.approx(6 / 10)
    strict = RewardRules(dialect="qwen2_vl", categories=RULES.categories, thresholds=(0.5,))
    assert mark(loose, strict, objects=OBJECTS[:1]).value == 1


def test_boxes_in_a_crowd_and_on_ignored_objects_neither_pay_nor_cost() -> None:
    crowd = {"crowds": (("cat", (0.0, 600.0, 300.0, 1000.0)),)}
    in_crowd = "cat(10,610),(90,700)"
    assert detects(CAT + DOG + in_crowd, **crowd) == 1
    assert detects(CAT + in_crowd, **crowd) == pytest.approx(2 / 3)
    assert detects(CAT + DOG + in_crowd.replace("cat", "dog"), **crowd) == pytest.approx(4 / 5)
    ignored = {"ignored": (("cat", (600.0, 100.0, 604.0, 104.0)),)}
    tiny = "cat(600,100),(604,104)"
    assert detects(CAT + DOG + tiny, **ignored) == 1
    assert detects(CAT + DOG + tiny * 2, **ignored) == pytest.approx(4 / 5)


def test_a_category_that_was_not_searched_for_does_not_count_and_a_word_that_is_none_does() -> None:
    searched = {"exhaustive": ("cat", "dog")}
    assert detects(CAT + DOG + "cow(600,100),(700,200)", **searched) == 1
    assert detects(CAT + DOG + "unicorn(600,100),(700,200)", **searched) == pytest.approx(4 / 5)


def test_boxes_of_the_noise_class_that_a_model_was_trained_to_invent_do_not_count() -> None:
    rules = RewardRules(dialect="qwen2_vl", categories=RULES.categories, noise_label="noise")
    noise = "noise(600,100),(700,200)"
    assert mark(CAT + noise + DOG + noise, rules, objects=OBJECTS).value == 1
    assert mark(CAT + CAT + DOG + noise, rules, objects=OBJECTS).value == pytest.approx(4 / 5)


def test_rewards_do_not_depend_on_the_other_answers_of_the_batch() -> None:
    texts = [CAT + DOG, CAT, "No objects.", CAT + "unicorn(600,100),(700,200)", "car: 1"]
    truths = [*[RowTruth(size=SIZE, objects=OBJECTS)] * 2, *[RowTruth(size=SIZE)] * 2,
              RowTruth(size=SIZE, kind="count", answer="car: 1")]  # fmt: skip
    together = marks(texts, truths, RULES)
    assert together == [marks([text], [truth], RULES)[0] for text, truth in zip(texts, truths, strict=True)]
    assert marks([], [], RULES) == []


BOXES = st.tuples(*[st.integers(0, 990)] * 2, *[st.integers(1, 400)] * 2).map(
    lambda n: (float(n[0]), float(n[1]), float(min(n[0] + n[2], 1000)), float(min(n[1] + n[3], 1000)))
)
LABELLED = st.lists(st.tuples(st.sampled_from(["cat", "dog"]), BOXES), min_size=1, max_size=6, unique=True)


@settings(max_examples=60, deadline=None)
@given(LABELLED, LABELLED)
def test_the_reward_is_the_mean_of_evals_f1_over_the_thresholds(
    predicted: list[tuple[str, Box]], objects: list[tuple[str, Box]]
) -> None:
    text = dialects.get("qwen2_vl").render(predicted, SIZE)
    names = ["cat", "dog"]
    measured = detection(
        PredictedBoxes.from_rows([(0, names.index(label), box) for label, box in predicted]),
        ObjectBoxes.from_rows([(0, names.index(label), box, False) for label, box in objects]),
        names,
    )
    expected = np.mean([value or 0.0 for value in measured.f1_by_iou.values()])
    assert detects(text, objects=tuple(objects)) == pytest.approx(expected)


# --- silence and form ----------------------------------------------------------------------------------------


def test_silence_is_for_pictures_without_objects_alone() -> None:
    assert mark("No objects.").reward("silence") == 1
    assert mark("No objects.").reward("detection") is None
    assert mark(CAT).reward("silence") == mark("unicorn(1,1),(9,9)").reward("silence") == 0
    assert mark(CAT, objects=OBJECTS).reward("silence") is None


def test_what_cannot_be_read_is_no_silence_and_boxes_that_do_not_count_are() -> None:
    assert mark("I see nothing there").value == 0
    assert mark("cat(10,610),(90,700)", crowds=(("cat", (0.0, 600.0, 300.0, 1000.0)),)).value == 1


def test_form_is_that_the_answer_has_no_problem() -> None:
    for text in (CAT + DOG, "No objects."):
        assert mark(text, objects=OBJECTS).form == 1
    for text in (CAT * 2, "cat(100,100),(300", "hello", "unicorn(1,1),(9,9)", "cat(300,300),(100,100)"):
        assert mark(text, objects=OBJECTS).form == 0


# --- questions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("cat: 2\ndog: 1", 1),
        ("dog: 1\ncat: 2", 1),
        ("cat: 2\ndog: 1\ncow: 0", 1),  # zeros neither pay nor cost
        ("cat: 2", 2 / 3),
        ("cat: 2\ndog: 2", 1 / 2),
        ("cat: 2\ndog: 1\ncow: 1", 4 / 5),
        ("cat: 1\ncat: 2\ncat: 3\ndog: 1", 4 / 6),  # several numbers for a category are false but for one
        ("cat: 2\ncat: 2\ndog: 1", 4 / 5),
        ("No objects.", 0),
        (CAT, 0),
    ],
)
def test_counts_are_paid_pair_by_pair(text: str, reward: float) -> None:
    given_mark = mark(text, kind="count", answer="cat: 2\ndog: 1")
    assert given_mark.reward("count") == pytest.approx(reward)
    assert given_mark.reward("detection") is given_mark.reward("silence") is given_mark.reward("area") is None


def test_nothing_to_count_is_right_where_it_is_said() -> None:
    empty: dict[str, Any] = {"kind": "count", "answer": "No objects."}
    assert (mark("No objects.", **empty).value, mark("cat: 1", **empty).value, mark("hm", **empty).value) == (1, 0, 0)


AREA = "<|box_start|>(1,2),(3,4)<|box_end|>"


@pytest.mark.parametrize(
    ("kind", "answer", "wrong", "form_of_wrong"),
    [
        ("full", f'The area {AREA} fully contains a "cat".', f'The area {AREA} fully contains a "dog".', 1),
        ("none", f"The area {AREA} does not contain any object from the COCO categories.", "Hm.", 0),
        ("region", CAT, DOG, 1),
        ("largest", CAT, "cat(100,100", 0),
    ],
)
def test_questions_about_areas_have_their_own_truth(kind: Any, answer: str, wrong: str, form_of_wrong: float) -> None:
    right, false = (mark(text, kind=kind, answer=answer) for text in (answer, wrong))
    assert (right.reward("area"), right.form, right.reward("detection")) == (1, 1, None)
    assert (false.reward("area"), false.form) == (0, form_of_wrong)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=80), st.sampled_from(["detection", "count", "full", "region"]))
def test_no_answer_raises_or_pays_out_of_bounds(text: str, kind: Any) -> None:
    given_mark = mark(text, kind=kind, objects=OBJECTS, answer=CAT if kind == "region" else "cat: 1")
    assert 0 <= given_mark.value <= 1
