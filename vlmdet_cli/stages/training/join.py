"""train on another machine than the first: swift joins the run that the first one has started.

The first machine checks the rows, makes the run and keeps its record. The others wait until the record says that swift
starts with their own meeting point, and start the same command under their number. All share the disk of the run.
"""

import os
import time

from vlmdet_cli.core import programs
from vlmdet_cli.errors import DataError, EngineError, UsageError
from vlmdet_cli.project import Project, runs
from vlmdet_cli.project.run_record import RunRecord

WAIT_SECONDS = 1800.0  # the first machine reads all rows before it starts


def join(project: Project, name: str, rank: int, *, patience: float = WAIT_SECONDS) -> None:
    """Take part in the run ``name`` as machine ``rank`` until swift ends.

    Raises ``UsageError`` where no run is named, ``EngineError`` where the first machine does not start or swift fails.
    """
    if not name:
        raise UsageError("Several machines need the run's name", hint="vlmdet train --run NAME, on each of them.")
    run = runs.Run(project.runs / name)
    record = _started(run, patience)
    command = programs.Command(record.argv, {**record.env, "NODE_RANK": str(rank)})
    programs.run(
        command,
        run.folder / f"swift.node{rank}.log",
        cwd=project.root,
        watch=lambda: None,
        hint="The log of the first machine may say more.",
    )


def _started(run: runs.Run, patience: float) -> RunRecord:
    """The record of the run, as soon as it is of the training that this machine is to join."""
    meeting = {name: os.environ.get(name) for name in ("MASTER_ADDR", "MASTER_PORT")}
    until = time.monotonic() + patience
    while time.monotonic() < until:
        try:
            record = run.record
        except DataError:  # not there yet
            record = None
        if record and record.state == "running" and meeting.items() <= record.env.items():
            return record
        time.sleep(0.5)
    raise EngineError(
        f"The first machine has not started the run within {patience:,.0f} s: {run.folder}",
        hint="Do all machines share the folder, MASTER_ADDR and MASTER_PORT?",
    )
