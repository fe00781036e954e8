"""Pictures and rows for the pretraining of the tiny model.

Rows are those that vlmdet itself writes: the detection row and the four documented questions. Besides the prompt and
the answer a row has the target of the probe (see ``pretrain``): the class and the box of the object in each cell.
"""

import multiprocessing
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from vlmdet_cli.core.annotations import Object, Picture
from vlmdet_cli.core.rows import Kind
from vlmdet_cli.data.dataset import from_pictures
from vlmdet_cli.demo import tiny
from vlmdet_cli.demo.worlds import SHAPES, SIZE, STREET, WORLDS, draw_scene
from vlmdet_cli.models import dialects
from vlmdet_cli.prompts import questions
from vlmdet_cli.prompts.base import NoQuestion
from vlmdet_cli.prompts.detection import answer_boxes

BATCH = 32
SIDE, IMAGE_TOKENS = 112, 16  # of a picture as the model sees it
CELLS = 4  # tokens along a side of the picture
POOL_PART = 250  # pictures that a process draws at a time
BATCHES_SORTED = 8  # batches whose rows are sorted by length together
KIND_PROBABILITIES: tuple[tuple[Kind, float], ...] = (
    ("detection", 0.7), ("count", 0.09), ("full", 0.08), ("partial", 0.08), ("none", 0.05),
)  # fmt: skip
REPEAT_SHARE = 0.25  # of rows that repeat words, with the content "all and words"
WORDS = [category.name for category in (*STREET.categories, *SHAPES.categories)]
Content = Literal["look", "detection", "all", "all and words"]
Pixels = npt.NDArray[np.uint8]
DrawnPicture = tuple[Pixels, Picture]  # at the model's size, with annotations at the drawn size


class Stage(NamedTuple):
    """A part of the pretraining: pictures of up to ``max_objects``, and the content of rows. It ends when the model
    reaches ``f1`` on such pictures, at the latest after the share ``until`` of the time.
    """

    max_objects: int
    content: Content
    f1: float
    until: float


# The model first learns to look, from rows without a text, where only the probe has a loss; then a few objects in
# short rows; then everything. In the last stage some rows only repeat words that the world of shapes does not need:
# LoRA hardly learns a word that no answer ever had, since pretraining pushes its output weights away.
STAGES = (
    Stage(99, "look", f1=0.0, until=0.12),
    Stage(2, "detection", f1=0.75, until=0.3),
    Stage(99, "all", f1=2.0, until=0.8),
    Stage(99, "all and words", f1=2.0, until=2.0),
)


class Row(NamedTuple):
    """A training row: the picture (112, 112, 3), token ids of prompt and answer, and the probe's target (16, 5)."""

    pixels: Pixels
    prompt: list[int]
    answer: list[int]
    cells: npt.NDArray[np.float32]


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


def _mirrored(pixels: Pixels, picture: Picture) -> DrawnPicture:
    """The picture with left and right exchanged."""
    objects = tuple(
        Object(o.label, (SIZE - o.box[2], o.box[1], SIZE - o.box[0], o.box[3]), o.crowd) for o in picture.objects
    )
    mirrored = Picture(image_id=picture.image_id, image="", width=SIZE, height=SIZE, objects=objects)
    return pixels[:, ::-1], mirrored


def probe_target(picture: Picture, names: list[str]) -> npt.NDArray[np.float32]:
    """For each cell ``(16, 5)`` the class (0 for none) and the box of the object that is centred in it.

    Boxes are xyxy in shares of the picture. Of several objects in a cell the first counts; crowds are left out.
    """
    target = np.zeros((CELLS * CELLS, 5), dtype=np.float32)
    for annotated in reversed(picture.targets if names else ()):
        x1, y1, x2, y2 = (value / SIZE for value in annotated.box)
        column, row = int((x1 + x2) / 2 * CELLS), int((y1 + y2) / 2 * CELLS)
        target[row * CELLS + column] = (1 + names.index(annotated.label), x1, y1, x2, y2)
    return target


class Rows:
    """An endless iterator over batches of random rows from a pool, with the content of ``STAGES[stage]``."""

    def __init__(self, pictures: list[DrawnPicture], tokenizer: Any, seed: int) -> None:
        self.stage = 0
        self._pictures = pictures
        self._rng = np.random.default_rng(seed)
        self._names = [category.name for category in SHAPES.categories]
        self._tokenizer = tokenizer

    def __iter__(self) -> Iterator[list[Row]]:
        """Batches of rows of similar length, in random order. A new stage begins with the next batch."""
        while True:
            stage = self.stage
            rows = sorted(
                (self._row(STAGES[stage]) for _ in range(BATCH * BATCHES_SORTED)),
                key=lambda row: len(row.prompt) + len(row.answer),
            )
            for start in self._rng.permutation(BATCHES_SORTED):
                if stage == self.stage:
                    yield rows[start * BATCH : (start + 1) * BATCH]

    def _row(self, stage: Stage) -> Row:
        while True:
            pixels, picture = self._pictures[int(self._rng.integers(len(self._pictures)))]
            if len(picture.targets) > stage.max_objects:
                continue
            if self._rng.random() < 0.5:
                pixels, picture = _mirrored(pixels, picture)
            texts = self._texts(picture, stage.content)
            if texts is not None:
                prompt, answer = texts
                return Row(pixels, self._encode(prompt), self._encode(answer), probe_target(picture, self._names))

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def _texts(self, picture: Picture, content: Content) -> tuple[str, str] | None:
        """Prompt and answer; None where the picture admits no question of the kind drawn."""
        if content == "look":  # the text ends with the picture
            return tiny.request_text("", IMAGE_TOKENS).partition("<|vision_end|>")[0], ""
        if content == "all and words" and self._rng.random() < REPEAT_SHARE:
            return self._repeated_words()
        probabilities = [probability for _, probability in KIND_PROBABILITIES]
        drawn = KIND_PROBABILITIES[int(self._rng.choice(len(KIND_PROBABILITIES), p=probabilities))][0]
        kind: Kind = drawn if content.startswith("all") else "detection"
        dialect, data = dialects.get("qwen2_vl"), from_pictures([picture], self._names)
        if kind == "detection":
            answer = "".join(answer_boxes(data, dialect, "position").texts or ()) or dialect.empty
            return tiny.request_text(tiny.PROMPT, IMAGE_TOKENS), f"{answer}<|im_end|>"
        keys = self._rng.integers(1 << 62, size=1).astype(np.uint64)
        row = questions.generate_questions(kind, data, keys, dialect)[0]
        if isinstance(row, NoQuestion):
            return None
        return tiny.request_text(row.prompt, IMAGE_TOKENS), f"{row.answer}<|im_end|>"

    def _repeated_words(self) -> tuple[str, str]:
        """A prompt with names, and an answer that repeats them, plain or as labels."""
        names = [WORDS[n] for n in self._rng.integers(0, len(WORDS), int(self._rng.integers(1, 7)))]
        prompt = tiny.request_text(f"Say {', '.join(names)}", IMAGE_TOKENS)
        if self._rng.random() < 0.5:
            return prompt, f"{', '.join(names)}<|im_end|>"
        return prompt, "".join(f"<|object_ref_start|>{name}<|object_ref_end|>" for name in names) + "<|im_end|>"
