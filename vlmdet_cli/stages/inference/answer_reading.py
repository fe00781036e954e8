"""What raw answers mean: the boxes of an answer, and those of all answers about a picture.

Every command reads answers here, so that the boxes that ``infer`` writes are those that ``eval`` counts and ``viz``
draws.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from vlmdet_cli.core.annotations import Box
from vlmdet_cli.core.answers import Answer, ParsedDetections, Problem
from vlmdet_cli.core.settings import DEFAULT_SCORE_RULE, Ask, ScoreRule
from vlmdet_cli.core.tiles import shifted
from vlmdet_cli.engines.answers import AnswersMeta
from vlmdet_cli.metrics.repeats import without_label, without_near_repeats
from vlmdet_cli.metrics.tile_merging import TileDetection, merged
from vlmdet_cli.models import dialects
from vlmdet_cli.models.dialects.items import health

NOT_ASKED = "not_asked"  # the problem of a box whose label is not the class that its prompt asks for


# why a box is taken out of what a picture's answers mean together
SEEN_IN_TILES = "same object in another tile"
NEAR_REPEAT = "near repeat of another box"
NOISE = "noise"
Size = tuple[int, int]


class ReadingRules(msgspec.Struct, frozen=True, kw_only=True):
    """How answers are read. ``categories``: the labels that are known, None for any. ``ask``: what prompts ask for; of
    an answer to a prompt for one class (``each``) the boxes of other classes do not count. ``dedupe``: the IoU from
    which two boxes of a class in a picture are taken for one, 0 for never. ``noise_label``: of boxes that the model
    itself takes for none (``prompts.noise``), "" where it knows no such label; they are taken out, and counted.
    ``score_rule``: how log-probabilities become a score.
    """

    categories: Sequence[str] | None = None
    ask: Ask = "rows"
    dedupe: float = 0.0
    noise_label: str = ""
    score_rule: ScoreRule = DEFAULT_SCORE_RULE

    @property
    def known_labels(self) -> Sequence[str] | None:
        """The categories, and the label of noise where the model knows it."""
        return [*self.categories, self.noise_label] if self.categories and self.noise_label else self.categories


def reading_rules(
    meta: AnswersMeta | None, categories: Sequence[str] | None, score_rule: ScoreRule = DEFAULT_SCORE_RULE
) -> ReadingRules:
    """The rules of an answers file, by the account beside it; ``meta`` is None where there is none."""
    if meta is None:
        return ReadingRules(categories=categories, score_rule=score_rule)
    return ReadingRules(
        categories=categories,
        ask=meta.ask,
        dedupe=meta.dedupe,
        noise_label=meta.noise_label,
        score_rule=score_rule,
    )


def read_answer(answer: Answer, rules: ReadingRules, size: Size | None = None) -> ParsedDetections:
    """The boxes of an answer in pixels of its picture, and its problems. Those of a tile are not merged yet.

    ``size``: width and height of the picture in place of the answer's own. Where neither is known, boxes are numbers of
    the dialect's frame. A picture that could not be read is a problem of the kind ``error``.
    """
    if answer.finish == "error":
        return ParsedDetections((), (Problem("error", answer.error),), "unparsed")
    own = answer.size if all(answer.size) else size or answer.size
    left, top, right, bottom = answer.crop or (0, 0, *own)
    part = (right - left, bottom - top) if all(own) else None
    dialect = dialects.get(answer.dialect, answer.max_pixels or None)
    parsed = dialect.parse(answer.text, part, rules.known_labels, answer.tokens, rules.score_rule)
    if answer.crop is not None or (size is not None and size != own):
        boxes = [_in_picture(detection.box, answer, size or own) for detection in parsed.detections]
        detections = [msgspec.structs.replace(d, box=box) for d, box in zip(parsed.detections, boxes, strict=True)]
        parsed = msgspec.structs.replace(parsed, detections=tuple(detections))
    return _only_asked(parsed, [*(answer.asked or ()), rules.noise_label]) if rules.ask == "each" else parsed


def _in_picture(box: Box, answer: Answer, size: Size) -> Box:
    """A box in pixels of an answer's part of its picture in pixels of a picture of ``size``."""
    left, top = answer.crop[:2] if answer.crop else (0, 0)
    return _scaled(shifted(box, (left, top)), answer, size)


def tile_of(answer: Answer, size: Size | None = None) -> Box:
    """The part of its picture that an answer is about, xyxy in pixels of a picture of ``size``, or of its own size."""
    size = size or answer.size
    return (0, 0, *size) if answer.crop is None else _scaled(answer.crop, answer, size)


def _scaled(box: Box, answer: Answer, size: Size) -> Box:
    """A box in pixels of the answer's picture in pixels of one of ``size``."""
    if size == answer.size or not all(answer.size):
        return box
    across, down = size[0] / answer.size[0], size[1] / answer.size[1]
    return (box[0] * across, box[1] * down, box[2] * across, box[3] * down)


def _only_asked(parsed: ParsedDetections, asked: Sequence[str]) -> ParsedDetections:
    """Without the boxes of other classes; each becomes a problem."""
    is_asked = [detection.label in asked for detection in parsed.detections]
    if all(is_asked):
        return parsed
    others = [detection for detection, kept in zip(parsed.detections, is_asked, strict=True) if not kept]
    detections = tuple(itertools.compress(parsed.detections, is_asked))
    problems = (*parsed.problems, *(Problem(NOT_ASKED, f"{other.label} {other.box}") for other in others))
    repeats = tuple(itertools.compress(parsed.repeats, is_asked))
    return ParsedDetections(detections, problems, health(detections, problems), repeats if any(repeats) else ())


class PictureAnswers(NamedTuple):
    """The answers about one picture with what each means, and what they mean together. ``removed``: the number of boxes
    that were taken out of the whole, by reason.
    """

    answers: Sequence[Answer]
    parsed: Sequence[ParsedDetections]
    whole: ParsedDetections
    removed: dict[str, int]

    def document(self) -> dict[str, Any]:
        """The picture's boxes, and the text of its answer; of several answers, each with its prompt."""
        first = self.answers[0]
        values = {
            "image": first.image,
            "size": first.size,
            "object": self.whole.by_label(),
            "problems": [] if first.error else self.whole.problems,
            "health": health_of(first, self.whole),
            **({"removed": self.removed} if self.removed else {}),
            **_text(first),
        }
        if len(self.answers) == 1:
            return values
        texts = [
            {
                "asked": answer.asked,
                "crop": answer.crop,
                "prompt": answer.prompt,
                "health": health_of(answer, parsed),
                **_text(answer),
            }
            for answer, parsed in zip(self.answers, self.parsed, strict=True)
        ]
        return {key: value for key, value in values.items() if key not in {"text", "finish"}} | {"answers": texts}


def _text(answer: Answer) -> dict[str, Any]:
    return {"text": answer.text, "finish": answer.finish} | ({"error": answer.error} if answer.error else {})


def by_picture(answers: Iterable[Answer], rules: ReadingRules) -> list[PictureAnswers]:
    """The answers about each picture, in the order of its first one."""
    groups: dict[str, list[Answer]] = {}
    for answer in answers:
        groups.setdefault(answer.image, []).append(answer)
    return [picture_answers(group, rules) for group in groups.values()]


def picture_answers(answers: Sequence[Answer], rules: ReadingRules) -> PictureAnswers:
    """All answers about one picture, read."""
    return put_together(answers, [read_answer(answer, rules) for answer in answers], rules)


def put_together(
    answers: Sequence[Answer], parsed: Sequence[ParsedDetections], rules: ReadingRules, size: Size | None = None
) -> PictureAnswers:
    """All answers about one picture and what ``read_answer`` makes of each, as one: boxes of several tiles are merged,
    then near repeats taken out. ``size``: as for ``read_answer``.
    """
    whole, removed = _joined(parsed), dict[str, int]()
    if rules.noise_label:
        before = _num_boxes(whole)
        parsed = [without_label(answer, rules.noise_label) for answer in parsed]
        whole = _joined(parsed)
        removed[NOISE] = before - _num_boxes(whole)
    if any(answer.crop for answer in answers):
        before = _num_boxes(whole)
        whole = _merged(whole, [tile_of(a, size) for a, p in zip(answers, parsed, strict=True) for _ in p.detections])
        removed[SEEN_IN_TILES] = before - _num_boxes(whole)
    if rules.dedupe:
        before = _num_boxes(whole)
        whole = without_near_repeats(whole, rules.dedupe)
        removed[NEAR_REPEAT] = before - _num_boxes(whole)
    return PictureAnswers(answers, parsed, whole, {reason: count for reason, count in removed.items() if count})


def _num_boxes(parsed: ParsedDetections) -> int:
    return len(parsed.detections) + sum(parsed.repeats)


def _merged(parsed: ParsedDetections, tiles: Sequence[Box]) -> ParsedDetections:
    """The detections of several tiles, one for each object; ``tiles``: that of each detection."""
    objects = merged([TileDetection(*pair) for pair in zip(parsed.detections, tiles, strict=True)])
    repeats = tuple(parsed.repeats[index] for index in objects) if parsed.repeats else ()
    return msgspec.structs.replace(parsed, detections=tuple(objects.values()), repeats=repeats if any(repeats) else ())


def _joined(parsed: Sequence[ParsedDetections]) -> ParsedDetections:
    """Several answers as one, in their order."""
    if len(parsed) == 1:
        return parsed[0]
    detections = tuple(detection for answer in parsed for detection in answer.detections)
    problems = tuple(problem for answer in parsed for problem in answer.problems)
    repeats = tuple(times for answer in parsed for times in answer.repeats or (0,) * len(answer.detections))
    return ParsedDetections(detections, problems, health(detections, problems), repeats if any(repeats) else ())


def health_of(answer: Answer, parsed: ParsedDetections) -> str:
    """The health of an answer's parsing; ``error`` for a bad picture."""
    return "error" if answer.finish == "error" else parsed.health
