"""export: truth and predictions in the files of other programs; see ``data.interchange`` for the formats.

The boxes are those that ``eval`` reads, exact repeats included. Ids of pictures and categories that are no whole
numbers are replaced by numbers from 1, because COCO's readers need them. Pictures are named, not copied.
"""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from vlmdet_cli.core.ledger import Ledger
from vlmdet_cli.data import ground_truth
from vlmdet_cli.data.dataset import AnnotationIssue, Dataset
from vlmdet_cli.data.formats.box_entries import upright_sizes
from vlmdet_cli.data.interchange import coco, cvat, label_studio
from vlmdet_cli.data.interchange.base import Exchange
from vlmdet_cli.errors import DataError, UsageError, counted, first_few, nearest
from vlmdet_cli.stages.evaluation.evaluate import EvalProtocol, read_predictions

FORMATS = {"coco": coco, "fiftyone": coco, "supervision": coco, "cvat": cvat, "label-studio": label_studio}
NO_CATEGORY = "label that is no category (in predicted_instances.json)"


class ExportJob(msgspec.Struct, frozen=True, kw_only=True):
    """The files to write from, the folder to write to, who predicted; ``images`` is None where no folder is known."""

    truth: Path
    predictions: Path | None
    images: Path | None
    output: Path
    model: str
    protocol: EvalProtocol


class ExportResult(msgspec.Struct, frozen=True, kw_only=True):
    """Paths of the written files; what was written of pictures, objects and predictions; sentences for the user."""

    format: str
    files: list[str]
    ledger: dict[str, dict[str, Any]]
    notes: list[str]


def export(job: ExportJob, to: str, address: str = "") -> ExportResult:
    """Write truth and predictions in the format ``to``.

    Raises ``UsageError`` for an unknown format and where a file would replace one that is read, ``DataError`` for files
    that cannot be read and for pictures whose size is not known.
    """
    if to not in FORMATS:
        raise UsageError(f"No such format: {nearest(to, FORMATS)}", hint=f"There are {', '.join(FORMATS)}.")
    _refuse_own_input(job, to)
    truth = ground_truth.read(job.truth)
    predictions = read_predictions(job.predictions, truth, job.protocol) if job.predictions else None
    exchange = Exchange(
        data=_with_number_ids(_with_sizes(truth.data, job)),
        predictions=predictions.boxes if predictions else None,
        has_scores=predictions is not None and predictions.score_source != "constant",
        model=job.model,
        address=address,
    )
    written = FORMATS[to].write(job.output, exchange)
    return ExportResult(
        format=to, files=[str(path) for path in written], ledger=_account(exchange, to), notes=_notes(exchange)
    )


def _refuse_own_input(job: ExportJob, to: str) -> None:
    inputs = [path for path in (job.truth, job.predictions) if path and path.exists()]
    for target in (job.output / name for name in FORMATS[to].FILES):
        if target.exists() and any(target.samefile(path) for path in inputs):
            raise UsageError(f"The export would replace its own input: {target}", hint="Choose another --output.")


def _with_sizes(data: Dataset, job: ExportJob) -> Dataset:
    """The data set with the sizes that it does not state, from the pictures themselves."""
    unknown = [number for number, image in enumerate(data.images) if min(image.width, image.height) <= 0]
    if not unknown:
        return data
    if job.images is None:
        raise DataError(
            f"The truth does not state the size of {counted(len(unknown), 'picture')}: {job.truth}",
            hint="Name the folder of the pictures with --images.",
        )
    issues, images = list[AnnotationIssue](), list(data.images)
    sizes = upright_sizes(job.images, [images[number].file_name for number in unknown], issues)
    if issues:
        raise DataError(
            f"The size of {counted(len(issues), 'picture')} is not known: {job.truth}",
            why=first_few([issue.where for issue in issues]),
            hint="Name the folder that the file names are relative to with --images.",
        )
    for number, size in zip(unknown, sizes, strict=True):
        if size is not None:
            images[number] = msgspec.structs.replace(images[number], width=size[0], height=size[1])
    return msgspec.structs.replace(data, images=images)


def _with_number_ids(data: Dataset) -> Dataset:
    """The data set with whole numbers as ids: its own where all are, else numbers from 1."""
    if not all(isinstance(image.id, int) for image in data.images):
        images = [msgspec.structs.replace(image, id=number) for number, image in enumerate(data.images, 1)]
        data = msgspec.structs.replace(data, images=images)
    if not all(isinstance(key, int) for key in data.label_ids):
        data = msgspec.structs.replace(data, label_ids=tuple(range(1, len(data.labels) + 1)))
    return data


def _account(exchange: Exchange, to: str) -> dict[str, dict[str, Any]]:
    ledger, data = Ledger(), exchange.data
    ledger.keep("pictures", len(data.images))
    ledger.keep("objects", int(np.count_nonzero(data.is_target)))
    ledger.keep("crowds", int(np.count_nonzero((data.drop_reason == 0) & data.crowd)))
    ledger.keep("objects left out of training", int(np.count_nonzero(data.drop_reason)))
    if exchange.predictions is not None:
        categories = set(data.categories)
        unknown = sum(box.label not in categories for box in exchange.predictions) if FORMATS[to] is coco else 0
        ledger.keep("predicted boxes", len(exchange.predictions) - unknown)
        ledger.drop("predicted boxes", NO_CATEGORY, unknown)
    return ledger.as_dict()


def _notes(exchange: Exchange) -> list[str]:
    if exchange.predictions is None:
        return ["There are no predictions: only the truth is written."]
    return [] if exchange.has_scores else ["The predictions have no scores: none are written."]
