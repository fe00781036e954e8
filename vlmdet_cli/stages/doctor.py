"""doctor: checks the installation, the machine and the project; each check is ok, a warning or a problem."""

import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import psutil

from vlmdet_cli import __version__
from vlmdet_cli.core import gpus
from vlmdet_cli.core.packages import installed
from vlmdet_cli.errors import VlmdetError
from vlmdet_cli.project import SPLITS, Project, load, runs
from vlmdet_cli.training import arguments, swift

State = Literal["ok", "warning", "problem"]
STACK = ("torch", "torchvision", "transformers", "ms-swift", "qwen-vl-utils", "decord")
BASE = (
    "accelerate", "trl", "peft", "vllm", "openai", "ray", "numpy", "pillow", "hotcoco", "pycocotools", "typer", "rich",
    "msgspec",
)  # fmt: skip
INSTALL = "pip install 'vlmdet[train]'"


class Check(msgspec.Struct, frozen=True):
    """A checked item, its state, the finding, and what to do about it."""

    name: str
    state: State
    finding: str = msgspec.field(name="found")
    hint: str = ""


def doctor(project_file: Path, overrides: Sequence[str] = ()) -> tuple[Check, ...]:
    """All checks; those of the project only where ``project_file`` exists. Problems are checks; no error is raised."""
    project_checks = _project(project_file, overrides) if project_file.exists() else _no_project(project_file)
    return (*_programs(), *_stack(), _swift_flags(), _memory(), _gpu(), *project_checks)


def _programs() -> Iterator[Check]:
    yield Check("vlmdet", "ok", __version__)
    yield Check("python", "ok", f"{platform.python_version()}, {sys.executable}")


def environment() -> dict[str, str]:
    """What a report of a bug needs: Python, the system, its GPUs, and the packages that vlmdet stands on."""
    versions = installed([*STACK, *BASE])
    packages = {name: versions.get(name, "not installed") for name in (*STACK, *BASE)}
    system = {"python": platform.python_version(), "system": platform.platform(), "GPU": _gpu().finding}
    return {**system, **packages}


def _stack() -> Iterator[Check]:
    versions = installed(STACK)
    for name in STACK:
        if name in versions:
            yield Check(name, "ok", versions[name])
        else:
            yield Check(name, "warning", "not installed", f"train, merge and infer need it: {INSTALL}")


def _swift_flags() -> Check:
    try:
        swift.require()
    except VlmdetError as error:
        return Check("swift", "warning", error.what, f"train and merge need it: {INSTALL}")
    return Check(
        "swift",
        "ok",
        f"{swift.program()}, flags of version {'.'.join(map(str, arguments.version()))}: "
        f"--{arguments.tuner_flag(arguments.version())}",
    )


def _memory() -> Check:
    total = psutil.virtual_memory().total / 1e9
    hint = "" if total >= 16 else "A 2B model is loaded through main memory: about 10 GB."
    return Check("memory", "warning" if hint else "ok", f"{total:,.0f} GB", hint)


def _gpu() -> Check:
    devices = gpus.gpu_memory()
    if devices:
        sizes = ", ".join(f"{size:,.0f} GB" for size in devices)
        small = "The documented run on a 2B model takes about 20 GB; see sample_configs/small_lora.toml."
        is_small = min(devices) < 20
        return Check("GPU", "warning" if is_small else "ok", f"{len(devices)} with {sizes}", small if is_small else "")
    slow = "Training runs on the CPU in float32: enough for the demo, slow for a 2B model."
    return Check("GPU", "warning", "none", slow)


def _no_project(path: Path) -> Iterator[Check]:
    yield Check("project", "warning", f"no {path}", "Write one with `vlmdet init`, or name one with -p.")


def _project(path: Path, overrides: Sequence[str]) -> Iterator[Check]:
    try:
        project = load(path, overrides)
    except VlmdetError as error:
        yield Check("project", "problem", "; ".join([error.what, *error.why]), error.hint)
        return
    notes = "; ".join(project.notes)
    yield Check("project", "warning" if notes else "ok", str(path), notes)
    yield from _sources(project)
    yield _model(project)
    yield _disk(project)
    yield from _artefacts(project)


def _sources(project: Project) -> Iterator[Check]:
    data = project.config.data
    for split in SPLITS:
        sources = data.sources(split)
        for number, source in enumerate(sources):
            key = f"data.{split}.{number}" if len(sources) > 1 else f"data.{split}"
            yield from _path(project, f"{key}.annotations", source.annotations, Path.exists)
            yield from _path(project, f"{key}.images", source.images, Path.is_dir)


def _path(project: Project, key: str, value: str, exists: Callable[[Path], bool]) -> Iterator[Check]:
    """The check of a path of the project file; nothing where the key has no value."""
    path = project.path(value)
    if value and exists(path):
        yield Check(key, "ok", str(path))
    elif value:
        yield Check(key, "problem", f"does not exist: {path}", f"Correct {key} in the project file.")


def _model(project: Project) -> Check:
    name = project.config.train.model
    folder = project.path(name)
    if folder.is_dir():
        whole = (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))
        hint = "" if whole else "A model folder holds config.json and *.safetensors."
        return Check("train.model", "ok" if whole else "problem", str(folder), hint)
    if name.startswith((".", "/", "~")):
        return Check("train.model", "problem", f"does not exist: {folder}", "Correct train.model in the project file.")
    return Check("train.model", "ok", f"{name}, which swift downloads from its hub unless it is cached")


def _disk(project: Project) -> Check:
    folder = next(path for path in (project.output.absolute(), *project.output.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(folder).free / 1e9
    state: State = "ok" if free > 20 else "warning"
    hint = "" if free > 20 else "A merged 2B model takes about 5 GB, each checkpoint about 0.5 GB."
    return Check("disk", state, f"{free:,.0f} GB free at {folder}", hint)


def _artefacts(project: Project) -> Iterator[Check]:
    prepared = [split for split in SPLITS if project.subset(split).is_file()]
    yield Check("prepared", "ok", ", ".join(prepared) or "nothing yet", "" if prepared else "Run `vlmdet prepare`.")
    states = [f"{run.name}: {run.state}" for run in runs.runs(project.runs)]
    yield Check("runs", "ok", ", ".join(states) or "none yet")
