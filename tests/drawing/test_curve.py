"""Training curves: the log is read as ms-swift writes it, and the drawing shows it."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vlmdet_cli.drawing.curve import (
    STEP,
    axis_limits,
    by_step,
    nice_step,
    read_log,
    series,
    smooth,
    tick_label,
    ticks,
    training_curve,
)
from vlmdet_cli.errors import DataError

RELAXED = settings(max_examples=40, deadline=None)  # drawing is slow on a busy machine
BLUE, GREEN, PURPLE, ORANGE, PINK = (0, 114, 178), (0, 158, 115), (136, 34, 85), (213, 94, 0), (204, 121, 167)


def row(step: int, loss: float, planned: int = 100, **more: Any) -> dict[str, Any]:
    return {"loss": loss, STEP: f"{step}/{planned}", **more}


def log() -> list[dict[str, Any]]:
    """The log of a run: 20 rows and the summary."""
    rows = [
        row(step, 2 / step, token_acc=1 - 1 / step, learning_rate=1e-4 * (1 - step / 100), epoch=step / 50)
        for step in range(5, 105, 5)
    ]
    return [*rows, {"train_runtime": 12.5, "train_loss": 0.4, STEP: "100/100", "epoch": 2.0}]


def ink(image: Image.Image, colour: tuple[int, int, int]) -> int:
    """The number of pixels close to this colour: the edges of lines are blended."""
    return int((np.abs(np.asarray(image).astype(int) - colour).max(axis=-1) < 12).sum())


def test_a_log_file_becomes_an_image_with_its_three_curves(tmp_path: Path) -> None:
    path = tmp_path / "logging.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in log()))
    image = training_curve(path)
    assert (image.mode, image.size) == ("RGB", (1200, 880))
    assert min(ink(image, BLUE), ink(image, GREEN), ink(image, PURPLE)) > 800


def test_the_reward_of_a_training_by_reward_has_a_curve() -> None:
    image = training_curve([row(step, 0.0, reward=step / 100) for step in range(5, 105, 5)])
    assert ink(image, PINK) > 800


def test_values_that_the_log_lacks_have_no_curve() -> None:
    image = training_curve([row(5, 1.0), row(100, 0.5)])
    assert ink(image, BLUE) > 800
    assert ink(image, GREEN) == ink(image, PURPLE) == 0


def test_f1_at_the_checkpoints_has_a_plot_of_its_own() -> None:
    rows = [row(step, 1.0) for step in range(5, 105, 5)]
    measured = [{"eval_f1": f1, STEP: f"{step}/100"} for step, f1 in ((50, 0.4), (100, 0.7))]
    assert ink(training_curve(rows), ORANGE) == 0
    assert ink(training_curve([*rows, *measured]), ORANGE) > 300


def test_the_loss_falls_from_left_to_right() -> None:
    image = np.asarray(training_curve([row(step, 100 - step) for step in range(5, 105, 5)])).astype(int)
    pixels = np.argwhere(np.abs(image[130:] - BLUE).max(axis=-1) < 12)  # (N, 2): y, x
    left, right = pixels[pixels[:, 1] < 300], pixels[pixels[:, 1] > 1000]
    assert left[:, 0].mean() < right[:, 0].mean() - 200


def test_the_same_log_gives_the_same_bytes() -> None:
    assert training_curve(log()).tobytes() == training_curve(log()).tobytes()


def test_the_curve_of_an_unfinished_run_ends_at_its_last_step() -> None:
    image = training_curve([row(step, 1.0 + step % 3) for step in range(1, 51)])
    middle = image.crop((660, 130, 1200, 800))
    assert ink(middle, BLUE) == 0
    assert ink(image.crop((90, 130, 600, 800)), BLUE) > 300


def test_the_rows_of_a_resumed_run_replace_those_of_the_same_steps() -> None:
    rows = [row(5, 3.0), row(10, 2.0), row(15, 9.0), row(20, 9.0), row(15, 1.0)]
    steps, loss = series(by_step(rows), "loss")
    assert (steps.tolist(), loss.tolist()) == ([5, 10, 15], [3.0, 2.0, 1.0])
    kept = [row(5, 3.0), row(10, 2.0), row(15, 1.0)]
    assert training_curve(rows).tobytes() == training_curve(kept).tobytes()


def test_rows_of_the_same_step_are_merged() -> None:
    rows = [row(5, 3.0), {"eval_loss": 2.5, STEP: "5/100"}, row(10, 2.0)]
    assert series(by_step(rows), "loss")[0].tolist() == [5, 10]
    assert series(by_step(rows), "eval_loss")[1].tolist() == [2.5]


def test_a_loss_that_is_no_number_leaves_a_gap(tmp_path: Path) -> None:
    path = tmp_path / "logging.jsonl"
    path.write_text("".join(json.dumps(row(step, math.nan if step == 3 else 1.0)) + "\n" for step in range(1, 8)))
    loss = series(by_step(read_log(path)), "loss")[1]
    assert np.isnan(loss).tolist() == [False, False, True, False, False, False, False]
    assert training_curve(path).tobytes() != training_curve([row(step, 1.0) for step in range(1, 8)]).tobytes()


@pytest.mark.parametrize(
    "losses", [[1.0], [0.0, 0.0], [-1.0, -1.0], [math.nan], [math.inf, 1.0], [1e300, -1e300], [5e-324, 0.0]]
)
def test_odd_losses_are_drawn(losses: list[float]) -> None:
    assert training_curve([row(5 + step, loss) for step, loss in enumerate(losses)]).size == (1200, 880)


def test_odd_steps_are_drawn() -> None:
    assert training_curve([{"loss": 1.0, STEP: "0/0"}]).size == (1200, 880)
    assert training_curve([row(10**12 - 1, 1.0), {"loss": 2.0, STEP: "x"}, {"loss": 2.0}]).size == (1200, 880)


def test_an_incomplete_last_line_is_skipped_and_any_other_broken_line_is_an_error(tmp_path: Path) -> None:
    path, whole = tmp_path / "logging.jsonl", json.dumps(row(5, 1.0))
    path.write_text(f'{whole}\n{{"loss": 0.')
    assert len(read_log(path)) == 1
    path.write_text(f"{whole}\n[1]\n{whole}\n")
    with pytest.raises(DataError) as caught:
        read_log(path)
    assert "Line 2" in str(caught.value)


def test_a_log_without_a_loss_or_without_a_file_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No row of the training log has a loss"):
        training_curve([{STEP: "5/100", "train_loss": 1.0}])
    with pytest.raises(DataError, match=r"Cannot read the training log: .*gone\.jsonl"):
        training_curve(tmp_path / "gone.jsonl")


@given(st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(math.nan)), min_size=1, max_size=60))
@RELAXED
def test_smoothing_keeps_length_and_range(values: list[float]) -> None:
    array = np.array(values)
    smoothed = smooth(array)
    assert len(smoothed) == len(array)
    if not np.isnan(array).all():
        assert np.nanmin(smoothed) >= np.nanmin(array) - 1e-6
        assert np.nanmax(smoothed) <= np.nanmax(array) + 1e-6


def test_smoothing_keeps_a_straight_line_straight_and_has_no_lag() -> None:
    line = np.arange(100.0)
    assert np.allclose(smooth(line)[10:-10], line[10:-10])


@given(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9), st.integers(3, 10))
@RELAXED
def test_axes_hold_their_values_and_have_few_ticks(first: float, second: float, intervals: int) -> None:
    low, high = axis_limits([np.array([first, second])], intervals)
    assert low < high
    tolerance = 1e-6 * (high - low)
    assert low - tolerance <= min(first, second)
    assert max(first, second) <= high + tolerance
    assert 1 <= len(ticks((low, high), intervals)) <= intervals + 1


def test_steps_and_numbers_of_axes_are_round() -> None:
    assert [nice_step(span, 5) for span in (1, 3, 9, 10, 24)] == [0.2, 1, 2, 2, 5]
    assert ticks((0, 150), 3) == [0, 50, 100, 150]
    assert [tick_label(value) for value in (0.1 + 0.2, 5e-5, 2000.0, 0.0)] == ["0.3", "5e-5", "2000", "0"]
