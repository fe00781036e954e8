"""What a model sees in a picture, as a record for Python code, and in the forms of supervision and of COCO."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from vlmdet_cli.core.answers import Health, ParsedDetections, Problem
from vlmdet_cli.core.boxes import Boxes
from vlmdet_cli.engines import Completion, Finish
from vlmdet_cli.errors import UsageError

if TYPE_CHECKING:
    import supervision


class PictureDetections(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """The detections of one picture, in the order of the model's text.

    ``image``: the picture's path, empty for a picture in memory. ``size``: width and height of the upright picture in
    pixels, (0, 0) where it cannot be read. ``boxes``: ``(N, 4)`` float64, xyxy in pixels of the upright picture.
    ``labels``: N names. ``scores``: ``(N,)`` in [0, 1], None where they were not asked for. ``health``: ``ok``,
    ``empty`` (the model says that there is no object), ``partial``, ``unparsed``, or ``error`` where the picture cannot
    be used; ``error`` says why. ``problems``: the parts of the text that are no good box. ``text``: the raw answer, of
    several a line each; ``finish``: what ended it, of several the first of ``error``, ``loop``, ``length``, ``stop``.
    """

    image: str
    size: tuple[int, int]
    boxes: Boxes
    labels: tuple[str, ...]
    scores: npt.NDArray[np.float64] | None
    health: Health | Literal["error"]
    problems: tuple[Problem, ...]
    text: str
    finish: Finish
    error: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    def to_coco(self, image_id: int | str, category_ids: Mapping[str, int]) -> list[dict[str, Any]]:
        """A COCO result for each box whose label is a key of ``category_ids``; the score is 1.0 where there is none.

        Boxes of other labels are left out: COCO's form cannot name them.
        """
        scores = [1.0] * len(self) if self.scores is None else self.scores.tolist()
        corners = self.boxes.tolist()
        return [
            {
                "image_id": image_id,
                "category_id": category_ids[label],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": score,
            }
            for label, (x1, y1, x2, y2), score in zip(self.labels, corners, scores, strict=True)
            if label in category_ids
        ]

    def to_supervision(self, classes: Sequence[str] = ()) -> "supervision.Detections":
        """The ``Detections`` of supervision, with the labels in ``data["class_name"]``.

        ``class_id`` is a label's index in ``classes``; labels that are not there get the numbers behind them, in the
        order of the text. Name the classes to have the same numbers for all pictures. Raises ``UsageError`` where
        supervision is not installed.
        """
        try:
            import supervision
        except ImportError:
            raise UsageError("supervision is not installed", hint="Install it: pip install supervision.") from None
        names = list(dict.fromkeys([*classes, *self.labels]))
        return supervision.Detections(
            xyxy=self.boxes.astype(np.float32),
            confidence=None if self.scores is None else self.scores.astype(np.float32),
            class_id=np.array([names.index(label) for label in self.labels], np.int64),
            data={"class_name": np.array(self.labels, str)},
        )


def picture_detections(
    image: str, size: tuple[int, int], completion: Completion, parsed: ParsedDetections, *, scores: bool
) -> PictureDetections:
    """The record of a completion; ``scores``: whether they were asked for."""
    detections = parsed.detections
    return PictureDetections(
        image=image,
        size=size,
        boxes=np.array([detection.box for detection in detections], np.float64).reshape(-1, 4),
        labels=tuple(detection.label for detection in detections),
        scores=np.array([detection.score for detection in detections], np.float64) if scores else None,
        health="error" if completion.finish == "error" else parsed.health,
        problems=parsed.problems,
        text=completion.text,
        finish=completion.finish,
        error=completion.error,
    )
