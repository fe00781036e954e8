"""A training run's curves from ms-swift's ``logging.jsonl``: loss, F1, reward, token accuracy, learning rate.

A row of the log, one each ``logging_steps``:

    {"loss": 1.93, "token_acc": 0.61, "learning_rate": 5e-05, "epoch": 0.33, "global_step/max_steps": "5/150", …}

The last row of a run is a summary without loss; rows of an evaluation have ``eval_loss`` or
``eval_f1``. Pillow draws the curves at twice the size and reduces them, because matplotlib is no dependency of the base
package.

Decisions: where the step decreases, the run was resumed, and the rows after it replace the earlier rows from that step
on. The bold line is a centred, weighted mean, which has no lag, unlike a running mean; the light line is the logged
loss. A loss that is no finite number leaves a gap and is counted in the subtitle. The axis ends at the last planned
step, so that an unfinished run is seen to be unfinished.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from vlmdet_cli.core.files import read_bytes
from vlmdet_cli.drawing.lettering import WHITE, Colour, Font, font
from vlmdet_cli.errors import DataError

Values = npt.NDArray[np.float64]
Row = Mapping[str, Any]

STEP = "global_step/max_steps"
_STEPS = re.compile(r"([0-9]{1,12})/([0-9]{1,12})")
_DIVERGED, _TINY = 1e12, 1e-15  # values beyond these are drawn as infinite, or as zero
_SIZE, _SCALE = (1200, 880), 2  # pixels of the result; the factor of the canvas it is reduced from
_INK, _SOFT, _GRID = (30, 30, 30), (110, 110, 110), (228, 228, 226)
_BLUE, _ORANGE, _GREEN, _PURPLE, _PINK = (0, 114, 178), (213, 94, 0), (0, 158, 115), (136, 34, 85), (204, 121, 167)


class Axes(msgspec.Struct, frozen=True):
    """A plot's rectangle on the canvas (left, top, right, bottom in pixels) and the values at its edges."""

    rect: tuple[int, int, int, int]
    steps: tuple[float, float]
    values: tuple[float, float]

    def x(self, step: float) -> float:
        left, _, right, _ = self.rect
        return left + (right - left) * (step - self.steps[0]) / (self.steps[1] - self.steps[0])

    def y(self, value: float) -> float:
        _, top, _, bottom = self.rect
        return bottom - (bottom - top) * (value - self.values[0]) / (self.values[1] - self.values[0])


def read_log(path: Path) -> list[Row]:
    """The rows of a log. An incomplete last line is skipped, because the run may still be writing.

    Raises ``DataError`` for a file that cannot be read and for any other line that is no JSON object.
    """
    lines = read_bytes(path, "training log").decode("utf-8", "replace").splitlines()
    rows = [(number, _parse(line)) for number, line in enumerate(lines, 1) if line.strip()]
    for number, row in rows:
        if row is None and number < len(lines):
            raise DataError(
                f"The training log is not valid: {path}",
                why=f"Line {number} is no JSON object.",
                hint="Name the `logging.jsonl` of a training run.",
            )
    return [row for _, row in rows if row is not None]


def _parse(line: str) -> Row | None:
    try:  # the standard library's reader, because the log has NaN, which is no JSON
        row = json.loads(line, parse_int=float)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def training_curve(log: Path | Iterable[Row]) -> Image.Image:
    """The curves of a log (its path or its rows) as an RGB image of 1200 x 880 pixels.

    Raises ``DataError`` where no row has a loss.
    """
    rows = by_step(read_log(log) if isinstance(log, Path) else log)
    loss = series(rows, "loss")[1]
    if not len(loss):
        raise DataError(
            "No row of the training log has a loss" + (f": {log}" if isinstance(log, Path) else ""),
            why="Rows need `loss` and `global_step/max_steps`.",
            hint="A run logs the first after `logging_steps` steps.",
        )
    plots = [_loss_plot(rows), *_further_plots(rows)]
    canvas = Image.new("RGB", (_SIZE[0] * _SCALE, _SIZE[1] * _SCALE), WHITE)
    draw = ImageDraw.Draw(canvas)
    _draw_head(draw, rows, loss)
    span = (0.0, max(*rows, _planned(rows), 1))
    for plot, (top, bottom) in zip(plots, _heights([p.share for p in plots]), strict=True):
        axes = Axes((90 * _SCALE, top, (_SIZE[0] - 40) * _SCALE, bottom), span, plot.limits)
        _draw_plot(draw, axes, plot, last=plot is plots[-1])
    return canvas.reduce(_SCALE)


def has_loss(rows: Iterable[Row]) -> bool:
    """Whether a row has a loss: a run logs the first after ``logging_steps`` steps."""
    return len(series(by_step(rows), "loss")[1]) > 0


def by_step(rows: Iterable[Row]) -> dict[int, Row]:
    """Rows by step, ascending; rows of the same step are merged. A step that decreases replaces all rows from it on."""
    merged, newest = dict[int, Row](), -1
    for row in rows:
        match = _STEPS.fullmatch(str(row.get(STEP)))
        if not match:
            continue
        step = int(match[1])
        if step < newest:
            merged = {earlier: kept for earlier, kept in merged.items() if earlier < step}
        merged[step] = {**merged.get(step, {}), **row}
        newest = step
    return merged


def _planned(rows: Mapping[int, Row]) -> int:
    """The number of steps that the newest row plans."""
    return int(str(rows[max(rows)][STEP]).partition("/")[2])


def series(rows: Mapping[int, Row], key: str) -> tuple[Values, Values]:
    """Steps ``(N,)`` and values ``(N,)`` of the rows that have a number (NaN included) for ``key``."""
    points = [(step, row[key]) for step, row in rows.items() if isinstance(row.get(key), (int, float))]
    table = np.array(points, dtype=np.float64).reshape(-1, 2)
    return table[:, 0], np.where(np.abs(table[:, 1]) > _DIVERGED, np.inf, table[:, 1])


def smooth(values: Values) -> Values:
    """A centred mean over a twenty-fifth of the values on each side, with triangular weights; gaps have no weight."""
    reach = max(1, len(values) // 25)
    weights = 1 - np.abs(np.arange(-reach, reach + 1)) / (reach + 1)
    known = np.isfinite(values)
    total = np.convolve(np.where(known, values, 0.0), weights)[reach:-reach]
    weight = np.convolve(known.astype(float), weights)[reach:-reach]
    return np.asarray(np.divide(total, weight, out=np.full(len(values), np.nan), where=weight > 0))


class Line(msgspec.Struct, frozen=True):
    name: str
    colour: Colour
    width: int
    steps: Values
    values: Values
    dots: bool = False


class Plot(msgspec.Struct, frozen=True):
    """A plot: its axis title, its lines from bottom to top, its value limits, its share of the height."""

    title: str
    lines: tuple[Line, ...]
    limits: tuple[float, float]
    share: int = 1
    intervals: int = 4


def _loss_plot(rows: Mapping[int, Row]) -> Plot:
    steps, loss = series(rows, "loss")
    logged = Line("logged", _mix(_BLUE, 0.55), 1, steps, loss)
    lines = [logged, Line("smoothed", _BLUE, 3, steps, smooth(loss))]
    eval_steps, eval_loss = series(rows, "eval_loss")
    if len(eval_steps):
        lines.append(Line("validation", _ORANGE, 2, eval_steps, eval_loss, dots=True))
    return Plot("loss", tuple(lines), axis_limits([line.values for line in lines], 6), 3, 6)


def _further_plots(rows: Mapping[int, Row]) -> Iterator[Plot]:
    for key, title, colour in (
        ("eval_f1", "F1 on val", _ORANGE),
        ("reward", "reward", _PINK),
        ("token_acc", "token accuracy", _GREEN),
        ("learning_rate", "learning rate", _PURPLE),
    ):
        steps, values = series(rows, key)
        if len(steps):
            line = Line(title, colour, 2, steps, values, dots=key == "eval_f1")
            yield Plot(title, (line,), axis_limits([values], 4))


def _mix(colour: Colour, white: float) -> Colour:
    red, green, blue = (round(c + (255 - c) * white) for c in colour)
    return red, green, blue


def axis_limits(parts: Sequence[Values], intervals: int) -> tuple[float, float]:
    """The ends of a value axis: round numbers around all finite values, with 0 where it is close to them."""
    values = np.concatenate([part[np.isfinite(part)] for part in parts])
    if not len(values):
        return (0.0, 1.0)
    low, high = float(values.min()), float(values.max())
    low = 0.0 if 0 <= low <= 0.5 * high else low
    if high - low <= max(1e-9 * abs(high), _TINY):
        low, high = (0.0, high) if high > _TINY else (low - 1, low + 1)
    step = nice_step(high - low, intervals)
    return (math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step)


def nice_step(span: float, intervals: int) -> float:
    """The smallest of 1, 2, 5 times a power of ten that divides ``span`` into at most ``intervals``."""
    unit = 10.0 ** math.floor(math.log10(span / intervals))
    return next(unit * times for times in (1, 2, 5, 10) if span / (unit * times) <= intervals + 1e-9)


def _heights(shares: Sequence[int]) -> list[tuple[int, int]]:
    """Top and bottom of each plot in canvas pixels, by its share of the height."""
    first, last, gap = 124, _SIZE[1] - 70, 42
    unit = (last - first - gap * (len(shares) - 1)) / sum(shares)
    tops = [first + unit * sum(shares[:number]) + gap * number for number in range(len(shares))]
    return [
        (round(top * _SCALE), round((top + unit * share) * _SCALE)) for top, share in zip(tops, shares, strict=True)
    ]


def _draw_head(draw: ImageDraw.ImageDraw, rows: Mapping[int, Row], loss: Values) -> None:
    last, epochs = max(rows), series(rows, "epoch")[1]
    facts = [f"step {last:,} of {max(last, _planned(rows)):,}"]
    facts += [f"epoch {epochs[-1]:.1f}"] if len(epochs) and math.isfinite(epochs[-1]) else []
    final = smooth(loss)[-1]
    facts += [f"loss {final:.3g} (smoothed)"] if math.isfinite(final) else []
    broken = int((~np.isfinite(loss)).sum())
    facts += [f"loss is no finite number in {broken:,} of {len(loss):,} rows"] if broken else []
    _text(draw, (90, 38), "Training", 24, _INK, "lm")
    _text(draw, (90, 70), "  ·  ".join(facts), 16, _SOFT, "lm")


def _draw_plot(draw: ImageDraw.ImageDraw, axes: Axes, plot: Plot, *, last: bool) -> None:
    left, top, right, bottom = axes.rect
    for value in ticks(axes.values, plot.intervals):
        draw.line((left, axes.y(value), right, axes.y(value)), _GRID, _SCALE)
        _text(draw, (left / _SCALE - 10, axes.y(value) / _SCALE), tick_label(value), 14, _SOFT, "rm")
    for step in ticks(axes.steps, 10):
        draw.line((axes.x(step), bottom, axes.x(step), bottom + 5 * _SCALE), _SOFT, _SCALE)
        if last:
            _text(draw, (axes.x(step) / _SCALE, bottom / _SCALE + 17), f"{step:,.0f}", 14, _SOFT, "mm")
    draw.line((left, bottom, right, bottom), _SOFT, _SCALE)
    for line in plot.lines:
        _draw_line(draw, axes, line)
    _text(draw, (left / _SCALE, top / _SCALE - 14), plot.title, 16, _INK, "lm")
    if len(plot.lines) > 1:
        _draw_legend(draw, plot.lines, right // _SCALE, top // _SCALE - 14)
    if last:
        _text(draw, ((left + right) / 2 / _SCALE, bottom / _SCALE + 44), "step", 16, _INK, "mm")


def _draw_line(draw: ImageDraw.ImageDraw, axes: Axes, line: Line) -> None:
    points = [(axes.x(s), axes.y(v)) for s, v in zip(line.steps.tolist(), line.values.tolist(), strict=True)]
    for stretch in _stretches(points):
        if len(stretch) > 1:
            draw.line(stretch, line.colour, line.width * _SCALE, joint="curve")
        for point in stretch if line.dots or len(stretch) == 1 else ():
            draw.circle(point, (line.width + 1.5) * _SCALE, line.colour)


def _stretches(points: Sequence[tuple[float, float]]) -> Iterator[list[tuple[float, float]]]:
    """The stretches of points between gaps. A gap is a value that is not finite."""
    stretch: list[tuple[float, float]] = []
    for point in [*points, (0.0, math.nan)]:
        if math.isfinite(point[1]):
            stretch.append(point)
        elif stretch:
            yield stretch
            stretch = []


def _draw_legend(draw: ImageDraw.ImageDraw, lines: Sequence[Line], right: int, middle: int) -> None:
    for line in reversed(lines):
        width = round(font(14).getlength(line.name))
        _text(draw, (right - width, middle), line.name, 14, _SOFT, "lm")
        ends = [((right - width - 36) * _SCALE, middle * _SCALE), ((right - width - 8) * _SCALE, middle * _SCALE)]
        draw.line(ends, line.colour, line.width * _SCALE)
        right -= width + 56


def ticks(ends: tuple[float, float], intervals: int) -> list[float]:
    """Round values between the ends, with at most ``intervals`` steps."""
    step = nice_step(ends[1] - ends[0], intervals)
    first = math.ceil(ends[0] / step - 1e-9)
    return [number * step for number in range(first, math.floor(ends[1] / step + 1e-9) + 1)]


def tick_label(value: float) -> str:
    """A tick's number: ``0.05``, ``5e-5``."""
    return f"{round(value, 12):.4g}".replace("e-0", "e-").replace("e+0", "e")


def _text(
    draw: ImageDraw.ImageDraw, position: tuple[float, float], text: str, size: int, colour: Colour, anchor: str
) -> None:
    """Draw text at a position given in pixels of the result."""
    letters: Font = font(size * _SCALE)
    draw.text((position[0] * _SCALE, position[1] * _SCALE), text, colour, letters, anchor)
