"""viz: draws pictures with truth and predictions, a contact sheet, the training curve, and a page that shows them all.

    index.html           the report page, written last, so that all files it links to exist
    thumbs/ pictures/    the pictures of the page, see ``page_pictures``
    sheet.jpg            the first 24 panels
    curve.png            where there is a training log
    panels/001-NAME.jpg  a panel a picture, the worst first

*Worst first* means most errors (false + missed) first, then fewest found, then the truth's order. An unreadable picture
becomes a grey panel with the reason, and is counted. The panels of an earlier run in the same folder are removed.
Where a picture's size differs from its annotations, its boxes are scaled and the caption says so.
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
from vlmdet_cli.drawing.gallery import MarkedPicture
from vlmdet_cli.drawing.lettering import Colour, palette
from vlmdet_cli.drawing.outline import State
from vlmdet_cli.drawing.panel import draw_panel, draw_unreadable
from vlmdet_cli.drawing.sheet import MAX_TILES, Tile, contact_sheet, tile_size
from vlmdet_cli.errors import DataError, first_few
from vlmdet_cli.metrics.matching import match, overlapping
from vlmdet_cli.stages.evaluation.compare import require_same_protocol
from vlmdet_cli.stages.evaluation.eval_boxes import eval_boxes
from vlmdet_cli.stages.evaluation.evaluate import EvalProtocol, read_predictions, report_on
from vlmdet_cli.stages.evaluation.page_data import Compared, Evaluated
from vlmdet_cli.stages.evaluation.page_pictures import remove_others
from vlmdet_cli.stages.evaluation.viz_page import INDEX, PageSettings, most, require_own_folder, write_page

SHEET, CURVE, PANELS = "sheet.jpg", "curve.png", "panels"
_OPTIONS: dict[str, dict[str, Any]] = {"JPEG": {"quality": 90, "subsampling": 0}, "PNG": {"optimize": True}}
_PANEL_NAME = re.compile(r"\d{3,}-[\w.-]*\.jpg", re.ASCII)


class VizResult(msgspec.Struct, frozen=True, kw_only=True):
    """Paths of the written files; the number of pictures of the page; boxes by state, over all pictures, drawn or not;
    sentences for the user.
    """

    index: str
    sheet: str
    curve: str | None
    panels: list[str]
    pictures: int
    counts: dict[str, int]
    ledger: dict[str, dict[str, Any]]
    notes: list[str]


class OtherAnswers(msgspec.Struct, frozen=True):
    """The earlier model's answers to the same pictures, and the names of both models, the earlier first."""

    predictions: Path
    names: tuple[str, str]


class PanelSettings(msgspec.Struct, frozen=True):
    """What all panels share: the picture folder, the panel folder, the class colours, the states to show."""

    images: Path
    panels: Path
    colours: dict[str, Colour]
    states: tuple[State, ...]


class DrawnPanel(msgspec.Struct, frozen=True):
    """A written panel: its file, the picture's name, its tile for the sheet where it is one of the first, and why the
    picture is unreadable.
    """

    file: Path
    name: str
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
    protocol: EvalProtocol | None = None,
    curve: Path | None = None,
    single_file: bool = False,
    other: OtherAnswers | None = None,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    on_picture: Callable[[int, int], None] = lambda _done, _total: None,
) -> VizResult:
    """Draw ``limit`` pictures (0: all) into the folder ``output``, and write the page; without predictions, of the
    truth alone. With ``single_file`` the page needs none of the other files; with ``other`` it compares them with what
    an earlier model answered.

    Raises ``DataError`` for files that cannot be read and for a picture's name that leaves the folder ``images``,
    ``UsageError`` for a folder with a page of another kind, and for answers that cannot be compared.
    """
    protocol = protocol or EvalProtocol()
    annotated = read_truth(truth)
    _check(annotated, images)
    require_own_folder(output)
    log = read_log(curve) if curve else None
    evaluated = _evaluated(annotated, predictions, protocol) if predictions else None
    compared = _compared(annotated, other, evaluated, protocol) if other and evaluated else None
    marked = gallery.judge(
        annotated.pictures,
        _matched(evaluated, protocol) if evaluated else None,
        evaluated.predictions.answered if evaluated else (),
    )
    worst = order == "worst" and predictions is not None
    chosen = (gallery.worst_first(marked) if worst else marked)[: limit or None]
    title = _title(len(chosen), len(marked), worst=worst, iou=protocol.iou if predictions else None)
    states = gallery.states_of(marked, compared=predictions is not None)
    settings = PanelSettings(images, output / PANELS, palette(annotated.categories), states)
    with lock(output):
        (output / INDEX).unlink(missing_ok=True)
        drawn = list(_draw_panels(chosen, settings, on_progress))
        remove_others(settings.panels, {panel.file.name for panel in drawn}, _PANEL_NAME)
        shown = gallery.total(chosen[:MAX_TILES])
        sheet = contact_sheet([p.tile for p in drawn if p.tile], title, {state: shown[state] for state in states})
        _save(sheet, output / SHEET, "JPEG")
        has_curve = _draw_curve(log, output / CURVE)
        attached = {"sheet": output / SHEET} | ({"curve": output / CURVE} if has_curve else {})
        page = write_page(
            annotated,
            evaluated,
            _page_pictures(marked, most(single_file=single_file)),
            PageSettings(
                images=images,
                output=output,
                single_file=single_file,
                attached=attached,
                compared=compared,
                on_picture=on_picture,
            ),
        )
    counts = gallery.total(marked)
    return VizResult(
        index=str(output / INDEX),
        sheet=str(output / SHEET),
        curve=str(output / CURVE) if has_curve else None,
        panels=[str(panel.file) for panel in drawn],
        pictures=page.pictures,
        counts={state: counts[state] for state in states},
        ledger=_account(drawn, len(marked)).as_dict(),
        notes=[
            *_unreadable(drawn),
            *page.notes,
            *([f"No curve, because no row has a loss: {curve}"] if curve and not has_curve else []),
        ],
    )


def _evaluated(truth: Truth, predictions: Path, protocol: EvalProtocol) -> Evaluated:
    predicted = read_predictions(predictions, truth, protocol)
    boxes = eval_boxes(truth, predicted, protocol.classes, protocol.duplicates)
    return Evaluated(predicted, boxes, report_on(truth, predicted, protocol))


def _compared(truth: Truth, other: OtherAnswers, after: Evaluated, protocol: EvalProtocol) -> Compared:
    before = _evaluated(truth, other.predictions, protocol)
    require_same_protocol(other.names, [before.report, after.report])
    return Compared(other.names, before, after)


def _matched(evaluated: Evaluated, protocol: EvalProtocol) -> gallery.MatchedBoxes:
    """Objects and predictions with the states that ``eval`` gives them."""
    boxes = evaluated.boxes
    matching = match(overlapping(boxes.predictions, boxes.objects), protocol.iou)
    return gallery.MatchedBoxes(boxes.names, boxes.objects, boxes.predictions, matching)


def _page_pictures(marked: Sequence[MarkedPicture], limit: int) -> list[int]:
    """Indices of the pictures that the page shows, in the truth's order: all, or those with most errors."""
    order = sorted(range(len(marked)), key=lambda index: gallery.errors_key(marked[index]))
    return sorted(order[:limit])


def _check(truth: Truth, images: Path) -> None:
    if not truth.pictures:
        raise DataError(f"No picture to draw: {truth.path}", hint="Name a file that has pictures.")
    if not images.is_dir():
        raise DataError(
            f"No such folder of pictures: {images}", hint="Name the folder that the file names are relative to."
        )
    outside = [f"{picture.image!r}" for picture in truth.pictures if escapes_folder(picture.image)]
    if outside:
        raise DataError(
            f"{len(outside):,} pictures' names leave the folder {images}: {truth.path}",
            why=first_few(outside),
            hint="Names are relative to the folder, without `..`.",
        )


def _title(chosen: int, total: int, *, worst: bool, iou: float | None) -> str:
    parts = [f"{chosen:,} of {total:,} pictures{', most errors first' if worst else ''}"]
    parts += [f"found at IoU {iou:g} or more"] if iou is not None else []
    return " · ".join(parts)


def _draw_panels(
    chosen: Sequence[MarkedPicture], settings: PanelSettings, on_progress: Callable[[int, int], None]
) -> Iterator[DrawnPanel]:
    for number, marked in enumerate(chosen, 1):
        yield _draw_and_save(marked, number, settings)
        on_progress(number, len(chosen))


def _draw_and_save(marked: MarkedPicture, number: int, settings: PanelSettings) -> DrawnPanel:
    picture = marked.picture
    image, remark = open_picture(settings.images / picture.image, (picture.width, picture.height))
    file = settings.panels / panel_name(number, picture.image)
    _save(_panel(image, remark, marked, settings, None), file, "JPEG")
    note = " · ".join([gallery.caption(marked, settings.states), *([remark] if remark else [])])
    tile = None
    if number <= MAX_TILES:
        tile = Tile(_panel(image, remark, marked, settings, tile_size()), picture.image, note)
    return DrawnPanel(file, picture.image, tile, "" if image else remark)


def _panel(
    image: Image.Image | None,
    remark: str,
    marked: MarkedPicture,
    settings: PanelSettings,
    within: tuple[int, int] | None,
) -> Image.Image:
    frame = (marked.picture.width, marked.picture.height)
    if image is None:
        return draw_unreadable(frame if min(frame) > 0 else (4, 3), remark, within)
    return draw_panel(image, marked.marks, settings.colours, frame=frame if min(frame) > 0 else None, within=within)


def open_picture(path: Path, frame: tuple[int, int]) -> tuple[Image.Image | None, str]:
    """A picture in RGB, upright (see ``open_upright``), and a remark.

    The remark says why the picture is unreadable (then the first value is None), or that its size is not the annotated
    (width, height) ``frame``. A side of 0 in ``frame`` means that the size is not annotated.
    """
    try:
        image = image_files.open_upright(path, frame)
    except image_files.Unreadable as error:
        return None, str(error)
    width, height = image.size
    if min(frame) > 0 and image.size != frame:
        return image, f"the picture is {width} x {height}, its annotations say {frame[0]} x {frame[1]}"
    return image, ""


def panel_name(number: int, image: str) -> str:
    """A panel's file name: its number and the ASCII letters, digits, ``-`` and ``_`` of the picture's name."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(image).stem).strip("-")[:60]
    return f"{number:03d}-{stem or 'picture'}.jpg"


def _save(image: Image.Image, path: Path, kind: str) -> None:
    with whole_file(path) as temporary:
        image.save(temporary, kind, **_OPTIONS[kind])


def _draw_curve(log: Sequence[Row] | None, path: Path) -> bool:
    """Write the training curve where the log has a loss; tell whether it has."""
    path.unlink(missing_ok=True)
    if log is None or not has_loss(log):
        return False
    _save(training_curve(log), path, "PNG")
    return True


def _account(drawn: Sequence[DrawnPanel], total: int) -> Ledger:
    ledger, unreadable = Ledger(), sum(bool(panel.problem) for panel in drawn)
    ledger.keep("pictures", len(drawn) - unreadable)
    ledger.drop("pictures", "cannot be read", unreadable)
    ledger.drop("pictures", "beyond the limit", total - len(drawn))
    return ledger


def _unreadable(drawn: Sequence[DrawnPanel]) -> list[str]:
    problems = [f"{panel.name}: {panel.problem}" for panel in drawn if panel.problem]
    return [f"Cannot be read: {line}" for line in first_few(problems)]
