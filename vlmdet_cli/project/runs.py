"""A project's training runs on disk: numbering, records, checkpoints. Files only; starts nothing.

train/run-001/run.json       what was run: command, versions, data hashes, state, swift's exit code
              vlmdet.toml    the settings as resolved
              swift.log      swift's whole output
              v0-…/          swift's own folder: logging.jsonl, checkpoint-N/
"""

import re
from pathlib import Path

from vlmdet_cli.errors import UsageError

_STEP = re.compile(r"checkpoint-(\d+)$")
_VERSION = re.compile(r"v(\d+)")


def next_run(runs: Path) -> Path:
    """The folder of the run after the newest; it is not made."""
    return runs / f"run-{max((int(path.name[4:]) for path in run_folders(runs)), default=0) + 1:03d}"


def run_folders(runs: Path) -> list[Path]:
    """Run folders, oldest first."""
    found = (path for path in runs.glob("run-*") if path.name[4:].isdigit() and path.is_dir())
    return sorted(found, key=lambda path: int(path.name[4:]))


def checkpoints(run: Path) -> list[Path]:
    """A run's whole checkpoints, oldest first: the trainer writes its state last."""
    found = [path.parent for path in run.rglob("checkpoint-*/trainer_state.json") if _STEP.search(path.parent.name)]
    return sorted(found, key=lambda path: (_version(path), _step(path)))


def _step(path: Path) -> int:
    match = _STEP.search(path.name)
    return int(match[1]) if match else -1


def _version(path: Path) -> int:
    match = _VERSION.match(path.parent.name)
    return int(match[1]) if match else -1


def latest_checkpoint(runs: Path) -> Path:
    """The newest run's newest checkpoint. Raises ``UsageError`` where there is none."""
    for run in reversed(run_folders(runs)):
        if found := checkpoints(run):
            return found[-1]
    raise UsageError(f"No checkpoint: {runs}", hint="Run `vlmdet train` first, or name one with --checkpoint.")


def find_checkpoint(runs: Path, wanted: str, root: Path) -> Path:
    """A checkpoint by folder, by step (of the newest run that has it), or the latest where nothing is wanted."""
    if not wanted:
        return latest_checkpoint(runs)
    folder = root / wanted
    if (folder / "adapter_config.json").is_file():
        return folder
    for run in reversed(run_folders(runs)):
        for one in reversed(checkpoints(run)):
            if wanted in {str(_step(one)), one.name}:
                return one
    known = [one.name for run in run_folders(runs) for one in checkpoints(run)]
    raise UsageError(
        f"No checkpoint {wanted}: {runs}",
        hint=f"There are: {', '.join(known)}." if known else "Run `vlmdet train` first.",
    )
