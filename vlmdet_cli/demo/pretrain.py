"""Pretrain the tiny model on the world of shapes: ``python -m vlmdet_cli.demo.pretrain --output DIR``.

It starts from random weights and takes under two hours on two CPU cores. The loss is that of the answers' next
tokens, plus those of two linear probes, on the vision tower's tokens and on the picture's tokens half-way through the
layers. They predict the class and the box of the object in each cell: the one relative to the cell, the other in the
picture. Rotary positions are relative: without the probes the model takes hours to learn where in the picture a token
is. It begins with the probes alone, and ends without them.

Pictures come from a pool that is drawn once, and are mirrored and coloured at random. Each process, with a core of its
own, has a pool and batches of its own, and the gradients of all are averaged in every step. The output folder gets the
model and ``pretraining.jsonl``: the losses every 50 steps, and measures on pictures outside the pool: precision, recall
and F1 at IoU 0.5 of detection, and the accuracy of each kind of question.
"""

import argparse
import contextlib
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlmdet_cli.core.answers import Answer
from vlmdet_cli.core.boxes import pairwise_iou
from vlmdet_cli.core.memory import keep_freed_memory
from vlmdet_cli.data.dataset import from_pictures
from vlmdet_cli.demo import packed_forward, tiny
from vlmdet_cli.demo.pretraining_rows import (
    CELLS,
    IMAGE_TOKENS,
    KINDS,
    NAMES,
    Batch,
    DrawnPicture,
    Rows,
    draw_pool,
)
from vlmdet_cli.demo.worlds import SIZE
from vlmdet_cli.metrics.tasks import tasks
from vlmdet_cli.models import dialects
from vlmdet_cli.prompts import questions
from vlmdet_cli.prompts.base import NoQuestion

PEAK_RATE, WARM_UP_STEPS = 2e-3, 200
LOOK_SHARE, LOOK_BATCH, BATCH = 0.12, 64, 16  # of the time without questions; pictures a step there and later
PROBED_LAYER, PROBE_WEIGHT, PROBE_SHARE = 2, 0.5, 0.8  # the probes have a loss in this share of the time
BOX_LOSS_WEIGHT = 5  # of the probes
LOG_STEPS = 50
SCORES, SCORED_PICTURES = 8, 60  # measures while training, and their pictures


class Log:
    """``pretraining.jsonl``: a JSON object a line, each with the seconds since the start."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w")
        self.start()

    def start(self) -> None:
        self._started = time.monotonic()

    def seconds(self) -> float:
        return time.monotonic() - self._started

    def write(self, **values: Any) -> None:
        self._file.write(json.dumps({"seconds": round(self.seconds()), **values}) + "\n")
        self._file.flush()


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description="Pretrain the demo's tiny Qwen2-VL on the world of shapes.")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=100, help="training time, without drawing the pool")
    parser.add_argument("--pictures", type=int, default=24_000, help="pictures in the pool of a process")
    parser.add_argument("--processes", type=int, default=2, help="with a core each")
    parser.add_argument("--seed", type=int, default=0)
    pretrain(parser.parse_args())


def pretrain(options: argparse.Namespace) -> None:
    """Draw the pictures, train, write the model and its measures."""
    import torch

    if options.processes == 1:
        _pretrain(0, options)
        return
    with tempfile.TemporaryDirectory() as folder:  # where the processes meet
        torch.multiprocessing.spawn(_pretrain_together, (options, Path(folder)), nprocs=options.processes)


def _pretrain_together(rank: int, options: argparse.Namespace, folder: Path) -> None:
    with process_group(rank, options.processes, folder):
        _pretrain(rank, options)


@contextlib.contextmanager
def process_group(rank: int, processes: int, folder: Path) -> Iterator[None]:
    """Processes that meet in an empty folder, with a thread each; they end together, or one would abort the others."""
    import torch

    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/processes", rank=rank, world_size=processes
    )
    try:
        yield
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()


def _pretrain(rank: int, options: argparse.Namespace) -> None:
    """What each process does; the first one measures and writes."""
    import torch

    keep_freed_memory()
    torch.manual_seed(options.seed)
    tokenizer = tiny.build_tokenizer()
    processor, model = tiny.build_processor(tokenizer), tiny.build_model(tokenizer)
    rows = Rows(draw_pool("shapes", options.seed + 3 + 100 * rank, options.pictures), tokenizer, options.seed + rank)
    if rank > 0:
        optimize(model, rows, None, options.minutes * 60, lambda _step: None)
        return
    held_out, street = draw_pool("shapes", options.seed + 1, 500), draw_pool("street", options.seed + 2, 250)
    options.output.mkdir(parents=True, exist_ok=True)
    log = Log(options.output / "pretraining.jsonl")
    log.write(
        parameters=tiny.count_parameters(model), vocabulary=len(tokenizer), minutes=options.minutes,
        pictures=options.pictures, seed=options.seed, threads=torch.get_num_threads(), processes=options.processes,
        bfloat16=has_bfloat16(),
    )  # fmt: skip

    def measure(step: int) -> None:
        log.write(step=step, world="shapes", **score(model, tokenizer, held_out[:SCORED_PICTURES]))
        tiny.save(model, processor, options.output)

    step = optimize(model, rows, log, options.minutes * 60, measure)
    tiny.save(model, processor, options.output)
    log.write(step=step, world="shapes", final=True, **score(model, tokenizer, held_out))
    log.write(step=step, world="street", final=True, **score(model, tokenizer, street))


def optimize(model: Any, rows: Rows, log: Log | None, seconds: float, measure: Callable[[int], None]) -> int:
    """Train for ``seconds``; the number of steps. ``measure`` is called several times, with the step."""
    import torch

    probes = [torch.nn.Linear(tiny.HIDDEN, 2 * (1 + len(NAMES) + 4)) for _ in range(2)]
    weights = [*model.parameters(), *(p for probe in probes for p in probe.parameters())]
    optimizer = torch.optim.AdamW(weights, lr=0.0, betas=(0.9, 0.98), weight_decay=0.02, fused=True)
    losses = Losses(model, probes, rows.first)
    looking, asking = rows.batches(LOOK_BATCH, with_questions=False), rows.batches(BATCH, with_questions=True)
    for batches in (looking, asking):
        sum(losses(next(batches))).backward()  # compiles
    optimizer.zero_grad(set_to_none=True)
    step, history, scores, elapsed = 0, list[tuple[float, float]](), 0, 0.0
    started = time.monotonic()
    if log:
        log.start()
    while elapsed < 1:
        step += 1
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * rate_factor(elapsed, step)
        answer_loss, probe_loss = losses(next(looking if elapsed < LOOK_SHARE else asking))
        (answer_loss + (PROBE_WEIGHT if elapsed < PROBE_SHARE else 0) * probe_loss).backward()
        elapsed, answer, probe = averaged(
            weights, [(time.monotonic() - started) / seconds, answer_loss.item(), probe_loss.item()]
        )
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        history.append((answer, probe))
        if log and step % LOG_STEPS == 0:
            answer, probe = np.mean(history[-LOG_STEPS:], axis=0).round(4).tolist()
            log.write(step=step, loss=answer, probe=probe)
        if (elapsed - LOOK_SHARE) / (1 - LOOK_SHARE) * SCORES >= scores + 1:
            scores += 1
            measure(step)
    return step


def averaged(weights: Sequence[Any], values: Sequence[float]) -> list[float]:
    """The means of ``values`` over the processes; the gradients of the weights become their means, too."""
    import torch

    if not torch.distributed.is_initialized():
        return list(values)
    for weight in weights:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
    joined = torch.cat([*(weight.grad.flatten() for weight in weights), torch.tensor(values)])
    torch.distributed.all_reduce(joined)
    joined /= torch.distributed.get_world_size()
    *gradients, means = joined.split([*(weight.numel() for weight in weights), len(values)])
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad.copy_(gradient.view_as(weight))
    shared: list[float] = means.tolist()
    return shared


def rate_factor(elapsed: float, step: int) -> float:
    """The share of the peak learning rate: a short warm-up, then a cosine down to a hundredth; ``elapsed`` is the share
    of the time.
    """
    cosine = (1 + math.cos(math.pi * min(elapsed, 1.0))) / 2
    return min(1.0, (step + 1) / WARM_UP_STEPS) * (0.01 + 0.99 * cosine)


class Losses:
    """The losses of a batch, in half precision where the processor has it. Compiled: a first batch takes a minute."""

    def __init__(self, model: Any, probes: list[Any], first: int) -> None:
        import torch

        self._first, self._model, self._probes = first, model, probes
        self._rotary = packed_forward.vision_rotary(model.model.visual, CELLS)
        self._has_bfloat16 = has_bfloat16()
        self._states = torch.compile(self._forward)
        self._answer_loss = torch.compile(self._cross_entropy, dynamic=True)
        self._offset = torch.tensor([[(c % CELLS + 0.5) / CELLS, (c // CELLS + 0.5) / CELLS] * 2
                                     for c in range(IMAGE_TOKENS)])  # fmt: skip

    def __call__(self, batch: Batch) -> tuple[Any, Any]:
        """The weighted mean loss of the answers' tokens (0 without questions), and the probes' loss over the cells."""
        import torch

        packed = packed_forward.PackedBatch(
            tiny.patches(batch.pixels), *map(torch.from_numpy, (batch.ids, batch.question, batch.positions))
        )
        cells = torch.from_numpy(batch.cells)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._has_bfloat16):
            probe_loss, last = self._states(packed, cells)
            chosen = torch.from_numpy(np.flatnonzero(batch.weights[:, 1:]))
            if not len(chosen):
                return torch.zeros(()), probe_loss
            states = last[:, :-1].flatten(0, 1).index_select(0, chosen)
            targets, weights = (
                torch.from_numpy(v[:, 1:].reshape(-1)).index_select(0, chosen) for v in (batch.ids, batch.weights)
            )
            return self._answer_loss(states, targets, weights), probe_loss

    def _forward(self, packed: packed_forward.PackedBatch, cells: Any) -> tuple[Any, Any]:
        seen, probed, last = packed_forward.forward(self._model, packed, self._first, self._rotary, PROBED_LAYER)
        loss = probe_loss(self._probes[0](seen).float(), cells, self._offset)
        return loss + probe_loss(self._probes[1](probed).float(), cells, None), last

    def _cross_entropy(self, states: Any, targets: Any, weights: Any) -> Any:
        from torch.nn import functional

        each = functional.cross_entropy(self._model.lm_head(states).float(), targets, reduction="none")
        return (each * weights).sum() / weights.sum()


def has_bfloat16() -> bool:
    """Whether the processor multiplies in bfloat16. Emulated it takes three times as long as float32."""
    import torch

    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def probe_loss(predicted: Any, target: Any, offset: Any) -> Any:
    """``predicted`` (N, C * C, 2 * (1 + K + 4)), ``target`` as ``probe_target`` gives it; ``offset`` (C * C, 4): what
    boxes are relative to.
    """
    from torch.nn import functional

    total = 0.0
    for columns, values in zip(target.split(5, dim=-1), predicted.chunk(2, dim=-1), strict=True):
        has_object, boxes = (columns[..., 0] > 0).float(), columns[..., 1:]
        boxes = boxes if offset is None else boxes - offset
        class_loss = functional.cross_entropy(values[..., :-4].flatten(0, 1), columns[..., 0].long().flatten())
        distance = (values[..., -4:] - boxes).abs().mean(dim=-1)
        total = total + class_loss + BOX_LOSS_WEIGHT * (distance * has_object).sum() / has_object.sum().clamp(min=1)
    return total


def score(model: Any, tokenizer: Any, pictures: list[DrawnPicture]) -> dict[str, float]:
    """Precision, recall and F1 at IoU 0.5 of answers to the detection prompt, and the accuracy by kind of question."""
    texts = answers(model, tokenizer, [(pixels, tiny.PROMPT) for pixels, _ in pictures])
    dialect, matches, predictions, objects = dialects.get("qwen2_vl"), 0, 0, 0
    for text, (_, picture) in zip(texts, pictures, strict=True):
        predicted = [(d.label, d.box) for d in dialect.parse(text, (SIZE, SIZE)).detections]
        truth = [(o.label, o.box) for o in picture.targets]
        matches += count_matches(predicted, truth)
        predictions, objects = predictions + len(predicted), objects + len(truth)
    return {
        "precision": round(matches / max(predictions, 1), 4),
        "recall": round(matches / max(objects, 1), 4),
        "f1": round(2 * matches / max(predictions + objects, 1), 4),
        **question_accuracy(model, tokenizer, pictures),
    }


def question_accuracy(model: Any, tokenizer: Any, pictures: list[DrawnPicture]) -> dict[str, float]:
    """The accuracy of each kind of question, one a picture that admits it."""
    names = sorted({o.label for _, picture in pictures for o in picture.objects})
    data, dialect = from_pictures([picture for _, picture in pictures], names), dialects.get("qwen2_vl")
    asked: list[tuple[Any, Any]] = []
    for kind in dict.fromkeys(kind for kind, *_ in KINDS):
        generated = questions.generate_questions(kind, data, np.arange(len(pictures), dtype=np.uint64), dialect)
        asked += [(pixels, row) for (pixels, _), row in zip(pictures, generated, strict=True)
                  if not isinstance(row, NoQuestion)]  # fmt: skip
    texts = answers(model, tokenizer, [(pixels, row.prompt) for pixels, row in asked])
    given = [
        Answer(image="", size=(SIZE, SIZE), kind=row.kind, text=text, expected=row.answer)
        for text, (_, row) in zip(texts, asked, strict=True)
    ]
    return {kind: round(measures["accuracy"], 4) for kind, measures in tasks(given).items()}


def answers(model: Any, tokenizer: Any, asked: list[tuple[Any, str]]) -> list[str]:
    """Greedy answers to pictures and prompts, by transformers' own generation."""
    import torch

    texts: list[str] = []
    model.eval()
    for start in range(0, len(asked), SCORED_PICTURES):
        batch = _requests(model, tokenizer, asked[start : start + SCORED_PICTURES])
        with torch.inference_mode():
            generated = model.generate(**batch, max_new_tokens=200)
        decoded = tokenizer.batch_decode(generated[:, batch["input_ids"].shape[1] :])
        texts += [text.replace("<|endoftext|>", "").removesuffix("<|im_end|>") for text in decoded]
    model.train()
    return texts


def _requests(model: Any, tokenizer: Any, asked: list[tuple[Any, str]]) -> dict[str, Any]:
    """Pictures and prompts as the model takes them, padded at the left."""
    import torch

    prompts = [tiny.request_text(prompt, IMAGE_TOKENS) for _, prompt in asked]
    rows = tokenizer(prompts, add_special_tokens=False).input_ids
    length, pad = max(map(len, rows)), tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (length - len(row)) + row for row in rows])
    one_frame = tiny.patches(np.stack([pixels for pixels, _ in asked])).unflatten(2, (3, 1, 196))
    return {
        "input_ids": ids,
        "attention_mask": (ids != pad).long(),
        "mm_token_type_ids": (ids == model.config.image_token_id).long(),
        "pixel_values": one_frame.expand(-1, -1, -1, 2, -1).reshape(-1, 1176),
        "image_grid_thw": torch.tensor([[1, 2 * CELLS, 2 * CELLS]] * len(asked)),
    }


def count_matches(predicted: list[tuple[str, Any]], truth: list[tuple[str, Any]]) -> int:
    """Pairs of equal label with an IoU of 0.5 or more, by descending IoU, each box used once."""
    if not predicted or not truth:
        return 0
    ious = pairwise_iou([box for _, box in predicted], [box for _, box in truth])
    is_same = np.array([[label == other for other, _ in truth] for label, _ in predicted])
    pairs = sorted(zip(*np.nonzero(is_same & (ious >= 0.5)), strict=True), key=lambda pair: -ious[pair])
    used_predictions, used_objects = set[int](), set[int]()
    for prediction, annotated in pairs:
        if prediction not in used_predictions and annotated not in used_objects:
            used_predictions.add(prediction)
            used_objects.add(annotated)
    return len(used_predictions)


if __name__ == "__main__":
    main()
