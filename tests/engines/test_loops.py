"""Answers that repeat themselves are cut at the same character, however they were generated."""

import re
import time
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmdet_cli.core.answers import ParsedDetections
from vlmdet_cli.engines import Completion
from vlmdet_cli.engines.loops import LoopRule, LoopWatch
from vlmdet_cli.errors import UsageError
from vlmdet_cli.models import dialects

CAT, DOG = ("cat", (1, 2, 30, 40)), ("dog", (5, 6, 70, 80))

BOXES = [("cat", (n, n, n + 9, n + 9)) for n in range(0, 400, 4)]
_TOKEN = re.compile(r"<\|[a-z_]+\|>|.")


def rule(name: str = "qwen2_vl", times: int = 5) -> LoopRule:
    return LoopRule(dialects.get(name), times)


def kinds(parsed: ParsedDetections) -> set[str]:
    return {problem.kind for problem in parsed.problems}


@pytest.mark.parametrize("name", dialects.names())
@pytest.mark.parametrize("before", [[], [DOG]])
def test_the_same_box_is_cut_behind_its_fifth_time_and_parses_as_a_loop(name: str, before: list[object]) -> None:
    dialect = dialects.get(name)
    text = dialect.write([*before, *[CAT] * 40])  # type: ignore[list-item]
    cut = rule(name).cut(Completion(key="0", text=text, finish="length"))
    assert cut.finish == "loop"
    assert text.startswith(cut.text)
    parsed = dialect.parse(cut.text, None)
    assert len(parsed.detections) == len(before) + 1
    assert "loop" in kinds(parsed)
    assert kinds(parsed) <= {"loop", "truncated"}  # a list in JSON has no end
    whole = dialect.write([*before, *[CAT] * 5])  # type: ignore[list-item]
    assert cut.text in {whole, whole.removesuffix("]")}  # a list in JSON has no end
    assert rule(name).cut(cut) == cut


@pytest.mark.parametrize("name", dialects.names())
def test_an_answer_that_does_not_loop_is_left_as_it_is(name: str) -> None:
    dialect = dialects.get(name)
    for objects in ([CAT] * 4, [CAT] * 5, [DOG, *[CAT] * 4, DOG, CAT], BOXES, []):
        completion = Completion(key="0", text=dialect.write(objects))
        assert rule(name).cut(completion) is completion


def test_a_cycle_of_boxes_is_cut_behind_its_fifth_round() -> None:
    dialect = dialects.get("qwen2_vl")
    third = ("cow", (7, 7, 9, 9))
    cycle = [CAT, DOG, third]
    completion = rule().cut(Completion(key="0", text=dialect.write([third, *cycle * 30])))
    # the round begins with the first box of it that was seen: third, cat, dog
    assert completion.text == dialect.write([third, CAT, DOG] * 5)
    assert completion.finish == "loop"


def test_boxes_behind_one_label_loop_too() -> None:
    dialect = dialects.get("qwen2_vl")
    text = dialect.write([CAT] * 30, group=True)
    assert rule().cut(Completion(key="0", text=text)).text == dialect.write([CAT] * 5, group=True)


def test_zero_is_off_and_one_is_refused() -> None:
    completion = Completion(key="0", text=dialects.get("qwen2_vl").write([CAT] * 40))
    assert rule(times=0).cut(completion) is completion
    assert len(rule(times=2).cut(completion).text) * 20 == len(completion.text)
    with pytest.raises(UsageError, match=r"infer\.stop_loops = 1 would cut every answer"):
        rule(times=1)


def test_log_probabilities_end_with_the_text() -> None:
    text = dialects.get("qwen3_vl").write([CAT] * 20)
    tokens = [(text[n : n + 7], -0.5) for n in range(0, len(text), 7)]
    cut = rule("qwen3_vl").cut(Completion(key="0", text=text, tokens=tokens))
    assert "".join(part for part, _ in cut.tokens) == cut.text
    assert cut.tokens[:-1] == tokens[: len(cut.tokens) - 1]


@given(
    st.sampled_from(dialects.names()),
    st.lists(st.sampled_from([CAT, DOG, ("cat", (1, 2, 30, 41))]), max_size=30),
    st.data(),
)
def test_a_running_text_that_loops_is_cut_where_the_whole_text_is(
    name: str, objects: Sequence[tuple[str, tuple[int, int, int, int]]], data: st.DataObject
) -> None:
    text = dialects.get(name).write(objects)
    length = data.draw(st.integers(0, len(text)))
    loops = rule(name, 3)
    if loops.loops(text[:length]):
        assert loops.end(text[:length]) == loops.end(text)


class Reader:
    """Decodes ids to their text; ``read``: the lengths of what was decoded."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.read: list[int] = []
        self._texts = texts

    def __call__(self, ids: Sequence[int]) -> str:
        self.read.append(len(ids))
        return "".join(self._texts[number] for number in ids)


def test_the_watch_reads_only_rows_whose_last_tokens_have_come_before() -> None:
    dialect = dialects.get("qwen2_vl")
    pieces = [_TOKEN.findall(dialect.write(objects)) for objects in ([CAT] * 8, BOXES[:8])]
    vocabulary = sorted({*pieces[0], *pieces[1]})
    looping, plain = (np.array([vocabulary.index(piece) for piece in row]) for row in pieces)
    reader = Reader(vocabulary)
    watch = LoopWatch(rule(), reader)
    assert not watch.looping(0, plain)
    assert reader.read == []
    assert watch.looping(1, looping)
    assert reader.read == [len(looping)]


def test_a_row_that_repeats_what_is_no_box_is_read_in_linear_time() -> None:
    reader = Reader(["cat "])
    watch = LoopWatch(rule(), reader)
    for length in range(16, 20_000, 16):
        assert not watch.looping(0, np.zeros(length, np.int64))
    assert sum(reader.read) < 4 * 20_000


def test_the_cut_takes_linear_time() -> None:
    dialect = dialects.get("qwen2_vl")

    def seconds(count: int) -> float:
        text = dialect.write([("cat", (n % 900, n // 900, 950, 990)) for n in range(count)] + [CAT, CAT])
        started = time.process_time()
        LoopRule(dialect, 3).end(text)
        return time.process_time() - started

    fastest = {count: min(seconds(count) for _ in range(3)) for count in (1000, 16_000)}
    assert fastest[16_000] < 40 * max(fastest[1000], 0.002)
