"""A training by several processes, on one machine or on several: their environment, the rows of a step, a Slurm script.

swift starts torch's launcher where ``NPROC_PER_NODE`` or ``NNODES`` is set; ``NODE_RANK``, ``MASTER_ADDR`` and
``MASTER_PORT`` say which of the machines this is, and where they meet. These three come from the environment, the rank
in Slurm from ``SLURM_NODEID``.
"""

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from vlmdet_cli.errors import UsageError
from vlmdet_cli.training.settings import Train

PORT = "29500"  # torch's own default


def environment(train: Train) -> dict[str, str]:
    """What swift's environment says of its processes; nothing for a single one."""
    if train.processes == 1:
        return {}
    env = {"NPROC_PER_NODE": str(train.nproc_per_node)}
    if train.nodes > 1:
        address = os.environ.get("MASTER_ADDR", "")
        env |= {"NNODES": str(train.nodes), "NODE_RANK": str(node_rank(train))}
        env |= {"MASTER_ADDR": address} if address else {}
        env["MASTER_PORT"] = os.environ.get("MASTER_PORT", PORT)
    return env


def node_rank(train: Train) -> int:
    """The number of this machine, 0 for the first. Raises ``UsageError`` for a number that cannot be."""
    text = os.environ.get("NODE_RANK") or os.environ.get("SLURM_NODEID") or "0"
    if train.nodes == 1:
        return 0
    if not text.isdecimal() or int(text) >= train.nodes:
        raise UsageError(
            f"NODE_RANK is {text}, and train.nodes is {train.nodes}",
            hint=f"The machines have the numbers 0 to {train.nodes - 1}.",
        )
    return int(text)


def require_meeting_point(train: Train) -> None:
    """Raise ``UsageError`` where several machines are not told where they meet."""
    if train.nodes > 1 and not os.environ.get("MASTER_ADDR"):
        raise UsageError(
            f"train.nodes = {train.nodes} needs MASTER_ADDR, the address of the first machine",
            hint="Start `vlmdet train --run NAME` on each machine, with MASTER_ADDR and its NODE_RANK in the "
            "environment; `vlmdet train --dry-run --slurm` writes a script that does.",
        )


def effective_batch(train: Train, flags: Mapping[str, str]) -> int:
    """Rows in a step of the optimizer, over all processes. ``flags``: swift's, as text."""
    batch = int(flags.get("per_device_train_batch_size", 1))
    return batch * int(flags.get("gradient_accumulation_steps", 1)) * train.processes


def accumulation_steps(train: Train) -> int:
    """The steps that make ``effective_batch`` rows. Raises ``UsageError`` where no whole number does."""
    at_once = train.per_device_train_batch_size * train.processes
    if train.effective_batch % at_once:
        raise UsageError(
            f"train.effective_batch = {train.effective_batch} is no multiple of {at_once}",
            why=f"train.nproc_per_node x train.nodes = {train.processes} processes take "
            f"train.per_device_train_batch_size = {train.per_device_train_batch_size} rows each.",
        )
    return train.effective_batch // at_once


def batch_remark(train: Train, flags: Mapping[str, str]) -> str:
    """A sentence where several processes make a step larger than the keys say; else empty."""
    rows, processes = effective_batch(train, flags), train.processes
    if processes == 1 or rows == train.effective_batch:
        return ""
    return (
        f"a step takes {rows} rows: {processes} processes with {rows // processes} each, as a single one would take. "
        f"train.effective_batch = {rows // processes} would keep that number."
    )


def slurm_script(train: Train, command: Sequence[str], *, name: str, folder: Path, log: Path) -> str:
    """A batch script that runs ``command`` on each machine; what a cluster asks for besides is given to ``sbatch``."""
    return f"""#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={train.nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={train.nproc_per_node}
#SBATCH --output={log}
# Run it with `sbatch FILE`; give --partition, --account, --time and --cpus-per-task there.
set -eu
cd {shlex.quote(str(folder))}
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export MASTER_ADDR MASTER_PORT
# the first machine keeps the run; the others join it
srun --kill-on-bad-exit=1 {shlex.join(command)}
"""
