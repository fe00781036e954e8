"""Answers that repeat themselves: where such a text is cut, the same for every engine.

An answer loops where the same box with the same label comes N times in a row, or the same few of them in the same
order N times. It is cut behind the N-th, once more text follows. So the cut depends on the text alone: an engine that
stops such an answer early, whenever it looks, gives the text of an engine that never stops one.
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from vlmdet_cli.core.answers import Token
from vlmdet_cli.engines import Completion
from vlmdet_cli.errors import UsageError
from vlmdet_cli.models.dialects import Dialect

LONGEST_CYCLE = 8  # boxes that repeat in the same order; more of them hardly fit into an answer N times
_NO_MORE = " \n]"  # what may end an answer without saying more
_UNSETTLED = 8  # characters at the end of a running text that the next tokens may still change the meaning of


class LoopRule:
    """Finds where an answer in a dialect has said the same ``times`` times; 0 finds nothing."""

    def __init__(self, dialect: Dialect, times: int) -> None:
        if times == 1:
            raise UsageError("infer.stop_loops = 1 would cut every answer", hint="0 is off; the default is 5.")
        self.times = times
        self._dialect = dialect

    def end(self, text: str) -> int | None:
        """The length of the text up to the cut, None where it is not cut; in time linear in the text's length."""
        if not self.times or self._is_plain(text):
            return None
        boxes: list[Any] = []
        runs = [0] * (
            LONGEST_CYCLE + 1
        )  # how many of the last boxes equal the box a cycle before, by the cycle's length
        for item in self._dialect.scan(text):
            if item.box is None:
                continue
            boxes.append((item.label.strip(), item.box))
            for cycle in range(1, min(LONGEST_CYCLE, len(boxes) - 1) + 1):
                runs[cycle] = runs[cycle] + 1 if boxes[-1] == boxes[-1 - cycle] else 0
                if runs[cycle] >= cycle * (self.times - 1):
                    end = self._dialect.object_end(text, item)
                    return end if text[end:].strip(_NO_MORE) else None
        return None

    def loops(self, running_text: str) -> bool:
        """Whether an answer that is still being written will be cut, whatever follows."""
        return self.end(running_text[:-_UNSETTLED]) is not None

    def cut(self, completion: Completion) -> Completion:
        """The completion; where its text loops, cut, and with ``loop`` as its finish."""
        end = self.end(completion.text)
        if end is None:
            return completion
        tokens = _first_tokens(completion.tokens, end)
        return msgspec.structs.replace(completion, text=completion.text[:end], finish="loop", tokens=tokens)

    def _is_plain(self, text: str) -> bool:
        """Whether the text is well-formed and too few of its boxes are equal."""
        pairs = self._dialect.well_formed(text)
        return pairs is not None and len(set(pairs)) > len(pairs) - self.times + 1


class LoopWatch:
    """Tells which rows of a running batch loop. ``decode`` gives the text of token ids.

    Every ``EVERY`` tokens a row whose last tokens have come ``times`` times before is read by the rule; a row that was
    read in vain waits until it is half as long again, so that the time stays linear.
    """

    EVERY = 16
    KEY, TAIL = 8, 2048  # tokens: those that are searched for, and where

    def __init__(self, rule: LoopRule, decode: Callable[[Sequence[int]], str]) -> None:
        self._rule = rule
        self._decode = decode
        self._next_reading: dict[int, float] = {}

    def looping(self, row: int, ids: "np.ndarray[Any, np.dtype[np.int64]]") -> bool:
        """Whether the answer of a row loops; ``ids``: all its tokens so far, without a prompt."""
        if len(ids) < self._next_reading.get(row, 0):
            return False
        tail = ids[-self.TAIL :].tobytes()
        if tail.count(tail[-self.KEY * ids.itemsize :]) < self._rule.times:
            return False
        self._next_reading[row] = 1.5 * len(ids)
        return self._rule.loops(self._decode(ids.tolist()))


def _first_tokens(tokens: Sequence[Token], length: int) -> list[Token]:
    """The tokens of the first ``length`` characters; the last one may be a part of a token."""
    first: list[Token] = []
    for text, log_probability in tokens:
        if length <= 0:
            break
        first.append((text[:length], log_probability))
        length -= len(text)
    return first
