"""doctor: what is installed and at hand, line by line: ok, warning or problem, and what to do."""

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from vlmdet_cli import __version__
from vlmdet_cli.errors import VlmdetError
from vlmdet_cli.project import SPLITS, Project, load, runs
from vlmdet_cli.training import swift

State = Literal["ok", "warning", "problem"]
STACK = ("torch", "torchvision", "transformers", "ms-swift", "qwen-vl-utils", "decord")
INSTALL = "pip install 'vlmdet[train]'"


class Check(msgspec.Struct, frozen=True):
    """One line: what was looked at, how it stands, what was found, what to do."""

    name: str
    state: State
    found: str
    hint: str = ""


def doctor(project_file: Path, overrides: Sequence[str] = ()) -> tuple[Check, ...]:
    """All checks; those of the project only where ``project_file`` exists. A problem is a check, never an error."""
    project_checks = _project(project_file, overrides) if project_file.exists() else _no_project(project_file)
    return (*_programs(), *_stack(), _swift_flags(), _memory(), _gpu(), *project_checks)


def _programs() -> Iterator[Check]:
    yield Check("vlmdet", "ok", __version__)
    yield Check("python", "ok", f"{platform.python_version()}, {sys.executable}")


def _stack() -> Iterator[Check]:
    for name in STACK:
        try:
            yield Check(name, "ok", importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Check(name, "warning", "not installed", f"train, merge and infer need it: {INSTALL}")


def _swift_flags() -> Check:
    try:
        swift.require()
    except VlmdetError as error:
        return Check("swift", "warning", error.what, f"train and merge need it: {INSTALL}")
    return Check(
        "swift",
        "ok",
        f"{swift.program()}, flags of version {'.'.join(map(str, swift.version()))}: "
        f"--{swift.tuner_flag(swift.version())}",
    )


def _memory() -> Check:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    hint = "" if total >= 16 else "A 2B model is loaded through main memory: about 10 GB."
    return Check("memory", "warning" if hint else "ok", f"{total:,.0f} GB", hint)


def _gpu() -> Check:
    devices = swift.gpu_memory()
    if devices:
        small = min(devices) < 20
        hint = (
            "The documented run on a 2B model takes about 20 GB; see sample_configs/small_lora.toml." if small else ""
        )
        found = ", ".join(f"{size:,.0f} GB" for size in devices)
        return Check("GPU", "warning" if small else "ok", f"{len(devices)} with {found}", hint)
    return Check(
        "GPU", "warning", "none", "Training runs on the CPU in float32: right for the demo, slow for 2B models."
    )


def _no_project(path: Path) -> Iterator[Check]:
    yield Check("project", "warning", f"no {path}", "Write one with `vlmdet init`, or name one with -p.")


def _project(path: Path, overrides: Sequence[str]) -> Iterator[Check]:
    try:
        project = load(path, overrides)
    except VlmdetError as error:
        yield Check("project", "problem", "; ".join([error.what, *error.why]), error.hint)
        return
    yield Check("project", "ok", str(path))
    yield from _sources(project)
    yield _model(project)
    yield _disk(project)
    yield from _products(project)


def _sources(project: Project) -> Iterator[Check]:
    data = project.config.data
    for split, number, source in ((s, n, one) for s in SPLITS for n, one in enumerate(data.sources(s))):
        place = f"data.{split}" + (f".{number}" if len(data.sources(split)) > 1 else "")
        for kind, value, there in (
            ("annotations", source.annotations, Path.exists),
            ("images", source.images, Path.is_dir),
        ):
            if not value:
                continue
            path = project.path(value)
            if there(path):
                yield Check(f"{place}.{kind}", "ok", str(path))
            else:
                yield Check(f"{place}.{kind}", "problem", f"not there: {path}", "Correct it in the project file.")


def _model(project: Project) -> Check:
    name = project.config.train.model
    folder = project.path(name)
    if folder.is_dir():
        whole = (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))
        hint = "" if whole else "A model folder holds config.json and *.safetensors."
        return Check("train.model", "ok" if whole else "problem", str(folder), hint)
    if name.startswith((".", "/", "~")):
        return Check("train.model", "problem", f"not there: {folder}", "Correct train.model.")
    return Check("train.model", "ok", f"{name}, which swift fetches from its hub unless it is cached")


def _disk(project: Project) -> Check:
    folder = next(path for path in (project.output.absolute(), *project.output.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(folder).free / 1e9
    state: State = "ok" if free > 20 else "warning"
    hint = "" if free > 20 else "A merged 2B model takes about 5 GB, each checkpoint about 0.5 GB."
    return Check("disk", state, f"{free:,.0f} GB free at {folder}", hint)


def _products(project: Project) -> Iterator[Check]:
    prepared = [split for split in SPLITS if project.subset(split).is_file()]
    yield Check("prepared", "ok", ", ".join(prepared) or "nothing yet", "" if prepared else "Run `vlmdet prepare`.")
    every = runs.runs(project.runs)
    yield Check("runs", "ok", ", ".join(f"{run.name}: {run.state}" for run in every) or "none yet")
