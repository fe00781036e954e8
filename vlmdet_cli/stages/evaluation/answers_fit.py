"""Whether answers that do not state their split belong to a truth: what their rows hold of it must fit.

A row holds its picture's id, path and size, and the true answer. Two splits may both have ``000001.jpg`` with the id 1;
the true answers tell them apart.
"""

from collections import Counter
from pathlib import PurePosixPath

from vlmdet_cli.core.answers import Answer
from vlmdet_cli.data.dataset import Column
from vlmdet_cli.data.ground_truth import Truth
from vlmdet_cli.errors import DataError, counted, first_few
from vlmdet_cli.models import dialects
from vlmdet_cli.stages.evaluation.prediction_files import Predictions, locate


def require_fit(predictions: Predictions, truth: Truth) -> None:
    """Raise ``DataError`` that counts the rows which do not fit the truth, and names the first."""
    rows = [row for row in predictions.answers if row.kind == "detection"]
    indices = locate(predictions.path, [(row.image_id or None, row.image) for row in rows], truth)
    wrong = [
        f"{row.image}: {reason}"
        for row, index in zip(rows, indices, strict=True)
        if (reason := _misfit(row, truth, index))
    ]
    if wrong:
        raise DataError(
            f"{counted(len(wrong), 'answer does', 'answers do')} not fit the truth {truth.path}: {predictions.path}",
            why=first_few(wrong),
            hint="Are they to another split? Name it with --split, or the truth with --truth; answers of a new "
            "`vlmdet infer` state their split.",
        )


def _misfit(row: Answer, truth: Truth, index: int) -> str:
    """Why a row does not fit a picture of the truth; empty where it does."""
    image = truth.data.images[index]
    size = (image.width, image.height)
    name = PurePosixPath(image.file_name).name
    if PurePosixPath(row.image.replace("\\", "/")).name != name:
        return f"the picture with the id {image.id!r} is {name}"
    if all(row.size) and all(size) and row.size != size:
        return f"it is {row.size[0]} x {row.size[1]}, and {size[0]} x {size[1]} in the truth"
    if row.expected is not None and _labels(row) - _true_labels(truth, index):
        return "its true answer names objects that the truth does not have"
    return ""


def _labels(row: Answer) -> Counter[str]:
    size = row.size if all(row.size) else None
    parsed = dialects.get(row.dialect, row.max_pixels or None).parse(row.expected or "", size)
    return Counter(detection.label for detection in parsed.detections)


def _true_labels(truth: Truth, index: int) -> Counter[str]:
    start, end = truth.data.starts[index : index + 2].tolist()
    labels: Column = truth.data.label[start:end]
    return Counter(truth.data.labels[number] for number in labels.tolist())
