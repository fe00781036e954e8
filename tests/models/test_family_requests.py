"""Rows and requests of each family are, number for number, what ms-swift's own template feeds the model."""

import json
import random
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.models import tiny_models
from vlmdet_cli.core.annotations import Box
from vlmdet_cli.models import dialects, registry

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("swift") is None, reason="needs the extra `train`"),
]
ROOT = Path(__file__).resolve().parents[2]
LIMITS = [None, 40_000, 602_112]
QUESTIONS = [
    "<image>Draw the bounding box of objects",
    "<image> Please count how many objects of each category are in the image.",
    "What is left of the 猫?",  # the picture comes first
    "Is there\na cat in <image>?  Or  “two”…",
]
ROWS = {"internvl3_5": 9}  # a picture takes up to 13,000 patches
Row = dict[str, Any]


def shapes(count: int) -> list[tuple[int, int]]:
    """Sizes of pictures from less than a token to about a million pixels, of any shape up to 100 to 1."""
    random_, sizes = random.Random(11), [(1, 1), (28, 28), (32, 32), (224, 224), (1, 60), (999, 1001)]  # noqa: S311
    while len(sizes) < count:
        width, height = (int(2 ** random_.uniform(2, 10.7)) for _ in range(2))
        if max(width, height) / min(width, height) < 100:
            sizes.append((width, height))
    return sizes


def rows(model: str) -> list[Row]:
    """A row for each shape; pixel limits, questions, answers and system prompts take turns."""
    family, out = registry.get(tiny_models.family_name(model)), list[Row]()
    for seed, (width, height) in enumerate(shapes(ROWS.get(model, 32))):
        boxes: list[tuple[str, Box]] = [
            (label, (0, 0, width / (number + 1), height)) for number, label in enumerate(["cat", "stop sign", "猫"])
        ]
        dialect = dialects.get(family.dialect, LIMITS[seed % 3])
        system = [None, None, "Be brief.", ""][seed % 4 if seed % 7 else 0] if family.takes_system else None
        answers = [dialect.render(boxes[: seed % 4], (width, height)), "person: 2\nbicycle: 1", 'A "bicycle".']
        out.append(
            {"question": QUESTIONS[seed % 4], "answer": answers[seed % 5 % 3], "size": [width, height],
             "system": system, "limit": seed % 3, "seed": seed}
        )  # fmt: skip
    return out


@pytest.fixture(scope="module")
def encoded_rows(tiny_model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each family and what swift make of the rows of each tiny model, by one process for all."""
    output = tmp_path_factory.mktemp("encoded") / "out.json"
    jobs = {
        name: {
            "family": tiny_models.family_name(name), "model": str(folder), "max_pixels": LIMITS, "rows": rows(name)
        }
        for name, folder in tiny_model_folders.items()
    }  # fmt: skip
    command = [sys.executable, "-m", "tests.models.swift_requests", str(output)]
    done = subprocess.run(command, cwd=ROOT, input=json.dumps(jobs), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    known: dict[str, Any] = json.loads(output.read_text())
    return known


@pytest.fixture(scope="module", params=sorted(tiny_models.builders()))
def encoded(request: pytest.FixtureRequest, encoded_rows: dict[str, Any]) -> list[tuple[Row, Any]]:
    """Rows of a tiny model, each with what the family and what swift make of it."""
    return list(zip(rows(request.param), encoded_rows[request.param], strict=True))


def test_every_family_has_a_tiny_model() -> None:
    assert {tiny_models.family_name(model) for model in tiny_models.builders()} == set(registry.names())


@pytest.mark.parametrize("text", ["request", "row"])
def test_the_model_is_fed_what_swifts_template_feeds_it(encoded: list[tuple[Row, Any]], text: str) -> None:
    for row, sides in encoded:
        ours, swift = sides[text]
        ours.pop("attention_mask", None)
        for tensors in sides["row"]:
            tensors.pop("token_type_ids", None)  # of training: which tokens are the answer's
        assert "input_ids" in ours
        assert len(ours) >= 2, "a picture's values"
        assert ours == swift, row


def test_the_length_guard_counts_the_tokens_of_swifts_training_rows(encoded: list[tuple[Row, Any]]) -> None:
    assert all(sides["exact"] for _, sides in encoded)
    assert [sides["tokens"][0] for _, sides in encoded] == [sides["tokens"][1] for _, sides in encoded]
