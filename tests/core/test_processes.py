"""Processes: known by host, number and start."""

import subprocess
import sys

from vlmdet_cli.core.processes import Process, this_process


def test_a_process_is_known_by_its_start_too() -> None:
    own = this_process()
    assert own
    assert own.runs() is True
    assert Process(host=own.host, pid=own.pid, started=own.started - 60).runs() is False
    assert Process(host="elsewhere", pid=own.pid, started=own.started).runs() is None
    ended = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process = Process.of(ended.pid)
    ended.communicate()
    assert process
    assert process.runs() is False
    assert Process.of(ended.pid) is None
