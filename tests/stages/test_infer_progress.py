"""What is shown of an inference while it runs."""

from vlmdet_cli.core.answers import Answer
from vlmdet_cli.stages.inference.answer_reading import ReadingRules, read_answer
from vlmdet_cli.stages.inference.infer_progress import InferProgress

BOX = "<|object_ref_start|>cat<|object_ref_end|><|box_start|>(0,0),(500,{n})<|box_end|>"
GOOD, BAD_BOX = BOX.format(n=400), BOX.format(n=0)


def progress_of(*answers: Answer) -> InferProgress:
    progress = InferProgress(2, 2 + len(answers))
    for answer in answers:
        progress.add(answer, read_answer(answer, ReadingRules()) if answer.kind == "detection" else None, num_tokens=9)
    return progress


def test_the_shares_are_those_of_the_detection_answers_and_leave_out_what_is_absent() -> None:
    texts = [GOOD, GOOD + BAD_BOX, "gibberish", GOOD * 6]
    answers = [
        *(Answer(image="a.jpg", text=text) for text in texts),
        Answer(image="a.jpg", kind="count", text="cat: 1"),
    ]
    progress = progress_of(*answers)
    assert (progress.done, progress.total) == (7, 7)
    assert progress.shares() == "ok 25%, partial 50%, unparsed 25%, looped 25%"
    assert "pictures/s" in progress.rates()
    assert "tokens/s" in progress.rates()


def test_an_answer_that_the_engine_cut_for_a_loop_counts_as_looped() -> None:
    assert progress_of(Answer(image="a.jpg", text=GOOD, finish="loop")).shares() == "ok 100%, looped 100%"


def test_the_newest_answer_is_told_in_words() -> None:
    bad = Answer(image="a.jpg", finish="error", error="it is cut")
    for answer, words in (
        (Answer(image="a.jpg", text=GOOD + BOX.format(n=9) + BAD_BOX), "2 × cat; degenerate × 1"),
        (Answer(image="a.jpg", text="No objects."), "no objects"),
        (Answer(image="a.jpg", text="hm"), "hm; unparsed × 1"),
        (Answer(image="a.jpg", kind="count", text="cat: 1"), "cat: 1"),
        (bad, "it is cut"),
    ):
        assert progress_of(answer).last == f"a.jpg: {words}"
    assert progress_of(bad).shares() == "error 100%"
