"""F1 while a model is trained: at each checkpoint it answers the validation split, and our own measures read that.

``train`` writes what is to be asked (``EvaluationJob``); inside swift's process a callback, registered by the plug-in
``swift_plugins/vlmdet_evaluation.py``, lets the model in training answer at each save, and writes

    RUN/evaluations.jsonl             a row a checkpoint: {"step": 100, "f1": 0.71, "precision": …, "recall": …}
        evaluations/step-100.jsonl    its raw answers, like those of ``infer``

The random state is not touched: losses are those of a training without evaluation. ``eval_f1`` goes into swift's own
log and so into TensorBoard.
"""

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from vlmdet_cli.core.files import file_hash, write_json
from vlmdet_cli.engines import Completion, EngineSettings, Request
from vlmdet_cli.engines.answers import AnswersFile, AnswersMeta
from vlmdet_cli.engines.infer_rows import InferRow, RowSpool
from vlmdet_cli.errors import UsageError
from vlmdet_cli.models import registry
from vlmdet_cli.project import Project
from vlmdet_cli.project.run_record import Evaluation, TrainedSettings
from vlmdet_cli.project.runs import Run
from vlmdet_cli.stages.evaluation.eval_inputs import eval_protocol
from vlmdet_cli.stages.evaluation.evaluate import EvalProtocol, evaluate
from vlmdet_cli.stages.inference.answer_reading import ReadingRules
from vlmdet_cli.stages.inference.infer import infer
from vlmdet_cli.stages.inference.infer_inputs import split_rows
from vlmdet_cli.training.arguments import read_system

if TYPE_CHECKING:
    from vlmdet_cli.engines.transformers import LoadedModel

SPLIT = "val"
JOB, ENVIRONMENT = "evaluation.json", "VLMDET_EVALUATION"
CALLBACK = "vlmdet_evaluation"
PLUGIN = Path(__file__).parent / "swift_plugins" / "vlmdet_evaluation.py"


class EvaluationJob(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked at each checkpoint, and how it is measured. ``patience``: evaluations without a better F1 after
    which training ends, 0 for never.
    """

    folder: Path
    truth: Path
    rows: list[InferRow]
    categories: tuple[str, ...]
    meta: AnswersMeta
    batch: int
    protocol: EvalProtocol
    patience: int = 0


def write_job(project: Project, run: Run, trained: TrainedSettings) -> None:
    """Write the job of a training that evaluates, whose model is asked as it is trained.

    Raises ``UsageError`` where there is no validation split, or the model is of no known family.
    """
    train, config = project.config.train, project.config
    truth = project.subset(SPLIT)
    if not truth.is_file():
        raise UsageError(
            f'train.evaluate = "{train.evaluate}" needs the split {SPLIT}: {truth}',
            hint="Name one as [data.val], or split it off with data.split.val, and run `vlmdet prepare`.",
        )
    if not project.family.is_known:
        raise UsageError(
            f'train.evaluate = "{train.evaluate}" needs a model of a known family',
            hint='Set it to "none" and measure the checkpoints with `vlmdet infer --adapter`.',
        )
    rows, categories = split_rows(project, SPLIT)
    detection = [row for row in rows.values() if row.kind == "detection"]
    if train.evaluate_pictures:
        first = dict.fromkeys(row.image for row in detection)
        kept = set(list(first)[: train.evaluate_pictures])
        detection = [row for row in detection if row.image in kept]
    meta = AnswersMeta(
        engine={"name": "training"},
        model={"name": trained.model},
        family=trained.family,
        dialect=trained.dialect,
        max_tokens=config.infer.max_tokens,
        max_pixels=trained.max_pixels,
        system=None if trained.system is None else read_system(trained.system, project.root),
        noise_label=trained.noise_label,
        stop_loops=config.infer.stop_loops,
        split=SPLIT,
        data=file_hash(truth),
        run=run.name,
    )
    job = EvaluationJob(
        folder=run.folder,
        truth=truth,
        rows=detection,
        categories=categories,
        meta=meta,
        batch=config.infer.batch,
        protocol=eval_protocol(config.eval, rows_must_fit=False),
        patience=train.patience,
    )
    write_json(run.folder / JOB, msgspec.to_builtins(job, enc_hook=str))


def register() -> None:
    """Register the callback in ms-swift, in whose process this runs.

    Does nothing outside a training: other commands of swift load the plug-ins that a checkpoint names, too.
    """
    if ENVIRONMENT not in os.environ:
        return
    from swift.callbacks import TrainerCallback, callbacks_map

    job = msgspec.json.decode(Path(os.environ[ENVIRONMENT]).read_bytes(), type=EvaluationJob, dec_hook=_path)

    class DetectionEvaluation(TrainerCallback):  # type: ignore[misc]
        """Evaluates at each save, on the first process; the others wait for the result."""

        def __init__(self, args: Any, trainer: Any) -> None:
            super().__init__(args, trainer)
            self._engine = _InTraining(job, trainer)

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            evaluation = _evaluated(job, self._engine, state.global_step) if state.is_world_process_zero else None
            evaluation = _shared(evaluation)
            evaluations = Run(job.folder).evaluations()
            best = max(evaluations, key=lambda entry: entry.f1)
            if args.eval_strategy == "no":  # else swift's own evaluation decides what it keeps
                state.best_metric = best.f1
                state.best_model_checkpoint = str(Path(args.output_dir) / f"checkpoint-{best.step}")
            since = sum(entry.step > best.step for entry in evaluations)
            control.should_training_stop = control.should_training_stop or 0 < job.patience <= since
            self.trainer.log({"eval_f1": evaluation.f1})

    callbacks_map[CALLBACK] = DetectionEvaluation


def _path(kind: type, value: Any) -> Any:
    return kind(value)


def _shared(evaluation: Evaluation | None) -> Evaluation:
    """The evaluation of the first process, in all processes."""
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        shared = [evaluation]
        torch.distributed.broadcast_object_list(shared)
        (evaluation,) = shared
    if evaluation is None:
        raise RuntimeError("the first process has evaluated nothing")
    return evaluation


def _evaluated(job: EvaluationJob, engine: "_InTraining", step: int) -> Evaluation:
    """Let the model in training answer, and measure its answers; the row of ``evaluations.jsonl``, which is written."""
    started = time.monotonic()
    answers = job.folder / "evaluations" / f"step-{step}.jsonl"
    answers.unlink(missing_ok=True)  # of an earlier start that was resumed before this step
    file = AnswersFile(answers, job.meta)
    infer(RowSpool(job.rows), engine, file, rules=ReadingRules(categories=job.categories))
    overall = evaluate(job.truth, answers, job.protocol).overall
    evaluation = Evaluation(
        step=step,
        f1=overall["f1"] or 0.0,
        precision=overall["precision"],
        recall=overall["recall"],
        seconds=round(time.monotonic() - started, 2),
    )
    Run(job.folder).add_evaluation(evaluation)
    return evaluation


class _InTraining:
    """An engine: the model in training answers, without gradients, and is then as it was."""

    def __init__(self, job: EvaluationJob, trainer: Any) -> None:
        self._job, self._trainer = job, trainer
        self._model: LoadedModel | None = None  # with its processor, which is loaded once

    def identity(self) -> dict[str, Any]:
        return self._job.meta.engine

    def answer(self, requests: Iterable[Request], max_tokens: int) -> Iterator[Completion]:
        trainer = self._trainer
        model = trainer.accelerator.unwrap_model(trainer.model)
        was_training = model.training
        model.eval()
        try:
            with trainer.template.generate_context():  # takes off the hooks by which swift feeds a batch of training
                self._model = self._model or self._loaded(model)
                yield from self._model.batches(max_tokens).completions(requests)
        finally:
            model.train(was_training)

    def _loaded(self, model: Any) -> "LoadedModel":
        from vlmdet_cli.engines.settings import TransformersOptions
        from vlmdet_cli.engines.transformers import LoadedModel

        job = self._job
        settings = EngineSettings(
            model=Path(self._trainer.template.model_info.model_dir),  # of a hub's model, too
            family=registry.get(job.meta.family),
            options=TransformersOptions(),
            max_pixels=job.meta.max_pixels,
            system=job.meta.system,
            dialect=job.meta.dialect,
            stop_loops=job.meta.stop_loops,
            batch=job.batch,
            device=str(model.device),
        )
        return LoadedModel(settings, model)
