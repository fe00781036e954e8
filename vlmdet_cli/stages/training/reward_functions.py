"""The reward inside swift's process: one reward function for each weight, and what must not be sampled.

The plug-in ``swift_plugins/vlmdet_reward.py`` calls ``register``. Each generation adds a row to the run's
``rewards.jsonl``, from which ``train`` tells why a reward is 0:

    {"step": 20, "answers": 32, "rewards": {"detection": 0.41, "form": 0.97}, "cut": 0.0,
     "health": {"ok": 29, "partial": 3}, "problems": {"duplicate": 3}, "unknown": ["traffic cone"]}

Before the first generation the callback corrects what swift leaves as it is:

- Picture tokens are suppressed: a sampled one is taken for a picture that is not there, and swift fails. swift takes
  what it was not told from the model's own ``generation_config``, so that is changed. vLLM does not read it.
- ``top_k`` and ``min_p`` are not the model's: with Qwen2-VL's, which is 1, all answers of a group would be the same.
- Dropout is off: answers are sampled without it, and with it the ratio of new to old probability is noise.
"""

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import orjson

from vlmdet_cli.core.files import write_json
from vlmdet_cli.core.settings import RewardName
from vlmdet_cli.metrics.rewards import Mark, RewardRules, RowTruth, marks

ENVIRONMENT = "VLMDET_REWARD"
CALLBACK = "vlmdet_reward"
JOB, REWARDS_LOG = "reward.json", "rewards.jsonl"
_PICTURE_TOKEN = re.compile(r"(image|video|vision|audio)\w*_token_(id|index)")
UNKNOWN_LABELS = 3  # that a row of the log names


class RewardJob(msgspec.Struct, frozen=True, kw_only=True):
    """What the rewards are, as ``reward.json`` in the run's folder holds it."""

    names: tuple[RewardName, ...]
    rules: RewardRules


def function_name(reward: RewardName) -> str:
    """What swift knows the reward function as (``--reward_funcs``)."""
    return f"vlmdet_{reward}"


def register() -> None:
    """Register the reward functions and the callback in ms-swift, in whose process this runs.

    Does nothing outside a training: other commands of swift load the plug-ins that a checkpoint names, too.
    """
    if ENVIRONMENT not in os.environ:
        return
    from swift.callbacks import TrainerCallback, callbacks_map
    from swift.rewards import ORM, orms

    folder = Path(os.environ[ENVIRONMENT]).parent
    job = read_job(folder)
    scorer = Scorer(job, folder / REWARDS_LOG)

    def function(reward: RewardName) -> type:
        def call(_self: Any, completions: list[str], truth: list[str], **columns: Any) -> list[float | None]:
            return [mark.reward(reward) for mark in scorer.marks(completions, truth, columns)]

        return type(reward, (ORM,), {"__call__": call})  # swift names the reward in its log as the class

    for reward in job.names:
        orms[function_name(reward)] = function(reward)

    class Sampling(TrainerCallback):  # type: ignore[misc]
        """Prepares sampling before the first generation."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            del args, state, control
            prepare_sampling(self.trainer)

    callbacks_map[CALLBACK] = Sampling


def write_job(folder: Path, job: RewardJob) -> None:
    """Write the job of the run in ``folder``."""
    write_json(folder / JOB, msgspec.to_builtins(job))


def read_job(folder: Path) -> RewardJob:
    """The job of the run in ``folder``."""
    return msgspec.json.decode((folder / JOB).read_bytes(), type=RewardJob)


def prepare_sampling(trainer: Any) -> None:
    """Suppress picture tokens, take off the limits that the model's own configuration sets, switch dropout off."""
    from trl.trainer.utils import disable_dropout_in_model

    model = trainer.accelerator.unwrap_model(trainer.model)
    settings = model.generation_config
    suppressed = {*(settings.suppress_tokens or ()), *picture_tokens(model.config, trainer.template.processor)}
    settings.suppress_tokens = sorted(suppressed) or None
    settings.top_k = settings.min_p = None
    disable_dropout_in_model(model)


def picture_tokens(config: Any, processor: Any) -> set[int]:
    """The ids of the tokens that stand for pictures or begin or end them, as the model and its processor name them."""
    settings = config.to_dict()
    values = [settings[name] for name in filter(_PICTURE_TOKEN.fullmatch, settings)]
    values += [getattr(processor, name, None) for name in filter(_PICTURE_TOKEN.fullmatch, dir(processor))]
    return {value for value in values if isinstance(value, int) and value >= 0}


class Scorer:
    """Marks the answers of a generation once for all reward functions, and logs them."""

    def __init__(self, job: RewardJob, log: Path) -> None:
        self._job = job
        self._log = log
        self._answers: list[str] | None = None
        self._marks: list[Mark] = []

    def marks(self, answers: list[str], truths: Sequence[str], columns: dict[str, Any]) -> list[Mark]:
        if answers is not self._answers:
            decoded = [msgspec.json.decode(truth, type=RowTruth) for truth in truths]
            self._answers, self._marks = answers, marks(answers, decoded, self._job.rules)
            state = columns.get("trainer_state")
            if state is None or state.is_world_process_zero:
                cut = [bool(value) for value in columns.get("is_truncated") or ()]
                self._append(state.global_step + 1 if state else 0, cut)
        return self._marks

    def _append(self, step: int, cut: Sequence[bool]) -> None:
        row = {"step": step, **summary(self._marks, self._job), "cut": sum(cut) / len(cut) if cut else 0.0}
        with self._log.open("ab") as file:
            file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))


def summary(given: Sequence[Mark], job: RewardJob) -> dict[str, Any]:
    """Means of the rewards, and how the answers to detection prompts were read."""
    rewards = {name: [value for mark in given if (value := mark.reward(name)) is not None] for name in job.names}
    parsed = [mark.parsed for mark in given if mark.parsed is not None]
    labels = Counter(box.label for answer in parsed for box in answer.detections)
    unknown = [label for label, _ in labels.most_common() if label not in job.rules.categories]
    return {
        "answers": len(given),
        "rewards": {name: sum(values) / len(values) for name, values in rewards.items() if values},
        "health": dict(Counter(answer.health for answer in parsed)),
        "problems": dict(Counter(problem.kind for answer in parsed for problem in answer.problems)),
        "unknown": unknown[:UNKNOWN_LABELS],
    }
