"""The account of a stage: in = kept + dropped, with a reason for each drop."""

from collections import Counter
from typing import Any


class Ledger:
    """The account of a stage: for each thing counted (pictures, boxes, rows), in = kept + dropped by reason."""

    def __init__(self) -> None:
        self._kept: Counter[str] = Counter()
        self._dropped: dict[str, Counter[str]] = {}

    def keep(self, thing: str, count: int = 1) -> None:
        self._kept[thing] += count

    def drop(self, thing: str, reason: str, count: int = 1) -> None:
        if count:
            self._dropped.setdefault(thing, Counter())[reason] += count

    def move(self, thing: str, reason: str, count: int) -> None:
        """What was counted as kept is dropped after all."""
        self._kept[thing] -= count
        self.drop(thing, reason, count)

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """``{thing: {"in": …, "kept": …, "dropped": {reason: …}}}``, reasons in order of their count."""
        things = dict.fromkeys([*self._kept, *self._dropped])
        return {thing: self._line(thing) for thing in things}

    def _line(self, thing: str) -> dict[str, Any]:
        dropped = dict(self._dropped.get(thing, Counter()).most_common())
        kept = self._kept[thing]
        return {"in": kept + sum(dropped.values()), "kept": kept, "dropped": dropped}
