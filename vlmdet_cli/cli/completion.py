"""What the shell completes beside commands and options: keys of ``--set``, runs, experiments, splits, engines, models.

    vlmdet --install-completion

The functions read the project that the command line names so far. What cannot be read completes to nothing.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from vlmdet_cli.errors import VlmdetError
from vlmdet_cli.project import FILE_NAME, SPLITS, Project, load


def settings(incomplete: str) -> list[str]:
    """The keys of a project file, such as ``train.lora_rank=``."""
    import msgspec

    from vlmdet_cli.project.config import Config

    def keys(record: Any, prefix: str) -> Iterator[str]:
        for field in msgspec.structs.fields(record):
            kind = field.type
            if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
                yield from keys(kind, f"{prefix}{field.name}.")
            else:
                yield f"{prefix}{field.name}="

    return [key for key in keys(Config, "") if key.startswith(incomplete)]


def runs(context: typer.Context, incomplete: str) -> list[str]:
    """The project's runs."""
    from vlmdet_cli.project import runs as project_runs

    project = _project(context)
    names = [run.name for run in project_runs.runs(project.runs)] if project else []
    return [name for name in names if name.startswith(incomplete)]


def experiments(context: typer.Context, incomplete: str) -> list[str]:
    """The project's experiments that are not named yet."""
    project = _project(context)
    named = context.params.get("names") or ()
    names = project.config.experiments if project else ()
    return [name for name in names if name.startswith(incomplete) and name not in named]


def splits(incomplete: str) -> list[str]:
    return [split for split in SPLITS if split.startswith(incomplete)]


def _project(context: typer.Context) -> Project | None:
    before_command = context.parent.params.get("project") if context.parent else None
    named = context.params.get("project") or before_command or os.environ.get("VLMDET_PROJECT") or FILE_NAME
    try:
        return load(Path(named))
    except VlmdetError:
        return None
