"""The results of the steps and of init and doctor as tables and lines. Pure; prints nothing but training progress."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from vlmdet_cli.cli.layout import Line
from vlmdet_cli.cli.tables import Views, cell, ledger, line, row, short_path, table
from vlmdet_cli.console import Bars, Output, safe

if TYPE_CHECKING:
    from vlmdet_cli.stages.data.augment import AugmentResult
    from vlmdet_cli.stages.data.prepare import PrepareResult
    from vlmdet_cli.stages.doctor import Check
    from vlmdet_cli.stages.evaluation.export import ExportResult
    from vlmdet_cli.stages.evaluation.viz import VizResult
    from vlmdet_cli.stages.inference.forgetting import Forgetting
    from vlmdet_cli.stages.inference.infer import InferResult
    from vlmdet_cli.stages.init import InitResult
    from vlmdet_cli.stages.memory import MemoryReport
    from vlmdet_cli.stages.merging.merge import MergeResult
    from vlmdet_cli.stages.status import Status, StepStatus
    from vlmdet_cli.stages.training.runs import RunsResult
    from vlmdet_cli.stages.training.train import TrainResult
    from vlmdet_cli.training.log_reader import Step


def init(result: "InitResult") -> Views:
    yield line("wrote", short_path(result.project))
    if result.demo:
        folder = result.project.rpartition("/")[0] or "."
        yield Text(f"Next: cd {safe(folder)} && vlmdet prepare")
    else:
        if result.settings:
            settings = ", ".join(f"{key} = {value}" for key, value in result.settings.items())
            purposes = [f"the model family {result.family}"] if result.family else []
            purposes += [f"the preset {result.preset}"] if result.preset else []
            yield Text(f"For {' and '.join(purposes)}: {safe(settings)}")
        if result.preset:
            yield Text("The preset was not run on a GPU: `vlmdet doctor --memory` estimates what it takes.")
        yield Text("Next: set [data.train] to your COCO file and image folder, then run `vlmdet prepare`.")


def prepare(result: "PrepareResult") -> Views:
    splits = result.splits
    counts = table("split", "pictures", "empty", "boxes", "linked", "copied", "fixed", title="Prepared")
    for name, split in splits.items():
        row(counts, name, split.pictures, split.empty, split.boxes, split.linked, split.copied, split.mended)
    yield counts
    yield _categories({name: split.categories for name, split in splits.items()})
    yield ledger({name: split.ledger for name, split in splits.items()})
    for name, split in splits.items():
        yield line(f"{name} rows", short_path(split.rows))


def _categories(splits: Mapping[str, Mapping[str, int]], limit: int = 12) -> Table:
    """Boxes by category, most frequent first; those beyond ``limit`` share a row."""
    names = dict.fromkeys(name for counts in splits.values() for name in counts)
    order = sorted(names, key=lambda name: -sum(counts.get(name, 0) for counts in splits.values()))
    result = table("boxes of", *splits)
    for name in order[:limit]:
        row(result, name, *(counts.get(name, 0) for counts in splits.values()))
    if rest := order[limit:]:
        row(result, f"… {len(rest)} more", *(sum(c.get(name, 0) for name in rest) for c in splits.values()))
    return result


def augment(result: "AugmentResult") -> Views:
    yield ledger(result.ledger)
    yield line("train file", short_path(result.train_file))


class TrainingProgress:
    """Shows training steps as they come: a moving bar on a terminal, else a line at each tenth of the steps."""

    def __init__(self, output: Output, bars: Bars) -> None:
        self._output = output
        self._bars = bars
        self._last_tenth = -1

    def __call__(self, step: "Step") -> None:
        if step.f1 is not None:
            self._output.note(f"step {step.step}/{step.steps}  F1 {step.f1:.3f} on val")
            return
        rate = f"{step.learning_rate:.1e}" if step.learning_rate is not None else "–"
        reward = f"reward {step.reward:.3f}  " if step.reward is not None else ""
        text = f"{reward}loss {step.loss:.4f}  rate {rate}" + (f"  {step.left} left" if step.left else "")
        self._bars("train", step.step, step.steps, text)
        tenth = step.step * 10 // max(step.steps, 1)
        if not self._bars.moving and tenth > self._last_tenth:
            self._last_tenth = tenth
            self._output.note(f"step {step.step}/{step.steps}  {text}")


def train(result: "TrainResult") -> Views:
    yield line("run", short_path(result.run))
    yield line("rows", f"{result.rows:,}, of which {result.too_long:,} over max_length")
    loss = f", loss {result.loss:.4f}" if result.loss is not None else ""
    reward = f", reward {result.reward:.3f}" if result.reward is not None else ""
    yield line("steps", f"{result.steps:,} in {result.seconds:,.0f} s{loss}{reward}")
    yield line("checkpoint", short_path(result.checkpoints[-1]))
    if result.best:
        yield line("best", f"F1 {result.best.f1:.3f} on val at step {result.best.step:,}")
    if result.ledger:
        yield ledger({"": result.ledger})


def merge(result: "MergeResult") -> Views:
    yield line("model", f"{short_path(result.model)} ({result.megabytes:,.1f} MB, {result.seconds:,.0f} s)")
    for checkpoint in result.checkpoints:
        yield line("checkpoint", short_path(checkpoint))
    if check := result.check:
        yield line(
            "verified",
            f"{check.equal} of {check.answers} answers equal, logits within {check.difference:.1g} "
            f"(rounding in {check.dtype}: {check.bound:.1g}; the adapter's effect: {check.effect:.1g})",
        )


def status(result: "Status") -> Views:
    for step in result.data:
        yield Text.assemble((f"{step.name:<12}", "dim"), _state(step), f"  {safe(step.detail)}")
    if result.runs:
        names = [step.name for step in result.runs[0].steps]
        columns = table("run", *names, text=names)
        for run in result.runs:
            columns.add_row(cell(run.name), *(_state_and_detail(step) for step in run.steps))
        yield columns
    for name, step in [("", step) for step in result.data] + [(r.name, step) for r in result.runs for step in r.steps]:
        if step.reason:
            yield line(step.state, f"{name} {step.name}: {step.reason}".strip())


def _state(step: "StepStatus") -> Text:
    styles = {"done": "green", "stale": "yellow", "partial": "yellow", "failed": "red", "interrupted": "red"}
    return Text(step.state, styles.get(step.state, "dim"))


def _state_and_detail(step: "StepStatus") -> Text:
    """The detail alone where the step is done."""
    if step.state == "done" and step.detail:
        return Text(step.detail)
    return _state(step).append(f"\n{step.detail}" if step.detail else "", "")


def runs(result: "RunsResult") -> Views:
    for source, target in result.moved:
        yield line("moved", f"{source} to {target}")
    if not result.runs:
        yield Text("No runs yet: `vlmdet train` starts one.")
        return
    columns = table("run", "state", "steps", "loss", "F1", "merged", "differs", text=("differs",))
    for run in result.runs:
        differs = ", ".join(f"{key}={value}" for key, value in run.differs.items())
        row(columns, run.name, run.state, run.steps, run.loss, run.f1, "yes" if run.merged else "no", differs)
    yield columns


def infer(result: "InferResult") -> Views:
    source = f"from {result.shards:,} shards" if result.shards else f"asked now {result.asked:,}"
    yield line("rows", f"{result.rows:,}, {source}, in {result.seconds:,.1f} s")
    yield line("engine", result.engine)
    yield line("finish", ", ".join(f"{count:,} {name}" for name, count in result.finish.items()))
    yield line("health", ", ".join(f"{count:,} {name}" for name, count in result.health.items()))
    if result.looped:
        yield line("looped", f"{result.looped:,} answers repeat themselves")
    if result.failed:
        yield line("failed", f"{result.failed:,}; --retry-failed asks them again")
    if result.refreshed:
        yield line("refreshed", f"{result.refreshed:,} answers have the truth of today")
    if result.set_aside:
        yield line("set aside", f"{result.set_aside:,} earlier answers, beside the file under a number")
    yield line("answers", short_path(result.answers))
    yield line("detections", short_path(result.detections))


def detections(pictures: Iterable[Mapping[str, Any]]) -> Views:
    """The detections of pictures named on the command line: a table a picture, then its problems."""
    for picture in pictures:
        result = table(safe(picture["image"]), "left", "top", "right", "bottom")
        for label, boxes in picture["object"].items():
            for values in boxes:
                result.add_row(cell(label), *(Text(f"{value:.0f}") for value in values))
        yield result
        if picture.get("error"):
            yield line("error", picture["error"])
        elif not picture["object"]:
            texts = dict.fromkeys(answer["text"] for answer in picture.get("answers", [picture]))
            yield line("no boxes", f"health {picture['health']}: {' | '.join(texts)}")
        for problem in picture["problems"] if not picture.get("error") else ():
            yield line("problem", f"{problem.kind}: {problem.text}")


def drawings(paths: Iterable[Path]) -> Views:
    for path in paths:
        yield line("drawing", short_path(path))


def viz(result: "VizResult") -> Views:
    counts = table("boxes", "")
    for name, count in result.counts.items():
        row(counts, name, count)
    yield counts
    yield ledger({"": result.ledger})
    for note in result.notes:
        yield line("note", note)
    yield line("sheet", short_path(result.sheet))
    if result.curve:
        yield line("curve", short_path(result.curve))
    yield line("page", short_path(result.index))


def export(result: "ExportResult") -> Views:
    yield ledger({"": result.ledger})
    for note in result.notes:
        yield line("note", note)
    for path in result.files:
        yield line("file", short_path(path))


def memory(result: "MemoryReport") -> Views:
    """Gigabytes on each GPU by what takes them, and the settings that take less."""
    yield line("model", f"{short_path(result.model)}, {result.parameters:,} parameters, {result.trained:,} trained")
    parts = table("memory of a GPU", "GB")
    for name, value in (*result.parts.items(), ("total, estimated", result.total)):
        row(parts, name, f"{value:.1f}")
    yield parts
    if result.fits is not None:
        yield line("GPU", f"{result.gpu:,.0f} GB: {'enough' if result.fits else 'too little'}")
    changes = table("a change", "total GB")
    for change in result.changes:
        row(changes, change.setting, f"{change.total:.1f}")
    if result.changes:
        yield changes


def forgetting(result: "Forgetting") -> Views:
    """The right answers of both models, and what became of them."""
    answers = table(f"right of {result.rows:,} general rows", "answers", "share")
    for name, count in (("the base model", result.before), (result.run, result.after)):
        row(answers, name, count, count / result.rows)
    yield answers
    yield line("lost", f"{result.lost:,} that the base model had right; {result.gained:,} gained")
    for example in result.examples:
        yield line("for example", f"{example['prompt']} {example['before']} → {example['after']}")


def doctor(checks: "Iterable[Check]") -> Views:
    marks = {"ok": Text("ok", "green"), "warning": Text("warning", "yellow"), "problem": Text("problem", "bold red")}
    checks = list(checks)
    widest = max((len(check.name) for check in checks), default=0)
    for check in checks:
        name = Text.assemble(marks[check.state], " " * (9 - len(marks[check.state])), check.name)
        finding = check.finding.replace(f"{Path.cwd()}/", "")
        yield Line(name, f"{finding}\n→ {check.hint}" if check.hint else finding, 9 + widest + 2)
