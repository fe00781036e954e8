"""Rows that are too long for training: found by their tokens, and made to fit.

    split    several rows, each asking for some of the classes; a class that is too long alone keeps its largest boxes
    largest  the largest boxes that fit
    drop     no row
    stop     an error that counts them all

swift would drop such rows without a word, or refuse them at each turn: so none is written.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vlmdet_cli.data.dataset import Dataset
from vlmdet_cli.models.dialects import Dialect
from vlmdet_cli.prompts.detection import Plan, Targets, worded
from vlmdet_cli.prompts.lengths import TokenCounter
from vlmdet_cli.prompts.settings import Format

Tokens = npt.NDArray[np.int64]
BATCH = 256  # rows counted at a time, the longest first


class LengthLimit(NamedTuple):
    """What a row may measure: ``limit`` tokens, counted by ``counter``. Without ``all`` only those rows are counted
    that may be over it, or the longest.
    """

    counter: TokenCounter
    limit: int
    all: bool = True


class FittedRows(NamedTuple):
    """The rows that fit with their tokens, of those not counted an upper bound that the longest row reaches, too.
    ``long``: rows that did not fit; ``dropped``: those of them without a row.
    """

    plans: list[Plan]
    answers: list[str]
    tokens: Tokens
    long: int
    dropped: int


class RowBuilder(NamedTuple):
    """Makes rows of plans for one data set in one dialect."""

    data: Dataset
    found: Targets
    dialect: Dialect
    how: Format
    seed: int

    def answer(self, plan: Plan) -> str:
        if self.found.texts is None or self.how.group:
            return self.dialect.write(self.found.of(plan), group=self.how.group)
        places, texts = self.found.places(plan), self.found.texts
        if isinstance(places, range):
            return "".join(texts[places.start : places.stop]) or self.dialect.empty
        return "".join([texts[one] for one in places]) or self.dialect.empty

    def measure(self, plans: Sequence[Plan], answers: Sequence[str], guard: LengthLimit) -> Tokens:
        """``(R,)`` tokens of rows."""
        sizes = self.data.sizes[[plan.place for plan in plans]]
        questions = [f"<image>{plan.prompt}" for plan in plans]
        if guard.all or not plans:
            return guard.counter.rows(questions, answers, sizes)
        bound = guard.counter.max_rows(questions, answers, sizes)
        tokens, longest = bound.copy(), 0
        order = np.argsort(-bound, kind="stable")
        for start in range(0, len(order), BATCH):
            if bound[order[start]] <= min(longest, guard.limit):
                break
            some = order[start : start + BATCH]
            texts = [questions[n] for n in some.tolist()], [answers[n] for n in some.tolist()]
            tokens[some] = guard.counter.rows(*texts, sizes[some])
            longest = max(longest, int(tokens[some].max()))
        counted: Tokens = np.minimum(tokens, longest)
        return counted


def fit(maker: RowBuilder, plans: Sequence[Plan], guard: LengthLimit, *, mend: bool) -> FittedRows:
    """Measure all rows; with ``mend`` those over the limit are treated as ``format.too_long`` says.

    With ``stop`` they are counted, not mended: the caller stops.
    """
    answers = [maker.answer(plan) for plan in plans]
    tokens = maker.measure(plans, answers, guard)
    over = np.flatnonzero(tokens > guard.limit)
    if not mend or not len(over):
        return FittedRows(list(plans), answers, tokens, 0, 0)
    made, dropped = dict[int, list[Plan]](), 0
    for place in over.tolist():
        made[place] = list(_mended(maker, plans[place], guard))
        dropped += not made[place]
    if maker.how.too_long == "stop":
        return FittedRows(list(plans), answers, tokens, len(over), len(over))
    whole = [one for place, plan in enumerate(plans) for one in made.get(place, [plan])]
    again = [maker.answer(plan) for plan in whole]
    return FittedRows(whole, again, maker.measure(whole, again, guard), len(over), dropped)


def _mended(maker: RowBuilder, plan: Plan, guard: LengthLimit) -> Iterator[Plan]:
    if maker.how.too_long == "largest":
        yield from _largest(maker, plan, guard)
    elif maker.how.too_long == "split":
        for part in _split(maker, plan, guard):
            yield from [part] if _fits(maker, part, guard) else _largest(maker, part, guard)


def _fits(maker: RowBuilder, plan: Plan, guard: LengthLimit) -> bool:
    return int(maker.measure([plan], [maker.answer(plan)], guard)[0]) <= guard.limit


def _split(maker: RowBuilder, plan: Plan, guard: LengthLimit) -> Iterator[Plan]:
    """Rows of some classes each, in the categories' order, every one as full as it may be.

    Classes that the row asked for and that have no boxes go with the first.
    """
    start, image_id = maker.found.starts[plan.place], maker.data.images[plan.place].id
    labels = {one: maker.found.labels[start + one] for one in plan.chosen}
    names = [name for name in plan.asked or maker.data.categories if name in set(labels.values())]
    empty = tuple(name for name in plan.asked or () if name not in names)

    def row(classes: Sequence[str], number: int) -> Plan:
        asked = (*classes, *(empty if number == 0 else ()))
        chosen = [one for one, label in labels.items() if label in classes]
        return Plan(plan.place, worded(maker.how, asked, maker.seed, image_id, number), asked, chosen)

    yield from _packed(names, row, lambda one: _fits(maker, one, guard))


def _packed(
    names: Sequence[str], row: Callable[[Sequence[str], int], Plan], fits: Callable[[Plan], bool]
) -> Iterator[Plan]:
    group, number = list[str](), 0
    for name in names:
        if group and not fits(row([*group, name], number)):
            yield row(group, number)
            group, number = [], number + 1
        group.append(name)
    if group:
        yield row(group, number)


def _largest(maker: RowBuilder, plan: Plan, guard: LengthLimit) -> Iterator[Plan]:
    """The row with as many of its largest boxes as fit; none where not even one does."""
    start = maker.found.starts[plan.place]
    boxes = maker.found.pixels[[start + one for one in plan.chosen]]
    order = np.argsort(-(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), kind="stable").tolist()
    low, high = 0, len(order)  # of boxes that fit, and the first count that may not
    while low < high:
        middle = (low + high + 1) // 2
        kept = sorted(order[:middle])
        fits = _fits(maker, plan._replace(chosen=[plan.chosen[one] for one in kept]), guard)
        low, high = (middle, high) if fits else (low, middle - 1)
    if low:
        yield plan._replace(chosen=[plan.chosen[one] for one in sorted(order[:low])])
