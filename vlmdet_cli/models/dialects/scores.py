"""The score of a box from the log-probabilities of its answer's tokens, by one of several rules.

L is the sum over the tokens that write the label; C1 … C4 are the sums over those that write each coordinate, with the
character that ends it: after ``(12`` the comma says that the number is not 123. Brackets, quotes and special tokens do
not count.

    product                 exp(L + C1 + C2 + C3 + C4)         the probability of label and box, as written
    geometric_mean          exp((L + C1 + C2 + C3 + C4) / n)   n: the number of all of these tokens
    label                   exp(L)
    min_coordinate          exp(min C)                         the least certain side
    label_times_mean        exp(L + (C1 + C2 + C3 + C4) / 4)   the label, and the geometric mean of the coordinates
    label_times_token_mean  exp(L + (C1 + C2 + C3 + C4) / m)   m: the number of the coordinates' tokens
    label_times_min         exp(L + min C)                     the label, and the least certain side

A token that writes parts of several things counts in each of them; in a sum over all of them it counts once. Boxes
behind one label share its L.
"""

import bisect
import functools
import itertools
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from vlmdet_cli.core.answers import Token
from vlmdet_cli.core.settings import ScoreRule

Span = tuple[int, int]  # (start, end) in characters of a text
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_AROUND_LABEL = ' \t\r\n,;:."'


class BoxSums(NamedTuple):
    """Sums of log-probabilities: ``label`` and each of ``coordinates`` alone; over all ``coordinate_tokens``, and over
    these and the label's, each token once, with the numbers of tokens.
    """

    label: float
    coordinates: Sequence[float]
    coordinate_tokens: float
    num_coordinate_tokens: int
    all_tokens: float
    num_tokens: int


_RULES: dict[ScoreRule, Callable[[BoxSums], float]] = {
    "product": lambda sums: sums.all_tokens,
    "geometric_mean": lambda sums: sums.all_tokens / sums.num_tokens,
    "label": lambda sums: sums.label,
    "min_coordinate": lambda sums: min(sums.coordinates),
    "label_times_mean": lambda sums: sums.label + sums.coordinate_tokens / len(sums.coordinates),
    "label_times_token_mean": lambda sums: sums.label + sums.coordinate_tokens / sums.num_coordinate_tokens,
    "label_times_min": lambda sums: sums.label + min(sums.coordinates),
}


def box_scores(
    text: str, tokens: Sequence[Token], spans: Sequence[tuple[Span, Span]], rule: ScoreRule
) -> list[float | None]:
    """A score between 0 and 1 for each (label, box) span of a text.

    A box's span holds its numbers and no others. None for a box that the tokens do not reach.
    """
    answer = _ScoredText(text, tokens)
    score = _RULES[rule]
    return [
        None if sums is None else math.exp(min(score(sums), 0.0)) for sums in (answer.sums(*span) for span in spans)
    ]


class _ScoredText:
    """A text and the tokens that it, or its beginning, is made of."""

    def __init__(self, text: str, tokens: Sequence[Token]) -> None:
        self._text = text
        self._ends = list(itertools.accumulate(len(piece) for piece, _ in tokens))
        self._sums = [0.0, *itertools.accumulate(log_probability for _, log_probability in tokens)]
        self._label_range = functools.cache(self._label_tokens)  # thousands of boxes may share a long label

    def sums(self, label: Span, box: Span) -> BoxSums | None:
        if not self._ends or self._ends[-1] < max(label[1], box[1]):
            return None
        numbers = [match.span() for match in NUMBER.finditer(self._text, *box)] or [box]
        coordinates = [self._tokens(start, min(end + 1, len(self._text))) for start, end in numbers]
        label_tokens = self._label_range(label)
        return BoxSums(
            self._total([label_tokens])[0],
            [self._total([tokens])[0] for tokens in coordinates],
            *self._total(coordinates),
            *self._total([label_tokens, *coordinates]),
        )

    def _label_tokens(self, span: Span) -> Span:
        """Of a label without what stands around it; of the whole span where nothing else is in it."""
        label = self._text[slice(*span)]
        start = span[0] + len(label) - len(label.lstrip(_AROUND_LABEL))
        stripped = label.strip(_AROUND_LABEL)
        return self._tokens(start, start + len(stripped)) if stripped else self._tokens(*span)

    def _tokens(self, start: int, end: int) -> Span:
        """The tokens that have a part of a span, as (first, end).

        A token without text belongs to the next: it holds the first bytes of its character.
        """
        first = bisect.bisect_left(self._ends, start)
        if start and self._ends[first] == start:
            first += 1
        return (first, min(bisect.bisect_left(self._ends, end) + 1, len(self._ends)))

    def _total(self, ranges: Iterable[Span]) -> tuple[float, int]:
        """The sum over ranges of tokens, each token once, and the number of tokens."""
        total, count, done = 0.0, 0, 0
        for first, end in sorted(ranges):
            start = max(first, done)
            if start < end:
                total, count, done = total + self._sums[end] - self._sums[start], count + end - start, end
        return total, count
