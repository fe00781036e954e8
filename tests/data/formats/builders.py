"""Small sources of each format, and what is read of them in plain values."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.conftest import picture
from vlmdet_cli.data.dataset import AnnotationIssue, Dataset
from vlmdet_cli.data.formats import detections, open_images, swift_rows, voc, yolo

SIZE = (200, 100)
ALL: Sequence[ModuleType] = (yolo, voc, open_images, swift_rows, detections)


def write(file: Path, text: str | bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def yolo_folder(
    folder: Path, labels: dict[str, str], head: str = "train: images/train", names: str = "[cat, dog]"
) -> Path:
    for name, text in labels.items():
        picture(folder / "images/train", f"{name}.jpg", SIZE)
        write(folder / f"labels/train/{name}.txt", text)
    return write(folder / "data.yaml", f"{head}\nnames: {names}\n")


def voc_object(label: str = "dog", box: Sequence[Any] = (11, 21, 50, 60), more: str = "") -> str:
    corners = "".join(
        f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return f"<object><name>{label}</name>{more}<bndbox>{corners}</bndbox></object>"


def voc_page(folder: Path, stem: str, *objects: str, filename: str | None = None, size: Sequence[int] = SIZE) -> Path:
    name = f"{stem}.jpg" if filename is None else filename
    sides = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
    text = f"<annotation><filename>{name}</filename>{sides}{''.join(objects)}</annotation>"
    return write(folder / f"Annotations/{stem}.xml", text)


BOXES_HEAD = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf"


def open_images_file(folder: Path, *rows: str, name: str = "oidv6-train-annotations-bbox.csv") -> Path:
    for image_id in ("aa", "bb"):
        picture(folder / "images", f"{image_id}.jpg", SIZE)
    return write(folder / name, "\n".join([BOXES_HEAD, *rows]) + "\n")


def open_images_row(image: str = "aa", box: str = "0.1,0.5,0.2,0.6", code: str = "/m/dog", group: int = 0) -> str:
    return f"{image},xclick,{code},1,{box},0,0,{group}"


def swift_row(
    image: str = "a.jpg", ref: Any = ("dog",), bbox: Any = ((10, 20, 50, 60),), **more: Any
) -> dict[str, Any]:
    return {"messages": [], "images": [image], "objects": {"ref": ref, "bbox": bbox, **more}}


def swift_file(folder: Path, *rows: Any) -> Path:
    picture(folder, "a.jpg", SIZE)
    return write(folder / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def detection_file(folder: Path, *rows: Any) -> Path:
    picture(folder, "a.jpg", SIZE)
    return write(folder / "boxes.json", json.dumps(rows))


def detection_row(image: str = "a.jpg", **boxes: Any) -> dict[str, Any]:
    return {"image_path": image, "object": boxes or {"dog": [[10, 20, 50, 60]]}}


def sources(folder: Path) -> dict[ModuleType, Path]:
    """A source of each format."""
    return {
        yolo: yolo_folder(folder / "yolo", {"a": "1 0.5 0.5 0.2 0.2"}),
        voc: voc_page(folder / "voc", "a", voc_object()).parent,
        open_images: open_images_file(folder / "open_images", open_images_row()),
        swift_rows: swift_file(folder / "swift", swift_row()),
        detections: detection_file(folder / "detections", detection_row()),
    }


def read(module: ModuleType, annotations: Path, images: Path | None = None) -> tuple[Dataset, list[AnnotationIssue]]:
    issues: list[AnnotationIssue] = []
    data: Dataset = module.read(annotations, images, "train", issues)
    return data, issues


def read_sound(module: ModuleType, annotations: Path, images: Path | None = None) -> Dataset:
    data, issues = read(module, annotations, images)
    assert issues == []
    return data


def rows(data: Dataset) -> list[tuple[str, str, list[float], bool]]:
    """Each object as its picture's file name, label, xywh rounded to thousandths of a pixel, crowd."""
    return [
        (data.images[image].file_name, data.labels[label], [round(value, 3) for value in box], crowd)
        for image, label, box, crowd in zip(
            data.image.tolist(), data.label.tolist(), data.xywh.tolist(), data.crowd.tolist(), strict=True
        )
    ]


def sizes(data: Dataset) -> dict[Any, tuple[str, int, int]]:
    return {image.id: (image.file_name, image.width, image.height) for image in data.images}


def reasons(issues: Sequence[AnnotationIssue]) -> dict[tuple[str, str], int]:
    return dict(Counter((issue.kind, issue.reason) for issue in issues))
