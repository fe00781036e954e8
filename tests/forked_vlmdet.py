"""``vlmdet`` for many commands in a row: a process that has imported all forks for each of them.

``ForkedVlmdet`` writes a program ``vlmdet`` that a shell finds on its PATH. It hands its arguments, folder, environment
and files to the process, a fork of which runs the real command line, and ends with the exit code of that. A command
then costs its own work alone, without the seconds of importing torch.
"""

import contextlib
import importlib
import json
import os
import pkgutil
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path

from vlmdet_cli import stages

CLIENT = """#!{python} -IS
import json, os, socket, sys
request = json.dumps({{"argv": sys.argv[1:], "cwd": os.getcwd(), "env": dict(os.environ)}}).encode()
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [b"x"], [0, 1, 2])
    server.sendall(request)
    server.shutdown(socket.SHUT_WR)
    sys.exit((server.recv(1) or b"\\xff")[0])
"""


class ForkedVlmdet:
    """The process, and ``programs``, the folder of the program ``vlmdet``."""

    def __init__(self, folder: Path) -> None:
        self.programs = folder / "bin"
        self.programs.mkdir()
        self._log = folder / "commands.jsonl"
        self._log.touch()
        address = folder / "socket"
        program = self.programs / "vlmdet"
        program.write_text(CLIENT.format(python=sys.executable, address=str(address)))
        program.chmod(0o755)
        self._process = subprocess.Popen([sys.executable, "-m", "tests.forked_vlmdet", str(address), str(self._log)])
        while not address.exists():
            assert self._process.poll() is None
            time.sleep(0.05)

    def ended(self) -> list[tuple[list[str], int]]:
        """The arguments and the exit code of each command that has ended since the last call."""
        lines = self._log.read_text().splitlines()
        self._log.write_text("")
        return [(argv, code) for argv, code in map(json.loads, lines)]

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


def serve(address: str, log: Path) -> None:
    """Fork for each request, until this process is ended."""
    from transformers import AutoProcessor, Qwen2VLForConditionalGeneration  # noqa: F401

    for module in pkgutil.walk_packages(stages.__path__, "vlmdet_cli.stages."):
        importlib.import_module(module.name)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _answer(connection, log)
            connection.close()
            with contextlib.suppress(ChildProcessError):  # there is none
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass


def _answer(connection: socket.socket, log: Path) -> None:
    """Run the command that the client sends, tell it the exit code, and end this fork."""
    _, files, _, _ = socket.recv_fds(connection, 1, 3)
    for number, file in enumerate(files):
        os.dup2(file, number)
    sys.stdin, sys.stdout, sys.stderr = (open(number, mode) for number, mode in enumerate("rww"))  # noqa: PTH123, SIM115
    request = json.loads(b"".join(iter(lambda: connection.recv(65536), b"")))
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv[:] = ["vlmdet", *request["argv"]]
    code = _exit_code()
    with log.open("a") as lines:
        lines.write(json.dumps([request["argv"], code]) + "\n")
    connection.sendall(bytes([code]))
    os._exit(0)


def _exit_code() -> int:
    from vlmdet_cli.cli import main

    code = 0
    try:
        main()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:  # whatever it is, this fork must not go on as a second server
        traceback.print_exc()
        code = 255
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]))
