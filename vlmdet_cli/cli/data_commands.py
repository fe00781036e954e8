"""The commands on data: ``prepare``, ``augment``, ``show``."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import RenderableType

from vlmdet_cli.cli import step_tables
from vlmdet_cli.cli.session import Session, Shard, shard_of
from vlmdet_cli.errors import UsageError
from vlmdet_cli.project import Project, convert


def prepare(
    context: typer.Context,
    annotations: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Annotation file, in place of a project file.")
    ] = None,
    images: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of its pictures.")] = None,
    output: Annotated[Path | None, typer.Option(metavar="DIR", help="Output folder.")] = None,
    report: Annotated[
        bool, typer.Option("--report", metavar="", help="Describe the data; search for duplicate pictures.")
    ] = False,
    shard: Shard = "",
) -> None:
    """Choose a subset of the data and write it as instruction rows.

    Example: vlmdet prepare --report --set subset.pictures=500
    """
    from vlmdet_cli.stages.data import chunks
    from vlmdet_cli.stages.data import prepare as stage

    session: Session = context.obj
    project = _sharded(_project_of_files(session, annotations, images, output), shard)
    session.warn(chunks.lengths_warning(project))
    with session.output.progress() as bars:
        result = stage.prepare(project, bars, report=report)
    for warning in result.warnings:
        session.warn(warning)
    session.output.result(result, *step_tables.prepare(result), *_data_report(result.report))
    if annotations is None:
        session.suggest("augment" if project.config.augment.questions else "train")


def _project_of_files(session: Session, annotations: Path | None, images: Path | None, output: Path | None) -> Project:
    """The project file's project, or one of the files that the command line names."""
    if annotations is images is output is None:
        return session.project()
    missing = [name for name, value in {"--annotations": annotations, "--output": output}.items() if value is None]
    if missing:
        raise UsageError(f"Missing: {', '.join(missing)}", hint="Without a project file, they are needed.")
    source = {"annotations": str(annotations), "images": str(images or "")}
    data = {"train": source, "split": {"val": 0.0, "test": 0.0}}
    tree = {"project": {"output": str(output)}, "data": data}
    return Project(Path.cwd(), convert(tree, session.options.sets, "command line"))


def _data_report(report: Any) -> Iterator[RenderableType]:
    if report is not None:
        from vlmdet_cli.cli import data_tables

        yield from data_tables.report(report)


def _sharded(project: Project, shard: str) -> Project:
    """The project, limited to a shard where one is named."""
    return Project(project.root, project.config, shard_of(shard)) if shard else project


def augment(context: typer.Context, shard: Shard = "") -> None:
    """Add questions that teach counting and space; mix the train file.

    Example: vlmdet augment --set augment.question_ratio=0.5
    """
    from vlmdet_cli.stages.data import augment as stage

    session: Session = context.obj
    project = _sharded(session.project(), shard)
    with session.output.progress() as bars:
        result = stage.augment(project, bars)
    session.output.result(result, *step_tables.augment(result))
    session.suggest("train")


def show(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Rows, answers, or swift infer's result file.")],
    number: Annotated[
        int | None, typer.Argument(metavar="N", min=1, help="The row's number.", show_default="the first five rows")
    ] = None,
    kind: Annotated[
        str, typer.Option(metavar="KIND", help="Show only rows of this kind.", show_default="every kind")
    ] = "",
    dialect: Annotated[
        str,
        typer.Option(metavar="NAME", help="The box format of a model family.", show_default="the project's"),
    ] = "",
    draw: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the row's picture with its boxes: PNG or JPEG.")
    ] = None,
) -> None:
    """Show rows as a person reads them; draw a row's picture.

    Example: vlmdet show out/augment/train.jsonl 7 --draw row.png
    """
    from vlmdet_cli.cli import row_tables
    from vlmdet_cli.stages.data import show as stage

    session: Session = context.obj
    dialect, max_pixels = session.dialect(dialect, file)
    rows = stage.show(file, number, kind=kind, dialect=dialect, max_pixels=max_pixels, draw=draw)
    session.output.result(rows, *row_tables.show(rows))
