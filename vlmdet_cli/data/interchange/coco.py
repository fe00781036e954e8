"""COCO files, which FiftyOne, supervision, pycocotools and others read.

truth.json                 instances; crowds have ``iscrowd``, objects that are no targets are in ``ignored``
predictions.json           results: ``image_id``, ``category_id``, ``bbox``, and ``score`` where there are scores
predicted_instances.json   the predictions once more as instances, for programs that read no results; its categories
                           have the labels, too, that are none of the truth
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlmdet_cli.core.boxes import xyxy_to_xywh
from vlmdet_cli.core.files import write_json
from vlmdet_cli.data.formats import coco_file
from vlmdet_cli.data.interchange.base import Exchange

FILES = ("truth.json", "predictions.json", "predicted_instances.json")


def write(folder: Path, exchange: Exchange) -> list[Path]:
    """Write the files; returns those written."""
    truth, results, instances = (folder / name for name in FILES)
    coco_file.write(truth, exchange.data)
    if exchange.predictions is None:
        return [truth]
    ids = _category_ids(exchange)
    rows = list(_results(exchange, ids))
    known = set(exchange.data.category_ids)
    write_json(results, [row for row in rows if row["category_id"] in known])
    write_json(instances, _instances(exchange, ids, rows))
    return [truth, results, instances]


def _category_ids(exchange: Exchange) -> dict[str, int]:
    """The id of each label; labels that are no category have ids behind the largest."""
    ids = {name: int(key) for key, name in exchange.data.category_ids.items()}
    first = max(ids.values(), default=0) + 1
    return ids | {name: first + number for number, name in enumerate(exchange.labels[len(ids) :])}


def _results(exchange: Exchange, ids: dict[str, int]) -> Iterator[dict[str, Any]]:
    predictions = exchange.predictions or ()
    corners = xyxy_to_xywh([box.box for box in predictions]).tolist()
    for predicted, bbox in zip(predictions, corners, strict=True):
        image_id = exchange.data.images[predicted.picture].id
        score = {"score": predicted.score} if exchange.has_scores else {}
        yield {"image_id": image_id, "category_id": ids[predicted.label], "bbox": bbox, **score}


def _instances(exchange: Exchange, ids: dict[str, int], rows: list[dict[str, Any]]) -> dict[str, Any]:
    images = exchange.data.images
    return {
        "info": {"description": f"Predictions of {exchange.model}"},
        "categories": [{"id": key, "name": name} for name, key in ids.items()],
        "images": [{"id": i.id, "file_name": i.file_name, "width": i.width, "height": i.height} for i in images],
        "annotations": [
            {"id": number, **row, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0, "segmentation": []}
            for number, row in enumerate(rows, 1)
        ],
    }
