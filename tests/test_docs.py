"""The documents and samples are true: commands exist, samples load, the layout is the tree."""

import re
from pathlib import Path

import pytest
import tomli
from typer.testing import CliRunner

from tests.conftest import Cli
from vlmdet_cli import project
from vlmdet_cli.cli import app

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = sorted((ROOT / "sample_configs").glob("*.toml"))
README = (ROOT / "README.md").read_text()


def commands() -> set[str]:
    text = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "100", "TERM": "dumb"}).stdout
    return set(re.findall(r"│ ([a-z]+)  +[A-Z]", text))


def test_the_readme_shows_every_command_and_no_other() -> None:
    shown = set(re.findall(r"vlmdet ([a-z]+)\b", README)) - {"and"}
    assert commands() - shown == set()
    assert shown - commands() == set()


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_each_sample_project_loads_and_differs_from_the_defaults(path: Path) -> None:
    config = project.convert(tomli.loads(path.read_text()), (), path.name)
    assert config.data.train is not None
    assert path.read_text().startswith("#")


def test_the_samples_that_must_be_there_are() -> None:
    names = {path.stem for path in SAMPLES}
    assert names >= {"minimal", "documented_run", "frozen_vision_tower", "small_lora", "multi_gpu", "demo"}


def test_the_demo_sample_is_the_demos_own_file() -> None:
    own = ROOT / "vlmdet_cli" / "demo" / "vlmdet.toml"
    assert (ROOT / "sample_configs" / "demo.toml").read_text() == own.read_text()


def test_the_layout_in_contributing_names_what_is_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text().partition("## Layout")[2].partition("A room imports")[0]
    named = set(re.findall(r"\b([a-z_]+(?:\.py|/))", text)) - {"vlmdet_cli/", "formats/", "dialects/"}
    package = ROOT / "vlmdet_cli"
    there = {path.name + ("/" if path.is_dir() else "") for path in package.iterdir()}
    there = {name for name in there if name.endswith((".py", "/")) and not name.startswith("__")}
    assert named == there


def test_init_writes_a_project_that_loads_and_never_overwrites(cli: Cli, tmp_path: Path) -> None:
    done = cli("init", "mine")
    assert (done.exit_code, done.stderr) == (0, "")
    assert project.load(tmp_path / "mine").config.project.output == "out"
    done = cli("init", "mine")
    assert (done.exit_code, done.stdout, done.stderr) == (
        2,
        "",
        "error: There is a project file already: mine/vlmdet.toml\nhint: Name another folder, or remove the file.\n",
    )


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_explains_itself(name: str) -> None:
    done = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "80", "TERM": "dumb"})
    assert done.exit_code == 0
    assert f"Usage: vlmdet {name}" in done.stdout or f"{name} [OPTIONS]" in done.stdout
    assert "--json" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
