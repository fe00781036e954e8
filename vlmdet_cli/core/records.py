"""What flows between the stages: frozen records.

Boxes are float pixels, xyxy, of the upright original picture (see ``boxes``). ``image`` is the picture's path as rows
name it: relative to the output folder in a project, so that a project can be moved; as given elsewhere.
"""

from typing import Any, Literal, get_args

import msgspec

Box = tuple[float, float, float, float]
ImageId = int | str
Classes = Literal["all", "present"]  # which classes count in a picture
ScoreSource = Literal["auto", "constant", "file", "logprob"]
Token = tuple[str, float]  # a piece of an answer's text and its log-probability
QuestionKind = Literal["count", "full", "partial", "none", "region", "class", "largest", "left"]
Kind = Literal["detection"] | QuestionKind
Health = Literal["empty", "ok", "partial", "unparsed"]
QUESTION_KINDS: tuple[QuestionKind, ...] = get_args(QuestionKind)


class Object(msgspec.Struct, frozen=True, gc=False):
    """One annotated object: its category's name and its box; a crowd is a region of many."""

    label: str
    box: Box
    crowd: bool = False


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """One picture with its truth. ``image_id`` as in the annotations; ``ignored`` are annotated objects that
    are no targets (other categories, too small, dropped crowds) but that a question about space must heed.
    ``exhaustive_categories``: the categories whose objects are all annotated, None where that holds for every one.
    """

    image_id: ImageId
    image: str
    width: int
    height: int
    objects: tuple[Object, ...] = ()
    ignored: tuple[Object, ...] = ()
    exhaustive_categories: tuple[str, ...] | None = None

    @property
    def targets(self) -> tuple[Object, ...]:
        """The objects a model should name: all but crowds."""
        return tuple(o for o in self.objects if not o.crowd)

    def clipped(self) -> "Picture":
        """The same picture with every box cut off at its borders."""
        objects = tuple(self._clip(one) for one in self.objects)
        return msgspec.structs.replace(self, objects=objects, ignored=tuple(self._clip(one) for one in self.ignored))

    def _clip(self, one: Object) -> Object:
        x1, y1, x2, y2 = one.box
        wide, high = float(self.width), float(self.height)
        if 0 <= x1 <= x2 <= wide and 0 <= y1 <= y2 <= high:
            return one
        box = (min(max(x1, 0), wide), min(max(y1, 0), high), min(max(x2, 0), wide), min(max(y2, 0), high))
        return Object(one.label, box, one.crowd)


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One instruction row: a picture, a question without the ``<image>`` tag's path, and the true answer.

    ``area``: the box that question and answer name, in pixels as written; ``objects``: those that the answer draws.
    """

    image: str
    prompt: str
    answer: str
    kind: Kind = "detection"
    area: Box | None = None
    objects: tuple[tuple[str, Box], ...] | None = None

    def row(self) -> dict[str, Any]:
        """The row that ms-swift reads."""
        user = {"role": "user", "content": self.prompt}
        return {"messages": [user, {"role": "assistant", "content": self.answer}], "images": [self.image]}


class Problem(msgspec.Struct, frozen=True):
    """A named flaw of an answer, with the piece of text that has it."""

    kind: str
    text: str


class Detection(msgspec.Struct, frozen=True):
    """One box read from an answer; ``score`` where there is one."""

    label: str
    box: Box
    score: float | None = None


class ParsedDetections(msgspec.Struct, frozen=True):
    """What an answer means: the boxes in the order of the text, the problems, and its health."""

    detections: tuple[Detection, ...]
    problems: tuple[Problem, ...]
    health: Health

    def by_label(self) -> dict[str, list[list[float]]]:
        """Label to boxes, as detection JSON has it."""
        out: dict[str, list[list[float]]] = {}
        for found in self.detections:
            out.setdefault(found.label, []).append(list(found.box))
        return out


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One raw answer of a model, kept for ever. ``finish``: ``stop``, ``length`` (cut by the token limit) or
    ``error`` (the picture could not be read; ``error`` says why). ``size``: the picture's width and height in
    pixels, (0, 0) where unknown. ``expected``: the true answer, where the question came with one. ``max_pixels``:
    the limit to which the picture was shrunk, 0 where there was none. ``asked``: the classes that the prompt named,
    None where it asked for all. ``tokens``: the text in pieces with their log-probabilities, where they were asked for.
    """

    image: str
    image_id: ImageId = ""
    size: tuple[int, int] = (0, 0)
    kind: Kind = "detection"
    prompt: str = ""
    text: str = ""
    finish: Literal["stop", "length", "error"] = "stop"
    error: str = ""
    expected: str | None = None
    dialect: str = "qwen2_vl"
    max_pixels: int = 0
    asked: list[str] | None = None
    tokens: list[Token] = []


class PredictedBox(msgspec.Struct, frozen=True, gc=False):
    """One predicted box; ``picture`` is the index of its picture in the ground truth."""

    picture: int
    label: str
    box: Box
    score: float = 1.0
