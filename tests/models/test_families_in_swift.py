"""Each family against ms-swift itself: the chat form, the names, and the pixels that training sees."""

import hashlib
import json
import random
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.models.swift_family import noise
from vlmdet_cli.models import registry

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("swift") is None, reason="needs the extra `train`"),
]
SCRIPT = Path(__file__).parent / "swift_family.py"
Picture = dict[str, Any]


def pictures(count: int) -> list[Picture]:
    """Sizes from less than a token to over the family's limit, with and without a limit of training."""
    random_ = random.Random(5)  # noqa: S311
    sizes = [[int(2 ** random_.uniform(3, 11)) for _ in range(2)] for _ in range(count)] + [[4400, 3200]]
    limits = [random_.choice([None, 40_000, 602_112]) for _ in sizes]
    return [
        {"size": size, "max_pixels": limit, "seed": seed}
        for seed, (size, limit) in enumerate(zip(sizes, limits, strict=True))
        if max(size) / min(size) < 100
    ]


@pytest.fixture(scope="module")
def known_of_families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What ms-swift knows of every family, by one process for all."""
    families, given = [registry.get(name) for name in registry.names()], pictures(60)
    message = {
        family.name: {"template": family.swift_template, "model_type": family.swift_model_type, "pictures": given}
        for family in families
    }
    folder = tmp_path_factory.mktemp("families")
    command = [sys.executable, str(SCRIPT), "out.json"]
    run = subprocess.run(command, cwd=folder, input=json.dumps(message), capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    known: dict[str, Any] = json.loads((folder / "out.json").read_text())
    return known


@pytest.fixture(scope="module", params=registry.names())
def known(request: pytest.FixtureRequest, known_of_families: dict[str, Any]) -> tuple[str, Any, list[Picture]]:
    """A family's name, and what ms-swift knows of it and makes of pictures."""
    return request.param, known_of_families[request.param], pictures(60)


def test_the_chat_form_is_that_of_swifts_template(known: tuple[str, Any, list[Picture]]) -> None:
    name, swift, _ = known
    family = registry.get(name)
    assert family.system_prompt == swift["system"]
    assert family.image_token == swift["image"]
    system, prompt, suffix = swift["parts"]
    prompt = prompt.replace("{{QUERY}}", "QUESTION")
    given = "SYSTEM" if family.takes_system else None
    request = family.request_text("<image>QUESTION", given)
    turn = system.replace("{{SYSTEM}}", "SYSTEM")
    image = request.partition("QUESTION")[0].removeprefix(turn)
    own_turn = "" if swift["system"] is None else turn.replace("SYSTEM", swift["system"])
    assert request.replace(turn, own_turn, 1) == family.request_text("<image>QUESTION")
    assert image.startswith(prompt.partition("QUESTION")[0])
    assert family.image_token in image
    placeholder = image.removeprefix(prompt.partition("QUESTION")[0])
    assert request.replace(placeholder, "") == system.replace("{{SYSTEM}}", "SYSTEM") + prompt
    assert family.row_text("<image>QUESTION", "ANSWER", given) == f"{request}ANSWER{suffix}"
    assert {*swift["stop"], suffix.strip()} == set(family.end_tokens)


def test_pictures_have_the_pixels_of_training(known: tuple[str, Any, list[Picture]]) -> None:
    name, swift, given = known
    family = registry.get(name)
    for picture, expected in zip(given, swift["pictures"], strict=True):
        resized = family.resize(noise(picture["size"], picture["seed"]), picture["max_pixels"])
        assert [*resized.size, hashlib.sha256(resized.tobytes()).hexdigest()] == expected, picture
        assert family.trained_size(tuple(picture["size"]), picture["max_pixels"]) == resized.size
