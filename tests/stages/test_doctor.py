"""doctor: each check has a state, a finding and a hint."""

import json
from pathlib import Path

import pytest

from tests.conftest import Cli, write_project
from vlmdet_cli.core import gpus
from vlmdet_cli.stages import doctor


def states(cli: Cli, *arguments: str, code: int = 0) -> dict[str, tuple[str, str, str]]:
    done = cli("doctor", "--json", *arguments)
    assert done.exit_code == code, done.stdout
    return {check["name"]: (check["state"], check["found"], check["hint"]) for check in json.loads(done.stdout)}


def test_without_a_project_it_checks_the_machine(cli: Cli) -> None:
    checks = states(cli)
    assert {"vlmdet", "python", "torch", "ms-swift", "swift", "memory", "GPU", "project"} <= set(checks)
    assert checks["project"] == ("warning", "no vlmdet.toml", "Write one with `vlmdet init`, or name one with -p.")


def test_a_sound_project_has_no_problem_and_a_wrong_path_is_one(cli: Cli) -> None:
    write_project(Path(), {"a.jpg": [("cat", (1, 2, 30, 40))]})
    checks = states(cli)
    assert checks["data.train.annotations"][0] == checks["data.train.images"][0] == checks["disk"][0] == "ok"
    assert checks["prepared"] == ("ok", "nothing yet", "Run `vlmdet prepare`.")
    assert cli("prepare").exit_code == 0
    assert states(cli)["prepared"][1] == "train"
    wrong = states(cli, "--set", "data.train.images=nope", "--set", "train.model=./none", code=1)
    assert wrong["data.train.images"] == (
        "problem",
        f"does not exist: {Path.cwd()}/nope",
        "Correct data.train.images in the project file.",
    )
    assert wrong["train.model"][0] == "problem"
    assert states(cli, "--set", "train.lora_rnak=1", code=1)["project"][0] == "problem"


def test_the_environment_names_the_project_file(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_project(tmp_path / "elsewhere", {"a.jpg": [("cat", (1, 2, 30, 40))]})
    monkeypatch.setenv("VLMDET_PROJECT", str(file))
    assert states(cli)["project"] == ("ok", str(file), "")


def test_the_memory_of_gpus_is_shown_and_too_little_is_a_warning(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "gpu_memory", lambda: [84.9, 84.9])
    assert states(cli)["GPU"] == ("ok", "2 with 85 GB, 85 GB", "")
    monkeypatch.setattr(gpus, "gpu_memory", lambda: [8.5])
    assert states(cli)["GPU"][0] == "warning"
    monkeypatch.setattr(gpus, "gpu_memory", list)
    assert states(cli)["GPU"][:2] == ("warning", "none")


def test_a_missing_package_is_a_warning_that_says_how_to_install_it(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "STACK", ("no-such-package",))
    assert states(cli)["no-such-package"] == (
        "warning",
        "not installed",
        "train, merge and infer need it: pip install 'vlmdet[train]'",
    )
    text = cli("doctor").stdout
    assert "no-such-package" in text
    assert "→ train, merge and infer need it" in text
