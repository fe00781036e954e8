"""How well the augmentation questions are answered: the known sentences are read, the rest is said so.

    count    right if every category has its number; absolute error, bias and exact share by category beside it
    full     right if the area is said to contain fully, with the right category
    partial  right if it is said to contain partly, with the right category and a percent within ten
    none     right if it is said to contain nothing

``said`` counts what kind of sentence was given; ``unparsed`` is a text of none of the four forms. ``confusion``
tells, by true category, what was said in its place: a category, or the kind of another sentence in brackets.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

from vlmdet_cli.metrics.counting import errors
from vlmdet_cli.records import Answer

_TOKEN = re.compile(r"<\|[a-z_]+\|>")
_FULL = re.compile(r'fully contains (?:a|an) "([^"]*)"', re.I)
_PARTIAL = re.compile(r'partially contains (?:a|an) "([^"]*)", about (\d{1,3})\s*%', re.I)
_NONE = re.compile(r"does not contain any object", re.I)
_COUNT = re.compile(r"\s*(\S.*?)\s*:\s*(\d{1,6})\s*")


class Said(NamedTuple):
    """A sentence's kind and content: a category and a percent, or counts."""

    kind: str
    label: str = ""
    percent: int = 0
    counts: tuple[tuple[str, int], ...] = ()


def read(text: str) -> Said:
    """What a text says, in the form of one of the four kinds; never raises."""
    text = _TOKEN.sub("", text).strip()
    if found := _PARTIAL.search(text):
        return Said("partial", _name(found[1]), int(found[2]))
    if found := _FULL.search(text):
        return Said("full", _name(found[1]))
    if _NONE.search(text):
        return Said("none")
    lines = [_COUNT.fullmatch(line) for line in text.splitlines()]
    if text.rstrip(".").casefold() in {"no objects", "[]"}:
        return Said("count")
    if lines and all(lines):
        return Said("count", counts=tuple((_name(line[1]), int(line[2])) for line in lines if line))
    return Said("unparsed")


def _name(text: str) -> str:
    return " ".join(text.split()).casefold()


def tasks(answers: Iterable[Answer]) -> dict[str, dict[str, Any]]:
    """Accuracy by kind, of the answers whose truth is known."""
    pairs: dict[str, list[tuple[Said, Said]]] = defaultdict(list)
    for one in answers:
        if one.kind != "detection" and one.expected is not None:
            pairs[one.kind].append((read(one.expected), read(one.text)))
    return {kind: _task(kind, given) for kind, given in pairs.items()}


def _task(kind: str, pairs: list[tuple[Said, Said]]) -> dict[str, Any]:
    right = sum(_right(truth, said) for truth, said in pairs)
    out: dict[str, Any] = {
        "n": len(pairs),
        "accuracy": right / len(pairs),
        "said": dict(Counter(said.kind for _, said in pairs).most_common()),
    }
    if kind in {"full", "partial"}:
        same = [(truth, said) for truth, said in pairs if said.kind == kind and truth.label == said.label]
        out["category_accuracy"] = len(same) / len(pairs)
        out["confusion"] = _confusion(pairs)
    if kind == "partial":
        close = [abs(truth.percent - said.percent) <= 10 for truth, said in pairs if said.kind == kind]
        out["percent_within_ten"] = sum(close) / len(pairs)
    return out | (_count_errors(pairs) if kind == "count" else {})


def _confusion(pairs: list[tuple[Said, Said]]) -> dict[str, dict[str, int]]:
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for truth, said in pairs:
        table[truth.label][said.label if said.kind == truth.kind else f"({said.kind})"] += 1
    return {label: dict(counts.most_common()) for label, counts in sorted(table.items())}


def _right(truth: Said, said: Said) -> bool:
    if truth.kind != said.kind:
        return False
    if truth.kind == "count":
        return {(name, number) for name, number in truth.counts if number} == {(n, c) for n, c in said.counts if c}
    return truth.label == said.label and abs(truth.percent - said.percent) <= 10


def _count_errors(pairs: list[tuple[Said, Said]]) -> dict[str, Any]:
    """Errors over the categories that either side names: said minus true."""
    by_class: dict[str, list[int]] = defaultdict(list)
    for truth, said in pairs:
        true, told = dict(truth.counts), dict(said.counts)
        for name in {**true, **told}:
            by_class[name].append(told.get(name, 0) - true.get(name, 0))
    made = errors(by_class)
    return {name: made[name] for name in ("mean_absolute_error", "bias", "exact", "per_class")}
