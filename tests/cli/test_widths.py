"""Tables at any width: no line is wider than the terminal, no number is cut, and without colour there is no escape."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tests.cli.test_console import on_terminal
from tests.conftest import Cli, write_project
from tests.stages.test_train import write_run
from vlmdet_cli.cli.layout import Line
from vlmdet_cli.cli.tables import row, table

CLASSES = ("traffic light", "cat", "a class with a rather long name", "microwave-oven-with-grill")
RUNS = ("run-001", "rank-64-seed2", "freeze-true-false-detection-only")
WIDTHS = (60, 80, 200)
COMMANDS = (
    ("prepare", "--report"), ("augment",), ("status",), ("runs",), ("experiment", "--dry-run"), ("doctor",),
    ("eval", "--truth", "annotations.json", "--predictions", "run-001.json"),
    ("eval", "--truth", "annotations.json", "--predictions", "run-001.json", "--full"),
    ("compare", *(f"{name}-report.json" for name in RUNS)),
    ("export", "--to", "coco", "--truth", "annotations.json", "--predictions", "run-001.json", "--output", "exported"),
    ("show", "out/augment/train.jsonl"),
)  # fmt: skip
SETTINGS = """
[experiments.freeze]
train.freeze_vit = [true, false]
train.freeze_aligner = [true, false]
"""


@pytest.fixture
def finished(cli: Cli) -> Cli:
    """A project with three runs, and a report of predictions for each."""
    pictures = {
        f"{n}.jpg": [(CLASSES[(n + k) % 4], (5 * k, 3 * k, 20 + n, 15 + n)) for k in range(n % 4)] for n in range(12)
    }
    write_project(Path(), pictures, SETTINGS, categories=CLASSES)
    annotations = json.loads(Path("annotations.json").read_text())["annotations"]
    for step in ("prepare", "augment"):
        assert cli(step, "-q").exit_code == 0
    for number, name in enumerate(RUNS):
        write_run(name, "done", sets=(f"train.lora_rank={8 + number}", f"train.swift.max_steps={118_287 * number}"))
        predictions = [
            {"image_id": a["image_id"], "category_id": (a["category_id"] + (a["id"] % 3 == number)) % 4 + 1,
             "bbox": a["bbox"], "score": 1 / (2 + a["id"])}
            for a in annotations
        ]  # fmt: skip
        Path(f"{name}.json").write_text(json.dumps(predictions))
        report = cli("eval", "--truth", "annotations.json", "--predictions", f"{name}.json", "--json").stdout
        Path(f"{name}-report.json").write_text(report)
        reports = Path("out/runs") / name / "reports"
        reports.mkdir()
        (reports / "test.json").write_text(report)
    return cli


def test_no_line_is_wider_than_the_terminal_and_nothing_is_cut(finished: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in COMMANDS:
        numbers = set[tuple[str, ...]]()
        for width in WIDTHS:
            monkeypatch.setenv("COLUMNS", str(width))
            done = finished(*command)
            assert done.exit_code == 0, done.stderr
            assert "\x1b" not in done.stdout
            assert "…" not in re.sub(r"… \d+ more", "", done.stdout), (command, width)
            # a path or a name in a line of its own is whole, and may be longer
            lines = [line for line in done.stdout.splitlines() if not re.search(r"\s[^\s─]{25,}$", line)]
            assert max(map(len, lines)) <= width, (command, width, max(lines, key=len))
            numbers.add(tuple(sorted(re.findall(r"[+-]?\d+\.\d{3}", done.stdout))))
        assert len(numbers) == 1, command  # the same at every width


def test_a_run_with_a_long_name_has_a_row_in_each_part_of_its_table(
    finished: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert finished("status").stdout.count("freeze-true-false-detection") == 2
    wide = finished("compare", *(f"{name}-report.json" for name in RUNS)).stdout
    assert len(re.findall(r"^ F1 {2,}", wide, flags=re.MULTILINE)) >= 2


def test_in_a_dumb_terminal_tables_are_as_wide_as_it_is_and_without_escapes(finished: Cli, tmp_path: Path) -> None:
    del finished
    for environment in ({"TERM": "dumb"}, {"NO_COLOR": "1"}):
        shown = on_terminal(("runs",), tmp_path, environment, columns=60)
        assert "\x1b" not in shown
        assert 50 < max(map(len, shown.splitlines())) <= 60


TEXT = st.text(st.sampled_from("abcdefgh -äß猫"), max_size=40)


@given(st.integers(40, 200), st.lists(st.tuples(TEXT, st.integers(0, 10**9), st.floats(0, 9), TEXT), max_size=4), TEXT)
def test_any_table_fits_and_has_all_of_its_numbers(width: int, rows: list[tuple[Any, ...]], head: str) -> None:
    result = table("name", head, "b", "why", text=("why",))
    for values in rows:
        row(result, *values)
    lines = rendered(result, width)
    assert max(map(len, lines), default=0) <= width
    assert all(line == line.rstrip() for line in lines)
    words = " ".join(lines).split()
    assert all(f"{number:,}" in words and f"{value:.3f}" in words for _, number, value, _ in rows)


@given(st.integers(20, 120), TEXT)
def test_a_line_breaks_between_words_and_loses_none(width: int, value: str) -> None:
    first, *others = rendered(Line("name", value), width)
    assert first.startswith("name")
    assert all(line.startswith(" " * 12) or not line for line in others)
    assert " ".join([first, *others]).split() == ["name", *value.replace("猫", "猫猫").split()]
    assert all(len(line) <= width or " " not in line[12:].strip() for line in (first, *others))


def rendered(view: Any, width: int) -> list[str]:
    """The lines of a view, with two characters for each that takes two columns."""
    console = Console(width=width, color_system=None, markup=False)
    with console.capture() as capture:
        console.print(view, crop=False)
    return [line.replace("猫", "猫猫") for line in capture.get().splitlines()]


def test_a_title_may_be_wider_than_its_table() -> None:
    result = table("a", "b", title="A title of a table that has two columns")
    row(result, "x", 1)
    assert rendered(result, 80)[0] == "A title of a table that has two columns"
