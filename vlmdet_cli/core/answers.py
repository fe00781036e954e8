"""A model's answers: the raw text as it is kept, and the boxes that it means."""

from typing import Literal

import msgspec

from vlmdet_cli.core.annotations import Box, ImageId
from vlmdet_cli.core.rows import Kind

Token = tuple[str, float]  # a token's text and its natural log-probability
Health = Literal["empty", "ok", "partial", "unparsed"]


class Problem(msgspec.Struct, frozen=True):
    """A named problem of an answer (``truncated``, ``duplicate``, …), with the piece of text that has it."""

    kind: str
    text: str


class Detection(msgspec.Struct, frozen=True):
    """A labelled box read from an answer: xyxy pixels, or numbers of the dialect's frame where the picture's size is
    unknown. ``score`` is a probability in [0, 1], None where the answer has no token probabilities.
    """

    label: str
    box: Box
    score: float | None = None


class ParsedDetections(msgspec.Struct, frozen=True):
    """An answer's boxes in the order of the text, and its problems.

    ``health`` is ``empty`` where the text says that there is no object, ``ok`` without problems, ``partial`` with
    boxes and problems, ``unparsed`` with problems alone. ``repeats``: how many more times the text has each detection,
    label and box the same; empty where it has none twice.
    """

    detections: tuple[Detection, ...]
    problems: tuple[Problem, ...]
    health: Health
    repeats: tuple[int, ...] = ()

    def by_label(self) -> dict[str, list[list[float]]]:
        """Label to xyxy boxes: the ``object`` of detection JSON."""
        boxes: dict[str, list[list[float]]] = {}
        for detection in self.detections:
            boxes.setdefault(detection.label, []).append(list(detection.box))
        return boxes


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A row of an answers file: the raw answer to one request.

    ``size`` is the picture's width and height in pixels, (0, 0) where unknown. ``finish`` is ``stop``, ``length`` (the
    token limit cut the text), ``loop`` (the engine cut a text that repeats itself) or ``error`` (the picture could not
    be read; ``error`` says why). ``expected`` is the true
    answer, where the request came from a row that has one. ``max_pixels`` is the area in pixels to which the picture
    was shrunk before it reached the model, 0 for no limit. ``asked`` are the classes that the prompt names, None where
    it asks for all. ``crop``: the part of the picture that was asked about, xyxy in pixels of the upright picture, None
    for all of it. ``tokens`` are the text's tokens with their log-probabilities, empty without ``infer.scores``.
    """

    image: str
    image_id: ImageId = ""
    size: tuple[int, int] = (0, 0)
    kind: Kind = "detection"
    prompt: str = ""
    text: str = ""
    finish: Literal["stop", "length", "loop", "error"] = "stop"
    error: str = ""
    expected: str | None = None
    dialect: str = "qwen2_vl"
    max_pixels: int = 0
    asked: list[str] | None = None
    crop: tuple[int, int, int, int] | None = None
    tokens: list[Token] = []


def is_answer(row: object) -> bool:
    """Whether a decoded row is an ``Answer``: one without a word has only what is not the default."""
    return isinstance(row, dict) and not {"text", "finish", "prompt"}.isdisjoint(row)


class PredictedBox(msgspec.Struct, frozen=True, gc=False):
    """A predicted box, xyxy pixels; ``picture`` is the index of its picture in the ground truth."""

    picture: int
    label: str
    box: Box
    score: float = 1.0
