"""merge: LoRA checkpoints and their base model to one model folder, by the real ``swift export``.

The model goes into the checkpoint's run. It is exported beside its final folder, asked the same pictures as the adapter
on its base (``merge_check``), and moved there when it is whole, its marker ``vlmdet.json`` written before the move; so
``merged/`` is always the last whole merge or absent, never a half, a wrong or a stale one.

Several adapters are merged one after another, each by a ``swift export`` of its own onto the model of those before it:
given all at once, swift loads each over the one before it and merges the last alone.
"""

import contextlib
import datetime
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from vlmdet_cli.core import gpus, programs
from vlmdet_cli.core.locks import lock
from vlmdet_cli.errors import EngineError
from vlmdet_cli.project import Project
from vlmdet_cli.project.run_record import MergeCheck, MergeRecord, write_record
from vlmdet_cli.stages.merging import merge_check
from vlmdet_cli.stages.merging.merge_check import Questions
from vlmdet_cli.stages.merging.merge_sources import MergeSources, merge_sources, model_flags, require_space
from vlmdet_cli.stages.merging.merged_model import complete, write_marker
from vlmdet_cli.stages.merging.model_card import write_card
from vlmdet_cli.training import arguments, swift
from vlmdet_cli.training.hub import cached_folder
from vlmdet_cli.training.settings import Flag

HINT = "The log says more; `vlmdet doctor` checks the machine."
WORK, DIFFERS = "merging", "merged.differs"
NO_SPACE = "No space left on device"
Note = Callable[[str], None]


class MergeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The command line of ``merge``. ``checkpoints``: folders or steps, merged in this order. ``verify``: the number of
    pictures that both models are asked, None for the setting. ``force``: merge into a base that has changed.
    """

    run: str = ""
    checkpoints: tuple[str, ...] = ()
    verify: int | None = None
    force: bool = False


class MergeResult(msgspec.Struct, frozen=True, kw_only=True):
    """``run``: the checkpoint's run, "" where it is of none. ``check``: None where the merge was not verified."""

    run: str
    model: str
    checkpoint: str
    checkpoints: list[str]
    command: str
    megabytes: float
    seconds: float
    check: MergeCheck | None = None


def merge(
    project: Project,
    options: MergeOptions | None = None,
    *,
    warn: Note = lambda _text: None,
    tick: Callable[[], None] = lambda: None,
) -> MergeResult:
    """Merge checkpoints into the last one's run, by default the one that the latest done run was trained to keep.

    Raises ``UsageError`` and ``DataError`` for checkpoints and base models, ``EngineError`` where swift fails or the
    merged model differs from the adapter on its base.
    """
    options = options or MergeOptions()
    settings, started = project.config.merge, time.monotonic()
    sources = merge_sources(project, options.run, options.checkpoints or settings.checkpoints, force=options.force)
    swift.require()
    asked = merge_check.questions(project, sources, settings.verify if options.verify is None else options.verify)
    with lock(sources.owner.folder, ".merge.lock"):
        require_space(project, sources)
        commands, check = Merging(project, sources, asked, warn, tick).run()
    target = sources.owner.folder / "merged"
    return MergeResult(
        run=sources.run.name if sources.run else "",
        model=str(target),
        checkpoint=str(sources.checkpoints[-1]),
        checkpoints=[str(checkpoint) for checkpoint in sources.checkpoints],
        command=" && ".join(command.quoted() for command in commands),
        megabytes=round(sum(path.stat().st_size for path in target.rglob("*")) / 1e6, 1),
        seconds=round(time.monotonic() - started, 1),
        check=check,
    )


class Merging:
    """One merge, in a folder whose lock is held."""

    def __init__(
        self,
        project: Project,
        sources: MergeSources,
        asked: Questions,
        warn: Note,
        tick: Callable[[], None],
    ) -> None:
        self._project, self._sources, self._asked = project, sources, asked
        self._warn, self._tick = warn, tick
        self._folder = sources.owner.folder
        self._work = self._folder / f"{WORK}-{os.getpid()}"  # not that of a killed merge, whose swift may still write
        self._differing: list[str] = []

    def run(self) -> tuple[list[programs.Command], MergeCheck | None]:
        self._clear()
        shutil.rmtree(self._folder / DIFFERS, ignore_errors=True)
        try:
            return self._merged()
        finally:
            self._clear()

    def _clear(self) -> None:
        for path in self._folder.glob(f"{WORK}*"):
            shutil.rmtree(path, ignore_errors=True)

    def _merged(self) -> tuple[list[programs.Command], MergeCheck | None]:
        with self._checker() as checker:
            commands = self._export()
            base = self._sources.base or cached_folder(self._sources.base_name)
            if base is None:
                raise EngineError(f"The base model is not where swift's hub keeps models: {self._sources.base_name}")
            complete(self._work, base)
            check, reason = self._checked(checker, base)
        if check and check.reason:
            self._refuse(check)
        self._publish(self._record(check, reason))
        return commands, check

    @contextlib.contextmanager
    def _checker(self) -> Iterator[merge_check.Checker | None]:
        """The process that asks; None where there is nothing to ask."""
        if not self._asked.rows:
            yield None
            return
        with merge_check.started(self._folder, self._folder / merge_check.LOG) as checker:
            yield checker

    # --- swift ---------------------------------------------------------------------------------------------------

    def _export(self) -> list[programs.Command]:
        """Merge the adapters one after another; the last model is left in the work folder."""
        log = self._folder / "merge.log"
        log.unlink(missing_ok=True)
        base, commands = self._sources.base, []
        for number, checkpoint in enumerate(self._sources.checkpoints, 1):
            is_last = number == len(self._sources.checkpoints)
            output = self._work if is_last else self._part(number)
            shutil.rmtree(output, ignore_errors=True)
            try:
                commands.append(self._export_one(checkpoint, base, output, log))
            finally:
                if number > 1:
                    shutil.rmtree(self._part(number - 1), ignore_errors=True)
            base = output
        return commands

    def _part(self, number: int) -> Path:
        return self._work.with_name(f"{self._work.name}.{number}")

    def _export_one(self, checkpoint: Path, base: Path | None, output: Path, log: Path) -> programs.Command:
        flags: dict[str, Flag] = {
            **model_flags(self._project, checkpoint),
            **({"torch_dtype": "float32"} if gpus.gpus() == 0 else {}),
            **self._project.config.merge.swift,
            **({"model": str(base)} if base else {}),
        }
        argv = (swift.program(), *arguments.export(checkpoint=checkpoint, output=output, flags=flags))
        env = arguments.environment(root_images=self._project.output, visible="", cpu=True)
        command = programs.Command(argv, env)
        with _space_named():
            programs.run(command, log, cwd=self._project.root, watch=self._tick, hint=HINT)
        if not (output / "config.json").is_file() or not any(output.glob("*.safetensors")):
            raise EngineError(
                "swift export ended well but left no whole model", why=f"Searched in {output}.", hint=HINT
            )
        return command

    # --- the check -----------------------------------------------------------------------------------------------

    def _checked(self, checker: merge_check.Checker | None, base: Path) -> tuple[MergeCheck | None, str]:
        """The verdict; None and the reason, which is a warning too, where the models cannot be asked."""
        if checker is None:
            if self._asked.reason != merge_check.NOT_ASKED_FOR:
                self._warn(f"the merge is not verified: {self._asked.reason}.")
            return None, self._asked.reason
        started = time.monotonic()
        job = merge_check.check_job(self._project, self._sources, base, self._work, self._asked)
        if isinstance(job, str):
            self._warn(f"the merge is not verified: {job}.")
            return None, job
        compared = checker.compare(job, self._tick)
        self._differing = merge_check.first_difference(self._asked.rows, compared.asked)
        check = merge_check.judged(compared, job, self._asked, time.monotonic() - started)
        if check.effect <= check.bound and not check.reason:
            self._warn(
                f"the check says little: the adapter changes no logit by more than {check.effect:.2g}, and rounding in "
                f"{check.dtype} may explain {check.bound:.2g}."
            )
        return check, ""

    def _refuse(self, check: MergeCheck) -> None:
        """Put the model where nothing takes it for the run's, and raise ``EngineError``."""
        kept = self._folder / DIFFERS
        self._work.rename(kept)
        self._write_record(self._record(check, check.reason))
        difference = "no finite number" if check.difference is None else f"{check.difference:.3g}"
        raise EngineError(
            "The merged model is not the adapter on its base",
            why=[
                check.reason,
                f"Logits differ by {difference}; rounding in {check.dtype} explains {check.bound:.2g}.",
                f"{check.equal} of {check.answers} answers are equal.",
                *self._differing,
            ],
            hint=f"It is kept in {kept}, until the next merge, and `merged` is as it was. Check the versions of "
            "ms-swift and peft. `vlmdet infer --adapter` asks the adapter on its base.",
        )

    # --- the end -------------------------------------------------------------------------------------------------

    def _record(self, check: MergeCheck | None, reason: str) -> MergeRecord:
        return MergeRecord(
            checkpoints=tuple(self._relative(checkpoint) for checkpoint in self._sources.checkpoints),
            merged=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            state="unverified" if check is None else "differs" if check.reason else "verified",
            check=check,
            reason=reason,
        )

    def _relative(self, checkpoint: Path) -> str:
        output = self._project.output
        return str(checkpoint.relative_to(output) if checkpoint.is_relative_to(output) else checkpoint)

    def _publish(self, record: MergeRecord) -> None:
        """Mark the new folder, which replaces the earlier one; a stop in between leaves no model, not a wrong one."""
        run = self._sources.run
        write_card(self._work, self._project, self._sources, record)
        write_marker(self._work, run.name if run else None, record, self._sources.checkpoints)
        old, target = self._folder / "merged.old", self._folder / "merged"
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.rename(old)
        self._work.rename(target)
        shutil.rmtree(old, ignore_errors=True)
        self._write_record(record)

    def _write_record(self, record: MergeRecord) -> None:
        if run := self._sources.run:
            write_record(run.folder, msgspec.structs.replace(run.record, merge=record))


@contextlib.contextmanager
def _space_named() -> Iterator[None]:
    """Say of a swift that failed for want of space that this is so."""
    try:
        yield
    except EngineError as error:
        if any(NO_SPACE in line for line in error.why):
            raise EngineError(error.what, why=error.why, hint="Free some space, and merge again.") from None
        raise
