"""One self-contained HTML page of drawn pictures: no script, no network, relative links. Text in, text out.

Every name comes from a file or a model and is escaped. The page shows names in full, also where the font of a drawing
lacks their letters. The module knows nothing of matching: it takes counts and captions.
"""

from collections.abc import Sequence
from html import escape
from urllib.parse import quote

import msgspec

from vlmdet_cli.drawing.lettering import Colour


class Figure(msgspec.Struct, frozen=True):
    """A drawn picture: its file relative to the page, its name and its caption."""

    file: str
    name: str
    note: str


class ClassRow(msgspec.Struct, frozen=True):
    """A row of the class table: the category, its colour, and a count for each column."""

    name: str
    colour: Colour
    counts: tuple[int, ...]


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """The content of the page. ``count_names`` heads the count columns of the class table."""

    title: str
    facts: Sequence[str]
    figures: Sequence[Figure]
    classes: Sequence[ClassRow]
    count_names: Sequence[str]
    sheet: str
    curve: str | None


_STYLE = """
:root { color-scheme: light dark; --soft: #777; --line: #8884 }
body { font: 16px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1280px; padding: 0 1.2rem }
h1 { font-size: 1.6rem; margin: 0 } h2 { font-size: 1.15rem; margin: 2.2rem 0 .7rem } p { margin: .2rem 0 }
.soft, figcaption span { color: var(--soft) } img { max-width: 100%; height: auto; display: block }
table { border-collapse: collapse } td, th { padding: .15rem .9rem .15rem 0; text-align: right; font-weight: 400 }
td:first-child, th:first-child { text-align: left; overflow-wrap: anywhere } th { color: var(--soft) }
tr + tr { border-top: 1px solid var(--line) }
i { display: inline-block; width: .8em; height: .8em; margin-right: .5em; border: 1px solid var(--soft) }
.grid { display: grid; gap: 1.4rem; grid-template-columns: repeat(auto-fill, minmax(380px, 1fr)) }
figure { margin: 0; overflow-wrap: anywhere } figcaption { margin-top: .3rem } figcaption span { display: block }
"""


def render(page: Page) -> str:
    """The whole HTML document."""
    title = escape(page.title)
    parts = [
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n<h1>{title}</h1>",
        *(f'<p class="soft">{escape(fact)}</p>' for fact in page.facts),
        "<h2>Pictures</h2>",
        f'<p><a href="{quote(page.sheet)}">All on one sheet</a></p>' if page.figures else "",
        '<div class="grid">',
        *map(_figure, page.figures),
        "</div>",
        *_table(page),
        *([f'<h2>Training</h2>\n<img src="{quote(page.curve)}" alt="Training curve">'] if page.curve else []),
    ]
    return "\n".join(parts) + "\n</html>\n"


def _figure(figure: Figure) -> str:
    link, name = quote(figure.file), escape(figure.name)
    image = f'<a href="{link}"><img src="{link}" alt="{name}" loading="lazy"></a>'
    return f"<figure>{image}<figcaption><bdi>{name}</bdi><span>{escape(figure.note)}</span></figcaption></figure>"


def _table(page: Page) -> list[str]:
    head = "".join(f"<th>{escape(word)}</th>" for word in ("class", *page.count_names))
    return ["<h2>Classes</h2>", f"<table>\n<tr>{head}</tr>", *map(_row, page.classes), "</table>"]


def _row(row: ClassRow) -> str:
    swatch = '<i style="background: rgb({}, {}, {})"></i>'.format(*row.colour)
    cells = "".join(f"<td>{count:,}</td>" for count in row.counts)
    return f"<tr><td>{swatch}<bdi>{escape(row.name)}</bdi></td>{cells}</tr>"
