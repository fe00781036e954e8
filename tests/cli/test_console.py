"""The console: safe text, stdout for results alone, exit codes, a start-up that imports little."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Cli, write_project
from vlmdet_cli import __version__
from vlmdet_cli.console import safe
from vlmdet_cli.errors import VlmdetError
from vlmdet_cli.project import loading
from vlmdet_cli.stages import prepare

HEAVY = ("torch", "transformers", "swift", "peft", "PIL", "pycocotools", "matplotlib")
VLMDET = (sys.executable, "-m", "vlmdet_cli")


def imported(*arguments: str, cwd: Path) -> tuple[int, set[str]]:
    """Exit code and the top-level modules that a command has imported by its end."""
    code = (
        "import sys,runpy,json\n"
        f"sys.argv = ['vlmdet', *{list(arguments)!r}]\n"
        "code = 0\n"
        "try: runpy.run_module('vlmdet_cli', run_name='__main__')\n"
        "except SystemExit as end: code = end.code or 0\n"
        "open('modules.json', 'w').write(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))\n"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, check=False)
    return done.returncode, set(json.loads((cwd / "modules.json").read_text()))


def test_help_imports_nothing_heavy_and_no_stage(tmp_path: Path) -> None:
    code, modules = imported("--help", cwd=tmp_path)
    assert code == 0
    assert not modules & {*HEAVY, "numpy", "hotcoco"}


def test_eval_imports_neither_torch_nor_transformers_nor_swift(cli: Cli, tmp_path: Path) -> None:
    write_project(Path(), {"a.jpg": [("cat", (1, 2, 30, 40))]})
    Path("predictions.json").write_text('[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.9}]')
    files = ("--truth", "annotations.json", "--predictions", "predictions.json")
    code, modules = imported("eval", *files, cwd=tmp_path)
    assert code == 0
    assert "hotcoco" in modules
    assert not modules & set(HEAVY)
    assert cli("eval", *files).exit_code == 0


def test_version_and_help_need_no_project(cli: Cli) -> None:
    assert cli("--version").stdout == f"vlmdet {__version__}\n"
    text = cli("--help").stdout
    assert all(f" {name} " in text for name in ("prepare", "augment", "train", "merge", "infer", "eval", "viz"))
    assert max(map(len, text.splitlines())) <= 100
    assert "--fail-under" in cli("eval", "-h").stdout


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("[red]x[/red]", "[red]x[/red]"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("a\rb\x07\x7f", "a\\x0db\\x07\\x7f"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("\ud800", "\\ud800"),
        ("猫 café 🙂", "猫 café 🙂"),
    ],
)
def test_control_characters_are_written_not_obeyed(text: str, escaped: str) -> None:
    assert safe(text) == escaped


def test_an_unknown_command_or_option_is_a_usage_error_on_stderr(cli: Cli) -> None:
    for arguments in (("prepar",), ("prepare", "--nope"), ("viz", "--limit", "0"), ("compare", "one.json")):
        done = cli(*arguments)
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr


def test_an_unexpected_error_is_called_a_bug_and_debug_shows_it(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oops")

    write_project(Path(), {"a.jpg": [("cat", (1, 2, 30, 40))]})
    monkeypatch.setattr(prepare, "prepare", broken)
    done = cli("prepare")
    assert (done.exit_code, done.stdout) == (70, "")
    assert done.stderr == (
        "error: Unexpected ZeroDivisionError: oops\nhint: This is a bug; --debug shows where it happened.\n"
    )
    assert isinstance(cli("prepare", "--debug").exception, ZeroDivisionError)


def test_debug_shows_a_users_error_too(cli: Cli) -> None:
    assert isinstance(cli("prepare", "--debug").exception, VlmdetError)


def test_quiet_prints_nothing(cli: Cli) -> None:
    write_project(Path(), {"a.jpg": [("cat", (1, 2, 30, 40))]})
    for arguments in (("-q", "prepare"), ("prepare", "--quiet")):
        done = cli(*arguments)
        assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")


def test_global_options_stand_before_or_after_the_command(cli: Cli) -> None:
    write_project(Path("mine"), {"a.jpg": [("cat", (1, 2, 30, 40))]})
    before = cli("--json", "-p", "mine", "prepare")
    after = cli("prepare", "--json", "-p", "mine")
    assert (before.exit_code, after.exit_code) == (0, 0)
    assert json.loads(before.stdout) == json.loads(after.stdout)


def test_the_later_project_file_wins_and_overrides_of_both_positions_add_up(cli: Cli) -> None:
    write_project(Path("mine"), {"a.jpg": [("cat", (1, 2, 30, 40))], "b.jpg": []})
    sets = ("--set", "subset.empty=1.0"), ("--set", "project.output=other")
    done = cli("-p", "gone", *sets[0], "prepare", "-p", "mine", *sets[1], "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["splits"]["train"]["pictures"] == 2
    assert Path("mine/other/data").is_dir()


def test_a_renamed_key_is_a_warning_on_stderr_and_in_doctor(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(loading.RENAMED_KEYS, "subset.largest", "subset.max_objects")
    write_project(Path(), {"a.jpg": [("cat", (1, 2, 30, 40))]}, "[subset]\nlargest = 2\n")
    note = "the key subset.largest is now called subset.max_objects; rename it in the project file"
    done = cli("prepare", "--json")
    assert (done.exit_code, done.stderr) == (0, f"warning: {note}\n")
    assert json.loads(done.stdout)["splits"]["train"]["pictures"] == 1
    checks = {check["name"]: check for check in json.loads(cli("doctor", "--json").stdout)}
    assert (checks["project"]["state"], checks["project"]["hint"]) == ("warning", note)


def test_a_full_disk_is_an_error_with_a_hint(tmp_path: Path) -> None:
    """/dev/full stands for a file system without room."""
    write_project(tmp_path, {"a.jpg": [("cat", (1, 2, 30, 40))]})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "data").symlink_to("/dev/full")
    done = subprocess.run([*VLMDET, "prepare"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_a_closed_pipe_ends_quietly(tmp_path: Path) -> None:
    (tmp_path / "answers.txt").write_text("cat(1,2),(3,4)\n" * 50_000)
    line = f"{sys.executable} -m vlmdet_cli parse answers.txt | head -1"
    done = subprocess.run(["sh", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["health"] == "ok"
    assert done.stderr == ""


COLOURS = re.compile(r"\x1b\[(?:[0-9;]*;)?(?:3|4|9|10)[0-9](?:;[0-9;]*)?m")  # SGR 30…49 and 90…109
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def test_a_terminal_gets_colour_and_with_no_color_the_same_words_without_it(tmp_path: Path) -> None:
    (tmp_path / "truth.json").write_text('[{"image_path": "a.jpg", "object": {"cat": [[1, 2, 30, 40]]}}]')
    files = ("--truth", "truth.json", "--predictions", "truth.json")
    coloured = on_terminal(("eval", *files, "--fail-under", "f1=0.5"), tmp_path, {})
    plain = on_terminal(("eval", *files, "--fail-under", "f1=0.5"), tmp_path, {"NO_COLOR": "1"})
    assert COLOURS.search(coloured)
    assert not COLOURS.search(plain)
    assert "gate passed: f1" in plain
    assert ESCAPES.sub("", plain) == ESCAPES.sub("", coloured)


def on_terminal(arguments: tuple[str, ...], cwd: Path, env: dict[str, str]) -> str:
    """The output of a command on a terminal of 80 columns."""
    reader, writer = pty.openpty()
    clean = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "TERM", "COLUMNS"}}
    process = subprocess.Popen(
        [*VLMDET, *arguments], cwd=cwd, stdout=writer, stderr=writer, env={**clean, "TERM": "xterm-256color", **env}
    )
    os.close(writer)
    out = b""
    while True:
        try:
            part = os.read(reader, 65536)
        except OSError:
            break
        if not part:
            break
        out += part
    os.close(reader)
    assert process.wait() == 0
    return out.decode()
