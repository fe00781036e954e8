"""viz: pictures with truth and predictions, a contact sheet, the training curve, and a page that shows them all.

    index.html           written last: where it lies, all it links to is there
    sheet.jpg            the first 24 panels
    curve.png            where there is a training log
    panels/001-NAME.jpg  a panel a picture, in the page's order

*Worst first* means most errors (false + missed) first, then fewest found, then the truth's order. A picture that
cannot be read becomes a grey panel with the reason and is counted. Panels of an earlier run in the folder go.
Where a picture has another size than the annotations say, its boxes are scaled and the caption says so.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from PIL import Image

from vlmdet_cli.core.files import whole_file
from vlmdet_cli.core.ledger import Ledger
from vlmdet_cli.core.locks import lock
from vlmdet_cli.data import image_files
from vlmdet_cli.data.dataset import escapes_folder
from vlmdet_cli.data.ground_truth import Truth
from vlmdet_cli.data.ground_truth import read as read_truth
from vlmdet_cli.drawing import gallery
from vlmdet_cli.drawing.curve import Row, has_loss, read_log, training_curve
from vlmdet_cli.drawing.gallery import Judged
from vlmdet_cli.drawing.lettering import Colour, palette
from vlmdet_cli.drawing.page import Figure, Page, render
from vlmdet_cli.drawing.panel import State, draw_panel, draw_unreadable
from vlmdet_cli.drawing.sheet import LINES, MOST, WORDS, Tile, contact_sheet, tile_size
from vlmdet_cli.errors import DataError, first_few
from vlmdet_cli.stages.predictions import read as read_predictions

INDEX, SHEET, CURVE, PANELS = "index.html", "sheet.jpg", "curve.png", "panels"
_OPTIONS: dict[str, dict[str, Any]] = {"JPEG": {"quality": 90, "subsampling": 0}, "PNG": {"optimize": True}}
_PANEL_NAME = re.compile(r"\d{3,}-[\w.-]*\.jpg", re.ASCII)


class VizResult(msgspec.Struct, frozen=True, kw_only=True):
    """Paths of what was written; ``counts``: boxes by state, over all pictures, drawn or not; ``notes``: what one
    should hear besides, in sentences.
    """

    index: str
    sheet: str
    curve: str | None
    panels: list[str]
    counts: dict[str, int]
    ledger: dict[str, dict[str, Any]]
    notes: list[str]


class Look(msgspec.Struct, frozen=True):
    """What all panels have in common."""

    images: Path
    panels: Path
    colours: dict[str, Colour]
    states: tuple[State, ...]


class Drawn(msgspec.Struct, frozen=True):
    """A written panel; ``tile`` for the sheet where it has room; ``problem``: why the picture cannot be read."""

    figure: Figure
    tile: Tile | None
    problem: str


def draw(  # noqa: PLR0913  (the command's options, by name)
    truth: Path,
    predictions: Path | None,
    images: Path,
    output: Path,
    *,
    limit: int = 24,
    order: Literal["worst", "first"] = "worst",
    iou: float = 0.5,
    curve: Path | None = None,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> VizResult:
    """Draw ``limit`` pictures (0: all) into the folder ``output``; without predictions, the truth alone.

    Raises ``DataError`` for files that cannot be read and for a picture's name that leaves the folder ``images``.
    """
    true = read_truth(truth)
    _check(true, images)
    log = read_log(curve) if curve else None
    found = read_predictions(predictions, true) if predictions else None
    judged = gallery.judge(true.pictures, found.found if found else None, found.answered if found else (), iou)
    worst = order == "worst" and predictions is not None
    chosen = (gallery.worst_first(judged) if worst else judged)[: limit or None]
    title = _title(len(chosen), len(judged), worst=worst, iou=iou if predictions else None)
    states = gallery.states_of(judged, compared=predictions is not None)
    look = Look(images, output / PANELS, palette(true.categories), states)
    with lock(output):
        (output / INDEX).unlink(missing_ok=True)
        drawn = list(_draw_panels(chosen, look, on_progress))
        _remove_others(look.panels, {Path(one.figure.file).name for one in drawn})
        _save(contact_sheet([one.tile for one in drawn if one.tile], title, states), output / SHEET, "JPEG")
        has_curve = _draw_curve(log, output / CURVE)
        _write_page(_page(title, judged, drawn, look, has_curve=has_curve), output / INDEX)
    counts = gallery.total(judged)
    return VizResult(
        index=str(output / INDEX),
        sheet=str(output / SHEET),
        curve=str(output / CURVE) if has_curve else None,
        panels=[str(output / one.figure.file) for one in drawn],
        counts={state: counts[state] for state in states},
        ledger=_account(drawn, len(judged)).as_dict(),
        notes=[
            *_unread(drawn),
            *([f"No curve, because no row has a loss: {curve}"] if curve and not has_curve else []),
        ],
    )


def _check(truth: Truth, images: Path) -> None:
    if not truth.pictures:
        raise DataError(f"No picture to draw: {truth.path}", hint="Name a file that has pictures.")
    if not images.is_dir():
        raise DataError(f"No such folder of pictures: {images}", hint="Name the folder that the file names start in.")
    bad = [f"{one.image!r}" for one in truth.pictures if escapes_folder(one.image)]
    if bad:
        raise DataError(
            f"{len(bad):,} pictures' names leave the folder {images}: {truth.path}",
            why=first_few(bad),
            hint="Names are relative to the folder, without `..`.",
        )


def _title(chosen: int, total: int, *, worst: bool, iou: float | None) -> str:
    parts = [f"{chosen:,} of {total:,} pictures{', most errors first' if worst else ''}"]
    parts += [f"found at IoU {iou:g} or more"] if iou is not None else []
    return " · ".join(parts)


def _draw_panels(chosen: Sequence[Judged], look: Look, on_progress: Callable[[int, int], None]) -> Iterator[Drawn]:
    for number, one in enumerate(chosen, 1):
        yield _draw_one(one, number, look)
        on_progress(number, len(chosen))


def _draw_one(one: Judged, number: int, look: Look) -> Drawn:
    picture = one.picture
    image, remark = open_picture(look.images / picture.image, (picture.width, picture.height))
    file = look.panels / panel_name(number, picture.image)
    _save(_panel(image, remark, one, look, None), file, "JPEG")
    note = " · ".join([gallery.caption(one, look.states), *([remark] if remark else [])])
    small = Tile(_panel(image, remark, one, look, tile_size()), picture.image, note) if number <= MOST else None
    return Drawn(Figure(f"{PANELS}/{file.name}", picture.image, note), small, "" if image else remark)


def _panel(
    image: Image.Image | None, remark: str, one: Judged, look: Look, within: tuple[int, int] | None
) -> Image.Image:
    frame = (one.picture.width, one.picture.height)
    if image is None:
        return draw_unreadable(frame if min(frame) > 0 else (4, 3), remark, within)
    return draw_panel(image, one.marks, look.colours, frame=frame if min(frame) > 0 else None, within=within)


def open_picture(path: Path, frame: tuple[int, int]) -> tuple[Image.Image | None, str]:
    """A picture in RGB, upright (see ``open_upright``), and a remark: why it cannot be read, or that its size is not the
    annotated (width, height) ``frame`` (0: not known).
    """
    try:
        image = image_files.open_upright(path, frame)
    except image_files.Unreadable as error:
        return None, str(error)
    wide, high = image.size
    if min(frame) > 0 and image.size != frame:
        return image, f"the picture is {wide} x {high}, its annotations say {frame[0]} x {frame[1]}"
    return image, ""


def panel_name(number: int, image: str) -> str:
    """A file name that is plain whatever the picture is called: its place and what is plain of its name."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(image).stem).strip("-")[:60]
    return f"{number:03d}-{stem or 'picture'}.jpg"


def _remove_others(folder: Path, names: set[str]) -> None:
    """Panels of an earlier run; other files are not ours."""
    for path in folder.glob("*.jpg"):
        if path.name not in names and _PANEL_NAME.fullmatch(path.name):
            path.unlink()


def _save(image: Image.Image, path: Path, kind: str) -> None:
    with whole_file(path) as temporary:
        image.save(temporary, kind, **_OPTIONS[kind])


def _draw_curve(log: Sequence[Row] | None, path: Path) -> bool:
    """Write the training curve, if the log has something to draw yet."""
    path.unlink(missing_ok=True)
    if log is None or not has_loss(log):
        return False
    _save(training_curve(log), path, "PNG")
    return True


def _page(title: str, judged: Sequence[Judged], drawn: Sequence[Drawn], look: Look, *, has_curve: bool) -> Page:
    return Page(
        title="Predictions and truth" if "found" in look.states else "Annotations",
        facts=[title, "; ".join(f"{LINES[state]}: {WORDS[state]}" for state in look.states)],
        figures=[one.figure for one in drawn],
        classes=gallery.classes(judged, look.colours, look.states),
        counted=[gallery.COUNTED.get(state, state) for state in look.states],
        sheet=SHEET,
        curve=CURVE if has_curve else None,
    )


def _write_page(page: Page, path: Path) -> None:
    with whole_file(path) as temporary:
        temporary.write_bytes(render(page).encode("utf-8", "xmlcharrefreplace"))


def _account(drawn: Sequence[Drawn], total: int) -> Ledger:
    ledger, bad = Ledger(), sum(bool(one.problem) for one in drawn)
    ledger.keep("pictures", len(drawn) - bad)
    ledger.drop("pictures", "cannot be read", bad)
    ledger.drop("pictures", "beyond the limit", total - len(drawn))
    return ledger


def _unread(drawn: Sequence[Drawn]) -> list[str]:
    bad = [f"{one.figure.name}: {one.problem}" for one in drawn if one.problem]
    return [f"Cannot be read: {line}" for line in first_few(bad)] if bad else []
