"""How results look to a person: pure functions from a result to Rich renderables. Prints nothing.

Tables fit 80 columns and read the same without colour. Names from files pass through ``safe``.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from vlmdet_cli.console import Bars, Talk, safe

if TYPE_CHECKING:
    from vlmdet_cli.stages.augment import AugmentResult
    from vlmdet_cli.stages.compare import Comparison, Row
    from vlmdet_cli.stages.doctor import Check
    from vlmdet_cli.stages.evaluate import Report
    from vlmdet_cli.stages.gates import Gate
    from vlmdet_cli.stages.infer import InferResult
    from vlmdet_cli.stages.init import InitResult
    from vlmdet_cli.stages.merge import MergeResult
    from vlmdet_cli.stages.prepare import PrepareResult
    from vlmdet_cli.stages.train import TrainResult
    from vlmdet_cli.stages.viz import VizResult
    from vlmdet_cli.training.log_reader import Step

Views = Iterator[RenderableType]


def table(*columns: str, title: str = "") -> Table:
    """A table whose first column is text and whose others are right-aligned numbers."""
    made = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", title_style="bold", pad_edge=False)
    for number, name in enumerate(columns):
        made.add_column(name, justify="right" if number else "left", overflow="fold" if number == 0 else "ellipsis")
    return made


def cell(value: Any) -> Text:
    """A table cell: counts with separators, shares with three digits, nothing for what is not defined."""
    if value is None:
        return Text("–", style="dim")
    if isinstance(value, float):
        return Text(f"{value:.3f}")
    return Text(f"{value:,}" if isinstance(value, int) else safe(value))


def row(made: Table, *values: Any) -> None:
    made.add_row(*map(cell, values))


def near(path: str | Path) -> str:
    """A path as one would type it: from the current folder where it lies below it."""
    path = Path(path)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def line(name: str, value: object) -> Text:
    """``name  value``, for what a table would make too much of."""
    return Text.assemble((f"{name:<12}", "dim"), safe(value))


def ledger(accounts: "Mapping[str, Mapping[str, Mapping[str, Any]]]") -> Table:
    """In = kept + dropped, with a reason for each drop; one account after the other."""
    made = table("ledger", "in", "kept", "dropped")
    made.add_column("why", overflow="fold")
    for name, account in accounts.items():
        for thing, counts in account.items():
            why = ", ".join(f"{count:,} {safe(reason)}" for reason, count in counts["dropped"].items())
            values = (f"{name} {thing}".strip(), counts["in"], counts["kept"], sum(counts["dropped"].values()))
            made.add_row(*map(cell, values), Text(why))
    return made


def init(made: "InitResult") -> Views:
    yield line("wrote", near(made.project))
    if made.demo:
        folder = made.project.rpartition("/")[0] or "."
        steps = "prepare && vlmdet augment && vlmdet train && vlmdet merge && vlmdet infer && vlmdet eval && vlmdet viz"
        yield Text(f"Next: cd {safe(folder)} && vlmdet {steps}")
    else:
        yield Text("Next: set [data.train] to your COCO file and image folder, then run `vlmdet prepare`.")


def prepare(made: "PrepareResult") -> Views:
    splits = made.splits
    counts = table("split", "pictures", "empty", "boxes", "linked", "copied", "mended", title="Prepared")
    for name, one in splits.items():
        row(counts, name, one.pictures, one.empty, one.boxes, one.linked, one.copied, one.mended)
    yield counts
    yield _categories({name: one.categories for name, one in splits.items()})
    yield ledger({name: one.ledger for name, one in splits.items()})
    for name, one in splits.items():
        yield line(f"{name} rows", near(one.rows))


def _categories(splits: Mapping[str, Mapping[str, int]], most: int = 12) -> Table:
    """Boxes by category, most frequent first; the tail as one line."""
    names = dict.fromkeys(name for counts in splits.values() for name in counts)
    order = sorted(names, key=lambda name: -sum(counts.get(name, 0) for counts in splits.values()))
    made = table("boxes of", *splits)
    for name in order[:most]:
        row(made, name, *(counts.get(name, 0) for counts in splits.values()))
    if rest := order[most:]:
        row(made, f"… {len(rest)} more", *(sum(c.get(name, 0) for name in rest) for c in splits.values()))
    return made


def augment(made: "AugmentResult") -> Views:
    yield ledger(made.ledger)
    yield line("train file", near(made.train_file))


class Steps:
    """Training steps as they come: a moving bar on a terminal, a line each tenth elsewhere."""

    def __init__(self, talk: Talk, bars: Bars) -> None:
        self._talk = talk
        self._bars = bars
        self._said = -1

    def __call__(self, step: "Step") -> None:
        rate = f"{step.learning_rate:.1e}" if step.learning_rate is not None else "–"
        text = (
            f"loss {step.loss:.4f}  rate {rate}  {step.left} left"
            if step.left
            else f"loss {step.loss:.4f}  rate {rate}"
        )
        self._bars("train", step.step, step.steps, text)
        tenth = step.step * 10 // max(step.steps, 1)
        if not self._bars.moving and tenth > self._said:
            self._said = tenth
            self._talk.note(f"step {step.step}/{step.steps}  {text}")


def train(made: "TrainResult") -> Views:
    yield line("run", near(made.run))
    yield line("rows", f"{made.rows:,}, of which {made.too_long:,} over max_length")
    loss = f", loss {made.loss:.4f}" if made.loss is not None else ""
    yield line("steps", f"{made.steps:,} in {made.seconds:,.0f} s{loss}")
    yield line("checkpoint", near(made.checkpoints[-1]))


def merge(made: "MergeResult") -> Views:
    yield line("model", f"{near(made.model)} ({made.megabytes:,.1f} MB, {made.seconds:,.0f} s)")
    yield line("checkpoint", near(made.checkpoint))


def infer(made: "InferResult") -> Views:
    yield line("rows", f"{made.rows:,}, asked now {made.asked:,}, in {made.seconds:,.1f} s")
    yield line("finish", ", ".join(f"{count:,} {name}" for name, count in made.finish.items()))
    yield line("health", ", ".join(f"{count:,} {name}" for name, count in made.health.items()))
    yield line("answers", near(made.answers))
    yield line("detections", near(made.detections))


def viz(made: "VizResult") -> Views:
    counts = table("boxes", "")
    for name, count in made.counts.items():
        row(counts, name, count)
    yield counts
    yield ledger({"": made.ledger})
    for note in made.notes:
        yield line("note", note)
    yield line("sheet", near(made.sheet))
    if made.curve:
        yield line("curve", near(made.curve))
    yield line("page", near(made.index))


def detections(pictures: "Iterable[Mapping[str, Any]]") -> Views:
    """The detections of pictures named on the command line: a table a picture, then its problems."""
    for one in pictures:
        made = table(safe(one["image"]), "left", "top", "right", "bottom")
        for label, boxes in one["object"].items():
            for values in boxes:
                made.add_row(cell(label), *(Text(f"{value:.0f}") for value in values))
        yield made
        if one.get("error"):
            yield line("error", one["error"])
        elif not one["object"]:
            yield line("no boxes", f"health {one['health']}: {one['text']}")
        for problem in one["problems"]:
            yield line("problem", f"{problem.kind}: {problem.text}")


def doctor(checks: "Iterable[Check]") -> Views:
    marks = {"ok": Text("ok", "green"), "warning": Text("warning", "yellow"), "problem": Text("problem", "bold red")}
    made = Table(box=None, show_header=False, pad_edge=False)
    for name in ("state", "name", "found"):
        made.add_column(name, overflow="fold")
    for one in checks:
        found = Text(safe(one.found))
        if one.hint:
            found.append(f"\n→ {safe(one.hint)}", "dim")
        made.add_row(marks[one.state], Text(one.name), found)
    yield made


def compare(made: "Comparison") -> Views:
    pictures, objects = made.protocol["pictures"], made.protocol["objects"]
    title = f"Detection at IoU {made.protocol['iou']:.2f}: {pictures:,} pictures, {objects:,} objects"
    for text in made.differs:
        yield Text.assemble(("not measured alike: ", "yellow"), safe(text))
    yield _compared("measure", made.names, made.measures, title)
    yield _compared("F1 of class", made.names, dict(list(made.per_class.items())[:20]), "")
    if made.settings:
        shown = table("settings that differ", *made.names)
        for key, values in made.settings.items():
            shown.add_row(cell(key), *(cell(_short(value)) for value in values))
        yield shown


def _compared(first: str, names: "Iterable[str]", rows: "Mapping[str, Row]", title: str) -> Table:
    """A column a report; beside each but the first its difference, with the interval where there is one."""
    head, *others = names
    shown = table(first, head, title=title)
    for name in others:
        shown.add_column(name, justify="right")
        shown.add_column("change", justify="right")
    for name, one in rows.items():
        cells = [cell(one.values[0])]
        for value, difference, low_high in zip(one.values[1:], one.differences, one.intervals, strict=True):
            cells += [cell(value), _change(difference, low_high)]
        shown.add_row(cell(name), *cells)
    return shown


def _change(difference: float | None, low_high: "list[float] | None") -> Text:
    """A difference; bold where its interval does not hold 0."""
    if difference is None:
        return cell(None)
    if low_high is None:
        return Text(f"{difference:+.3f}")
    low, high = low_high
    return Text(f"{difference:+.3f} [{low:+.3f}, {high:+.3f}]", "bold" if low > 0 or high < 0 else "")


def _short(value: Any) -> str:
    text = "–" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:23]}…"


def report(made: "Report", gates: "Iterable[Gate]") -> Views:
    """The headline, classes, sizes, errors, counting, scores, questions, health, the ledger, and the gates."""
    yield _headline(made)
    yield _per_class(made)
    yield _scores({f"{name} objects": one for name, one in made.sizes.items()}, "By size", "size")
    if made.errors:
        yield _errors(made)
    if made.counting:
        yield _counting(made)
    if made.scores:
        yield from _score_quality(made)
    if made.tasks:
        yield _tasks(made)
    if made.answers:
        yield _answers(made)
    yield ledger({"": made.ledger})
    for gate in gates:
        word, sign = ("passed", "≥") if gate.passed else ("MISSED", "<")
        value = "undefined" if gate.value is None else f"{gate.value:.4f}"
        yield Text(
            f"gate {word}: {safe(gate.name)} = {value} {sign} {gate.wanted:g}", "green" if gate.passed else "red"
        )


def _headline(made: "Report") -> Table:
    protocol, overall, coco = made.protocol, made.overall, made.coco
    title = f"Detection at IoU {protocol['iou']:.2f}, classes: {protocol['classes']}"
    shown = table("measure", "value", "95 % interval", title=title)
    at = f"mean IoU@{protocol['iou'] * 100:.0f}"
    for name, key in (("F1", "f1"), ("precision", "precision"), ("recall", "recall"), (at, "mean_iou")):
        low_high = made.intervals.get(key)
        interval = Text(f"{low_high[0]:.3f} – {low_high[1]:.3f}") if low_high else cell(None)
        shown.add_row(cell(name), cell(overall[key]), interval)
    for name, value in (
        ("macro F1", overall["macro_f1"]),
        ("F1 over 0.50:0.95", overall["f1_50_95"]),
        (f"COCO AP (scores: {coco['score_source']})", coco["AP"]),
        ("COCO AP50", coco["AP50"]),
        ("COCO AP75", coco["AP75"]),
        ("pictures", protocol["pictures"]),
        ("objects", protocol["objects"]),
        ("found / false / missed", f"{overall['tp']:,} / {overall['fp']:,} / {overall['fn']:,}"),
    ):
        shown.add_row(cell(name), cell(value), "")
    return shown


def _errors(made: "Report", most: int = 3) -> Table:
    """TIDE's kinds, and the classes most often taken for another."""
    shown = table("error", "boxes", "AP50 if mended", title="Kinds of error")
    for name, one in made.errors.items():
        row(shown, name, one["count"], one["delta_ap50"])
    mixed = [
        (count, true, said)
        for true, counts in made.confusion.get("pairs", {}).items()
        for said, count in counts.items()
        if said != true
    ]
    for count, true, said in sorted(mixed, reverse=True)[:most]:
        row(shown, f"{true} taken for {said}", count, None)
    return shown


def _counting(made: "Report", most: int = 5) -> Table:
    shown = table("count error of", "pictures", "mean absolute", "bias", "exact", title="Counting, by boxes")
    worst = sorted(made.counting["per_class"].items(), key=lambda pair: -(pair[1]["mean_absolute_error"] or 0))
    for name, one in [("all classes", made.counting), *worst[:most]]:
        row(shown, name, one["n"], one["mean_absolute_error"], one["bias"], one["exact"])
    return shown


def _score_quality(made: "Report") -> Views:
    best, calibration = made.scores["best"], made.scores["calibration"]
    yield line("best F1", f"{best['f1']:.3f} with scores ≥ {best['threshold']:.3f} "
                          f"(P {best['precision']:.3f}, R {best['recall']:.3f})")  # fmt: skip
    if calibration:
        title = f"Reliability of scores: calibration error {calibration['expected_calibration_error']:.3f}"
        shown = table("score", "boxes", "mean score", "share right", title=title)
        for one in calibration["bins"]:
            row(shown, f"{one['from']:.1f} – {one['to']:.1f}", one["count"], one["mean_score"], one["share_right"])
        yield shown


def _per_class(made: "Report", most: int = 20) -> Table:
    """Classes that have objects, most frequent first; what was said of others in one line."""
    there = {name: one for name, one in made.per_class.items() if one["tp"] + one["fn"]}
    order = sorted(there.items(), key=lambda pair: -(pair[1]["tp"] + pair[1]["fn"]))
    title = "By class" if len(order) <= most else f"By class: the {most} most frequent of {len(order)}"
    shown = _scores(dict(order[:most]), title, "class")
    if others := [one for name, one in made.per_class.items() if name not in there]:
        empty = [cell(None)] * (len(shown.columns) - 4)
        shown.add_row(f"{len(others)} without objects", *empty, "0", cell(sum(one["fp"] for one in others)), "0")
    return shown


def _scores(scores: "Mapping[str, Mapping[str, Any]]", title: str, first: str) -> Table:
    columns = {"P": "precision", "R": "recall", "F1": "f1", "mIoU": "mean_iou", "AP": "ap"}
    if not any("ap" in one for one in scores.values()):
        del columns["AP"]
    shown = table(first, *columns, "found", "false", "missed", title=title)
    for name, one in scores.items():
        row(shown, name, *(one[key] for key in columns.values()), one["tp"], one["fp"], one["fn"])
    return shown


def _tasks(made: "Report") -> Table:
    shown = table("question", "asked", "accuracy", title="Questions")
    shown.add_column("said", overflow="fold")
    for kind, one in made.tasks.items():
        said = ", ".join(f"{count:,} {name}" for name, count in one["said"].items())
        shown.add_row(cell(kind), cell(one["n"]), cell(one["accuracy"]), Text(said))
    return shown


def _answers(made: "Report") -> Table:
    shown = table("answers", "", title="Health of answers")
    for part in ("health", "finish", "problems"):
        for name, count in made.answers[part].items():
            row(shown, f"{part}: {name}", count)
    row(shown, "duplicate rate", made.answers["duplicate_rate"])
    return shown
