"""The account of a stage: in = kept + dropped, with a reason for each drop."""

from collections import Counter
from typing import Any


class Ledger:
    """What a stage kept and dropped of each kind that it counts ("pictures", "boxes", "rows", …)."""

    def __init__(self) -> None:
        self._kept: Counter[str] = Counter()
        self._dropped: dict[str, Counter[str]] = {}

    def keep(self, kind: str, count: int = 1) -> None:
        self._kept[kind] += count

    def drop(self, kind: str, reason: str, count: int = 1) -> None:
        if count:
            self._dropped.setdefault(kind, Counter())[reason] += count

    def move(self, kind: str, reason: str, count: int) -> None:
        """Drop what was counted as kept before."""
        self._kept[kind] -= count
        self.drop(kind, reason, count)

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """``{kind: {"in": …, "kept": …, "dropped": {reason: …}}}``, the most frequent reason first."""
        return {kind: self._line(kind) for kind in dict.fromkeys([*self._kept, *self._dropped])}

    def _line(self, kind: str) -> dict[str, Any]:
        dropped = dict(self._dropped.get(kind, Counter()).most_common())
        kept = self._kept[kind]
        return {"in": kept + sum(dropped.values()), "kept": kept, "dropped": dropped}
