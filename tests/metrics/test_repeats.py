"""Near repeats: which of several boxes of a class stays."""

from hypothesis import given
from hypothesis import strategies as st

from vlmdet_cli.core.annotations import Box
from vlmdet_cli.core.answers import Detection, ParsedDetections
from vlmdet_cli.core.boxes import pairwise_iou
from vlmdet_cli.metrics.repeats import without_near_repeats

A: Box = (0, 0, 10, 10)
NEAR: Box = (0, 0, 10, 9)  # IoU 0.9 with A
FAR: Box = (20, 20, 30, 30)


def kept(detections: list[Detection], iou: float = 0.8) -> list[Detection]:
    return list(without_near_repeats(ParsedDetections(tuple(detections), (), "ok"), iou).detections)


def test_of_near_repeats_the_first_stays_or_the_one_with_the_higher_score() -> None:
    assert kept([Detection("cat", A), Detection("cat", FAR), Detection("cat", NEAR)]) == [
        Detection("cat", A), Detection("cat", FAR),
    ]  # fmt: skip
    assert kept([Detection("cat", A, 0.3), Detection("cat", FAR, 0.1), Detection("cat", NEAR, 0.5)]) == [
        Detection("cat", FAR, 0.1), Detection("cat", NEAR, 0.5),
    ]  # fmt: skip


def test_boxes_of_two_classes_are_never_one_and_a_lower_overlap_is_not_enough() -> None:
    assert len(kept([Detection("cat", A), Detection("dog", NEAR)])) == 2
    assert len(kept([Detection("cat", A), Detection("cat", NEAR)], 0.91)) == 2
    assert len(kept([Detection("cat", A), Detection("cat", NEAR)], 0.9)) == 1


def test_exact_repeats_go_too() -> None:
    parsed = ParsedDetections((Detection("cat", A),), (), "partial", (3,))
    assert without_near_repeats(parsed, 1.0) == ParsedDetections((Detection("cat", A),), (), "partial")


CORNERS = st.tuples(*[st.integers(0, 9)] * 2, *[st.integers(10, 19)] * 2)
DETECTIONS = st.lists(
    st.builds(Detection, label=st.sampled_from(["cat", "dog"]), box=CORNERS, score=st.sampled_from([None, 0.25, 0.75]))
)


@given(DETECTIONS, st.sampled_from([0.2, 0.5, 1.0]))
def test_what_stays_has_no_near_repeat_and_what_goes_has_a_better_one_that_stays(
    detections: list[Detection], iou: float
) -> None:
    staying = kept(detections, iou)
    assert kept(staying, iou) == staying

    def near(first: Detection, second: Detection) -> bool:
        return first.label == second.label and bool(pairwise_iou([first.box], [second.box])[0, 0] >= iou)

    assert not any(near(a, b) for n, a in enumerate(staying) for b in staying[:n])
    for detection in detections:
        better = [other for other in staying if near(detection, other) and (other.score or 0) >= (detection.score or 0)]
        assert better
