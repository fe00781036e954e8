"""viz: draws pictures with truth and predictions, a contact sheet, the training curve, and a page that shows them all.

    index.html           the report page, written last, so that all files it links to exist
    thumbs/ pictures/    the pictures of the page, see ``page_pictures``
    sheet.jpg            the first 24 panels
    curve.png            where there is a training log
    panels/001-NAME.jpg  a panel a picture, the worst first

*Worst first* means most errors (false + missed) first, then fewest found, then the truth's order.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from vlmdet_cli.core.locks import lock
from vlmdet_cli.data.dataset import escapes_folder
from vlmdet_cli.data.ground_truth import Truth
from vlmdet_cli.data.ground_truth import read as read_truth
from vlmdet_cli.drawing import gallery
from vlmdet_cli.drawing.curve import Row, has_loss, read_log, training_curve
from vlmdet_cli.drawing.gallery import MarkedPicture
from vlmdet_cli.drawing.lettering import palette
from vlmdet_cli.drawing.sheet import MAX_TILES, contact_sheet
from vlmdet_cli.errors import DataError, first_few
from vlmdet_cli.metrics.matching import match, overlapping
from vlmdet_cli.stages.evaluation import viz_panels
from vlmdet_cli.stages.evaluation.compare import require_same_protocol
from vlmdet_cli.stages.evaluation.eval_boxes import eval_boxes
from vlmdet_cli.stages.evaluation.evaluate import EvalProtocol, read_predictions, report_on
from vlmdet_cli.stages.evaluation.page_data import Compared, Evaluated
from vlmdet_cli.stages.evaluation.viz_page import (
    INDEX,
    PageResult,
    PageSettings,
    most,
    require_own_folder,
    write_page,
)
from vlmdet_cli.stages.evaluation.viz_panels import PanelSettings

SHEET, CURVE, PANELS = "sheet.jpg", "curve.png", "panels"
Progress = Callable[[int, int], None]  # is given what is done, and the total


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


class VizRequest(msgspec.Struct, frozen=True):
    """What to draw: files, and the folder ``output`` to draw into; without ``predictions`` the truth alone.

    ``limit``: the number of panels, 0 for all. With ``single_file`` the page needs none of the other files; with
    ``other`` it compares the predictions with what an earlier model answered. ``curve``: a training log.
    """

    truth: Path
    predictions: Path | None
    images: Path
    output: Path
    limit: int = 24
    order: Literal["worst", "first"] = "worst"
    protocol: EvalProtocol = EvalProtocol()
    curve: Path | None = None
    single_file: bool = False
    other: OtherAnswers | None = None


class _Drawing(NamedTuple):
    """What the files of a request hold: truth, answers, both models' answers, the pictures with their boxes."""

    truth: Truth
    evaluated: Evaluated | None
    compared: Compared | None
    marked: list[MarkedPicture]
    log: Sequence[Row] | None


def draw(
    request: VizRequest, on_progress: Progress = lambda _done, _total: None, on_picture: Progress = lambda _d, _t: None
) -> VizResult:
    """Draw panels, sheet and curve, and write the page. ``on_progress`` hears of panels, ``on_picture`` of the page's.

    Raises ``DataError`` for files that cannot be read and for a picture's name that leaves the folder ``images``,
    ``UsageError`` for a folder with a page of another kind, and for answers that cannot be compared.
    """
    drawing, output = _read(request), request.output
    worst = request.order == "worst" and drawing.evaluated is not None
    chosen = (gallery.worst_first(drawing.marked) if worst else drawing.marked)[: request.limit or None]
    states = gallery.states_of(drawing.marked, compared=drawing.evaluated is not None)
    settings = PanelSettings(request.images, output / PANELS, palette(drawing.truth.categories), states)
    with lock(output):
        (output / INDEX).unlink(missing_ok=True)
        drawn = viz_panels.draw_panels(chosen, settings, on_progress)
        shown = gallery.total(chosen[:MAX_TILES])
        title = _title(
            len(chosen), len(drawing.marked), worst=worst, iou=request.protocol.iou if drawing.evaluated else None
        )
        sheet = contact_sheet([p.tile for p in drawn if p.tile], title, {state: shown[state] for state in states})
        viz_panels.save_image(sheet, output / SHEET, "JPEG")
        has_curve = _draw_curve(drawing.log, output / CURVE)
        page = _write_page(request, drawing, has_curve=has_curve, on_picture=on_picture)
    counts = gallery.total(drawing.marked)
    no_curve = [f"No curve, because no row has a loss: {request.curve}"] if request.curve and not has_curve else []
    return VizResult(
        index=str(output / INDEX),
        sheet=str(output / SHEET),
        curve=str(output / CURVE) if has_curve else None,
        panels=[str(panel.file) for panel in drawn],
        pictures=page.pictures,
        counts={state: counts[state] for state in states},
        ledger=viz_panels.account(drawn, len(drawing.marked)).as_dict(),
        notes=[*viz_panels.unreadable(drawn), *page.notes, *no_curve],
    )


def _read(request: VizRequest) -> _Drawing:
    truth = read_truth(request.truth)
    _check(truth, request.images)
    require_own_folder(request.output)
    log = read_log(request.curve) if request.curve else None
    evaluated = _evaluated(truth, request.predictions, request.protocol) if request.predictions else None
    compared = _compared(truth, request.other, evaluated, request.protocol) if request.other and evaluated else None
    matched = _matched(evaluated, request.protocol) if evaluated else None
    marked = gallery.judge(truth.pictures, matched, evaluated.predictions.answered if evaluated else ())
    return _Drawing(truth, evaluated, compared, marked, log)


def _write_page(request: VizRequest, drawing: _Drawing, *, has_curve: bool, on_picture: Progress) -> PageResult:
    attached = {"sheet": request.output / SHEET} | ({"curve": request.output / CURVE} if has_curve else {})
    settings = PageSettings(
        images=request.images,
        output=request.output,
        single_file=request.single_file,
        attached=attached,
        compared=drawing.compared,
        on_picture=on_picture,
    )
    chosen = _page_pictures(drawing.marked, most(single_file=request.single_file))
    return write_page(drawing.truth, drawing.evaluated, chosen, settings)


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


def _draw_curve(log: Sequence[Row] | None, path: Path) -> bool:
    """Write the training curve where the log has a loss; tell whether it has."""
    path.unlink(missing_ok=True)
    if log is None or not has_loss(log):
        return False
    viz_panels.save_image(training_curve(log), path, "PNG")
    return True
