"""The commands that set up and check: ``init``, ``doctor``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from vlmdet_cli.cli import step_tables
from vlmdet_cli.cli.session import Session
from vlmdet_cli.errors import UsageError


def init(
    context: typer.Context,
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="The folder to write into.", show_default=False)
    ] = Path(),
    demo: Annotated[
        bool, typer.Option("--demo", metavar="", help="Write the demo: pictures, a tiny model, its project.")
    ] = False,
    model: Annotated[
        str,
        typer.Option(metavar="NAME", help="The model to train, a folder or a hub's name: sets what fits its family."),
    ] = "",
    preset: Annotated[
        str,
        typer.Option(metavar="NAME", help="The GPUs, `24gb`, `80gb` or `8x80gb`: sets batch, processes and LoRA."),
    ] = "",
) -> None:
    """Write a project file with every key explained, or the whole demo.

    Example: vlmdet init mine --model Qwen/Qwen3-VL-4B-Instruct
    """
    from vlmdet_cli.stages import init as stage

    session: Session = context.obj
    with session.output.progress():
        result = stage.init(folder, demo=demo, model=model, preset=preset)
    session.output.result(result, *step_tables.init(result))


def status(context: typer.Context) -> None:
    """Show which steps of the project and its runs are done, stale or missing.

    Example: vlmdet status --json
    """
    from vlmdet_cli.stages import status as stage

    session: Session = context.obj
    result = stage.status(session.project())
    session.output.result(result, *step_tables.status(result))
    if result.next:
        session.suggest(result.next)


def doctor(
    context: typer.Context,
    images: Annotated[
        list[Path] | None,
        typer.Argument(metavar="IMAGE|DIR", help="Pictures for --engines.", show_default="the split"),
    ] = None,
    engines: Annotated[
        bool, typer.Option("--engines", metavar="", help="Ask each engine the same; show the share of equal answers.")
    ] = False,
    engine: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="An engine to ask; repeatable.", show_default="all that are here"),
    ] = None,
    model: Annotated[
        str, typer.Option(metavar="DIR|NAME", help="The model to ask.", show_default="the merged model")
    ] = "",
    pictures: Annotated[int, typer.Option(min=1, metavar="N", help="The number of pictures to ask about.")] = 8,
    memory: Annotated[
        bool, typer.Option("--memory", metavar="", help="Estimate the memory of training; say what takes less.")
    ] = False,
    gpu_memory: Annotated[
        float, typer.Option(min=0, metavar="GB", help="The GPU for --memory.", show_default="the one that is here")
    ] = 0.0,
    forgetting: Annotated[
        str, typer.Option(metavar="RUN", help="Ask the run's base and its merged model general rows that it kept.")
    ] = "",
) -> int:
    """Check versions, GPU, swift, paths and disk; say what to do.

    Exits with 1 if a check is a problem, if an engine fails, or if a training
    does not fit.

    Example: vlmdet doctor --engines --pictures 20
    """
    session: Session = context.obj
    if engines or engine:
        return _engines(session, images or (), model, engine or (), pictures)
    if forgetting:
        return _forgetting(session, forgetting)
    if memory or gpu_memory:
        return _memory(session, gpu_memory)
    if images or model:
        raise UsageError("A model and pictures are for --engines", hint="vlmdet doctor --engines --model DIR IMAGE…")
    from vlmdet_cli.stages import doctor as stage

    checks = stage.doctor(session.project_file, session.options.sets)
    session.output.result(checks, *step_tables.doctor(checks))
    return int(any(check.state == "problem" for check in checks))


def _memory(session: Session, gpu: float) -> int:
    from vlmdet_cli.stages import memory as stage

    result = stage.memory(session.project(), gpu)
    session.output.result(result, *step_tables.memory(result))
    return int(result.fits is False)


def _forgetting(session: Session, run: str) -> int:
    from vlmdet_cli.stages.inference.forgetting import forgetting

    with session.output.progress() as bars:
        result = forgetting(session.project(), run, bars)
    session.output.result(result, *step_tables.forgetting(result))
    return 0


def _engines(session: Session, images: Sequence[Path], model: str, names: Sequence[str], pictures: int) -> int:
    from vlmdet_cli.cli import parity_tables
    from vlmdet_cli.stages.inference.engine_parity import engine_parity
    from vlmdet_cli.stages.inference.infer_model import InferRequest

    request = InferRequest(
        images=images,
        model=model,
        in_project=session.options.project is not None,
        sets=session.options.sets,
        show_download=session.output.shows_progress,
    )
    with session.output.progress() as bars:
        result = engine_parity(session.project, request, names, pictures, bars)
    session.output.result(result, *parity_tables.parity(result))
    return int(not result.is_good)
