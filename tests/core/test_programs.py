"""Programs: as they are shown, and what remains of them when they fail, hang or are interrupted."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from vlmdet_cli.core import programs
from vlmdet_cli.errors import EngineError


def test_a_command_with_spaces_is_quoted_to_be_pasted() -> None:
    command = programs.Command(("swift", "sft", "--system", "be kind; rm -rf"), {"ROOT_IMAGE_DIR": "/a b"})
    assert command.quoted() == "ROOT_IMAGE_DIR='/a b' swift sft --system 'be kind; rm -rf'"


def python(code: str) -> programs.Command:
    return programs.Command((sys.executable, "-c", code), {})


def run(command: programs.Command, log: Path, watch: Callable[[], None] = lambda: None) -> list[int | None]:
    """The exit code that is reported, in a list, also where the process fails."""
    codes = list[int | None]()
    with contextlib.suppress(EngineError, KeyboardInterrupt):
        programs.run(command, log, cwd=log.parent, watch=watch, hint="Look.", on_exit=codes.append)
    return codes


@pytest.mark.parametrize(
    ("code", "expected"),
    [("pass", 0), ("import sys;sys.exit(7)", 7), ("import os,signal;os.kill(os.getpid(),signal.SIGKILL)", -9)],
)
def test_the_exit_code_is_reported_however_the_process_ends(tmp_path: Path, code: str, expected: int) -> None:
    assert run(python(code), tmp_path / "program.log") == [expected]


def test_a_failed_process_shows_the_logs_end_its_name_and_its_code(tmp_path: Path) -> None:
    code = "print('first');[print('line', n) for n in range(20)];import sys;sys.exit(7)"
    with pytest.raises(EngineError) as caught:
        programs.run(python(code), tmp_path / "program.log", cwd=tmp_path, watch=lambda: None, hint="Look.")
    assert caught.value.what.endswith("-c failed: exit code 7")
    assert caught.value.why == (*(f"line {n}" for n in range(8, 20)), f"The whole log: {tmp_path}/program.log")
    assert (tmp_path / "program.log").read_text().startswith("first\nline 0\n")


def test_a_killed_process_names_the_signal(tmp_path: Path) -> None:
    code = "import os,signal;os.kill(os.getpid(),signal.SIGKILL)"
    with pytest.raises(EngineError) as caught:
        programs.run(python(code), tmp_path / "program.log", cwd=tmp_path, watch=lambda: None, hint="")
    assert caught.value.what.endswith("failed: killed by signal 9 (SIGKILL)")


def test_an_interrupt_ends_the_process_and_its_children(tmp_path: Path) -> None:
    """A parent that ignores SIGINT, with a child in a session of its own, as torch's launcher starts workers."""
    code = (
        "import signal,subprocess,sys,time;signal.signal(signal.SIGINT,signal.SIG_IGN);"
        "child=subprocess.Popen([sys.executable,'-c','import time;time.sleep(600)'],start_new_session=True);"
        "open('pids','w').write(f'{child.pid}');time.sleep(600)"
    )

    def interrupt() -> None:
        if (tmp_path / "pids").exists() and (tmp_path / "pids").read_text():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        programs.run(python(code), tmp_path / "program.log", cwd=tmp_path, watch=interrupt, hint="")
    child = int((tmp_path / "pids").read_text())
    assert not alive(child)


def alive(pid: int) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False


def test_a_process_heeds_an_interrupt_although_vlmdet_ignores_it(tmp_path: Path) -> None:
    """A plain shell starts its background jobs with SIGINT ignored, and children inherit that."""
    child = "import signal;print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    script = (
        "import signal,sys;from pathlib import Path;from vlmdet_cli.core import programs;"
        f"c=programs.Command((sys.executable,'-c',{child!r}),{{}});"
        "programs.run(c,Path('log'),cwd=Path('.'),watch=lambda:None,hint='');"
        "print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"
    )
    command = ["sh", "-c", 'trap "" INT; exec "$0" -c "$1"', sys.executable, script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (done.stdout, (tmp_path / "log").read_text()) == ("True\n", "True\n")


def test_a_terminated_vlmdet_leaves_no_program_behind(tmp_path: Path) -> None:
    """SIGTERM to the tool itself, as a scheduler sends it."""
    script = (
        "import signal,sys;from pathlib import Path;from vlmdet_cli.core import programs;"
        "from vlmdet_cli.cli.command_line import _interrupt;signal.signal(signal.SIGTERM, _interrupt);"
        'child=\'import os,time;open("pid","w").write(str(os.getpid()));time.sleep(600)\';'
        "c=programs.Command((sys.executable,'-c',child),{});"
        "programs.run(c,Path('log'),cwd=Path('.'),watch=lambda:None,hint='')"
    )
    tool = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 30
    while time.monotonic() < end and not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()):
        time.sleep(0.1)
    os.kill(tool.pid, signal.SIGTERM)
    tool.wait(timeout=30)
    assert not alive(int((tmp_path / "pid").read_text()))


def test_a_process_with_pipes_is_talked_to_and_only_its_stderr_is_logged(tmp_path: Path) -> None:
    code = "import sys;line=sys.stdin.readline();print('talk',file=sys.stderr);print(line*2,end='');sys.exit(3)"
    process = programs.start(python(code), tmp_path / "program.log", cwd=tmp_path, pipes=True)
    with contextlib.ExitStack() as stack:
        stack.callback(programs.stop, process)
        source, target = (stack.enter_context(pipe) for pipe in programs.pipes(process))
        source.write(b"word\n")
        source.flush()
        assert target.read() == b"word\nword\n"
        assert programs.wait(process, 30) == 3
    assert (tmp_path / "program.log").read_text() == "talk\n"


def test_what_a_killed_process_leaves_behind_is_ended_with_it(tmp_path: Path) -> None:
    """vLLM's engine process goes on when the one that started it is killed."""
    code = "import os,time;child=os.fork();child and print(child,flush=True);time.sleep(600)"
    process = programs.start(python(code), tmp_path / "program.log", cwd=tmp_path, pipes=True)
    source, target = programs.pipes(process)
    with source, target:
        child = int(target.readline())
    assert programs.wait(process, 0.01) is None
    process.kill()
    assert programs.wait(process, 30) == -signal.SIGKILL
    assert alive(child)
    programs.stop(process)
    assert not alive(child)
