"""Pictures and questions for the pretraining of the tiny model.

Questions are those that vlmdet itself writes: the detection row and the four documented kinds. The percent of a
``partial`` row is the hardest to learn, one token in seventy: short rows, an area and an answer such as
``plain disk: 40%``, ask for it more often in the same time. All questions about a picture are packed behind it (see
``packed_forward``). Besides them a picture has the target of the probes (see ``pretrain``): what each of its cells
shows.

All pictures are of the world of shapes. The street is not seen, only its words: some rows repeat words of both worlds,
since LoRA hardly learns a word that no answer ever had (pretraining pushes its output weights away).
"""

import multiprocessing
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from vlmdet_cli.core.annotations import Object, Picture
from vlmdet_cli.core.rows import InstructionRow, QuestionKind
from vlmdet_cli.data.dataset import Dataset, from_pictures
from vlmdet_cli.demo import tiny
from vlmdet_cli.demo.worlds import SHAPES, SIZE, STREET, WORLDS, draw_scene
from vlmdet_cli.models import dialects
from vlmdet_cli.prompts import questions
from vlmdet_cli.prompts.base import NoQuestion
from vlmdet_cli.prompts.detection import answer_boxes

CELLS = tiny.CELLS  # tokens along a side of the picture
SIDE, IMAGE_TOKENS = 28 * CELLS, CELLS * CELLS  # of a picture as the model sees it
LENGTH = 320  # tokens of a picture with its questions
POOL_PART = 250  # pictures that a process draws at a time
CHUNK = 1024  # pictures whose questions are written at a time
# the questions that a picture may have behind the detection row, as many as fit, the first one first, the others in
# random order: their kinds, the shares of the pictures that may have them, and whether they are short
KINDS: tuple[tuple[QuestionKind, float, bool], ...] = (
    ("count", 1.0, False), ("full", 1.0, False), ("partial", 1.0, False), ("none", 0.3, False),
    ("partial", 1.0, True), ("partial", 1.0, True), ("partial", 1.0, True),
)  # fmt: skip
REPEAT_SHARE = 0.15  # of the pictures with a row that repeats words
WORDS = [category.name for category in (*STREET.categories, *SHAPES.categories)]
NAMES = [category.name for category in SHAPES.categories]
ASSISTANT = "<|im_end|>\n<|im_start|>assistant\n"
# weights of an answer's tokens: digits of boxes by their value (the last digit is a fifth of a pixel), the area that
# an answer repeats, other words of an answer about an area, its percent, and words of a count
DIGIT_WEIGHTS, AREA_WEIGHT, AREA_WORD_WEIGHT, PERCENT_WEIGHT, COUNT_WEIGHT = (0.25, 0.7, 1.0, 1.0), 0.1, 2.0, 4.0, 1.5
Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
DrawnPicture = tuple[Pixels, Picture]  # at the model's size, with annotations at the drawn size


class Question(NamedTuple):
    """Token ids from behind the picture to the end, and for each token the weight of its loss, 0 in the prompt."""

    ids: list[int]
    weights: list[float]


class Batch(NamedTuple):
    """N pictures ``(N, SIDE, SIDE, 3)``, their tokens (N, L): ids, the weights of their losses, the number of the
    question (0 for what is before all questions, -1 for padding); positions (3, N, L); the probes' targets (N, C * C,
    PROBE_COLUMNS).
    """

    pixels: Pixels
    ids: Ids
    weights: Floats
    question: Ids
    positions: Ids
    cells: Floats


def draw_pool(world: str, seed: int, count: int) -> list[DrawnPicture]:
    """Pictures drawn by two processes, the same for the same seed."""
    tasks = [(world, seed * 1000 + part, POOL_PART) for part in range(count // POOL_PART)]
    with multiprocessing.get_context("spawn").Pool(2) as workers:
        return [picture for part in workers.imap(_draw_pictures, tasks) for picture in part]


def _draw_pictures(task: tuple[str, int, int]) -> list[DrawnPicture]:
    """``task`` is a world, a seed and a number of pictures."""
    world, seed, count = task
    rng = np.random.default_rng(seed)
    pictures: list[DrawnPicture] = []
    for number in range(count):
        scene = draw_scene(WORLDS[world], rng)
        small = np.array(scene.image.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        objects = tuple(Object(o.label, tuple(map(float, o.box)), o.crowd) for o in scene.objects)  # type: ignore[arg-type]
        pictures.append((small, Picture(image_id=number, image="", width=SIZE, height=SIZE, objects=objects)))
    return pictures


def _varied(pixels: Pixels, picture: Picture, rng: np.random.Generator) -> DrawnPicture:
    """The picture with its colour channels in another order and, half the time, left and right exchanged."""
    pixels = pixels[:, :, rng.permutation(3)]
    if rng.random() < 0.5:
        return pixels, picture
    objects = tuple(
        Object(o.label, (SIZE - o.box[2], o.box[1], SIZE - o.box[0], o.box[3]), o.crowd) for o in picture.objects
    )
    return pixels[:, ::-1], Picture(image_id=picture.image_id, image="", width=SIZE, height=SIZE, objects=objects)


def probe_target(picture: Picture) -> Floats:
    """For each cell ``(C * C, 10)``: class (0 for none) and box of the object that is centred in it, and the same of
    the smallest object that covers the cell's centre.

    Boxes are xyxy in shares of the picture. Of several objects centred in a cell the first counts; crowds are left out.
    """
    target = np.zeros((CELLS, CELLS, 10), dtype=np.float32)
    centres = (np.arange(CELLS) + 0.5) / CELLS
    for annotated in sorted(picture.targets, key=lambda o: -(o.box[2] - o.box[0]) * (o.box[3] - o.box[1])):
        x1, y1, x2, y2 = (value / SIZE for value in annotated.box)
        values = (1 + NAMES.index(annotated.label), x1, y1, x2, y2)
        target[int((y1 + y2) / 2 * CELLS), int((x1 + x2) / 2 * CELLS), :5] = values
        rows, columns = (centres > y1) & (centres < y2), (centres > x1) & (centres < x2)
        target[rows[:, None] & columns, 5:] = values
    return target.reshape(CELLS * CELLS, 10)


class Rows:
    """Endless batches of random pictures from a pool, with their questions, or without any (``batches``)."""

    def __init__(self, pictures: list[DrawnPicture], tokenizer: Any, seed: int) -> None:
        self._pictures = pictures
        self._rng = np.random.default_rng(seed)
        self._tokenizer = tokenizer
        before = tiny.request_text("", IMAGE_TOKENS).removesuffix(ASSISTANT)
        self._before = self._encode([before])[0]
        self.first = self._before.index(tokenizer.convert_tokens_to_ids("<|image_pad|>"))
        self._special = {
            name: tokenizer.convert_tokens_to_ids(name) for name in ("<|box_start|>", "<|box_end|>", "<|endoftext|>")
        }
        self._digits = set(tokenizer.convert_tokens_to_ids(list("0123456789")))

    def batches(self, size: int, with_questions: bool) -> Iterator[Batch]:
        """Batches of ``size`` pictures; the pool's pictures come in random order."""
        while True:
            indices = self._rng.integers(len(self._pictures), size=CHUNK // size * size)
            drawn = [_varied(*self._pictures[int(index)], self._rng) for index in indices]
            asked = self._questions([picture for _, picture in drawn]) if with_questions else [[] for _ in drawn]
            for start in range(0, len(drawn), size):
                yield self._batch(drawn[start : start + size], asked[start : start + size], with_questions)

    def _batch(self, drawn: Sequence[DrawnPicture], asked: Sequence[list[Question]], with_questions: bool) -> Batch:
        length = LENGTH if with_questions else len(self._before)
        shape, behind = (len(drawn), length), len(self._before)
        ids, numbers = np.full(shape, self._special["<|endoftext|>"]), np.full(shape, -1)
        weights, positions = np.zeros(shape, np.float32), np.zeros((3, *shape), np.int64)
        ids[:, :behind], numbers[:, :behind], positions[:, :, :behind] = self._before, 0, self._first_positions()
        for row, questions_of_picture in enumerate(asked):
            start = behind
            for number, question in enumerate(questions_of_picture, 1):
                end = start + len(question.ids)
                ids[row, start:end], weights[row, start:end], numbers[row, start:end] = *question, number
                positions[:, row, start:end] = positions[0, 0, behind - 1] + 1 + np.arange(end - start)
                start = end
        pixels = np.stack([pixels for pixels, _ in drawn])
        cells = np.stack([probe_target(picture) for _, picture in drawn])
        return Batch(pixels, ids, weights, numbers, positions, cells)

    def _first_positions(self) -> npt.NDArray[np.int64]:
        """``(3, 1, A)``: the positions of what precedes the questions; the picture's tokens have time, row, column."""
        positions = np.zeros((3, len(self._before)), np.int64)
        positions[:, : self.first] = np.arange(self.first)
        end = self.first + IMAGE_TOKENS
        cells = np.arange(IMAGE_TOKENS)
        positions[:, self.first : end] = self.first + np.stack([cells * 0, cells // CELLS, cells % CELLS])
        positions[:, end:] = self.first + CELLS + np.arange(len(self._before) - end)
        return positions[:, None]

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        ids: list[list[int]] = self._tokenizer(list(texts), add_special_tokens=False).input_ids
        return ids

    def _questions(self, pictures: Sequence[Picture]) -> list[list[Question]]:
        """For each picture the questions that fit, the detection row first."""
        data, texts = from_pictures(pictures, NAMES), list[list[tuple[str, str, str]]]()
        for detection in _detection_texts(data):
            texts.append([detection])
            if self._rng.random() < REPEAT_SHARE:
                texts[-1].append(self._repeated_words())
        by_kind = [self._texts(*kind, data, number) for number, kind in enumerate(KINDS)]
        for index, own in enumerate(texts):
            order = (0, *self._rng.permutation(np.arange(1, len(KINDS))))
            own += [row for n in order if (row := by_kind[n][index])]
        flat = [row for own in texts for row in own]
        prompts = self._encode([prompt + ASSISTANT for _, prompt, _ in flat])
        answers = self._encode([f"{answer}<|im_end|>" for _, _, answer in flat])
        encoded = (
            Question(prompt + answer, [0.0] * len(prompt) + self._weights(kind, answer))
            for (kind, _, _), prompt, answer in zip(flat, prompts, answers, strict=True)
        )
        return [self._fitting([next(encoded) for _ in own]) for own in texts]

    def _fitting(self, rows: list[Question]) -> list[Question]:
        """The questions that fit into ``LENGTH`` tokens, in their order."""
        kept, used = list[Question](), len(self._before)
        for row in rows:
            if used + len(row.ids) <= LENGTH:
                kept.append(row)
                used += len(row.ids)
        return kept

    def _weights(self, kind: str, answer: list[int]) -> list[float]:
        """The weights of an answer's tokens."""
        word = {"detection": 1.0, "words": 1.0, "count": COUNT_WEIGHT}.get(kind, AREA_WORD_WEIGHT)
        weights, in_box, digits = [word] * len(answer), False, 0
        for index in range(len(answer) - 1, -1, -1):  # backwards: units come first
            token = answer[index]
            in_box = (in_box or token == self._special["<|box_end|>"]) and token != self._special["<|box_start|>"]
            digits = digits + 1 if token in self._digits else 0
            if in_box and kind != "detection":
                weights[index] = AREA_WEIGHT
            elif in_box and digits:
                weights[index] = DIGIT_WEIGHTS[digits - 1]
            elif digits and kind == "partial":
                weights[index] = PERCENT_WEIGHT
        return weights

    def _texts(
        self, kind: QuestionKind, share: float, short: bool, data: Dataset, number: int
    ) -> list[tuple[str, str, str] | None]:
        """Kind, prompt and answer of a question about each picture of a share; None where a picture admits none."""
        keys = self._rng.integers(1 << 62, size=len(data.images)).astype(np.uint64)
        rows = questions.generate_questions(kind, data, keys, dialects.get("qwen2_vl"), number=number)
        asked = self._rng.random(len(rows)) < share
        return [
            None if isinstance(row, NoQuestion) or not is_asked else (kind, *_texts_of(row, short))
            for row, is_asked in zip(rows, asked, strict=True)
        ]

    def _repeated_words(self) -> tuple[str, str, str]:
        """A prompt with names, and an answer that repeats them, plain or as labels."""
        names = [WORDS[n] for n in self._rng.integers(0, len(WORDS), int(self._rng.integers(1, 5)))]
        prompt = f"Say {', '.join(names)}"
        if self._rng.random() < 0.5:
            return "words", prompt, ", ".join(names)
        return "words", prompt, "".join(f"<|object_ref_start|>{name}<|object_ref_end|>" for name in names)


def _texts_of(row: InstructionRow, short: bool) -> tuple[str, str]:
    """The prompt and the answer of a question; of a short one about an area the area, and the label and the percent."""
    prompt = row.prompt.removeprefix("<image>")
    if not short:
        return prompt, row.answer
    area = prompt[prompt.index("<|box_start|>") : prompt.index("<|box_end|>")] + "<|box_end|>"
    _, label, end = row.answer.split('"')
    return area, f"{label}: {end.removeprefix(', about ').removesuffix(' is visible.')}"


def _detection_texts(data: Dataset) -> Iterator[tuple[str, str, str]]:
    """Kind, prompt and answer of the detection row of each picture."""
    dialect = dialects.get("qwen2_vl")
    boxes = answer_boxes(data, dialect, "position")
    texts = boxes.texts or ()
    for start, end in zip(boxes.starts, boxes.starts[1:], strict=False):
        yield "detection", tiny.PROMPT, "".join(texts[start:end]) or dialect.empty
