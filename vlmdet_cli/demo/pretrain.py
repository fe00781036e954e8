"""Pretrain the tiny model from nothing on the world of shapes: ``python -m vlmdet_cli.demo.pretrain --output DIR``.

About an hour on two CPU cores. Rows are made as the tool itself makes them: the detection row and the four
questions, next-token loss on the answer alone. Beside it, a linear probe on the picture's tokens half-way through
the layers tells the class and the box of the object in each cell. Rotary positions are relative: without the probe
the model takes hours to find out where a token stands in the picture. The last stage goes without it.

Pictures come from a pool drawn once, mirrored at random. The folder gets the model and ``pretraining.jsonl``: the
losses each 50 steps, and precision, recall and F1 at IoU 0.5 on pictures that are not in the pool.
"""

import argparse
import json
import math
import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from vlmdet_cli.core.annotations import Object, Picture
from vlmdet_cli.core.boxes import pairwise_iou
from vlmdet_cli.core.rows import Kind
from vlmdet_cli.data.dataset import from_pictures
from vlmdet_cli.demo import tiny
from vlmdet_cli.demo.worlds import SHAPES, SIZE, STREET, WORLDS, scene
from vlmdet_cli.models import dialects
from vlmdet_cli.prompts import questions
from vlmdet_cli.prompts.base import NoQuestion
from vlmdet_cli.prompts.detection import answer_boxes

BATCH, PEAK_RATE, WARM_UP = 32, 1.2e-3, 300
SIDE, PICTURE_TOKENS = 112, 16
CELLS = 4  # tokens along a side of the picture
PROBED_LAYER, PROBE_WEIGHT = 2, 0.5
KINDS: tuple[tuple[Kind, float], ...] = (
    ("detection", 0.7), ("count", 0.09), ("full", 0.08), ("partial", 0.08), ("none", 0.05),
)  # fmt: skip
# Stages: objects a picture at most, what is asked, the F1 (on such pictures) and the share of the time that end it.
# To look comes first, without a text; then a few things, in short rows; then all. In the last stage the words that
# pictures of shapes do not need are said too, just to be repeated: a word that no answer ever held can hardly be
# learnt by LoRA, since its place in the output is worn away.
STAGES = (
    (99, "look", 0.0, 0.12),
    (2, "detection", 0.75, 0.3),
    (99, "all", 2.0, 0.8),
    (99, "all and words", 2.0, 2.0),
)
WORDS_SHARE = 0.25
WORDS = [thing.name for thing in (*STREET.things, *SHAPES.things)]
Pixels = npt.NDArray[np.uint8]
Pictures = list[tuple[Pixels, Picture]]


class Row(NamedTuple):
    pixels: Pixels
    prompt: list[int]
    answer: list[int]
    cells: npt.NDArray[np.float32]


def draw(task: tuple[str, int, int]) -> Pictures:
    """``count`` pictures of a world at the model's size, with their truth at the drawn size."""
    name, seed, count = task
    rng = np.random.default_rng(seed)
    out: Pictures = []
    for number in range(count):
        made = scene(WORLDS[name], rng)
        small = np.array(made.image.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        objects = tuple(Object(one.label, tuple(map(float, one.box)), one.crowd) for one in made.objects)  # type: ignore[arg-type]
        out.append((small, Picture(image_id=number, image="", width=SIZE, height=SIZE, objects=objects)))
    return out


def pool(world: str, seed: int, count: int) -> Pictures:
    """Pictures drawn by two processes, the same for the same seed."""
    tasks = [(world, seed * 1000 + part, 250) for part in range(count // 250)]
    with multiprocessing.get_context("spawn").Pool(2) as workers:
        return [one for part in workers.imap(draw, tasks) for one in part]


def mirrored(pixels: Pixels, picture: Picture) -> tuple[Pixels, Picture]:
    objects = tuple(
        Object(o.label, (SIZE - o.box[2], o.box[1], SIZE - o.box[0], o.box[3]), o.crowd) for o in picture.objects
    )
    flipped = Picture(image_id=picture.image_id, image="", width=SIZE, height=SIZE, objects=objects)
    return pixels[:, ::-1], flipped


def cells(picture: Picture, names: list[str]) -> npt.NDArray[np.float32]:
    """What the probe is to say: for each cell ``(16, 5)`` the class (0 none) and box of the object centred in it.

    Boxes are xyxy in shares of the picture. Of two objects in one cell the first stands; crowds are left out.
    """
    out = np.zeros((CELLS * CELLS, 5), dtype=np.float32)
    for one in reversed(picture.targets if names else ()):
        x1, y1, x2, y2 = (value / SIZE for value in one.box)
        column, row = int((x1 + x2) / 2 * CELLS), int((y1 + y2) / 2 * CELLS)
        out[row * CELLS + column] = (1 + names.index(one.label), x1, y1, x2, y2)
    return out


class Rows:
    """Endless random rows from a pool, as hard as ``stage`` says."""

    def __init__(self, pictures: Pictures, tokenizer: Any, seed: int) -> None:
        self.stage = 0
        self._pictures = pictures
        self._rng = np.random.default_rng(seed)
        self._names = [thing.name for thing in SHAPES.things]
        self._tokenizer = tokenizer

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def row(self, most: int, what: str) -> Row:
        """A random row on a picture of at most ``most`` objects."""
        while True:
            pixels, picture = self._pictures[int(self._rng.integers(len(self._pictures)))]
            if len(picture.targets) > most:
                continue
            if self._rng.random() < 0.5:
                pixels, picture = mirrored(pixels, picture)
            texts = self._texts(picture, what)
            if texts is not None:
                prompt, answer = texts
                return Row(pixels, self.encode(prompt), self.encode(answer), cells(picture, self._names))

    def _texts(self, picture: Picture, what: str) -> tuple[str, str] | None:
        """Prompt and answer: none for ``look``, where the text ends with the picture."""
        if what == "look":
            return tiny.chat("", PICTURE_TOKENS).partition("<|vision_end|>")[0], ""
        if what == "all and words" and self._rng.random() < WORDS_SHARE:
            return self._words()
        drawn = KINDS[int(self._rng.choice(len(KINDS), p=[share for _, share in KINDS]))][0]
        kind = drawn if what.startswith("all") else what
        dialect = dialects.get("qwen2_vl")
        data = from_pictures([picture], self._names)
        if kind == "detection":
            answer = "".join(answer_boxes(data, dialect, "position").texts or ()) or dialect.empty
            return tiny.chat(tiny.PROMPT, PICTURE_TOKENS), f"{answer}<|im_end|>"
        keys = self._rng.integers(1 << 62, size=1).astype(np.uint64)
        made = questions.generate_questions(kind, data, keys, dialect)[0]  # type: ignore[arg-type]
        if isinstance(made, NoQuestion):
            return None
        return tiny.chat(made.prompt.replace("<image>", ""), PICTURE_TOKENS), f"{made.answer}<|im_end|>"

    def _words(self) -> tuple[str, str]:
        """Names to be repeated, plain or as labels."""
        names = [WORDS[n] for n in self._rng.integers(0, len(WORDS), int(self._rng.integers(1, 7)))]
        prompt = tiny.chat(f"Say {', '.join(names)}", PICTURE_TOKENS)
        if self._rng.random() < 0.5:
            return prompt, f"{', '.join(names)}<|im_end|>"
        return prompt, "".join(f"<|object_ref_start|>{name}<|object_ref_end|>" for name in names) + "<|im_end|>"

    def __iter__(self) -> Iterator[list[Row]]:
        """Batches of rows of like length, in random order."""
        while True:
            stage = self.stage
            most, what, _, _ = STAGES[stage]
            rows = sorted((self.row(most, what) for _ in range(BATCH * 8)), key=lambda r: len(r.prompt) + len(r.answer))
            for start in self._rng.permutation(8):
                if stage == self.stage:
                    yield rows[start * BATCH : (start + 1) * BATCH]


def tensors(rows: list[Row], pad: int, image_token: int) -> dict[str, Any]:
    """A batch as the model takes it, padded at the right."""
    import torch

    length = max(len(row.prompt) + len(row.answer) for row in rows)
    ids = torch.full((len(rows), length), pad)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        end = len(row.prompt) + len(row.answer)
        ids[number, :end] = torch.tensor(row.prompt + row.answer)
        mask[number, :end] = 1
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "mm_token_type_ids": (ids == image_token).long(),
        "pixel_values": tiny.patches(np.stack([row.pixels for row in rows])),
        "image_grid_thw": torch.tensor([[1, SIDE // 14, SIDE // 14]] * len(rows)),
    }


def losses(model: Any, probe: Any, rows: list[Row], pad: int) -> tuple[Any, Any]:
    """Mean loss of the answers' tokens (0 where there are none), and the probe's loss over the cells."""
    import torch
    from torch.nn import functional

    batch = tensors(rows, pad, model.config.image_token_id)
    out = model.model(**batch, output_hidden_states=True, use_cache=False)
    seen = out.hidden_states[PROBED_LAYER][batch["input_ids"] == model.config.image_token_id]
    told, wanted = probe(seen), torch.from_numpy(np.concatenate([row.cells for row in rows]))
    filled = wanted[:, 0] > 0
    probed = functional.cross_entropy(told[:, :-4], wanted[:, 0].long())
    off = functional.l1_loss(told[filled, -4:], wanted[filled, 1:], reduction="sum")
    probed = probed + 5 * off / max(4 * int(filled.sum()), 1)
    answered = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
    for number, row in enumerate(rows):
        answered[number, len(row.prompt) : len(row.prompt) + len(row.answer)] = True
    if not answered.any():
        return torch.zeros(()), probed
    logits = model.lm_head(out.last_hidden_state[:, :-1][answered[:, 1:]])
    return functional.cross_entropy(logits, batch["input_ids"][answered]), probed


def score(model: Any, tokenizer: Any, pictures: Pictures) -> dict[str, float]:
    """Precision, recall and F1 at IoU 0.5 of greedy answers to the detection prompt."""
    import torch

    prompt = tokenizer(tiny.chat(tiny.PROMPT, PICTURE_TOKENS), add_special_tokens=False).input_ids
    dialect, hits, said, true = dialects.get("qwen2_vl"), 0, 0, 0
    model.eval()
    for start in range(0, len(pictures), 50):
        part = pictures[start : start + 50]
        rows = [Row(pixels, prompt, [], cells(picture, [])) for pixels, picture in part]
        batch = tensors(rows, 0, model.config.image_token_id)
        with torch.inference_mode():
            made = model.generate(**batch, max_new_tokens=220)
        for ids, (_, picture) in zip(made[:, len(prompt) :].tolist(), part, strict=True):
            parsed = dialect.parse(tokenizer.decode(ids), (SIZE, SIZE))
            found, truth = [(d.label, d.box) for d in parsed.detections], [(o.label, o.box) for o in picture.targets]
            hits, said, true = hits + matched(found, truth), said + len(found), true + len(truth)
    model.train()
    return {
        "precision": round(hits / max(said, 1), 4),
        "recall": round(hits / max(true, 1), 4),
        "f1": round(2 * hits / max(said + true, 1), 4),
    }


def matched(found: list[tuple[str, Any]], truth: list[tuple[str, Any]]) -> int:
    """Pairs of one label with IoU of 0.5 or more, best first, each used once."""
    if not found or not truth:
        return 0
    overlaps = pairwise_iou([box for _, box in found], [box for _, box in truth])
    same = np.array([[one[0] == two[0] for two in truth] for one in found])
    pairs = sorted(zip(*np.nonzero(same & (overlaps >= 0.5)), strict=True), key=lambda pair: -overlaps[pair])
    left, right = set[int](), set[int]()
    for one, two in pairs:
        if one not in left and two not in right:
            left.add(one)
            right.add(two)
    return len(left)


def rate(share: float, step: int) -> float:
    """Part of the peak learning rate: a short warm-up, then a cosine down to a fiftieth over the run's time."""
    cosine = (1 + math.cos(math.pi * min(share, 1.0))) / 2
    return min(1.0, (step + 1) / WARM_UP) * (0.02 + 0.98 * cosine)


def main() -> None:
    """Parse the command line and run to the end of the time."""
    parser = argparse.ArgumentParser(description="Pretrain the demo's tiny Qwen2-VL on the world of shapes.")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=55, help="training time, without drawing the pool")
    parser.add_argument("--pictures", type=int, default=30_000, help="pictures in the pool")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=Path, help="go on from this folder's weights")
    parser.add_argument("--stage", type=int, default=0, help="stage to begin with")
    parser.add_argument("--rate", type=float, default=PEAK_RATE, help="peak learning rate")
    train(parser.parse_args())


class Log:
    """The run's log beside the weights, a JSON object a line."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w")
        self._started = time.monotonic()

    def seconds(self) -> float:
        return time.monotonic() - self._started

    def __call__(self, **values: Any) -> None:
        self._file.write(json.dumps({"seconds": round(self.seconds()), **values}) + "\n")
        self._file.flush()


def train(options: argparse.Namespace) -> None:
    import torch

    torch.manual_seed(options.seed)
    tokenizer = tiny.build_tokenizer()
    processor, model = tiny.build_processor(tokenizer), tiny.build_model(tokenizer)
    if options.model:
        model = type(model).from_pretrained(options.model, dtype=torch.float32)
    held_out, street = pool("shapes", options.seed + 1, 500), pool("street", options.seed + 2, 250)
    rows = Rows(pool("shapes", options.seed + 3, options.pictures), tokenizer, options.seed)
    options.output.mkdir(parents=True, exist_ok=True)
    log = Log(options.output / "pretraining.jsonl")
    rows.stage = options.stage
    log(parameters=tiny.parameters(model), vocabulary=len(tokenizer), batch=BATCH, pictures=options.pictures)
    optimize(model, tokenizer, rows, held_out, log, float(options.minutes) * 60, options.rate)
    tiny.save(model, processor, options.output)
    log(world="shapes", final=True, **score(model, tokenizer, held_out))
    log(world="street", final=True, **score(model, tokenizer, street))


def optimize(model: Any, tokenizer: Any, rows: Rows, held_out: Pictures, log: Log, seconds: float, peak: float) -> None:
    """Train through the stages until the time is over."""
    import torch

    probe = torch.nn.Linear(tiny.HIDDEN, 1 + len(SHAPES.things) + 4)
    trained = [*model.parameters(), *probe.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=peak, betas=(0.9, 0.98), weight_decay=0.02)
    pad, known = tokenizer.convert_tokens_to_ids("<|endoftext|>"), list[tuple[float, float]]()
    for step, batch in enumerate(rows, 1):
        share = log.seconds() / seconds
        if share >= 1:
            return
        for group in optimizer.param_groups:
            group["lr"] = peak * rate(share, step)
        told, probed = losses(model, probe, batch, pad)
        (told + (PROBE_WEIGHT if rows.stage < len(STAGES) - 1 else 0) * probed).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        known.append((told.item(), probed.item()))
        if step % 50 == 0:
            answer, cell = np.mean(known[-50:], axis=0).round(4).tolist()
            log(step=step, stage=rows.stage, loss=answer, probe=cell)
        if step % 250 == 0:
            rows.stage += _enough(model, tokenizer, rows.stage, held_out, share, log, step)


def _enough(model: Any, tokenizer: Any, stage: int, held_out: Pictures, share: float, log: Log, step: int) -> bool:
    """Whether a stage is at its end: by its time, or by what the model finds in pictures that it was not shown."""
    most, what, enough, latest = STAGES[stage]
    if what == "look":
        return share >= latest
    found = score(model, tokenizer, [one for one in held_out if len(one[1].targets) <= most][:60])
    log(step=step, stage=stage, world="shapes", **found)
    return found["f1"] >= enough or share >= latest


if __name__ == "__main__":
    main()
