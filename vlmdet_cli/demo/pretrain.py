"""Pretrain the tiny model on the world of shapes: ``python -m vlmdet_cli.demo.pretrain --output DIR``.

It starts from random weights and takes about an hour on two CPU cores. The loss is that of the answer's next token,
plus that of a linear probe on the picture's tokens half-way through the layers, which predicts the class and the box of
the object in each cell. Rotary positions are relative: without the probe the model takes hours to learn where in the
picture a token is. The last stage goes without the probe.

Pictures come from a pool that is drawn once, and are mirrored at random. The output folder gets the model and
``pretraining.jsonl``: the losses every 50 steps, and precision, recall and F1 at IoU 0.5 on pictures outside the pool.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from vlmdet_cli.core.boxes import pairwise_iou
from vlmdet_cli.demo import tiny
from vlmdet_cli.demo.pretraining_rows import (
    BATCH,
    IMAGE_TOKENS,
    SIDE,
    STAGES,
    DrawnPicture,
    Row,
    Rows,
    draw_pool,
    probe_target,
)
from vlmdet_cli.demo.worlds import SHAPES, SIZE
from vlmdet_cli.models import dialects

PEAK_RATE, WARM_UP_STEPS = 1.2e-3, 300
PROBED_LAYER, PROBE_WEIGHT = 2, 0.5
BOX_LOSS_WEIGHT = 5  # of the probe
LOG_STEPS, SCORE_STEPS = 50, 250
SCORED_PICTURES = 60  # at the end of a stage


class Log:
    """``pretraining.jsonl``: a JSON object a line, each with the seconds since the start."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w")
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
    parser.add_argument("--minutes", type=float, default=55, help="training time, without drawing the pool")
    parser.add_argument("--pictures", type=int, default=30_000, help="pictures in the pool")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=Path, help="continue from the weights in this folder")
    parser.add_argument("--stage", type=int, default=0, help="the stage to begin with")
    parser.add_argument("--rate", type=float, default=PEAK_RATE, help="peak learning rate")
    pretrain(parser.parse_args())


def pretrain(options: argparse.Namespace) -> None:
    """Draw the pictures, train through the stages, write the model and its measures."""
    import torch

    torch.manual_seed(options.seed)
    tokenizer = tiny.build_tokenizer()
    processor, model = tiny.build_processor(tokenizer), tiny.build_model(tokenizer)
    if options.model:
        model = type(model).from_pretrained(options.model, dtype=torch.float32)
    held_out, street = draw_pool("shapes", options.seed + 1, 500), draw_pool("street", options.seed + 2, 250)
    rows = Rows(draw_pool("shapes", options.seed + 3, options.pictures), tokenizer, options.seed)
    rows.stage = options.stage
    options.output.mkdir(parents=True, exist_ok=True)
    log = Log(options.output / "pretraining.jsonl")
    log.write(
        parameters=tiny.count_parameters(model), vocabulary=len(tokenizer), batch=BATCH, pictures=options.pictures
    )
    optimize(model, tokenizer, rows, held_out, log, float(options.minutes) * 60, options.rate)
    tiny.save(model, processor, options.output)
    log.write(world="shapes", final=True, **score(model, tokenizer, held_out))
    log.write(world="street", final=True, **score(model, tokenizer, street))


def optimize(
    model: Any, tokenizer: Any, rows: Rows, held_out: list[DrawnPicture], log: Log, seconds: float, peak_rate: float
) -> None:
    """Train through the stages for ``seconds``."""
    import torch

    probe = torch.nn.Linear(tiny.HIDDEN, 1 + len(SHAPES.categories) + 4)
    weights = [*model.parameters(), *probe.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=peak_rate, betas=(0.9, 0.98), weight_decay=0.02)
    pad, history = tokenizer.convert_tokens_to_ids("<|endoftext|>"), list[tuple[float, float]]()
    for step, batch in enumerate(rows, 1):
        elapsed = log.seconds() / seconds
        if elapsed >= 1:
            return
        for group in optimizer.param_groups:
            group["lr"] = peak_rate * rate_factor(elapsed, step)
        answer_loss, probe_loss = losses(model, probe, batch, pad)
        (answer_loss + (PROBE_WEIGHT if rows.stage < len(STAGES) - 1 else 0) * probe_loss).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        history.append((answer_loss.item(), probe_loss.item()))
        if step % LOG_STEPS == 0:
            answer, cell = np.mean(history[-LOG_STEPS:], axis=0).round(4).tolist()
            log.write(step=step, stage=rows.stage, loss=answer, probe=cell)
        if step % SCORE_STEPS == 0:
            rows.stage += _stage_is_done(model, tokenizer, rows.stage, held_out, elapsed, log, step)


def rate_factor(elapsed: float, step: int) -> float:
    """The share of the peak learning rate: a short warm-up, then a cosine down to a fiftieth; ``elapsed`` is the share
    of the time.
    """
    cosine = (1 + math.cos(math.pi * min(elapsed, 1.0))) / 2
    return min(1.0, (step + 1) / WARM_UP_STEPS) * (0.02 + 0.98 * cosine)


def _stage_is_done(
    model: Any, tokenizer: Any, number: int, held_out: list[DrawnPicture], elapsed: float, log: Log, step: int
) -> bool:
    """Whether a stage ends: by its time, or by the F1 on pictures outside the pool."""
    stage = STAGES[number]
    if stage.content == "look":
        return elapsed >= stage.until
    pictures = [(pixels, picture) for pixels, picture in held_out if len(picture.targets) <= stage.max_objects]
    measured = score(model, tokenizer, pictures[:SCORED_PICTURES])
    log.write(step=step, stage=number, world="shapes", **measured)
    return measured["f1"] >= stage.f1 or elapsed >= stage.until


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
    """The mean loss of the answers' tokens (0 where there are none), and the probe's loss over the cells."""
    import torch
    from torch.nn import functional

    batch = tensors(rows, pad, model.config.image_token_id)
    output = model.model(**batch, output_hidden_states=True, use_cache=False)
    image_states = output.hidden_states[PROBED_LAYER][batch["input_ids"] == model.config.image_token_id]
    predicted, target = probe(image_states), torch.from_numpy(np.concatenate([row.cells for row in rows]))
    has_object = target[:, 0] > 0
    class_loss = functional.cross_entropy(predicted[:, :-4], target[:, 0].long())
    box_loss = functional.l1_loss(predicted[has_object, -4:], target[has_object, 1:], reduction="sum")
    probe_loss = class_loss + BOX_LOSS_WEIGHT * box_loss / max(4 * int(has_object.sum()), 1)
    is_answer = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
    for number, row in enumerate(rows):
        is_answer[number, len(row.prompt) : len(row.prompt) + len(row.answer)] = True
    if not is_answer.any():
        return torch.zeros(()), probe_loss
    logits = model.lm_head(output.last_hidden_state[:, :-1][is_answer[:, 1:]])
    return functional.cross_entropy(logits, batch["input_ids"][is_answer]), probe_loss


def score(model: Any, tokenizer: Any, pictures: list[DrawnPicture]) -> dict[str, float]:
    """Precision, recall and F1 at IoU 0.5 of greedy answers to the detection prompt."""
    import torch

    prompt = tokenizer(tiny.request_text(tiny.PROMPT, IMAGE_TOKENS), add_special_tokens=False).input_ids
    dialect, matches, predictions, objects = dialects.get("qwen2_vl"), 0, 0, 0
    model.eval()
    for start in range(0, len(pictures), 50):
        part = pictures[start : start + 50]
        rows = [Row(pixels, prompt, [], probe_target(picture, [])) for pixels, picture in part]
        batch = tensors(rows, 0, model.config.image_token_id)
        with torch.inference_mode():
            generated = model.generate(**batch, max_new_tokens=220)
        for ids, (_, picture) in zip(generated[:, len(prompt) :].tolist(), part, strict=True):
            parsed = dialect.parse(tokenizer.decode(ids), (SIZE, SIZE))
            predicted = [(d.label, d.box) for d in parsed.detections]
            truth = [(o.label, o.box) for o in picture.targets]
            matches += count_matches(predicted, truth)
            predictions, objects = predictions + len(predicted), objects + len(truth)
    model.train()
    return {
        "precision": round(matches / max(predictions, 1), 4),
        "recall": round(matches / max(objects, 1), 4),
        "f1": round(2 * matches / max(predictions + objects, 1), 4),
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
