"""The commands on answers: ``infer``, ``eval``, ``viz``, ``compare``, ``parse``."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlmdet_cli.cli import completion, report_tables, step_tables
from vlmdet_cli.cli.session import Session, Shard, run_option, shard_of, split_option
from vlmdet_cli.console import Bars
from vlmdet_cli.core.files import write_json, write_text
from vlmdet_cli.core.settings import Classes, Duplicates, ScoreRule, ScoreSource
from vlmdet_cli.errors import UsageError

if TYPE_CHECKING:
    from vlmdet_cli.stages.inference.infer import InferResult
    from vlmdet_cli.stages.inference.infer_drawings import AnswerDrawings
    from vlmdet_cli.stages.inference.infer_inputs import InferJob
    from vlmdet_cli.stages.inference.infer_progress import InferProgress, OnProgress

AnswersName = Annotated[str, typer.Option(metavar="NAME", help="Name of the answers file.", show_default="the split")]
AnsweredSplit = Annotated[
    str,
    split_option("The split that was answered.", "as the answers state"),
]
AnsweringRun = Annotated[
    str,
    run_option("The run that answered.", "the latest done"),
]


def infer(
    context: typer.Context,
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="IMAGE|DIR|-",
            help="Pictures, folders of pictures, or - for a list on standard input.",
            show_default="a prepared split",
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            metavar="DIR|NAME",
            help="A model folder, or a hub's name: Qwen/Qwen2-VL-2B-Instruct.",
            show_default="the merged model",
        ),
    ] = "",
    adapter: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A LoRA checkpoint to put on the model, unmerged.")
    ] = None,
    split: Annotated[
        str,
        split_option("The prepared split to answer.", "infer.split"),
    ] = "",
    run: Annotated[
        str,
        run_option("The run whose model answers.", "the latest done"),
    ] = "",
    name: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Name of the answers file.", show_default="the split; with --model MODEL-SPLIT"
        ),
    ] = "",
    categories: Annotated[
        list[str] | None,
        typer.Option("--category", metavar="NAME", help="A category to ask for in named pictures; repeatable."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep the answers to named pictures in this file.")
    ] = None,
    draw: Annotated[
        Path | None,
        typer.Option(metavar="FILE|DIR", help="Draw the boxes: one picture into a file, several into a folder."),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", metavar="", help="Ask again about pictures that could not be read.")
    ] = False,
    shard: Shard = "",
    collect: Annotated[
        bool, typer.Option("--collect", metavar="", help="Put the answers of all shards together; ask nothing.")
    ] = False,
) -> None:
    """Let the model answer; keep raw answers and parsed boxes.

    Example: vlmdet infer --model my-model photo.jpg --json
    """
    from vlmdet_cli.stages.inference import collect as collecting
    from vlmdet_cli.stages.inference import infer_inputs
    from vlmdet_cli.stages.inference.infer_model import InferRequest

    session: Session = context.obj
    if draw and not images:
        raise UsageError("--draw is for pictures that are named", hint="`vlmdet viz` draws the answers to a split.")
    with tempfile.TemporaryDirectory() as temporary:
        request = InferRequest(
            images=images or (),
            model=model,
            adapter=adapter,
            run=run,
            split=split,
            name=name,
            output=output or (Path(temporary) / "answers.jsonl" if images else None),
            shard=shard_of(shard) if shard else None,
            categories=categories or (),
            in_project=session.options.project is not None,
            sets=session.options.sets,
            show_download=session.output.shows_progress,
        )
        if collect:
            result = collecting.collect(session.project(), request)
            session.output.result(result, *step_tables.infer(result))
            _suggest(session, "eval", name, split, run)
            return
        job = infer_inputs.infer_job(session.project, request)
        if images:
            _infer_pictures(session, job, images, draw, retry_failed=retry_failed)
        else:
            result = _run(session, job, retry_failed=retry_failed)
            session.output.result(result, *step_tables.infer(result))
            if not (shard or output):
                _suggest(session, "eval", Path(result.answers).stem if model else name, split, run)


def _suggest(session: Session, command: str, name: str, split: str, run: str) -> None:
    """The next command on the same answers."""
    named = ["--name", name] if name else ["--split", split] if split else []
    session.suggest(command, *named, run=run)


def _run(session: Session, job: "InferJob", *, retry_failed: bool) -> "InferResult":
    for warning in job.warnings:
        session.warn(warning)
    with session.output.progress() as bars:
        return job.run(_progress_view(session, bars), retry_failed=retry_failed)


def _infer_pictures(
    session: Session, job: "InferJob", named: Sequence[Path], draw: Path | None, *, retry_failed: bool
) -> None:
    """Answer named pictures and show the boxes: an object for one that is named itself, else a list."""
    drawings = _drawings(draw, [row.image for row in job.rows.values()])
    _run(session, job, retry_failed=retry_failed)
    pictures = job.pictures()
    if drawings:
        drawings.write(pictures)
    documents = [picture.document() for picture in pictures]
    is_single = len(named) == len(documents) == 1 and str(named[0]) == documents[0]["image"]
    views = (*step_tables.detections(documents), *step_tables.drawings(drawings.paths.values() if drawings else ()))
    session.output.result(documents[0] if is_single else documents, *views)


def _drawings(target: Path | None, images: Sequence[str]) -> "AnswerDrawings | None":
    if target is None:
        return None
    from vlmdet_cli.stages.inference.infer_drawings import (
        AnswerDrawings,  # with all that draws: `infer` starts without it
    )

    return AnswerDrawings(target, images)


def _progress_view(session: Session, bars: Bars) -> "OnProgress":
    """A bar with the rates and the health so far; with ``--verbose`` the newest answer too, at most each second."""
    shown = 0.0

    def show(progress: "InferProgress") -> None:
        nonlocal shown
        bars("infer", progress.done, progress.total, f"{progress.rates()}; {progress.shares()}")
        if session.output.verbose and time.monotonic() - shown >= 1:
            shown = time.monotonic()
            session.output.detail(progress.last)

    return show


def evaluate(
    context: typer.Context,
    truth: Annotated[Path | None, typer.Option(metavar="FILE", help="Ground truth: COCO or detection JSON.")] = None,
    predictions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Answers, detection JSON, COCO results or swift's result file.")
    ] = None,
    name: AnswersName = "",
    split: AnsweredSplit = "",
    run: AnsweringRun = "",
    iou: Annotated[float | None, typer.Option(metavar="IOU", help="IoU threshold.", show_default="eval.iou")] = None,
    classes: Annotated[
        Classes | None,
        typer.Option(metavar="CLASSES", help="Classes that count: all or present.", show_default="eval.classes"),
    ] = None,
    duplicates: Annotated[
        Duplicates | None,
        typer.Option(help="Whether exact repeats of a box count as false.", show_default="eval.duplicates"),
    ] = None,
    scores: Annotated[
        ScoreSource | None,
        typer.Option(metavar="SOURCE", help="Scores: auto, constant, file or logprob.", show_default="eval.scores"),
    ] = None,
    score_rule: Annotated[
        ScoreRule | None,
        typer.Option(metavar="RULE", help="How log-probabilities become a score.", show_default="eval.score_rule"),
    ] = None,
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", metavar="", help="Calibrate the scores on the same model's answers to val."),
    ] = False,
    dialect: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="How raw answers write boxes.", show_default="as they say, or by content"),
    ] = None,
    fail_under: Annotated[
        list[str] | None, typer.Option(metavar="METRIC=VALUE", help="Exit 1 if a metric is lower; repeatable.")
    ] = None,
    no_worse_than: Annotated[
        Path | None, typer.Option(metavar="REPORT", help="Exit 1 if F1, macro F1 or AP is lower than in this report.")
    ] = None,
    tolerance: Annotated[float, typer.Option(metavar="NUMBER", help="The decrease that --no-worse-than allows.")] = 0.0,
    csv: Annotated[bool, typer.Option("--csv", metavar="", help="Print the classes as CSV.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", metavar="", help="Print a summary as Markdown.")] = False,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the gates as JUnit XML.")] = None,
    full: Annotated[
        bool, typer.Option("--full", metavar="", help="Show sizes, errors, counts, scores and the ledger, too.")
    ] = False,
) -> int:
    """Score the answers: precision, recall, F1, mean IoU, COCO AP.

    Example: vlmdet eval --fail-under f1=0.5 --junit gates.xml
    """
    from vlmdet_cli.cli import exports
    from vlmdet_cli.stages.evaluation import eval_inputs
    from vlmdet_cli.stages.evaluation import evaluate as stage
    from vlmdet_cli.stages.evaluation import gates as gating
    from vlmdet_cli.stages.merging import model_card

    session: Session = context.obj
    if csv + markdown + session.options.json > 1:
        raise UsageError("--json, --csv and --markdown are three forms of one result", hint="Choose one.")
    job = eval_inputs.eval_job(
        session.project,
        eval_inputs.EvalRequest(
            truth=truth, predictions=predictions, name=name, split=split, run=run, calibrate=calibrate
        ),
        iou=iou,
        classes=classes,
        duplicates=duplicates,
        scores=scores,
        score_rule=score_rule,
        dialect=dialect,
    )
    report = stage.evaluate(job.truth, job.predictions, job.protocol)
    for note in (*job.notes, *report.notes):
        session.warn(note)
    gates = gating.gates(report, [*job.gates, *(fail_under or ())])
    if no_worse_than:
        gates += gating.not_worse(report, no_worse_than, tolerance)
    if job.report:
        write_json(job.report, report)
        model_card.refresh(job.report)
    if junit:
        write_text(junit, exports.junit(gates))
    if csv or markdown:
        session.output.data((exports.per_class_csv(report) if csv else exports.markdown(report, gates)).rstrip())
    else:
        session.output.result(report, *(report_tables.report if full else report_tables.summary)(report, gates))
    if truth is None and predictions is None:
        _suggest(session, "viz", name, split, run)
    return int(not all(gate.passed for gate in gates))


def viz(
    context: typer.Context,
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN RUN", help="Two runs, or names of answers, to compare.", autocompletion=completion.runs
        ),
    ] = None,
    truth: Annotated[Path | None, typer.Option(metavar="FILE", help="Ground truth: COCO or detection JSON.")] = None,
    predictions: Annotated[Path | None, typer.Option(metavar="FILE", help="The same files as for eval.")] = None,
    images: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the pictures.")] = None,
    output: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for the drawings.")] = None,
    name: AnswersName = "",
    split: AnsweredSplit = "",
    run: AnsweringRun = "",
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Number of panels to draw.", show_default="viz.pictures")
    ] = None,
    single_file: Annotated[
        bool, typer.Option("--single-file", metavar="", help="A page that holds its pictures, to send as one file.")
    ] = False,
) -> None:
    """Write the report page of predictions and truth, and draw panels, a contact sheet and the training curve.

    Two runs are compared picture by picture.

    Example: vlmdet viz run-001 run-002
    """
    import msgspec

    from vlmdet_cli.stages.evaluation import viz as stage
    from vlmdet_cli.stages.evaluation import viz_inputs
    from vlmdet_cli.stages.evaluation.eval_inputs import EvalRequest

    session: Session = context.obj
    request = EvalRequest(truth=truth, predictions=predictions, name=name, split=split, run=run)
    if runs:
        job = viz_inputs.comparison_job(session.project, runs, request, output)
    else:
        job = viz_inputs.viz_job(session.project, request, images=images, output=output)
    with session.output.progress() as bars:
        result = stage.draw(
            msgspec.structs.replace(job, limit=limit or job.limit, single_file=single_file),
            on_progress=lambda done, total: bars("draw", done, total),
            on_picture=lambda done, total: bars("pictures", done, total),
        )
    session.output.result(result, *step_tables.viz(result))


def compare(
    context: typer.Context,
    reports: Annotated[
        list[str], typer.Argument(metavar="RUN|NAME|FILE", help="Runs, names given to eval, or report files.")
    ],
    name: Annotated[
        str, typer.Option(metavar="NAME", help="Name of the runs' report.", show_default="infer.split")
    ] = "",
    force: Annotated[bool, typer.Option("--force", metavar="", help="Compare reports whose protocols differ.")] = False,
) -> None:
    """Compare reports side by side.

    Example: vlmdet compare base run-001
    """
    from vlmdet_cli.stages.evaluation import compare as stage

    session: Session = context.obj
    result = stage.compare(stage.find_reports(session.project, reports, name), force=force)
    session.output.result(result, *report_tables.compare(result))


def parse(
    context: typer.Context,
    file: Annotated[Path | None, typer.Argument(metavar="FILE|-", help="Raw answers.", show_default="stdin")] = None,
    dialect: Annotated[
        str,
        typer.Option(metavar="NAME", help="The box format of a model family.", show_default="the project's"),
    ] = "",
    size: Annotated[str, typer.Option(metavar="WxH", help="Picture size, to get boxes in pixels.")] = "",
    categories: Annotated[list[str] | None, typer.Option("--category", help="A known category; repeatable.")] = None,
    dedupe: Annotated[
        float, typer.Option(min=0, max=1, metavar="IOU", help="Take boxes of a class that overlap so much for one.")
    ] = 0.0,
) -> None:
    """Read raw model text; print a JSON line for each line.

    Example: vlmdet parse answers.txt --size 640x480
    """
    from vlmdet_cli.stages.inference import parse as stage

    session: Session = context.obj
    dialect, max_pixels = session.dialect(dialect, file)
    lines = stage.parse_file(
        file, dialect=dialect, max_pixels=max_pixels, size=size, categories=categories or None, dedupe=dedupe
    )
    for line in lines:
        session.output.data(line)
