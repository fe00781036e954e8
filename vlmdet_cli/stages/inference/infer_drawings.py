"""Draws the boxes of answers into their pictures: one picture into a file, several into a folder.

--draw out.jpg       the one picture
--draw drawings      drawings/001-NAME.jpg, 002-NAME.jpg, …
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from vlmdet_cli.core.files import whole_file
from vlmdet_cli.data import image_files
from vlmdet_cli.drawing.lettering import palette
from vlmdet_cli.drawing.panel import Mark, draw_panel, draw_unreadable
from vlmdet_cli.errors import UsageError
from vlmdet_cli.stages.evaluation.viz_panels import panel_name
from vlmdet_cli.stages.inference.answer_reading import PictureAnswers

_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}
_UNREADABLE_SIZE = (640, 480)


class AnswerDrawings:
    """The drawings of pictures by name; ``paths``: the file of each.

    ``images`` names one at least. Raises ``UsageError`` where ``target`` is a file and there are several.
    """

    def __init__(self, target: Path, images: Sequence[str]) -> None:
        self.paths = _paths(target, list(dict.fromkeys(images)))

    def write(self, pictures: Iterable[PictureAnswers]) -> None:
        """Write the drawing of each picture, with the boxes of all answers about it."""
        marks = {
            picture.answers[0].image: [
                Mark(detection.label, detection.box, "answer") for detection in picture.whole.detections
            ]
            for picture in pictures
        }
        colours = palette(sorted({mark.label for row in marks.values() for mark in row}))
        for name, path in self.paths.items():
            try:
                drawing = draw_panel(image_files.open_upright(Path(name)), marks[name], colours)
            except image_files.Unreadable as error:
                drawing = draw_unreadable(_UNREADABLE_SIZE, str(error))
            _save(drawing, path)


def _paths(target: Path, images: Sequence[str]) -> dict[str, Path]:
    if target.is_dir() or target.suffix.lower() not in _FORMATS:
        return {name: target / panel_name(number, name) for number, name in enumerate(images, 1)}
    if len(images) > 1:
        raise UsageError(
            f"{len(images):,} pictures cannot be drawn into one file: {target}", hint="Name a folder for the drawings."
        )
    return {images[0]: target}


def _save(drawing: Image.Image, path: Path) -> None:
    with whole_file(path) as temporary:
        drawing.save(temporary, _FORMATS[path.suffix.lower()], quality=90)
