"""The weights of tokens in the loss, as ms-swift's own template of each family computes them."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from vlmdet_cli.models import dialects, registry

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("swift") is None, reason="needs the extra `train`"),
]
ROOT = Path(__file__).resolve().parents[2]
OBJECTS = [("stop sign 7", (5, 16, 307, 80)), ("猫 (12,3)", (11, 0, 12, 999))]
NOISE = ("noise", (40, 44, 144, 444))
# the texts of the coordinates' tokens: digits, or whole location tokens
DIGITS = list("51630780") + list("11012999")
NOISE_TOKENS = list("4044144444"), ["<loc0044>", "<loc0040>", "<loc0444>", "<loc0144>"]
LOCATIONS = ["<loc0016>", "<loc0005>", "<loc0080>", "<loc0307>", "<loc0000>", "<loc0011>", "<loc0999>", "<loc0012>"]


@pytest.fixture(scope="module")
def encoded(tiny_model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What swift makes of a text without boxes and of one with two, by family, in one process."""
    output, jobs = tmp_path_factory.mktemp("weights") / "out.json", {}
    for name in registry.names():
        family = registry.get(name)
        dialect = dialects.get(family.dialect)
        jobs[name] = {
            "model": str(tiny_model_folders[name]),
            **{key.removeprefix("swift_"): value for key, value in family.swift_flags().items()},
            "settings": {"dialect": family.dialect, "coordinate_weight": 2.5},
            "answers": ["person: 12\ncat: 3", dialect.write(OBJECTS)],
        }
        noise = {"dialect": family.dialect, "noise_label": "noise"}
        jobs[f"{name} noise"] = {**jobs[name], "settings": noise, "answers": [dialect.write([OBJECTS[0], NOISE])]}
    command = [sys.executable, "-m", "tests.models.swift_weights", str(output)]
    done = subprocess.run(command, cwd=ROOT, input=json.dumps(jobs), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    known: dict[str, Any] = json.loads(output.read_text())
    return known


@pytest.mark.parametrize("family", registry.names())
def test_the_coordinates_weigh_as_set_all_other_tokens_once_and_no_token_changes(
    encoded: dict[str, Any], family: str
) -> None:
    plain, boxes = encoded[family]
    assert plain["same"]
    assert {weight for _, weight in plain["weights"]} == {1.0}
    assert boxes["same"]
    assert boxes["others"] == [0.0]
    assert boxes["without_loss"] == []
    heavy = [text for text, weight in boxes["weights"] if weight == 2.5]
    assert heavy == (LOCATIONS if family == "paligemma" else DIGITS)
    assert {weight for _, weight in boxes["weights"]} == {1.0, 2.5}


@pytest.mark.parametrize("family", registry.names())
def test_the_coordinates_of_noise_have_no_loss_its_label_has_and_so_has_the_end(
    encoded: dict[str, Any], family: str
) -> None:
    (boxes,) = encoded[f"{family} noise"]
    assert boxes["same"]
    assert boxes["without_loss"] == NOISE_TOKENS[family == "paligemma"]
    assert "noise" in "".join(text for text, weight in boxes["weights"] if weight)
    assert boxes["weights"][-1][1] == 1.0  # the end of the answer
    assert {weight for _, weight in boxes["weights"]} == {0.0, 1.0}
