"""The Typer app. A command loads the project, calls one stage and shows its result.

Global options stand before or after the command's name; ``command`` gives every command the same ones. Stages
are imported inside the commands, so that help and light commands start fast.
"""

import inspect
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from vlmdet_cli import __version__, console
from vlmdet_cli.cli import tables
from vlmdet_cli.console import Talk
from vlmdet_cli.core.files import write_json, write_text
from vlmdet_cli.core.records import Classes, ScoreSource
from vlmdet_cli.errors import UsageError
from vlmdet_cli.project import FILE_NAME, Project, convert, load

app = typer.Typer(
    name="vlmdet",
    help="Fine-tune vision-language models for object detection: from COCO data to a metric table.",
    epilog="Begin with `vlmdet init`, or see it all run: `vlmdet init --demo demo`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

PANEL = "Global options"
ProjectFile = Annotated[
    Path | None,
    typer.Option("-p", "--project", metavar="FILE", rich_help_panel=PANEL, help="Project file, or its folder."),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", rich_help_panel=PANEL, help="Override one setting; repeatable."),
]
Json = Annotated[
    bool, typer.Option("--json", metavar="", rich_help_panel=PANEL, help="Print the result as one JSON document.")
]
Quiet = Annotated[
    bool, typer.Option("-q", "--quiet", metavar="", rich_help_panel=PANEL, help="Only errors and warnings.")
]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", metavar="", rich_help_panel=PANEL, help="Say more.")]
Debug = Annotated[bool, typer.Option("--debug", metavar="", rich_help_panel=PANEL, help="Show tracebacks.")]
NoProgress = Annotated[bool, typer.Option("--no-progress", metavar="", rich_help_panel=PANEL, help="No progress bars.")]

Shard = Annotated[
    str, typer.Option(metavar="I/N", help="Work on the I-th of N parts of the pictures.", show_default="all")
]


class Globals(NamedTuple):
    """The global options as given, at one place of the command line."""

    project: Path | None = None
    sets: tuple[str, ...] = ()
    json: bool = False
    quiet: bool = False
    verbose: bool = False
    debug: bool = False
    no_progress: bool = False

    def joined(self, other: "Globals") -> "Globals":
        """With those of another place: its project file wins, overrides add up, a flag once given holds."""
        flags = (one or two for one, two in zip(self[2:], other[2:], strict=True))
        return Globals(other.project or self.project, self.sets + other.sets, *flags)


class Session:
    """What a command works with: the way to talk, and the project when it asks for it."""

    def __init__(self, given: Globals) -> None:
        self.given = given
        self.talk = Talk(json=given.json, quiet=given.quiet, verbose=given.verbose, progress=not given.no_progress)

    def project(self) -> Project:
        named = self.given.project or Path(os.environ.get("VLMDET_PROJECT") or FILE_NAME)
        return load(named, self.given.sets)

    def warn(self, text: str) -> None:
        if text:
            self.talk.warning(text)


def _global_parameters() -> list[inspect.Parameter]:
    kinds = (ProjectFile, Sets, Json, Quiet, Verbose, Debug, NoProgress)
    defaults = (None, None, False, False, False, False, False)
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, kind, default in zip(Globals._fields, kinds, defaults, strict=True)
    ]


def _take_globals(values: dict[str, Any]) -> Globals:
    taken = {name: values.pop(name) for name in Globals._fields}
    return Globals(**{**taken, "sets": tuple(taken["sets"] or ())})


def _take_signature(function: Any, parameters: list[inspect.Parameter]) -> None:
    """Make Typer see ``parameters`` in place of the function's ``**values``."""
    first = inspect.Parameter("context", inspect.Parameter.POSITIONAL_ONLY, annotation=typer.Context)
    function.__signature__ = inspect.Signature([first, *parameters])
    function.__annotations__ = {one.name: one.annotation for one in (first, *parameters)}


def command(*, panel: str = "The seven steps", **settings: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function of a ``Session`` as a command with the global options; it may return an exit code."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(context: typer.Context, **values: Any) -> None:
            above = context.obj if isinstance(context.obj, Globals) else Globals()
            session = Session(above.joined(_take_globals(values)))
            with console.guard(session.talk, debug=session.given.debug) as codes:
                codes[0] = function(session, **values) or 0
            raise typer.Exit(codes[0])

        signature = inspect.signature(function, eval_str=True)
        own = [one.replace(kind=one.KEYWORD_ONLY) for one in list(signature.parameters.values())[1:]]
        _take_signature(run, [*own, *_global_parameters()])
        run.__doc__ = function.__doc__
        app.command(function.__name__.rstrip("_"), rich_help_panel=panel, **settings)(run)
        return function

    return register


def _show_version(wanted: bool) -> None:
    if wanted:
        Talk().data(f"vlmdet {__version__}")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option("--version", metavar="", callback=_show_version, is_eager=True, help="Show the version and exit."),
]


def _before_command(context: typer.Context, **values: Any) -> None:
    del values["version"]
    context.obj = _take_globals(values)


_take_signature(
    _before_command,
    [
        inspect.Parameter("version", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Version),
        *_global_parameters(),
    ],
)
app.callback()(_before_command)


@command()
def prepare(
    session: Session,
    annotations: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Annotations, in place of a project.")
    ] = None,
    images: Annotated[Path | None, typer.Option(metavar="DIR", help="Their image folder.")] = None,
    output: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the result goes.")] = None,
    report: Annotated[
        bool, typer.Option("--report", metavar="", help="Tell more of the data, and look for pictures that are alike.")
    ] = False,
    shard: Shard = "",
) -> None:
    """Choose a subset of the data and write it as instruction rows."""
    from vlmdet_cli.stages import prepare as stage

    project = _sharded(_project_of_files(session, annotations, images, output), shard)
    with session.talk.progress() as bars:
        made = stage.prepare(project, bars, report=report)
    session.talk.result(made, *tables.prepare(made), *_data_report(made.report))


def _project_of_files(session: Session, annotations: Path | None, images: Path | None, output: Path | None) -> Project:
    if annotations is images is output is None:
        return session.project()
    missing = [name for name, value in {"--annotations": annotations, "--output": output}.items() if value is None]
    if missing:
        raise UsageError(f"Missing: {', '.join(missing)}", hint="Without a project file, they are needed.")
    source = {"annotations": str(annotations), "images": str(images or "")}
    data = {"train": source, "split": {"val": 0.0, "test": 0.0}}
    tree = {"project": {"output": str(output)}, "data": data}
    return Project(Path.cwd(), convert(tree, session.given.sets, "command line"))


def _data_report(made: Any) -> Iterator[Any]:
    if made is not None:
        from vlmdet_cli.cli import data_tables

        yield from data_tables.report(made)


def _sharded(project: Project, shard: str) -> Project:
    if not shard:
        return project
    number, slash, many = shard.partition("/")
    if not (slash and number.isdecimal() and many.isdecimal() and 1 <= int(number) <= int(many)):
        raise UsageError(f"No such shard: {shard}", hint="Name it as I/N, from 1/N to N/N.")
    return Project(project.root, project.config, (int(number), int(many)))


@command()
def augment(session: Session, shard: Shard = "") -> None:
    """Add questions that teach counting and space; mix the train file."""
    from vlmdet_cli.stages import augment as stage

    project = _sharded(session.project(), shard)
    with session.talk.progress() as bars:
        made = stage.augment(project, bars)
    session.talk.result(made, *tables.augment(made))


@command(context_settings={"allow_extra_args": True, "ignore_unknown_options": False})
def train(
    session: Session,
    swift_arguments: Annotated[
        list[str] | None, typer.Argument(metavar="-- SWIFT ARGUMENT", help="Passed to swift as they are.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", metavar="", help="Go on from the latest checkpoint.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", metavar="", help="Print the command and do nothing.")] = False,
) -> None:
    """Fine-tune the model with `swift sft`."""
    from vlmdet_cli.stages import train as stage

    project = session.project()
    planned = stage.plan(project, swift_arguments or (), resume=resume)
    if dry_run:
        session.talk.data(planned.command.quoted())
        return
    session.talk.detail(planned.command.quoted())
    with session.talk.progress() as bars:
        made = stage.train(project, planned, tables.Steps(session.talk, bars), session.warn)
    session.talk.result(made, *tables.train(made))


@command()
def merge(
    session: Session,
    checkpoint: Annotated[
        str, typer.Option(metavar="DIR|STEP", help="Checkpoint folder or step.", show_default="the latest")
    ] = "",
) -> None:
    """Merge the trained adapter into a model folder."""
    from vlmdet_cli.stages import merge as stage

    project = session.project()
    with session.talk.progress() as bars:
        made = stage.merge(project, checkpoint, lambda: bars("merge", 0, 0))
    session.talk.result(made, *tables.merge(made))


@command()
def infer(
    session: Session,
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="IMAGE|DIR", help="Pictures.", show_default="a prepared split")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Any local model folder.", show_default="the merged model")
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A LoRA checkpoint to put on the model, unmerged.")
    ] = None,
    split: Annotated[
        str, typer.Option(metavar="SPLIT", help="The prepared split to answer.", show_default="infer.split")
    ] = "",
    name: Annotated[str, typer.Option(metavar="NAME", help="Name of the answers file.", show_default="the split")] = "",
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep the answers to named pictures in this file.")
    ] = None,
) -> None:
    """Let the model answer; keep raw answers and parsed boxes."""
    from vlmdet_cli.stages import infer_inputs

    with session.talk.progress() as bars, tempfile.TemporaryDirectory() as temporary:
        job = infer_inputs.infer_job(
            session.project,
            images or (),
            model=model,
            adapter=adapter,
            split=split,
            answers=output or (Path(temporary) / "answers.jsonl" if images else None),
            name=name,
        )
        session.warn(job.warning)
        made = job.run(lambda done, total, rate: bars("infer", done, total, f"{rate:.1f} rows/s"))
        found = infer_inputs.found(job) if images else []
    if images:
        session.talk.result(found[0] if len(found) == 1 else found, *tables.found(found))
    else:
        session.talk.result(made, *tables.infer(made))


@command()
def eval_(
    session: Session,
    truth: Annotated[Path | None, typer.Option(metavar="FILE", help="COCO or detection JSON.")] = None,
    predictions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Answers, detection JSON, COCO results or swift infer's file.")
    ] = None,
    name: Annotated[
        str, typer.Option(metavar="NAME", help="Name of the answers file.", show_default="infer.split")
    ] = "",
    iou: Annotated[float | None, typer.Option(metavar="IOU", help="IoU threshold.", show_default="eval.iou")] = None,
    classes: Annotated[
        Classes | None, typer.Option(help="Which classes count in a picture.", show_default="eval.classes")
    ] = None,
    scores: Annotated[
        ScoreSource | None, typer.Option(help="Where boxes' scores come from.", show_default="eval.scores")
    ] = None,
    fail_under: Annotated[
        list[str] | None, typer.Option(metavar="METRIC=VALUE", help="Exit 1 if a metric is lower; repeatable.")
    ] = None,
    no_worse_than: Annotated[
        Path | None, typer.Option(metavar="REPORT", help="Exit 1 if F1, macro F1 or AP is lower than there.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(metavar="NUMBER", help="How much lower than --no-worse-than is allowed.")
    ] = 0.0,
    csv: Annotated[bool, typer.Option("--csv", metavar="", help="Print the classes as CSV.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", metavar="", help="Print a summary as Markdown.")] = False,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the gates as JUnit XML.")] = None,
) -> int:
    """Score the answers: precision, recall, F1, mean IoU, COCO AP."""
    from vlmdet_cli.cli import exports
    from vlmdet_cli.stages import eval_inputs, evaluate
    from vlmdet_cli.stages import gates as gating

    if csv + markdown + session.given.json > 1:
        raise UsageError("--json, --csv and --markdown are three forms of one result", hint="Choose one.")
    job = eval_inputs.eval_job(
        session.project, truth=truth, predictions=predictions, name=name, iou=iou, classes=classes, scores=scores
    )
    report = evaluate.evaluate(job.truth, job.predictions, job.how)
    gates = gating.gates(report, [*job.gates, *(fail_under or ())])
    if no_worse_than:
        gates += gating.not_worse(report, no_worse_than, tolerance)
    if job.report:
        write_json(job.report, report)
    if junit:
        write_text(junit, exports.junit(gates))
    if csv or markdown:
        session.talk.data((exports.per_class_csv(report) if csv else exports.markdown(report, gates)).rstrip())
    else:
        session.talk.result(report, *tables.report(report, gates))
    return int(not all(gate.passed for gate in gates))


@command()
def viz(
    session: Session,
    truth: Annotated[Path | None, typer.Option(metavar="FILE", help="COCO or detection JSON.")] = None,
    predictions: Annotated[Path | None, typer.Option(metavar="FILE", help="As for eval.")] = None,
    images: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the pictures are.")] = None,
    output: Annotated[Path | None, typer.Option(metavar="DIR", help="Where drawings go.")] = None,
    name: Annotated[
        str, typer.Option(metavar="NAME", help="Name of the answers file.", show_default="infer.split")
    ] = "",
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="How many.", show_default="viz.pictures")
    ] = None,
) -> None:
    """Draw predictions and truth, a contact sheet and the training curve."""
    from vlmdet_cli.stages import viz as stage
    from vlmdet_cli.stages import viz_inputs

    job = viz_inputs.viz_job(
        session.project, truth=truth, predictions=predictions, images=images, output=output, name=name
    )
    with session.talk.progress() as bars:
        made = stage.draw(
            job.truth,
            job.predictions,
            job.images,
            job.output,
            limit=limit or job.settings.pictures,
            order=job.settings.order,
            iou=job.iou,
            curve=job.curve,
            on_progress=lambda done, total: bars("draw", done, total),
        )
    session.talk.result(made, *tables.viz(made))


@command(panel="Beside them")
def init(
    session: Session,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write into.", show_default=False)] = Path(),
    demo: Annotated[
        bool, typer.Option("--demo", metavar="", help="Write the demo: pictures, a tiny model, its project.")
    ] = False,
) -> None:
    """Write a project file with every key explained, or the whole demo."""
    from vlmdet_cli.stages import init as stage

    with session.talk.progress():
        made = stage.init(folder, demo=demo)
    session.talk.result(made, *tables.init(made))


@command(panel="Beside them")
def compare(
    session: Session,
    reports: Annotated[list[Path], typer.Argument(metavar="REPORT", help="Reports of `vlmdet eval`.")],
    force: Annotated[bool, typer.Option("--force", metavar="", help="Even if they were not measured alike.")] = False,
) -> None:
    """Put reports beside each other."""
    from vlmdet_cli.stages import compare as stage

    made = stage.compare(reports, force=force)
    session.talk.result(made, *tables.compare(made))


@command(panel="Beside them")
def parse(
    session: Session,
    file: Annotated[Path | None, typer.Argument(metavar="FILE|-", help="Raw answers.", show_default="stdin")] = None,
    dialect: Annotated[str, typer.Option(metavar="NAME", help="The model family's way to write boxes.")] = "qwen2_vl",
    size: Annotated[str, typer.Option(metavar="WxH", help="Picture size: gives boxes in pixels.")] = "",
    categories: Annotated[list[str] | None, typer.Option("--category", help="A known category; repeatable.")] = None,
) -> None:
    """Read raw model text; one JSON line out for each line in."""
    from vlmdet_cli.stages import parse as stage

    for line in stage.parse_file(file, dialect=dialect, size=size, categories=categories or None):
        session.talk.data(line)


@command(panel="Beside them")
def show(
    session: Session,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Rows, answers, or swift infer's result file.")],
    number: Annotated[
        int | None, typer.Argument(metavar="N", min=1, help="The row's number.", show_default="the first five rows")
    ] = None,
    kind: Annotated[str, typer.Option(metavar="KIND", help="Only rows of this kind.", show_default="every kind")] = "",
    dialect: Annotated[str, typer.Option(metavar="NAME", help="The model family's way to write boxes.")] = "qwen2_vl",
    draw: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the row's picture with its boxes: PNG or JPEG.")
    ] = None,
) -> None:
    """Show rows as a person reads them, and draw one."""
    from vlmdet_cli.cli import data_tables
    from vlmdet_cli.stages import show as stage

    shown = stage.show(file, number, kind=kind, dialect=dialect, draw=draw)
    session.talk.result(shown, *data_tables.show(shown))


@command(panel="Beside them")
def doctor(session: Session) -> int:
    """Check versions, GPU, swift, paths and disk; say what to do."""
    from vlmdet_cli.stages import doctor as stage

    checks = stage.doctor(session.given.project, session.given.sets)
    session.talk.result(checks, *tables.doctor(checks))
    return int(any(check.state == "problem" for check in checks))


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line; being asked to end counts as an interrupt, so that children are ended too."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    app()
