"""How the tool speaks: safe text, stdout for results alone, exit codes, start-up that imports little."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Cli, write_project
from vlmdet_cli import __version__
from vlmdet_cli.console import safe
from vlmdet_cli.errors import VlmdetError
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
    Path("found.json").write_text('[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.9}]')
    files = ("--truth", "annotations.json", "--predictions", "found.json")
    code, modules = imported("eval", *files, cwd=tmp_path)
    assert code == 0
    assert "hotcoco" in modules
    assert not modules & set(HEAVY)
    assert cli("eval", *files).exit_code == 0


def test_version_and_help_are_one_call_away(cli: Cli) -> None:
    assert cli("--version").stdout == f"vlmdet {__version__}\n"
    shown = cli("--help").stdout
    assert all(f" {name} " in shown for name in ("prepare", "augment", "train", "merge", "infer", "eval", "viz"))
    assert max(map(len, shown.splitlines())) <= 100
    assert "--fail-under" in cli("eval", "-h").stdout


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[red]x[/red]", "[red]x[/red]"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("a\rb\x07\x7f", "a\\x0db\\x07\\x7f"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("\ud800", "\\ud800"),
        ("猫 café 🙂", "猫 café 🙂"),
    ],
)
def test_control_characters_are_written_not_obeyed(text: str, shown: str) -> None:
    assert safe(text) == shown


def test_an_unknown_command_or_option_is_a_usage_error_on_stderr(cli: Cli) -> None:
    for arguments in (("prepar",), ("prepare", "--nope"), ("viz", "--limit", "0"), ("compare", "one.json")):
        done = cli(*arguments)
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr


def test_a_bug_is_said_to_be_one_and_debug_shows_where(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_debug_shows_where_a_users_error_came_from(cli: Cli) -> None:
    assert isinstance(cli("prepare", "--debug").exception, VlmdetError)


def test_quiet_keeps_silent_and_json_is_one_document(cli: Cli) -> None:
    write_project(Path(), {"a.jpg": [("cat", (1, 2, 30, 40))]})
    done = cli("-q", "prepare")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")
    assert json.loads(cli("--json", "prepare").stdout) == json.loads(cli("prepare", "--json").stdout)


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
    (tmp_path / "many.txt").write_text("cat(1,2),(3,4)\n" * 50_000)
    line = f"{sys.executable} -m vlmdet_cli parse many.txt | head -1"
    done = subprocess.run(["sh", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["health"] == "ok"
    assert done.stderr == ""


def test_on_a_terminal_there_is_colour_and_without_it_the_same_words(tmp_path: Path) -> None:
    write_project(tmp_path, {"a.jpg": [("cat", (1, 2, 30, 40))]})
    plain = on_terminal(("prepare",), tmp_path, {"NO_COLOR": "1"})
    shown = on_terminal(("prepare",), tmp_path, {})
    assert "\x1b[" in shown
    assert "\x1b[1m" not in plain or "\x1b[3" not in plain
    assert "Prepared" in plain


def on_terminal(arguments: tuple[str, ...], cwd: Path, env: dict[str, str]) -> str:
    """What a command writes on a terminal of 80 columns."""
    here, there = pty.openpty()
    clean = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "TERM", "COLUMNS"}}
    process = subprocess.Popen(
        [*VLMDET, *arguments], cwd=cwd, stdout=there, stderr=there, env={**clean, "TERM": "xterm-256color", **env}
    )
    os.close(there)
    out = b""
    while True:
        try:
            part = os.read(here, 65536)
        except OSError:
            break
        if not part:
            break
        out += part
    os.close(here)
    assert process.wait() == 0
    return out.decode()
