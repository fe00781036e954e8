"""Label Studio: the labelling interface of a project, and its tasks with annotations and predictions.

    label_config.xml    the interface: rectangles with the labels
    tasks.json          a task a picture: the truth as its annotation, the predictions under the model's name

Boxes are in percent of the picture's sides. A region that is a crowd or is no target says so in its text.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vlmdet_cli.core.files import write_json, write_text
from vlmdet_cli.data.dataset import Image
from vlmdet_cli.data.interchange.base import Exchange, ExchangeBox, in_xml, pictures, xml_text

FILES = ("label_config.xml", "tasks.json")
LOCAL_FILES = "/data/local-files/?d="  # pictures below the folder that LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT names


def write(folder: Path, exchange: Exchange) -> list[Path]:
    """Write the files; returns those written."""
    config, tasks = (folder / name for name in FILES)
    labels = "\n".join(f'    <Label value="{xml_text(name)}"/>' for name in exchange.labels)
    write_text(
        config,
        '<View>\n  <Image name="image" value="$image" zoom="true"/>\n'
        f'  <RectangleLabels name="label" toName="image">\n{labels}\n  </RectangleLabels>\n</View>',
    )
    write_json(tasks, [_task(exchange, image, boxes) for image, boxes in pictures(exchange)])
    return [config, tasks]


def _task(exchange: Exchange, image: Image, boxes: Sequence[ExchangeBox]) -> dict[str, Any]:
    truth = [box for box in boxes if not box.is_prediction]
    predicted = [box for box in boxes if box.is_prediction]
    address = (exchange.address or LOCAL_FILES) + quote(image.file_name)
    task: dict[str, Any] = {
        "data": {"image": address, "name": image.file_name, "image_id": image.id},
        "annotations": [{"result": _regions(truth, image, "truth")}],
    }
    if exchange.predictions is None:
        return task
    scores = [box.score for box in predicted if box.score is not None]
    mean = {"score": sum(scores) / len(scores)} if scores else {}
    result = _regions(predicted, image, "prediction")
    return {**task, "predictions": [{"model_version": exchange.model, "result": result, **mean}]}


def _regions(boxes: Sequence[ExchangeBox], image: Image, kind: str) -> list[dict[str, Any]]:
    return [_region(box, image, f"{kind}-{image.id}-{number}") for number, box in enumerate(boxes, 1)]


def _region(box: ExchangeBox, image: Image, key: str) -> dict[str, Any]:
    left, top, right, bottom = box.box
    shares = {
        "x": left / image.width,
        "y": top / image.height,
        "width": (right - left) / image.width,
        "height": (bottom - top) / image.height,
    }
    remarks = [*(["crowd"] if box.crowd else []), *([f"ignored: {box.ignored}"] if box.ignored else [])]
    return {
        "id": key,
        "from_name": "label",
        "to_name": "image",
        "type": "rectanglelabels",
        "original_width": image.width,
        "original_height": image.height,
        "image_rotation": 0,
        "value": {name: round(100 * share, 5) for name, share in shares.items()}
        | {"rotation": 0, "rectanglelabels": [in_xml(box.label)]},
        **({"score": box.score} if box.score is not None else {}),
        **({"meta": {"text": remarks}} if remarks else {}),
    }
