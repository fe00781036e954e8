"""The likely cause of two engines' difference, from their texts alone."""

import pytest

from vlmdet_cli.engines import Completion
from vlmdet_cli.stages.inference import text_differences as causes
from vlmdet_cli.stages.inference.text_differences import excerpts, likely_cause

CAT = "<|object_ref_start|>cat<|object_ref_end|><|box_start|>(10,20),(300,400)<|box_end|>"
DOG = "<|object_ref_start|>dog<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>"


@pytest.mark.parametrize(
    ("reference", "other", "cause"),
    [
        (CAT, "cat(10,20),(300,400)", causes.STRIPPED),
        (CAT, CAT.replace("><", "> <"), causes.STRIPPED),
        ("<ref>cat</ref><box>[[1, 2, 3, 4]]</box>", "cat[[1,2,3,4]]", causes.STRIPPED),
        (CAT + DOG, CAT, causes.CUT),
        (CAT, CAT + DOG, causes.CUT),
        (CAT, CAT.replace("300", "302"), causes.PRECISION),
        (CAT, CAT.replace("300", "340"), causes.RESIZED),
        (CAT + DOG, CAT + DOG.replace("dog", "bus"), causes.NEAR_TIE),
        (CAT, "There is a cat.", causes.PROMPT),
        (CAT, "", causes.PROMPT),
    ],
)
def test_the_cause_is_told_from_the_texts(reference: str, other: str, cause: str) -> None:
    assert likely_cause(Completion(key="0", text=reference), Completion(key="0", text=other)) == cause


def test_a_picture_that_only_one_engine_can_use_is_named() -> None:
    failed = Completion(key="0", finish="error", error="truncated")
    assert "could use the picture: truncated" in likely_cause(Completion(key="0", text=CAT), failed)


def test_long_texts_are_shown_around_their_first_difference() -> None:
    texts = ("a" * 500 + "b" + "c" * 500, "a" * 500 + "d")
    assert excerpts(*texts) == (f"…{'a' * 30}b{'c' * 29}…", f"…{'a' * 30}d")
    assert excerpts("cat", "cut") == ("cat", "cut")
