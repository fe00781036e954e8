"""The console: safe text, stdout for results alone, errors with an exit code, terminals and pipes."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tests.conftest import Cli, write_project
from vlmdet_cli.console import safe
from vlmdet_cli.errors import VlmdetError
from vlmdet_cli.stages.data import prepare

VLMDET = (sys.executable, "-m", "vlmdet_cli")


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
    assert "\x1b" not in plain
    assert "gate passed: f1" in plain
    assert plain == ESCAPES.sub("", coloured)


def on_terminal(arguments: tuple[str, ...], cwd: Path, env: dict[str, str], columns: int = 80) -> str:
    """The output of a command on a terminal."""
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    clean = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "TERM", "COLUMNS"}}
    process = subprocess.Popen(
        [*VLMDET, *arguments],
        cwd=cwd,
        stdin=writer,
        stdout=writer,
        stderr=writer,
        env={**clean, "TERM": "xterm-256color", **env},
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
