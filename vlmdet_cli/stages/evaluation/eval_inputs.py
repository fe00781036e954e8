"""What ``eval`` compares: two files named on the command line, or answers of the project and the truth they belong to.

The truth belongs to the answers: answers state to which prepared split they are, and the hash of its ground-truth file.
Another split is refused, and so is a ground truth that has changed since. Answers that do not state it are measured
against the split of the project's settings; then what their rows hold of the truth must fit it.
"""

from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from vlmdet_cli.core.files import file_hash
from vlmdet_cli.data.settings import SPLITS
from vlmdet_cli.engines.answers import AnswersMeta, meta_path, read_meta
from vlmdet_cli.errors import DataError, UsageError
from vlmdet_cli.project import Eval, GetProject, Project
from vlmdet_cli.project.runs import ResultFolder
from vlmdet_cli.stages.data import shards
from vlmdet_cli.stages.evaluation.eval_scores import CalibrationFiles
from vlmdet_cli.stages.evaluation.evaluate import EvalProtocol

CALIBRATION_SPLIT = "val"


class EvalRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The command line of ``eval`` and ``viz``; what is empty or None comes from the project.

    ``name`` is that of the answers file; ``split`` the one whose truth is meant, and the name's default; ``run`` the
    run whose answers are meant. ``calibrate``: calibrate the scores on the same model's answers to val.
    """

    truth: Path | None = None
    predictions: Path | None = None
    name: str = ""
    split: str = ""
    run: str = ""
    calibrate: bool = False


class EvalJob(msgspec.Struct, frozen=True, kw_only=True):
    """``notes``: what the user should know of the two files, in sentences."""

    truth: Path
    predictions: Path
    protocol: EvalProtocol
    gates: tuple[str, ...]
    report: Path | None
    notes: tuple[str, ...] = ()


class AnsweredSplit(NamedTuple):
    """The prepared split that predictions belong to, and whether they state it themselves."""

    name: str
    stated: bool


def eval_job(project: GetProject, request: EvalRequest, **overrides: Any) -> EvalJob:
    """The two files to compare, and how.

    ``overrides``: fields of the protocol that are used in place of the settings, where they are not None. Raises
    ``UsageError`` for what is not there, ``DataError`` for answers that do not belong to the truth.
    """
    chosen = {key: value for key, value in overrides.items() if value is not None}
    if request.truth and request.predictions:
        if request.calibrate:
            raise UsageError(
                "Scores are calibrated on answers of a project",
                why="With --truth and --predictions no project is read.",
                hint="Leave one of them out.",
            )
        return EvalJob(
            truth=request.truth,
            predictions=request.predictions,
            protocol=eval_protocol(Eval(), **chosen),
            gates=(),
            report=None,
            notes=_named_truth_notes(request.predictions, request.truth),
        )
    loaded = project()
    name = answers_name(loaded, request)
    results = results_with(loaded, name, request.run)
    loaded = loaded.with_data_of(results)
    predictions = request.predictions or _answers(results, name)
    chosen |= {"seed": loaded.config.project.seed, "config": _settings(loaded, predictions)}
    truth = request.truth
    if truth is None:
        split = split_of(loaded, predictions, request.split)
        truth = truth_of(loaded, predictions, split)
        chosen |= {"rows_must_fit": not split.stated}
    if request.calibrate:
        chosen |= {"calibrate_on": calibration_files(loaded, predictions)}
    return EvalJob(
        truth=truth,
        predictions=predictions,
        protocol=eval_protocol(loaded.config.eval, **chosen),
        gates=loaded.config.eval.fail_under,
        report=results.report(predictions.stem),
        notes=(
            *(_named_truth_notes(predictions, request.truth) if request.truth else ()),
            *_reading_notes(loaded, predictions),
        ),
    )


def eval_protocol(settings: Eval, **chosen: Any) -> EvalProtocol:
    """The protocol of the project's settings, with what was chosen in their place."""
    names = ("iou", "classes", "duplicates", "scores", "score_rule")
    return msgspec.convert({name: getattr(settings, name) for name in names} | chosen, EvalProtocol)


def _settings(project: Project, predictions: Path) -> dict[str, Any]:
    """The project's settings and whose answers these are: what a comparison tells runs apart by."""
    settings: dict[str, Any] = msgspec.to_builtins(project.config)
    meta = meta_path(predictions)
    return settings | {"answered_by": file_hash(meta)[:12] if meta.is_file() else None}


# --- answers -------------------------------------------------------------------------------------------------


def answers_name(project: Project, request: EvalRequest) -> str:
    """The name of the answers file: as named, else that of the split's answers with the project's prompts."""
    return request.name or project.config.infer.answers_name(request.split)


def results_with(project: Project, name: str, run: str = "") -> ResultFolder:
    """The run ``run``; else the latest done run, if it has answers ``name`` or the models that are no run have none;
    else theirs.
    """
    results = project.results_of(run)
    if run or results.answers(name).is_file() or not project.results.answers(name).is_file():
        return results
    return project.results


def _answers(results: ResultFolder, name: str) -> Path:
    path = results.answers(name)
    if not path.is_file():
        names = sorted(file.stem for file in path.parent.glob("*.jsonl"))
        there = f"There are: {', '.join(names)}." if names else "Run `vlmdet infer` first."
        raise UsageError(f"No answers: {path}", hint=f"{there} A file is named with --predictions.")
    return path


def calibration_files(project: Project, predictions: Path) -> CalibrationFiles:
    """The answers to val of the model that made predictions, from the same folder.

    Raises ``UsageError`` where there are none, and for predictions that are answers to val themselves.
    """
    meta = read_meta(predictions)
    if meta is None or meta.split is None:
        raise UsageError(
            f"Scores are calibrated for answers of `vlmdet infer` that state their split: {predictions}",
            hint="Run `vlmdet infer` again.",
        )
    if meta.split == CALIBRATION_SPLIT:
        raise UsageError(
            f"Scores are not calibrated on the answers that are evaluated: {predictions}",
            why=f"They are answers to {CALIBRATION_SPLIT}, on which the calibration is fitted.",
            hint="Evaluate another split: vlmdet eval --split test --calibrate",
        )
    others = {path: read_meta(path) for path in sorted(predictions.parent.glob("*.jsonl"))}
    to_val = {path: other for path, other in others.items() if other and other.split == CALIBRATION_SPLIT}
    alike = [path for path, other in to_val.items() if _read_alike(other, meta)]
    if not alike:
        raise UsageError(
            f"No answers of this model to the split {CALIBRATION_SPLIT}: {predictions.parent}",
            why=[f"Of another model, or of other settings of infer: {path.name}" for path in to_val],
            hint=f"Run `vlmdet infer --split {CALIBRATION_SPLIT} --set infer.scores=true` with the same model and "
            "settings.",
        )
    data = file_hash(prepared_truth(project, CALIBRATION_SPLIT))
    # parts of the split may lie beside the whole: shards, and answers that were set aside
    answers = max(alike, key=lambda path: (to_val[path].data == data, path.stat().st_size))
    truth = truth_of(project, answers, AnsweredSplit(CALIBRATION_SPLIT, stated=True))
    return CalibrationFiles(split=CALIBRATION_SPLIT, truth=truth, predictions=answers)


def _read_alike(first: AnswersMeta, other: AnswersMeta) -> bool:
    """Whether two files hold answers of one model and its settings, which are read by the same rules."""
    return (first.identity(), first.dedupe) == (other.identity(), other.dedupe)


# --- truth ---------------------------------------------------------------------------------------------------


def split_of(project: Project, predictions: Path, split: str = "") -> AnsweredSplit:
    """The split that predictions state; of others ``split``, else the one of their name or of the settings.

    Raises ``DataError`` where they state another one than ``split``.
    """
    meta = read_meta(predictions)
    if meta is None or meta.split is None:
        own = predictions.stem if predictions.stem in SPLITS else project.config.infer.split
        return AnsweredSplit(split or own, stated=False)
    if split and split != meta.split:
        raise DataError(
            f"The answers are to the split {meta.split}, not {split}: {predictions}",
            hint=f"Leave out --split, or run `vlmdet infer --split {split}`.",
        )
    return AnsweredSplit(meta.split, stated=True)


def truth_of(project: Project, predictions: Path, split: AnsweredSplit) -> Path:
    """The ground-truth file of the split. Raises ``DataError`` where it is not the one that predictions state."""
    truth = prepared_truth(project, split.name)
    meta = read_meta(predictions) if split.stated else None
    if meta and meta.data is not None and meta.data != file_hash(truth):
        raise DataError(
            f"The answers are to another ground truth than is prepared: {predictions}",
            why=f"The split {split.name} has changed since: {truth}",
            hint="Run `vlmdet infer` again: it asks only what is new. Or name the earlier truth with --truth.",
        )
    return truth


def _named_truth_notes(predictions: Path, truth: Path) -> tuple[str, ...]:
    """A note where the truth that the user names is not the one that the answers state."""
    meta = read_meta(predictions)
    if meta is None or meta.data is None or not truth.is_file() or meta.data == file_hash(truth):
        return ()
    return (f"the answers are to the split {meta.split} as it was prepared; the truth named is another: {truth}",)


def _reading_notes(project: Project, predictions: Path) -> tuple[str, ...]:
    """A note where the project's settings would read the answers in another way than ``infer`` has."""
    meta, dedupe = read_meta(predictions), project.config.infer.dedupe
    if meta is None or meta.dedupe == dedupe:
        return ()
    return (
        f"the answers are read with infer.dedupe = {meta.dedupe:g}, as `vlmdet infer` read them, not with {dedupe:g}; "
        "run it again to read them so: it asks nothing.",
    )


def prepared_truth(project: Project, split: str) -> Path:
    """The ground-truth file of a split, put together from shards where it was prepared in shards."""
    if split not in SPLITS:
        raise UsageError(f"No such split: {split}", hint=f"There are {', '.join(SPLITS)}.")
    shards.join(project, questions=False)
    path = project.subset(split)
    if not path.is_file():
        raise UsageError(f"The split {split} is not prepared: {path}", hint="Run `vlmdet prepare`.")
    return path
