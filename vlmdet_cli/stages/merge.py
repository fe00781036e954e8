"""merge: a LoRA checkpoint and its base model to one model folder, by the real ``swift export``.

The folder is made beside its final place and moved there when it is whole, its marker ``vlmdet.json`` written
before the move; so ``merged/`` is always the last whole merge or absent, never a half or a stale one.
"""

import datetime
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from vlmdet_cli.core.files import file_hash, read_json, write_json
from vlmdet_cli.core.locks import lock
from vlmdet_cli.errors import DataError, EngineError, UsageError
from vlmdet_cli.project import Project, runs
from vlmdet_cli.training import swift

MARKER = "vlmdet.json"
HINT = "The log tells more; `vlmdet doctor` checks the machine."


class MergeResult(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    checkpoint: str
    command: str
    megabytes: float
    seconds: float


def merge(project: Project, checkpoint: str = "", tick: Callable[[], None] = lambda: None) -> MergeResult:
    """Merge a checkpoint (by default the project's, else the latest) into ``merged/``."""
    source = runs.find_checkpoint(project.runs, checkpoint or project.config.merge.checkpoint, project.root)
    if not (source / "adapter_config.json").is_file():
        raise DataError(f"The checkpoint holds no adapter: {source}", hint="A fully tuned model needs no merge.")
    swift.require()
    started = time.monotonic()
    with lock(project.output / "merging"):
        command = _export(project, source, tick)
        _publish(project, source)
    return MergeResult(
        model=str(project.merged),
        checkpoint=str(source),
        command=command.quoted(),
        megabytes=round(sum(path.stat().st_size for path in project.merged.rglob("*")) / 1e6, 1),
        seconds=round(time.monotonic() - started, 1),
    )


def _work(project: Project) -> Path:
    return project.output / "merging" / "model"


def _export(project: Project, source: Path, tick: Callable[[], None]) -> swift.Command:
    work = _work(project)
    shutil.rmtree(work, ignore_errors=True)
    cpu = swift.gpus() == 0
    extra = {**({"torch_dtype": "float32"} if cpu else {}), **project.config.merge.swift}
    argv = swift.export(project.config.train, checkpoint=source, output=work, root=project.root, extra=extra)
    command = swift.Command(argv, swift.environment(root_images=project.output, visible="", processes=1, cpu=True))
    log = project.output / "merging" / "swift.log"
    log.unlink(missing_ok=True)
    swift.run(command, log, cwd=project.root, watch=tick, hint=HINT)
    if not (work / "config.json").is_file() or not any(work.glob("*.safetensors")):
        raise EngineError("swift export ended well but left no whole model", why=f"Looked in {work}.", hint=HINT)
    return command


def _publish(project: Project, source: Path) -> None:
    """Mark the new folder and put it in the old one's place; a stop in between leaves no model, not a wrong one."""
    when = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    weights = source / "adapter_model.safetensors"
    marker = {
        "max_pixels": project.config.train.swift.get("max_pixels"),
        "checkpoint": str(source.relative_to(project.output) if source.is_relative_to(project.output) else source),
        "adapter": file_hash(weights) if weights.is_file() else None,
        "merged": when,
    }
    work, old = _work(project), project.output / "merging" / "old"
    write_json(work / MARKER, marker)
    shutil.rmtree(old, ignore_errors=True)
    if project.merged.exists():
        project.merged.rename(old)
    work.rename(project.merged)
    shutil.rmtree(old, ignore_errors=True)


def merged_model(project: Project) -> tuple[Path, str]:
    """The merged model's folder, and a warning if a newer checkpoint than its own is there."""
    marker = project.merged / MARKER
    if not marker.is_file():
        raise UsageError(f"No merged model: {project.merged}", hint="Run `vlmdet merge`, or name a model with --model.")
    made: dict[str, Any] = read_json(marker, "merged model's marker")
    try:
        newest = runs.latest_checkpoint(project.runs)
    except UsageError:
        return project.merged, ""
    weights = newest / "adapter_model.safetensors"
    if weights.is_file() and made.get("adapter") not in {None, file_hash(weights)}:
        return project.merged, f"the merged model is of {made['checkpoint']}, and {newest.name} is newer."
    return project.merged, ""
