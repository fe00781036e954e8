"""Detection rows that take more tokens than training allows, and how they are made to fit.

``format.too_long`` decides:

    split    several rows, each asking for some of the classes; a class that alone is too long keeps its largest boxes
    largest  the largest boxes that fit
    drop     no row
    stop     the caller raises an error with the number of rows

No row over the limit is written: ms-swift would drop it without a message, or refuse it in every epoch.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vlmdet_cli.core import boxes
from vlmdet_cli.data.dataset import Dataset
from vlmdet_cli.models.dialects import Dialect
from vlmdet_cli.prompts.detection import AnswerBoxes, RowPlan, class_prompt
from vlmdet_cli.prompts.lengths import TokenCounter
from vlmdet_cli.prompts.settings import Format

Tokens = npt.NDArray[np.int64]
BATCH = 256  # rows that are counted at a time, the longest first


class LengthLimit(NamedTuple):
    """At most ``limit`` tokens a row, as ``counter`` counts them. Without ``count_all`` only those rows are counted
    that may be over the limit or the longest; the others get an upper bound.
    """

    counter: TokenCounter
    limit: int
    count_all: bool = True


class FittedRows(NamedTuple):
    """The R rows that fit: their plans, their answers, and ``tokens`` (R,), an upper bound for rows that are not
    counted, which is at most the number of the longest row. ``over_limit`` rows did not fit before; ``dropped`` of
    them have no row now.
    """

    plans: list[RowPlan]
    answers: list[str]
    tokens: Tokens
    over_limit: int
    dropped: int


class RowBuilder(NamedTuple):
    """Writes the answers of planned rows for one data set in one dialect."""

    data: Dataset
    boxes: AnswerBoxes
    dialect: Dialect
    settings: Format
    seed: int

    def answer(self, plan: RowPlan) -> str:
        """The row's answer as text."""
        if self.boxes.texts is None or self.settings.group:
            return self.dialect.write(self.boxes.labelled_boxes(plan), group=self.settings.group)
        indices, texts = self.boxes.indices(plan), self.boxes.texts
        if isinstance(indices, range):  # a slice is faster than a list of indices, and most rows have all boxes
            return "".join(texts[indices.start : indices.stop]) or self.dialect.empty
        return "".join([texts[index] for index in indices]) or self.dialect.empty

    def token_counts(self, plans: Sequence[RowPlan], answers: Sequence[str], limit: LengthLimit) -> Tokens:
        """``(R,)`` tokens of rows, prompt and picture included; see ``LengthLimit`` for rows that are not counted."""
        sizes = self.data.sizes[[plan.picture for plan in plans]]
        prompts = [f"<image>{plan.prompt}" for plan in plans]
        if limit.count_all or not plans:
            return limit.counter.rows(prompts, answers, sizes)
        bound = limit.counter.max_rows(prompts, answers, sizes)
        tokens, longest = bound.copy(), 0
        order = np.argsort(-bound, kind="stable")
        for start in range(0, len(order), BATCH):
            if bound[order[start]] <= min(longest, limit.limit):
                break
            batch = order[start : start + BATCH]
            texts = [prompts[n] for n in batch.tolist()], [answers[n] for n in batch.tolist()]
            tokens[batch] = limit.counter.rows(*texts, sizes[batch])
            longest = max(longest, int(tokens[batch].max()))
        counts: Tokens = np.minimum(tokens, longest)
        return counts


def fit(builder: RowBuilder, plans: Sequence[RowPlan], limit: LengthLimit, *, shorten: bool) -> FittedRows:
    """Count the tokens of all rows; with ``shorten``, rows over the limit are treated as ``format.too_long`` says.

    With ``stop`` the rows are returned as they are, with their number in ``over_limit`` and ``dropped``: the caller
    raises the error.
    """
    answers = [builder.answer(plan) for plan in plans]
    tokens = builder.token_counts(plans, answers, limit)
    over = np.flatnonzero(tokens > limit.limit).tolist()
    if not shorten or not over:
        return FittedRows(list(plans), answers, tokens, 0, 0)
    if builder.settings.too_long == "stop":
        return FittedRows(list(plans), answers, tokens, len(over), len(over))
    replacements = {index: list(_shortened(builder, plans[index], limit)) for index in over}
    kept = [new for index, plan in enumerate(plans) for new in replacements.get(index, [plan])]
    answers = [builder.answer(plan) for plan in kept]
    dropped = sum(not rows for rows in replacements.values())
    return FittedRows(kept, answers, builder.token_counts(kept, answers, limit), len(over), dropped)


def _shortened(builder: RowBuilder, plan: RowPlan, limit: LengthLimit) -> Iterator[RowPlan]:
    """The rows that replace one over the limit."""
    if builder.settings.too_long == "largest":
        yield from _largest(builder, plan, limit)
    elif builder.settings.too_long == "split":
        for part in _split(builder, plan, limit):
            yield from [part] if _fits(builder, part, limit) else _largest(builder, part, limit)


def _fits(builder: RowBuilder, plan: RowPlan, limit: LengthLimit) -> bool:
    return int(builder.token_counts([plan], [builder.answer(plan)], limit)[0]) <= limit.limit


def _split(builder: RowBuilder, plan: RowPlan, limit: LengthLimit) -> Iterator[RowPlan]:
    """Rows of some classes each, in the categories' order; each takes as many classes as fit.

    The first row also asks for the row's classes that have no boxes.
    """
    start, image_id = builder.boxes.starts[plan.picture], builder.data.images[plan.picture].id
    labels = {target: builder.boxes.labels[start + target] for target in plan.targets}
    names = [name for name in plan.asked or builder.data.categories if name in set(labels.values())]
    without_boxes = tuple(name for name in plan.asked or () if name not in names)

    def row(classes: Sequence[str], number: int) -> RowPlan:
        asked = (*classes, *(without_boxes if number == 0 else ()))
        targets = [target for target, label in labels.items() if label in classes]
        return RowPlan(
            plan.picture, class_prompt(builder.settings, asked, builder.seed, image_id, number), asked, targets
        )

    yield from _packed(names, row, lambda candidate: _fits(builder, candidate, limit))


def _packed(
    names: Sequence[str], row: Callable[[Sequence[str], int], RowPlan], fits: Callable[[RowPlan], bool]
) -> Iterator[RowPlan]:
    """Rows of consecutive names, each as long as it fits."""
    group, number = list[str](), 0
    for name in names:
        if group and not fits(row([*group, name], number)):
            yield row(group, number)
            group, number = [], number + 1
        group.append(name)
    if group:
        yield row(group, number)


def _largest(builder: RowBuilder, plan: RowPlan, limit: LengthLimit) -> Iterator[RowPlan]:
    """The row with as many of its largest boxes as fit, found by bisection; nothing where not even one fits."""
    start = builder.boxes.starts[plan.picture]
    areas = boxes.area(builder.boxes.pixel_boxes[[start + target for target in plan.targets]])
    order = np.argsort(-areas, kind="stable").tolist()

    def with_largest(count: int) -> RowPlan:
        return plan._replace(targets=[plan.targets[n] for n in sorted(order[:count])])

    low, high = 0, len(order)  # ``low`` boxes fit, more than ``high`` do not
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _fits(builder, with_largest(middle), limit) else (low, middle - 1)
    if low:
        yield with_largest(low)
