"""How answers to the questions that point are scored: right, wrong, unparsed, cut."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmdet_cli.core.answers import Answer
from vlmdet_cli.core.rows import QUESTION_KINDS, Kind
from vlmdet_cli.metrics.sentences import ParsedAnswer, name, read, read_expected
from vlmdet_cli.metrics.tasks import tasks
from vlmdet_cli.models import dialects
from vlmdet_cli.prompts.object_tasks import CLASS_ANSWER, LEFT_ANSWER
from vlmdet_cli.prompts.region_tasks import FULL_ANSWER, PARTIAL_ANSWER

CLASS = 'The object in the area <|box_start|>(1,2),(3,4)<|box_end|> is a "dog".'
LEFT = '2 objects of the category "dog" lie left of the area <|box_start|>(1,2),(3,4)<|box_end|>.'
DOG, CAT, FAR = "dog(0,0),(100,100)", "cat(200,200),(400,400)", "dog(500,500),(600,600)"


def scored(kind: Kind, expected: str, *texts: str, **more: Any) -> dict[str, Any]:
    """The task of answers to one question; 100 pixels are thousand thousandths."""
    values = {"size": (100, 100), **more}
    return tasks([Answer(image="a.jpg", kind=kind, expected=expected, text=text, **values) for text in texts])[kind]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CLASS, ParsedAnswer("class", "dog")),
        ('The object in the area [1, 2, 3, 4] is an "Old  Dog"', ParsedAnswer("class", "old dog")),
        ('The object in the area A is a "24" screen".', ParsedAnswer("class", '24" screen')),
        ('The object in the area A is a "dog". It is a "big" one.', ParsedAnswer("class", "dog")),
        ('The object in the area A is a "do', ParsedAnswer("unparsed")),
        (LEFT, ParsedAnswer("left", "dog", number=2)),
        ('1 object of the category "Dog" lies left of the area <box>[[1, 2]]', ParsedAnswer("left", "dog", number=1)),
        ('-2 objects of the category "dog" lie left of the area A.', ParsedAnswer("unparsed")),
        ('2 objects of the category "do', ParsedAnswer("unparsed")),
        ('The area A fully contains a "dog".', ParsedAnswer("full", "dog")),
        ('The area A partially contains a "dog", about 60% is visible.', ParsedAnswer("partial", "dog", percent=60)),
        ("The area A does not contain any object from the COCO categories.", ParsedAnswer("none")),
        ("dog: 2\ncat: 1", ParsedAnswer("count", counts=(("dog", 2), ("cat", 1)))),
        ("No objects.", ParsedAnswer("count")),
        (DOG, ParsedAnswer("unparsed")),
        ("", ParsedAnswer("unparsed")),
    ],
)  # fmt: skip
def test_each_sentence_is_read_as_what_it_says(text: str, expected: ParsedAnswer) -> None:
    assert read(text) == expected


def test_a_category_is_right_if_it_is_the_true_one() -> None:
    result = scored("class", CLASS, CLASS, CLASS.replace("dog", "Dog"), CLASS.replace("dog", "cat"), "hm", CLASS[:-3])
    assert result == {
        "n": 5,
        "accuracy": 0.4,
        "said": {"class": 3, "unparsed": 2},
        "confusion": {"dog": {"dog": 2, "(unparsed)": 2, "cat": 1}},
    }


def test_a_number_is_right_if_it_and_the_category_are() -> None:
    four, other = LEFT.replace("2 objects", "4 objects"), LEFT.replace('"dog"', '"cat"')
    result = scored("left", LEFT, LEFT, four, other, "hm", LEFT[:20])
    assert result == {
        "n": 5,
        "accuracy": 0.2,
        "said": {"left": 3, "unparsed": 2},
        "mean_absolute_error": 1.0,
        "bias": 1.0,
        "exact": 0.5,
        "per_class": {"dog": {"n": 2, "mean_absolute_error": 1.0, "bias": 1.0, "exact": 0.5}},
    }


def test_no_number_at_all_leaves_its_errors_undefined() -> None:
    result = scored("left", LEFT, "hm")
    assert (result["accuracy"], result["mean_absolute_error"], result["exact"]) == (0, None, None)


@pytest.mark.parametrize(
    ("text", "accuracy", "expected_kind", "precision", "recall"),
    [
        (DOG + CAT, 1, "boxes", 1, 1),
        (CAT + DOG, 1, "boxes", 1, 1),
        ("DOG(0,0),(100,51)" + CAT, 1, "boxes", 1, 1),
        ("dog(0,0),(100,49)" + CAT, 0, "boxes", 0.5, 0.5),
        (DOG, 0, "boxes", 1, 0.5),
        (DOG + CAT + FAR, 0, "boxes", 2 / 3, 1),
        (DOG + "dog(0,0),(100,99)", 0, "boxes", 0.5, 0.5),
        (DOG + CAT.replace("cat", "dog"), 0, "boxes", 0.5, 0.5),
        (DOG + CAT[:12], 0, "boxes", 1, 0.5),
        (DOG + CAT[:-1], 1, "boxes", 1, 1),
        ("No objects.", 0, "no boxes", None, 0),
        ("[]", 0, "no boxes", None, 0),
        ("what area?", 0, "unparsed", None, 0),
        ("dog: 1\ncat: 1", 0, "count", None, 0),
        (CLASS, 0, "class", None, 0),
        ("The area <|box_start|>(0,0),(100,100)<|box_end|> fully contains a \"dog\".", 0, "full", None, 0),
    ],
)  # fmt: skip
def test_a_region_is_right_if_its_boxes_match_one_to_one(
    text: str, accuracy: float, expected_kind: str, precision: float | None, recall: float
) -> None:
    result = scored("region", DOG + CAT, text)
    assert (result["accuracy"], result["said"]) == (accuracy, {expected_kind: 1})
    assert (result["precision"], result["recall"]) == (precision, recall)


def test_boxes_of_all_regions_are_counted_together_but_matched_by_question() -> None:
    answers = [
        Answer(image="a.jpg", kind="region", expected=true, text=text, size=(100, 100))
        for true, text in ((DOG, DOG), (CAT, FAR), (FAR, CAT), (DOG + CAT + FAR, DOG + CAT + FAR))
    ]
    result = tasks(answers)["region"]
    assert result == {
        "n": 4, "accuracy": 0.5, "said": {"boxes": 4},
        "precision": pytest.approx(4 / 6), "recall": pytest.approx(4 / 6), "f1": pytest.approx(4 / 6),
    }  # fmt: skip


def test_the_largest_is_right_if_the_one_box_is() -> None:
    result = scored("largest", DOG, DOG, DOG + FAR, FAR, DOG.replace("dog", "cat"), "dog(0,0),(100")
    assert (result["n"], result["accuracy"], result["said"]) == (5, 0.2, {"boxes": 4, "unparsed": 1})
    assert (result["precision"], result["recall"]) == (0.4, 0.4)


def test_without_the_pictures_size_boxes_are_compared_in_the_frames_own_numbers() -> None:
    assert scored("region", DOG + CAT, DOG + CAT, DOG, size=(0, 0))["accuracy"] == 0.5


@pytest.mark.parametrize("name", dialects.names())
@pytest.mark.parametrize("size", [(640, 480), (0, 0)])
def test_boxes_are_read_in_the_dialect_of_the_answer(name: str, size: tuple[int, int]) -> None:
    write = dialects.get(name).render
    objects = [("dog", (10.0, 20.0, 300.0, 400.0)), ("cat", (400.0, 20.0, 500.0, 90.0))]
    true, half = write(objects, (640, 480)), write(objects[:1], (640, 480))
    result = scored("region", true, true, half, write([], (640, 480)), size=size, dialect=name)
    assert (result["accuracy"], result["recall"]) == (pytest.approx(1 / 3), 0.5)
    assert result["said"] == {"boxes": 2, "no boxes": 1}


def test_the_limit_to_which_the_picture_was_shrunk_sets_the_frame() -> None:
    limit, size = 28 * 28 * 64, (1280, 960)
    write = dialects.get("qwen2_5_vl", max_pixels=limit).render
    true = write([("dog", (900.0, 600.0, 1270.0, 950.0))], size)
    over = true.replace("[", "[99", 1).replace("[99{", "[{")
    known = {"size": size, "dialect": "qwen2_5_vl", "max_pixels": limit}
    assert scored("largest", true, true, over, **known)["accuracy"] == 1
    # a border beyond the limited frame is set to its border
    beyond = '[{"bbox_2d": [0, 0, 9999, 9999], "label": "dog"}]'
    whole = write([("dog", (0.0, 0.0, 1280.0, 960.0))], size)
    assert scored("largest", whole, beyond, **known)["accuracy"] == 1
    assert scored("largest", whole, beyond, **known | {"max_pixels": 0})["accuracy"] == 0


def test_a_picture_that_could_not_be_read_is_a_wrong_answer() -> None:
    result = scored("region", DOG, "", finish="error", error="cannot identify the file")
    assert (result["accuracy"], result["said"]) == (0, {"unparsed": 1})


def test_a_truth_that_cannot_be_read_makes_no_answer_right() -> None:
    assert scored("region", "?", "?", "No objects.", DOG)["accuracy"] == 0
    assert scored("class", "The object", CLASS)["accuracy"] == 0


def test_answers_without_a_known_truth_are_left_out() -> None:
    assert tasks([Answer(image="a.jpg", kind="region", text=DOG), Answer(image="a.jpg", text=DOG, expected=DOG)]) == {}


# --- labels that look like syntax ----------------------------------------------------------------------------

AREA = "<|box_start|>(1,2),(3,4)<|box_end|>"
SENTENCES: dict[Kind, str] = {
    "full": FULL_ANSWER, "partial": PARTIAL_ANSWER, "class": CLASS_ANSWER, "left": LEFT_ANSWER,
}  # fmt: skip
SYNTAX = st.sampled_from(
    ['"', '".', '",', "'", "(", ")", "[", "]", "{", ":", ": 2", ".", ", about 60% is visible", "a"]
)
LETTERS = st.characters(exclude_categories=["C", "Z"])
LABELS = st.lists(SYNTAX | LETTERS | st.just(" "), min_size=1, max_size=8).map("".join).filter(name)


def sentence(kind: Kind, label: str) -> str:
    return SENTENCES[kind].format(area=AREA, label=label, percent=60, number=2)


def accuracy(kind: Kind, pairs: list[tuple[str, str]]) -> float:
    """Of (true answer, answer) pairs."""
    answers = [Answer(image="a.jpg", kind=kind, expected=true, text=text, size=(9, 9)) for true, text in pairs]
    return float(tasks(answers)[kind]["accuracy"])


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(list(SENTENCES)), LABELS, LABELS)
def test_a_label_of_any_characters_is_read_back_whole(kind: Kind, first: str, second: str) -> None:
    first_text, second_text = sentence(kind, first), sentence(kind, second)
    assert read_expected(first_text, kind).label == name(first)
    assert accuracy(kind, [(first_text, first_text), (second_text, second_text)]) == 1
    assert name(first) == name(second) or accuracy(kind, [(first_text, second_text), (second_text, first_text)]) == 0


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(list(SENTENCES)), LABELS, st.data())
def test_an_answer_that_is_cut_before_its_label_ends_is_wrong(kind: Kind, label: str, data: st.DataObject) -> None:
    whole = sentence(kind, label)
    end = whole.rindex(f'"{label}"') + len(label) + 1
    cut = data.draw(st.integers(0, end))
    assert accuracy(kind, [(whole, whole[:cut])]) == 0


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(LABELS.map(name), st.integers(1, 99), min_size=1, max_size=4))
def test_counts_of_labels_of_any_characters_are_read_back(counts: dict[str, int]) -> None:
    text = "\n".join(f"{label}: {number}" for label, number in counts.items())
    assert dict(read_expected(text, "count").counts) == counts
    assert accuracy("count", [(text, text)]) == 1
    more = {label: number + 1 for label, number in counts.items()}
    assert accuracy("count", [(text, "\n".join(f"{label}: {number}" for label, number in more.items()))]) == 0


@pytest.mark.parametrize("kind", list(SENTENCES))
@pytest.mark.parametrize("answer", ['24" zzz', '24"', "24", '24" screen and', "screen", 'x" "24" screen'])
def test_an_answer_that_only_begins_like_the_label_is_wrong(kind: Kind, answer: str) -> None:
    assert accuracy(kind, [(sentence(kind, '24" screen'), sentence(kind, answer))]) == 0


@pytest.mark.parametrize("kind", QUESTION_KINDS)
@pytest.mark.parametrize("garbage", ["", "hm", "?" * 50, '"', "The area"])
def test_garbage_is_right_for_no_truth_that_can_be_read_or_not(kind: Kind, garbage: str) -> None:
    truths = [*(sentence(form, "dog") for form in SENTENCES), "dog: 1", DOG, "The area", "hm", ""]
    assert accuracy(kind, [(true, garbage) for true in truths]) == 0


def test_repeated_boxes_make_a_region_wrong_unless_the_protocol_removes_them() -> None:
    answer = Answer(image="a.jpg", kind="region", expected=DOG, text=DOG * 3, size=(100, 100))
    assert tasks([answer])["region"]["precision"] == pytest.approx(1 / 3)
    assert tasks([answer], "remove")["region"]["accuracy"] == 1


PIECES = st.sampled_from([DOG, CAT, CLASS, LEFT, "<|box_start|>(", '"', "is a", "object in the area", "2 ", "\n", "[{"])
TEXTS = st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=6).map("".join))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(QUESTION_KINDS), TEXTS, TEXTS), max_size=5), st.sampled_from(dialects.names())
)
def test_no_text_is_an_error_and_every_question_is_accounted_for(
    rows: list[tuple[Kind, str, str]], dialect: str
) -> None:
    result = tasks([
        Answer(image="a.jpg", kind=kind, expected=expected, text=text, size=(100, 80), dialect=dialect)
        for kind, expected, text in rows
    ])  # fmt: skip
    assert sum(entry["n"] for entry in result.values()) == len(rows)
    for entry in result.values():
        assert sum(entry["said"].values()) == entry["n"]
        assert 0 <= entry["accuracy"] <= 1
