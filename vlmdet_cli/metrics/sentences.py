"""Reading the sentences that answer questions: what a text says, in one of the known forms.

    full     fully contains a "person"
    partial  partially contains a "person", about 60% is visible
    none     does not contain any object
    class    The object in the area … is a "person"
    left     2 objects of the category "person" lie left of the area
    count    person: 2, a line a category; or that there is nothing

Areas are not read. Labels are compared without regard to case and spaces.
"""

import re
from typing import NamedTuple

_TOKEN = re.compile(r"<\|[a-z_]+\|>")
_FULL = re.compile(r'fully contains (?:a|an) "([^"]*)"', re.I)
_PARTIAL = re.compile(r'partially contains (?:a|an) "([^"]*)", about (\d{1,3})\s*%', re.I)
_NONE = re.compile(r"does not contain any object", re.I)
# a label may have quotes in it: its end is a quote that ends the sentence or the line
_CLASS = re.compile(r'object in the area\b[^"]*? is (?:a|an) "(.*?)"(?:[.,;]|\s*$)', re.I | re.M)
_LEFT = re.compile(r'(?<![\d.,-])(\d{1,6}) objects? of the category "(.*?)" lies? left of the area', re.I)
_COUNT = re.compile(r"\s*(\S.*?)\s*:\s*(\d{1,6})\s*")


class ParsedAnswer(NamedTuple):
    """A sentence's kind and content: a category, a percent or a number, or counts; ``unparsed`` is no known form."""

    kind: str
    label: str = ""
    percent: int = 0
    number: int = 0
    counts: tuple[tuple[str, int], ...] = ()


def read(text: str) -> ParsedAnswer:
    """What a text says; never raises."""
    text = _TOKEN.sub("", text).strip()
    if found := _PARTIAL.search(text):
        return ParsedAnswer("partial", name(found[1]), percent=int(found[2]))
    if found := _FULL.search(text):
        return ParsedAnswer("full", name(found[1]))
    if found := _CLASS.search(text):
        return ParsedAnswer("class", name(found[1]))
    if found := _LEFT.search(text):
        return ParsedAnswer("left", name(found[2]), number=int(found[1]))
    return ParsedAnswer("none") if _NONE.search(text) else _counts(text)


def _counts(text: str) -> ParsedAnswer:
    lines = [_COUNT.fullmatch(line) for line in text.splitlines()]
    if text.rstrip(".").casefold() in {"no objects", "[]"}:
        return ParsedAnswer("count")
    if lines and all(lines):
        return ParsedAnswer("count", counts=tuple((name(line[1]), int(line[2])) for line in lines if line))
    return ParsedAnswer("unparsed")


def name(text: str) -> str:
    """A label as it is compared."""
    return " ".join(text.split()).casefold()
