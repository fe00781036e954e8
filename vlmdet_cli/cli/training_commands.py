"""The commands that train: ``train``, ``merge``, ``runs``, ``experiment``."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from vlmdet_cli.cli import completion, experiment_tables, step_tables
from vlmdet_cli.cli.session import Session, run_option, split_option
from vlmdet_cli.errors import UsageError
from vlmdet_cli.training.settings import Method

if TYPE_CHECKING:
    from vlmdet_cli.project import Project
    from vlmdet_cli.stages.training.train_plan import Plan


def train(
    context: typer.Context,
    swift_arguments: Annotated[
        list[str] | None, typer.Argument(metavar="-- SWIFT ARGUMENT", help="Arguments to pass to swift unchanged.")
    ] = None,
    run: Annotated[str, typer.Option(metavar="NAME", help="Name of the run.", show_default="run-001, run-002, …")] = "",
    method: Annotated[
        Method, typer.Option(metavar="METHOD", help="sft: from answers; grpo: then from a reward.")
    ] = "sft",
    parent: Annotated[
        str,
        typer.Option(
            "--from", metavar="RUN", help="With grpo: the run to begin from.", show_default="the latest done sft run"
        ),
    ] = "",
    resume: Annotated[
        bool, typer.Option("--resume", metavar="", help="Continue the latest run that is not done, or --run.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", metavar="", help="Continue even if data, base model or settings differ.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", metavar="", help="Print swift's command and stop.")] = False,
    slurm: Annotated[
        bool, typer.Option("--slurm", metavar="", help="With --dry-run: print a script for Slurm's sbatch.")
    ] = False,
) -> None:
    """Fine-tune the model with `swift sft`, or further by reward with `swift rlhf`.

    Example: vlmdet train -- --gradient_checkpointing true
    """
    from vlmdet_cli.stages.training import train as stage
    from vlmdet_cli.stages.training.train_plan import TrainOptions, plan

    session: Session = context.obj
    project = session.project()
    options = TrainOptions(
        arguments=tuple(swift_arguments or ()), run=run, resume=resume, force=force, method=method, parent=parent
    )
    if slurm and not dry_run:
        raise UsageError("--slurm prints a script and starts nothing", hint="vlmdet train --dry-run --slurm > train.sh")
    if dry_run:
        planned = plan(project, options)
        if session.options.json:
            session.output.result(planned.preview())
        elif slurm:
            session.output.data(_slurm_script(session, project, planned))
        else:
            session.output.data(planned.command.quoted())
        return
    with session.output.progress() as bars:
        on_step = step_tables.TrainingProgress(session.output, bars)
        result = stage.train(project, options, on_step, warn=session.warn, detail=session.output.detail)
    if result is not None:
        session.output.result(result, *step_tables.train(result))
        session.suggest("merge", run=run)


def _slurm_script(session: Session, project: "Project", planned: "Plan") -> str:
    """The script whose machines each run this command for the planned run."""
    from vlmdet_cli.training import launch

    overrides = [word for text in session.options.sets for word in ("--set", text)]
    resumed = ["--resume"] if planned.checkpoint else []
    by_reward = ["--method", "grpo", "--from", planned.parent.run.name] if planned.parent and not resumed else []
    extra = ["--", *planned.arguments] if planned.arguments else []
    file = ["-p", str(session.project_file.absolute())]
    own = [*file, *overrides, "--run", planned.run.name, *resumed, *by_reward]
    command = [sys.executable, "-m", "vlmdet_cli", "train", *own]
    return launch.slurm_script(
        project.config.train,
        [*command, *extra],
        name=f"vlmdet-{planned.run.name}",
        folder=project.root,
        log=project.output / "slurm-%j.log",
    )


def merge(
    context: typer.Context,
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIR|STEP",
            help="Checkpoint folder or step; several are merged in this order.",
            show_default="the latest",
        ),
    ] = None,
    run: Annotated[
        str,
        run_option("The run to merge.", "the latest that is done"),
    ] = "",
    verify: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=0, help="Pictures that adapter and merged model must answer alike.", show_default="8"
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", metavar="", help="Merge even if the base model has changed since the training.")
    ] = False,
) -> None:
    """Merge the trained adapter into a model folder.

    Example: vlmdet merge --checkpoint 500
    """
    from vlmdet_cli.stages.merging import merge as stage

    session: Session = context.obj
    project = session.project()
    options = stage.MergeOptions(run=run, checkpoints=tuple(checkpoint or ()), verify=verify, force=force)
    with session.output.progress() as bars:
        result = stage.merge(project, options, warn=session.warn, tick=lambda: bars("merge", 0, 0))
    session.output.result(result, *step_tables.merge(result))
    session.suggest("infer", run=run)


def runs(
    context: typer.Context,
    migrate: Annotated[
        bool, typer.Option("--migrate", metavar="", help="Move the runs of an earlier version to their new folders.")
    ] = False,
) -> None:
    """List the runs: state, steps, loss, F1, and the settings in which they differ.

    Example: vlmdet runs --json
    """
    from vlmdet_cli.stages.training import runs as stage

    session: Session = context.obj
    result = stage.list_runs(session.project(), migrate=migrate)
    session.output.result(result, *step_tables.runs(result))


def experiment(
    context: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            help="Experiments of the project file.",
            autocompletion=completion.experiments,
            show_default="all",
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(metavar="N", min=0, help="Repeat each with N seeds of training.", show_default="swift's own")
    ] = 0,
    split: Annotated[
        str,
        split_option("The prepared split to measure.", "val"),
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", metavar="", help="List the variants and stop.")] = False,
) -> int:
    """Run variants of the settings through all steps; compare them.

    Example: vlmdet experiment rank --seeds 3
    """
    from vlmdet_cli.stages.experiments import experiment as stage

    session: Session = context.obj
    project = session.project()
    request = stage.ExperimentRequest(names=tuple(names or ()), seeds=seeds, split=split)
    if dry_run:
        planned = stage.plan(project, request)
        session.output.result(planned, *experiment_tables.plan(planned))
        return 0
    with session.output.progress() as bars:
        listeners = stage.Listeners(
            on_variant=lambda variant, number, total: session.output.note(f"{variant.name} ({number} of {total})"),
            on_data=bars,
            on_step=step_tables.TrainingProgress(session.output, bars),
            on_answers=lambda progress: bars("infer", progress.done, progress.total, progress.rates()),
            warn=session.warn,
            detail=session.output.detail,
        )
        result = stage.experiment(project, request, listeners)
    session.output.result(result, *experiment_tables.result(result))
    if best := max((row for row in result.rows if row.f1 is not None), key=lambda row: row.f1 or 0.0, default=None):
        session.suggest("infer", "--split", "test", run=best.name)
    return result.exit_code
