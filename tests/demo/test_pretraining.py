"""What the tiny model is pretrained on, and the log of the run that made the shipped weights."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlmdet_cli.core.annotations import Object, Picture
from vlmdet_cli.data.dataset import from_pictures
from vlmdet_cli.demo import HERE, packed_forward, pretrain, tiny
from vlmdet_cli.demo import pretraining_rows as rows
from vlmdet_cli.demo.worlds import SHAPES, SIZE, STREET
from vlmdet_cli.models import dialects
from vlmdet_cli.prompts import questions, region_tasks
from vlmdet_cli.prompts.base import NoQuestion

slow = pytest.mark.slow  # transformers takes seconds to import


@pytest.fixture(scope="module")
def pictures() -> list[rows.DrawnPicture]:
    return rows._draw_pictures(("shapes", 5, 40))


@pytest.fixture(scope="module")
def source(pictures: list[rows.DrawnPicture]) -> rows.Rows:
    pytest.importorskip("transformers", reason="needs the extra `train`")
    return rows.Rows(pictures, tiny.build_tokenizer(), seed=0)


@pytest.fixture(scope="module")
def batch(source: rows.Rows) -> rows.Batch:
    return next(source.batches(8, with_questions=True))


def test_the_street_is_no_part_of_the_pretraining() -> None:
    shapes, street = ({category.name for category in world.categories} for world in (SHAPES, STREET))
    assert not shapes & street
    assert not {category.draw for category in SHAPES.categories} & {category.draw for category in STREET.categories}


def test_a_cell_shows_the_object_centred_in_it_and_the_smallest_that_covers_its_centre() -> None:
    cell = SIZE / rows.CELLS
    large = Object("plain disk", (0.0, 0.0, 3 * cell, 3 * cell))
    small = Object("striped cross", (0.1 * cell, 0.1 * cell, 0.9 * cell, 0.9 * cell))
    crowd = Object("plain disk", (0.0, 0.0, float(SIZE), float(SIZE)), crowd=True)
    picture = Picture(image_id=1, image="", width=SIZE, height=SIZE, objects=(small, large, crowd))
    target = rows.probe_target(picture).reshape(rows.CELLS, rows.CELLS, 10)
    disk, cross = (1 + rows.NAMES.index(o.label) for o in (large, small))
    centred, covered = np.zeros((2, rows.CELLS, rows.CELLS))
    centred[1, 1], centred[0, 0] = disk, cross
    covered[:3, :3], covered[0, 0] = disk, cross
    assert target[..., 0].tolist() == centred.tolist()
    assert target[..., 5].tolist() == covered.tolist()
    assert target[1, 1, 1:5] == pytest.approx([0, 0, 3 / rows.CELLS, 3 / rows.CELLS])
    assert target[0, 0, 6:] == pytest.approx([part / SIZE for part in small.box])


@slow
def test_each_question_is_a_row_and_only_its_answer_has_a_loss(source: rows.Rows, batch: rows.Batch) -> None:
    tokenizer = source._tokenizer
    for ids, weights, numbers in zip(batch.ids, batch.weights, batch.question, strict=True):
        assert not weights[numbers <= 0].any()
        for number in range(1, numbers.max() + 1):
            own = numbers == number
            prompt, answer = tokenizer.decode(ids[own]).split(rows.ASSISTANT)
            assert tokenizer.decode(ids[own & (weights > 0)]) == answer
            assert answer.endswith("<|im_end|>")
            before = tokenizer.decode(ids[numbers == 0])
            assert before + prompt + rows.ASSISTANT == tiny.request_text(prompt, rows.IMAGE_TOKENS)
        assert "Draw the bounding box" in tokenizer.decode(ids[numbers == 1])
    asked = tokenizer.decode(batch.ids.ravel())
    assert all(phrase in asked for phrase in ("how many objects", "fully contains", "is visible", "does not contain"))


@slow
def test_a_short_row_asks_for_the_same_label_and_percent(pictures: list[rows.DrawnPicture]) -> None:
    data = from_pictures([picture for _, picture in pictures], rows.NAMES)
    keys = np.arange(len(pictures), dtype=np.uint64)
    long = questions.generate_questions("partial", data, keys, dialects.get("qwen2_vl"))
    asked = [row for row in long if not isinstance(row, NoQuestion)]
    assert len(asked) > 20
    for row in asked:
        area, answer = rows._texts_of(row, short=True)
        label, percent = answer.removesuffix("%").split(": ")
        assert row.prompt == region_tasks.PARTIAL.format(area=area)
        assert row.answer == region_tasks.PARTIAL_ANSWER.format(area=area, label=label, percent=percent)
        assert rows._texts_of(row, short=False) == (row.prompt.removeprefix("<image>"), row.answer)


@slow
def test_the_answer_has_the_boxes_that_the_cells_show(source: rows.Rows, batch: rows.Batch) -> None:
    for ids, numbers, cells in zip(batch.ids, batch.question, batch.cells, strict=True):
        answer = source._tokenizer.decode(ids[numbers == 1]).partition(rows.ASSISTANT)[2]
        parsed = dialects.get("qwen2_vl").parse(answer.removesuffix("<|im_end|>"), (1, 1))
        objects = {(d.label, tuple(d.box)) for d in parsed.detections}
        for number, *box in (cell[:5] for cell in cells if cell[0]):
            label = rows.NAMES[int(number) - 1]
            assert any(label == other and np.allclose(box, given, atol=1e-3) for other, given in objects)


@slow
def test_units_of_coordinates_weigh_less_than_hundreds_and_a_repeated_area_least(source: rows.Rows) -> None:
    def weights(kind: str, text: str) -> list[tuple[str, float]]:
        ids = source._encode([text])[0]
        return list(zip(map(source._tokenizer.decode, ids), source._weights(kind, ids), strict=True))

    box = "<|box_start|>(531,61),(771,896)<|box_end|>"
    units, tens, hundreds, _ = rows.DIGIT_WEIGHTS
    digits = [pair for pair in weights("detection", box) if pair[0].isdigit()]
    assert digits[:5] == [("5", hundreds), ("3", tens), ("1", units), ("6", tens), ("1", units)]
    area = weights("partial", f'The area {box} partially contains a "plain disk", about 60% is visible.')
    assert {weight for token, weight in area if token.isdigit()} == {rows.AREA_WEIGHT, rows.PERCENT_WEIGHT}
    assert [weight for token, weight in area if token in {"6", "0", " disk"}][-3:] == [
        rows.AREA_WORD_WEIGHT, rows.PERCENT_WEIGHT, rows.PERCENT_WEIGHT,
    ]  # fmt: skip


def as_transformers_takes(patches: Any) -> Any:
    """Patches ``(P, 588)`` as patch rows ``(P, 1176)`` of two equal frames."""
    return patches.unflatten(1, (3, 1, 196)).expand(-1, -1, 2, -1).reshape(-1, 1176)


@slow
def test_patches_are_those_of_the_image_processor(pictures: list[rows.DrawnPicture], source: rows.Rows) -> None:
    processor = tiny.build_processor(source._tokenizer).image_processor
    expected = processor(images=[pixels for pixels, _ in pictures[:2]], return_tensors="pt")
    given = tiny.patches(np.stack([pixels for pixels, _ in pictures[:2]]))
    assert expected["image_grid_thw"].tolist() == [[1, 2 * rows.CELLS, 2 * rows.CELLS]] * 2
    difference = (expected["pixel_values"] - as_transformers_takes(given.flatten(0, 1))).abs().max()
    assert float(difference) < 1e-4


@slow
def test_a_packed_question_gets_what_transformers_gives_it_alone(source: rows.Rows, batch: rows.Batch) -> None:
    import torch

    torch.manual_seed(0)
    model = tiny.build_model(source._tokenizer).eval()
    patches = tiny.patches(batch.pixels)
    packed = packed_forward.PackedBatch(patches, *map(torch.from_numpy, (batch.ids, batch.question, batch.positions)))
    with torch.inference_mode():
        rotary = packed_forward.vision_rotary(model.model.visual, rows.CELLS)
        states = packed_forward.forward(model, packed, source.first, rotary, probed=2)[2]
        for row, number in ((0, 1), (0, 2), (3, 1), (3, 3)):
            own = torch.from_numpy((batch.question[row] == 0) | (batch.question[row] == number))
            ids = packed.ids[row][own][None]
            alone = model.model(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                mm_token_type_ids=(ids == model.config.image_token_id).long(),
                pixel_values=as_transformers_takes(patches[row]),
                image_grid_thw=torch.tensor([[1, 2 * rows.CELLS, 2 * rows.CELLS]]),
            ).last_hidden_state[0]
            assert float((states[row][own] - alone).abs().max()) < 1e-4


def average_of_two(rank: int, folder: Path) -> None:
    """What each of two processes does: weights with gradients of its own, one without any, and a value."""
    import torch

    with pretrain.process_group(rank, 2, folder):
        weights = [torch.nn.Parameter(torch.zeros(2, 3)), torch.nn.Parameter(torch.zeros(4))]
        weights[0].grad = torch.full((2, 3), float(rank))
        means = pretrain.averaged(weights, [1.0, 10.0 * rank])
    gradients = [weight.grad.flatten().tolist() for weight in weights if weight.grad is not None]
    (folder / f"{rank}.json").write_text(json.dumps([means, gradients]))


@slow
def test_processes_train_with_the_mean_of_their_gradients(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs the extra `train`")
    torch.multiprocessing.spawn(average_of_two, (tmp_path,), nprocs=2)
    for rank in range(2):
        written = json.loads((tmp_path / f"{rank}.json").read_text())
        assert written == [[1.0, 5.0], [[0.5] * 6, [0.0] * 4]]


@slow
def test_the_shipped_weights_come_from_one_run_that_ended_as_planned() -> None:
    from safetensors import safe_open

    log = [json.loads(line) for line in (HERE / "model" / "pretraining.jsonl").read_text().splitlines()]
    assert [number for number, line in enumerate(log) if "minutes" in line] == [0]
    assert [line["seconds"] for line in log] == sorted(line["seconds"] for line in log)
    steps = [line["step"] for line in log if "loss" in line]
    assert steps == [50 * (number + 1) for number in range(len(steps))]
    assert [(line["world"], line["seconds"] >= 60 * log[0]["minutes"]) for line in log if line.get("final")] == [
        ("shapes", True), ("street", True),
    ]  # fmt: skip
    with safe_open(HERE / "model" / "model.safetensors", "np") as weights:
        names = set(weights.keys()) - {"lm_head.weight"}  # the embeddings again
        assert sum(weights.get_tensor(name).size for name in names) == log[0]["parameters"]
    assert (HERE / "model" / "model.safetensors").stat().st_size <= 6e6
