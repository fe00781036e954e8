"""Why the reward for detection stays 0: read from the run's ``rewards.jsonl``, and said once."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import orjson

from vlmdet_cli.stages.training.reward_functions import REWARDS_LOG, read_job
from vlmdet_cli.training.log_reader import Step

STEPS = 20  # without any reward, until it is said
MOST = 0.5  # a share of the answers that explains it


class RewardWatch:
    """Takes the steps of a training; ``warn`` is called once where none of the first ones had any reward."""

    def __init__(self, folder: Path, warn: Callable[[str], None]) -> None:
        self._folder = folder
        self._warn = warn
        self._done = False

    def __call__(self, step: Step) -> None:
        reward = step.reward if step.detection is None else step.detection
        if self._done or reward is None:
            return
        self._done = reward > 0 or step.step >= STEPS
        if self._done and not reward > 0:
            name = "the reward" if step.detection is None else "the reward for detection"
            self._warn(f"{name} is 0 in all of the first {step.step} steps: {cause(self._folder)}")


class _Answers(msgspec.Struct):
    """Counts over a log: of answers, of those to detection prompts by health, of problems; unknown labels."""

    answers: int = 0
    cut: float = 0.0
    health: Counter[str] = msgspec.field(default_factory=Counter)
    problems: Counter[str] = msgspec.field(default_factory=Counter)
    unknown: Counter[str] = msgspec.field(default_factory=Counter)


def cause(folder: Path) -> str:
    """The likely cause, in a sentence, with what to do."""
    job, seen = read_job(folder), _read(folder / REWARDS_LOG)
    detection = max(seen.health.total(), 1)
    if seen.cut >= MOST * seen.answers > 0:
        return f"{seen.cut / seen.answers:.0%} of the answers are cut off. Raise train.reward.max_completion_length."
    if seen.health["unparsed"] >= MOST * detection:
        return (
            f"{seen.health['unparsed'] / detection:.0%} of the answers hold no box in the dialect {job.rules.dialect}. "
            "Was the run that it begins from trained on these rows, and for long enough?"
        )
    if seen.problems["unknown_label"] >= MOST * (detection - seen.health["empty"]) > 0:
        return (
            f"the answers name {_listed(seen.unknown)}, and the categories are {_listed(job.rules.categories)}. "
            "Is a label spelled otherwise in the rows of the run that it begins from?"
        )
    if seen.health["empty"] >= MOST * detection:
        return f"{seen.health['empty'] / detection:.0%} of the answers say that there is nothing. Train longer before."
    return (
        f"boxes are read, but none overlaps an object by an IoU of {min(job.rules.thresholds):g}. Are the answers in "
        f"the frame of the dialect {job.rules.dialect}? Or lower train.reward.thresholds, or train longer before."
    )


def _listed(names: "Counter[str] | tuple[str, ...]") -> str:
    ordered = [name for name, _ in names.most_common()] if isinstance(names, Counter) else list(names)
    return ", ".join(f'"{name}"' for name in ordered[:3]) + (", …" if len(ordered) > 3 else "")


def _read(log: Path) -> _Answers:
    seen = _Answers()
    for line in log.read_bytes().splitlines() if log.is_file() else ():
        row = orjson.loads(line)
        seen.answers += row["answers"]
        seen.cut += row["cut"] * row["answers"]
        seen.health.update(row["health"])
        seen.problems.update(row["problems"])
        seen.unknown.update(row["unknown"])
    return seen
