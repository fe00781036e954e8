"""Reading the sentences that answer questions: what a text says, in one of the known forms.

    full     fully contains a "person"
    partial  partially contains a "person", about 60% is visible
    none     does not contain any object
    class    The object in the area … is a "person"
    left     2 objects of the category "person" lie left of the area
    count    person: 2, a line a category; or that there is nothing

Areas are not read. Labels are compared without regard to case and spaces. A label may have quotes in it: it ends at a
quote behind which the sentence goes on. Of several such quotes it is the last one that gives a known label, or else
the first.
"""

import re
from collections.abc import Collection
from typing import NamedTuple

_TOKEN = re.compile(r"<\|[a-z_]+\|>")
_NONE = re.compile(r"does not contain any object", re.IGNORECASE)
_COUNT = re.compile(r"\s*(\S.*?)\s*:\s*(\d{1,6})\s*")
_END = r"\s*(?:[.,;]|$)"


class ParsedAnswer(NamedTuple):
    """A sentence's kind and content: a category, a percent or a number, or counts; ``unparsed`` is no known form."""

    kind: str
    label: str = ""
    percent: int = 0
    number: int = 0
    counts: tuple[tuple[str, int], ...] = ()


class _Form(NamedTuple):
    """A sentence with a label in quotes: its text up to the first quote, and from the last."""

    before: "re.Pattern[str]"
    behind: "re.Pattern[str]"


def _form(before: str, behind: str) -> _Form:
    return _Form(re.compile(f'{before} "', re.IGNORECASE), re.compile(f'"{behind}', re.IGNORECASE))


_FORMS = {
    "partial": _form(r"partially contains an?", r", about (?P<percent>\d{1,3})\s*%"),
    "full": _form(r"fully contains an?", _END),
    "class": _form(r'object in the area\b[^"\n]*? is an?', _END),
    "left": _form(r"(?<![\d.,-])(?P<number>\d{1,6}) objects? of the category", r" lies? left of the area"),
}


def read_expected(text: str, kind: str) -> ParsedAnswer:
    """What the true answer to a question of ``kind`` says: one sentence; its label ends at the last quote that fits."""
    text = _TOKEN.sub("", text).strip()
    if kind == "count":
        return _counts(text)
    if kind not in _FORMS:
        return _without_label(text)
    before = _FORMS[kind].before.search(text)
    answers = _labelled(kind, before, text) if before else []
    return answers[-1] if answers else ParsedAnswer("unparsed")


def read(text: str, labels: Collection[str] = (), kind: str = "") -> ParsedAnswer:
    """What a text says; never raises.

    ``labels`` are the known ones, as ``name`` gives them. ``kind`` is that of the question: a text that reads as
    counts is no other sentence where counts are asked for.
    """
    text = _TOKEN.sub("", text).strip()
    if kind == "count" and (counts := _counts(text)).kind == "count":
        return counts
    starts = [(match.start(), form, match) for form in _FORMS if (match := _FORMS[form].before.search(text))]
    for _, form, before in sorted(starts, key=lambda entry: entry[0]):  # a label may have another sentence in it
        if answers := _labelled(form, before, text):
            known = [answer for answer in answers if answer.label in labels]
            return known[-1] if known else answers[0]
    return _without_label(text)


def _labelled(kind: str, before: "re.Match[str]", text: str) -> list[ParsedAnswer]:
    """The readings of a sentence whose label begins behind ``before``: one for each quote that can end the label."""
    end = text.find("\n", before.end())
    line = text if end < 0 else text[:end]
    answers = list[ParsedAnswer]()
    for behind in _FORMS[kind].behind.finditer(line, before.end()):
        numbers = {**before.groupdict(), **behind.groupdict()}
        percent, number = int(numbers.get("percent", 0)), int(numbers.get("number", 0))
        answers.append(ParsedAnswer(kind, name(line[before.end() : behind.start()]), percent, number))
    return answers


def _without_label(text: str) -> ParsedAnswer:
    return ParsedAnswer("none") if _NONE.search(text) else _counts(text)


def _counts(text: str) -> ParsedAnswer:
    if text.rstrip(".").casefold() in {"no objects", "[]"}:
        return ParsedAnswer("count")
    lines = [_COUNT.fullmatch(line) for line in text.split("\n")]
    if all(lines):
        return ParsedAnswer("count", counts=tuple((name(line[1]), int(line[2])) for line in lines if line))
    return ParsedAnswer("unparsed")


def name(text: str) -> str:
    """A label as it is compared."""
    return " ".join(text.split()).casefold()
