"""Whether a merged model is the adapter on its base: both answer the same pictures, in a process of their own.

Merging adds the adapter's change to the base's weights, so that the two differ by rounding alone. How much that is
depends on the dtype. ``TOLERANCE`` is the share of the largest logit that rounding may explain: on the demo it is 3e-6
in float32, 0.4 % in float16 and 3 % in bfloat16, on a network of 28 layers 2e-6, 0.4 % and 5 %
(``benchmarks.merging``).
Answers may differ below the bound: where two tokens are nearly as likely, rounding decides.
"""

import contextlib
import itertools
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from vlmdet_cli.core import programs
from vlmdet_cli.core.files import read_json
from vlmdet_cli.engines import Request
from vlmdet_cli.engines.choice import Situation, obstacle
from vlmdet_cli.engines.infer_rows import InferRow
from vlmdet_cli.errors import EngineError, VlmdetError
from vlmdet_cli.project import Infer, Project
from vlmdet_cli.project.run_record import MergeCheck
from vlmdet_cli.stages.inference.infer_inputs import split_rows
from vlmdet_cli.stages.inference.infer_model import ModelChoice, asked_as
from vlmdet_cli.stages.inference.text_differences import excerpts
from vlmdet_cli.stages.merging.merge_sources import MergeSources
from vlmdet_cli.stages.merging.merge_worker import Asked, CheckJob, Compared

TOLERANCE = {"float32": 1e-4, "float16": 1 / 64, "bfloat16": 1 / 8}
MAX_TOKENS = 128  # of an answer: a wrong merge shows in the first few
SPLITS = ("val", "test", "train")  # the first that is prepared is asked
ENGINE = "transformers"
RESULT, LOG = "merge_check.json", "merge_check.log"
NOT_ASKED_FOR = "--verify 0"
HINT = "`vlmdet merge --verify 0` merges without asking."
Tick = Callable[[], None]


class Questions(msgspec.Struct, frozen=True, kw_only=True):
    """What both models are asked. ``reason``: why nothing can be asked, "" where it can."""

    split: str = ""
    rows: list[InferRow] = []
    reason: str = ""


def questions(project: Project, sources: MergeSources, count: int) -> Questions:
    """``count`` pictures of the run's own data, drawn by the project's seed, each with its detection prompt."""
    settings = Infer(engine=ENGINE, questions=False, family=project.config.infer.family)
    config = msgspec.structs.replace(project.config, infer=settings)
    asked = msgspec.structs.replace(project, config=config).with_data_of(sources.owner)
    reason = "no split is prepared"
    for split in SPLITS if count else ():
        try:
            rows, _ = split_rows(asked, split)
        except VlmdetError as error:
            reason = error.what
            continue
        drawn = _drawn(rows, count, project.config.project.seed)
        if drawn:
            return Questions(split=split, rows=drawn)
        reason = f"no picture of the split {split} is here"
    return Questions(reason=reason if count else NOT_ASKED_FOR)


def _drawn(rows: Mapping[str, InferRow], count: int, seed: int) -> list[InferRow]:
    """The first row of each of ``count`` pictures that are on this machine; all where there are fewer."""
    keys: dict[str, str] = {}
    for key, row in rows.items():
        keys.setdefault(row.image, key)
    names = list(keys)
    random.Random(seed).shuffle(names)  # noqa: S311
    here = (row for row in (rows[keys[name]] for name in names) if Path(row.path).is_file())
    return list(itertools.islice(here, count))


@contextlib.contextmanager
def started(folder: Path, log: Path) -> Iterator["Checker"]:
    """The process that will ask; it ends with the block."""
    log.unlink(missing_ok=True)
    (folder / RESULT).unlink(missing_ok=True)
    command = programs.Command(
        (sys.executable, "-m", "vlmdet_cli.stages.merging.merge_worker", str((folder / RESULT).absolute()))
    )
    process = programs.start(command, log, cwd=folder, pipes=True)
    try:
        yield Checker(process, command, folder / RESULT, log)
    finally:
        for pipe in programs.pipes(process):
            with contextlib.suppress(OSError):
                pipe.close()
        programs.stop(process)


class Checker:
    """A started process, its command, the file of its result, its log."""

    def __init__(self, process: Any, command: programs.Command, result: Path, log: Path) -> None:
        self._process, self._command, self._result, self._log = process, command, result, log

    def compare(self, job: CheckJob, tick: Tick) -> Compared:
        """Let both models answer. Raises ``EngineError`` where they could not."""
        stdin, _ = programs.pipes(self._process)
        with contextlib.suppress(BrokenPipeError):
            stdin.write(msgspec.json.encode(job, enc_hook=str))
            stdin.close()
        while programs.wait(self._process, 0.1) is None:
            tick()
        if self._process.returncode or not self._result.is_file():
            raise programs.failed(self._command, self._process.returncode, self._log, HINT, "asking both models")
        compared = msgspec.json.decode(self._result.read_bytes(), type=Compared)
        if compared.error:
            what, why, hint = compared.error
            raise EngineError(f"The merge could not be verified: {what}", why=why, hint=f"{hint} {HINT}")
        return compared


def check_job(project: Project, sources: MergeSources, base: Path, merged: Path, asked: Questions) -> CheckJob | str:
    """What the process is given; or why the model's answers cannot be had here, in words."""
    settings = project.config.infer
    choice = ModelChoice(model=base, name=str(base), adapter=sources.checkpoints[-1], run=sources.run)
    form = asked_as(project, choice, settings)
    if reason := obstacle(ENGINE, Situation(settings, form.family)) or form.family.no_engines.get(ENGINE, ""):
        return reason
    return CheckJob(
        base=base.absolute(),
        adapters=[checkpoint.absolute() for checkpoint in sources.checkpoints],
        merged=merged.absolute(),
        requests=[_request(row, number) for number, row in enumerate(asked.rows)],
        family=form.family.name,
        dialect=form.dialect,
        max_pixels=form.max_pixels,
        system=form.system,
        stop_loops=settings.stop_loops,
        device=settings.device,
        dtype=_dtype(merged),
        batch=settings.batch,
        max_tokens=min(settings.max_tokens, MAX_TOKENS),
    )


def _request(row: InferRow, number: int) -> Request:
    request = row.request(str(number))
    return msgspec.structs.replace(request, image=request.image.absolute())


def _dtype(model: Path) -> str:
    """The dtype of a model's weights, as its settings say."""
    config = read_json(model / "config.json", "model's settings")
    text = config.get("text_config") or {}
    names = [part.get(key) for part in (config, text) for key in ("dtype", "torch_dtype")]
    return next((name for name in names if name in TOLERANCE), "float32")


def judged(compared: Compared, job: CheckJob, asked: Questions, seconds: float) -> MergeCheck:
    """The verdict: its ``reason`` is empty where the merged model is the adapter on its base."""
    usable = [answer for answer in compared.asked if not answer.error]
    equal = sum(answer.adapter == answer.merged for answer in usable)
    bound = TOLERANCE[job.dtype] * compared.largest
    return MergeCheck(
        split=asked.split,
        answers=len(usable),
        equal=equal,
        share=equal / len(usable) if usable else 0.0,
        positions=compared.positions,
        difference=compared.difference,
        largest=compared.largest,
        bound=bound,
        effect=compared.effect or 0.0,
        dtype=job.dtype,
        device=compared.device,
        seconds=round(seconds, 1),
        reason=_reason(compared, bound, job.dtype),
    )


def _reason(compared: Compared, bound: float, dtype: str) -> str:
    """Why the two are not the same model, and likely so; "" where they are."""
    if compared.other_files:
        return f"The merged folder's processor is another: {', '.join(compared.other_files)}."
    if compared.difference is None:
        return f"Its logits are no finite numbers: weights or sums overflow in {dtype}."
    if compared.difference <= bound:
        return ""
    if compared.to_base is not None and compared.to_base <= bound:
        return "It answers as the base model alone: the adapter is not in it."
    versions = ", ".join(f"{name} {version(name)}" for name in ("ms-swift", "peft"))
    return f"The adapter is merged into other weights, or scaled otherwise, by {versions}."


def first_difference(rows: Sequence[InferRow], answers: Sequence[Asked]) -> list[str]:
    """The first two texts that part, around that place, in lines; [] where all are equal."""
    for row, answer in zip(rows, answers, strict=True):
        if answer.adapter != answer.merged:
            expected, merged = excerpts(answer.adapter, answer.merged)
            return [f"{row.image}:", f"  adapter: {expected}", f"  merged:  {merged}"]
    return []
