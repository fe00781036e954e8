"""CVAT: the labels of a task, and its annotations as "CVAT for images 1.1".

    labels.json        for the raw view of a task's labels
    annotations.xml    to upload into that task: boxes of the source ``manual`` are truth, those of ``auto`` predictions

Each box has the attributes ``kind`` (truth or prediction), ``score``, ``crowd`` and ``ignored``, a reason.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlmdet_cli.core.files import write_json, write_text
from vlmdet_cli.data.dataset import Image
from vlmdet_cli.data.interchange.base import Exchange, ExchangeBox, in_xml, pictures, xml_text

FILES = ("labels.json", "annotations.xml")
_ATTRIBUTES: tuple[dict[str, Any], ...] = (
    {"name": "kind", "input_type": "select", "default_value": "truth", "values": ["truth", "prediction"]},
    {"name": "score", "input_type": "text", "default_value": "", "values": [""]},
    {"name": "crowd", "input_type": "checkbox", "default_value": "false", "values": ["false"]},
    {"name": "ignored", "input_type": "text", "default_value": "", "values": [""]},
)


def write(folder: Path, exchange: Exchange) -> list[Path]:
    """Write the files; returns those written."""
    labels, annotations = (folder / name for name in FILES)
    attributes = [{**attribute, "mutable": False} for attribute in _ATTRIBUTES]
    write_json(
        labels, [{"name": in_xml(name), "type": "rectangle", "attributes": attributes} for name in exchange.labels]
    )
    write_text(annotations, "\n".join(_lines(exchange)))
    return [labels, annotations]


def _lines(exchange: Exchange) -> Iterator[str]:
    yield '<?xml version="1.0" encoding="utf-8"?>'
    yield "<annotations>"
    yield "  <version>1.1</version>"
    yield from _meta(exchange)
    for number, (image, boxes) in enumerate(pictures(exchange)):
        yield from _image(number, image, boxes)
    yield "</annotations>"


def _meta(exchange: Exchange) -> Iterator[str]:
    yield f"  <meta><task><size>{len(exchange.data.images)}</size><mode>annotation</mode><labels>"
    attributes = "".join(
        f"<attribute><name>{attribute['name']}</name><mutable>False</mutable>"
        f"<input_type>{attribute['input_type']}</input_type><default_value>{attribute['default_value']}</default_value>"
        f"<values>{chr(10).join(attribute['values'])}</values></attribute>"
        for attribute in _ATTRIBUTES
    )
    for name in exchange.labels:
        yield f"    <label><name>{xml_text(name)}</name><type>rectangle</type>"
        yield f"      <attributes>{attributes}</attributes></label>"
    yield "  </labels></task></meta>"


def _image(number: int, image: Image, boxes: list[ExchangeBox]) -> Iterator[str]:
    yield f'  <image id="{number}" name="{xml_text(image.file_name)}" width="{image.width}" height="{image.height}">'
    for box in boxes:
        corners = " ".join(
            f'{name}="{value:.2f}"' for name, value in zip(("xtl", "ytl", "xbr", "ybr"), box.box, strict=True)
        )
        source = "auto" if box.is_prediction else "manual"
        yield f'    <box label="{xml_text(box.label)}" source="{source}" occluded="0" {corners} z_order="0">'
        for name, value in _values(box).items():
            yield f'      <attribute name="{name}">{xml_text(value)}</attribute>'
        yield "    </box>"
    yield "  </image>"


def _values(box: ExchangeBox) -> dict[str, str]:
    """The attributes' values, in the order of their declaration."""
    return {
        "kind": "prediction" if box.is_prediction else "truth",
        "score": "" if box.score is None else f"{box.score:.4f}",
        "crowd": "true" if box.crowd else "false",
        "ignored": box.ignored,
    }
