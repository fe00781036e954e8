"""The documents and samples are true: commands exist, samples load, the described layout is the package's."""

import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from tests.conftest import Cli
from tests.shown_blocks import PAGES, command_blocks, simple_commands
from vlmdet_cli import project
from vlmdet_cli.cli import app, completion
from vlmdet_cli.errors import UsageError
from vlmdet_cli.models import registry
from vlmdet_cli.project.run_record import RunRecord

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = sorted((ROOT / "sample_configs").glob("*.toml"))
README = (ROOT / "README.md").read_text()


def commands() -> set[str]:
    text = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "100", "TERM": "dumb"}).stdout
    return set(re.findall(r"│ ([a-z]+)  +[A-Z]", text))


def test_the_readme_shows_every_command_and_no_other() -> None:
    assert len(commands()) >= 12
    assert set(re.findall(r"vlmdet ([a-z]+)\b", README)) == commands()


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_each_sample_project_begins_with_its_purpose_and_loads_without_a_warning(path: Path) -> None:
    assert path.read_text().startswith("# ")
    loaded = project.load(path)
    assert loaded.config.data.train is not None
    assert loaded.notes == ()


def test_every_sample_project_but_the_minimal_changes_a_setting() -> None:
    configs = {path.stem: project.load(path).config for path in SAMPLES}
    minimal = configs.pop("minimal")
    for name, config in configs.items():
        own_settings = msgspec.structs.replace(config, project=minimal.project, data=minimal.data)
        assert own_settings != minimal, name


def test_the_documented_run_is_the_default_of_train() -> None:
    configs = {path.stem: project.load(path).config for path in SAMPLES}
    assert configs["documented_run"].train == configs["minimal"].train


def test_the_required_samples_exist() -> None:
    names = {path.stem for path in SAMPLES}
    assert names >= {"minimal", "documented_run", "frozen_vision_tower", "small_lora", "multi_gpu", "demo"}


def test_the_demo_sample_equals_the_demos_own_file() -> None:
    own = ROOT / "vlmdet_cli" / "demo" / "vlmdet.toml"
    assert (ROOT / "sample_configs" / "demo.toml").read_text() == own.read_text()


def test_the_layout_in_contributing_names_every_room_and_no_other() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text().partition("## Layout")[2].partition("A room imports")[0]
    described = set(re.findall(r"\b([a-z_]+(?:\.py|/))", text)) - {"vlmdet_cli/", "formats/", "dialects/"}
    entries = {path.name + ("/" if path.is_dir() else "") for path in (ROOT / "vlmdet_cli").iterdir()}
    rooms = {name for name in entries if name.endswith((".py", "/")) and not name.startswith("__")}
    assert described == rooms


def test_the_source_files_that_the_documents_name_exist() -> None:
    pages = set((ROOT / "docs").glob("*.md")) - {ROOT / "docs" / "protocols.md"}  # it names files of other projects
    texts = [path.read_text() for path in (ROOT / "CONTRIBUTING.md", ROOT / "README.md", *pages)]
    names = set(re.findall(r"[\w/]+/\w+\.(?:py|toml|sh)\b", "\n".join(texts)))
    assert {"tests/test_layout.py", "cli/command_line.py"} <= names
    paths = {name: (ROOT / name, ROOT / "vlmdet_cli" / name) for name in names if "NAME" not in name}
    missing = {name for name, candidates in paths.items() if not any(path.is_file() for path in candidates)}
    assert not missing


def test_the_page_on_models_has_a_row_for_every_family_and_a_sample_for_all_but_the_default() -> None:
    text = (ROOT / "docs" / "models.md").read_text()
    rows = {cells[1].strip(" `"): cells for line in text.splitlines() if len(cells := line.split("|")) == 7}
    for name in registry.names():
        family, cells = registry.get(name), rows[name]
        assert cells[2].strip() == ", ".join(f"`{model_type}`" for model_type in family.model_types)
        assert registry.family_of(re.split(r"[,;] ", cells[3].strip())[0]).name == name
        assert f"`{family.dialect}`" in cells[4]
    models = {project.load(path).config.train.model for path in SAMPLES if path.stem != "demo"}
    samples = {registry.family_of(model).name for model in models}
    assert samples == set(registry.names())
    assert all(f"sample_configs/{name}.toml" in text for name in set(registry.names()) - {"qwen2_vl"})


def test_init_writes_a_project_that_loads_and_overwrites_none(cli: Cli, tmp_path: Path) -> None:
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
def test_the_help_of_every_command_fits_80_columns_and_has_the_global_options(name: str) -> None:
    done = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "80", "TERM": "dumb"}, prog_name="vlmdet")
    assert done.exit_code == 0
    assert f"Usage: vlmdet {name} [OPTIONS]" in done.stdout
    shared = done.stdout.partition("Global options")[2]
    for option in ("--project", "--set", "--json", "--quiet", "--verbose", "--debug", "--no-progress"):
        assert f" {option} " in shared
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize("name", sorted(commands() - {"doctor"}))
def test_the_example_in_the_help_of_a_command_has_only_options_that_exist(name: str) -> None:
    text = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "80", "TERM": "dumb"}).stdout
    (example,) = re.findall(r"Example: vlmdet (.*)", text)
    first, *arguments = shlex.split(example)
    assert first == name
    assert CliRunner().invoke(app, [name, "--help", *arguments]).exit_code == 0


def shown_commands() -> list[list[str]]:
    """The words of the vlmdet commands in the blocks and in the text of README and the documents."""
    scripts = [block.text for page in PAGES for block in command_blocks(page)]
    scripts += [
        " ".join(code.split()) for page in PAGES for code in re.findall(r"`(vlmdet [a-z][^`]*)`", page.read_text())
    ]
    commands = [words for script in scripts for words in simple_commands(script)]
    return [words[words.index("vlmdet") + 1 :] for words in commands if "vlmdet" in words]


def test_every_command_that_the_documents_show_has_only_options_that_exist() -> None:
    shown = shown_commands()
    assert len(shown) > 120
    wrong = list[list[str]]()
    for words in shown:
        options = words[1 : words.index("--")] if "--" in words else words[1:]
        line = [*words[:1], "--help", *options]
        # the text may name an option without its value
        is_right = any(CliRunner().invoke(app, [*line, *value]).exit_code == 0 for value in ([], ["1"]))
        wrong += [] if is_right else [words]
    assert not wrong


@pytest.mark.parametrize("page", ["commands.md", "settings.md"])
def test_the_pages_of_reference_say_what_the_code_says(page: str) -> None:
    pages = runpy.run_path(str(ROOT / "docs" / "reference.py"))["PAGES"]
    assert (ROOT / "docs" / page).read_text() == pages[page](), "run: python docs/reference.py"


def test_the_page_of_settings_has_every_key() -> None:
    tables = re.split(r"^## \[(.*)\]$", (ROOT / "docs" / "settings.md").read_text(), flags=re.MULTILINE)[1:]
    described = {
        f"{name}.{key}" for name, text in zip(tables[::2], tables[1::2], strict=True)
        for key in re.findall(r"^\| `(\w+)`", text, flags=re.MULTILINE)
    }  # fmt: skip
    tables_of_names = {"data.train", "data.val", "data.test", "data.categories", "experiments"}
    configured = {key.removesuffix("=") for key in completion.settings("")} - tables_of_names
    configured -= {key for key in configured if key.endswith(".swift")}
    assert configured <= described, sorted(configured - described)


def test_the_page_on_architecture_names_keys_that_a_runs_record_has() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text().partition("## The run record")[2].partition("##")[0]
    keys = [
        key for line in re.findall(r"^\| (`.*?) \|", text, flags=re.MULTILINE) for key in re.findall(r"`(\w+)`", line)
    ]
    assert len(keys) > 10
    assert set(keys) <= set(RunRecord.__struct_fields__)


def is_setting(key: str, value: str) -> bool:
    """Whether the project file takes the value; of a list, as an experiment has it, each of its values."""
    try:
        project.load(ROOT / "sample_configs" / "minimal.toml", [f"{key}={value}"])
    except UsageError:
        return value.startswith("[") and all(is_setting(key, single) for single in value[1:-1].split(","))
    return True


def test_the_project_file_takes_every_setting_that_the_documents_name() -> None:
    tables = "project|data|subset|format|augment|train|merge|infer|eval|viz"
    value = r'"[^"`]*"|\[(?:[^\[\]`A-Za-z]|"[^"`]*")*\]|[\d.e+-]+|true|false'
    text = " ".join(path.read_text().replace("\n", " ") for path in (ROOT / "docs").glob("*.md"))
    named = set(re.findall(rf"`((?:{tables})\.[\w.]+) = ({value})`", text))
    assert len(named) > 25
    assert not {pair for pair in named if not is_setting(*pair)}


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("zensical", reason="needs Zensical, which the extra `dev` has")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    named = set(re.findall(r"\b(\w+)\.md", (ROOT / "mkdocs.yml").read_text()))
    assert named == {path.stem for path in (ROOT / "docs").glob("*.md")}  # every page is in the navigation
