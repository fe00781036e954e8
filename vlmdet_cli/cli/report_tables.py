"""Evaluation reports and their comparison as tables. Pure; prints nothing."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from vlmdet_cli.cli.exports import choices, score_source
from vlmdet_cli.cli.tables import Views, cell, change, ledger, line, row, table
from vlmdet_cli.console import safe

if TYPE_CHECKING:
    from vlmdet_cli.stages.evaluation.compare import Comparison, Row
    from vlmdet_cli.stages.evaluation.evaluate import Report
    from vlmdet_cli.stages.evaluation.gates import Gate


SUMMARY_CLASSES = 6


def summary(result: "Report", gates: "Iterable[Gate]") -> Views:
    """What fits a screen: the headline, the most frequent classes, a line each for the rest, and the gates."""
    yield _headline(result)
    yield _short_per_class(result)
    yield from _lines(result)
    yield line("more", "`vlmdet eval --full`")
    yield from _gates(gates)


def _short_per_class(result: "Report") -> Table:
    """The most frequent classes in so few columns that they fit 60."""
    classes = _frequent(result)
    title = "By class" if len(classes) <= SUMMARY_CLASSES else f"The {SUMMARY_CLASSES} most frequent of {len(classes)}"
    short = table("class", "P", "R", "F1", "AP", "objects", title=title)
    for name, scores in classes[:SUMMARY_CLASSES]:
        measures = (scores[key] for key in ("precision", "recall", "f1", "ap"))
        row(short, name, *measures, scores["tp"] + scores["fn"])
    return short


def _frequent(result: "Report") -> list[tuple[str, Mapping[str, Any]]]:
    """The classes that have objects, most frequent first."""
    present = [(name, scores) for name, scores in result.per_class.items() if scores["tp"] + scores["fn"]]
    return sorted(present, key=lambda pair: -(pair[1]["tp"] + pair[1]["fn"]))


def _lines(result: "Report") -> Views:
    """Errors, questions, the health of answers, and what the ledger dropped, a line each where there are any."""
    if errors := {name: kind["count"] for name, kind in result.errors.items() if kind["count"]}:
        most = sorted(errors.items(), key=lambda pair: -pair[1])
        yield line("errors", ", ".join(f"{count:,} {name}" for name, count in most))
    if result.tasks:
        accuracies = ((kind, task["accuracy"]) for kind, task in result.tasks.items())
        yield line("questions", ", ".join(f"{kind} {cell(accuracy)}" for kind, accuracy in accuracies))
    if result.answers:
        health = [f"{count:,} {name}" for name, count in result.answers["health"].items()]
        yield line("answers", ", ".join([*health, f"duplicate rate {cell(result.answers['duplicate_rate'])}"]))
    for kind, entry in result.ledger.items():
        if entry["dropped"]:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in entry["dropped"].items())
            yield line("left out", f"{kind}: {reasons}")


def report(result: "Report", gates: "Iterable[Gate]") -> Views:
    """The headline, classes, sizes, errors, counting, scores, questions, health, the ledger, and the gates."""
    yield _headline(result)
    yield _per_class(result)
    yield _scores({f"{name} objects": scores for name, scores in result.sizes.items()}, "By size", "size")
    if result.errors:
        yield _errors(result)
    if result.counting:
        yield _counting(result)
    if result.scores:
        yield from _score_quality(result)
    if result.tasks:
        yield _tasks(result)
    if result.answers:
        yield _answers(result)
    yield ledger({"": result.ledger})
    yield from _gates(gates)


def _gates(gates: "Iterable[Gate]") -> Views:
    for gate in gates:
        word, sign = ("passed", "≥") if gate.passed else ("MISSED", "<")
        value = "undefined" if gate.value is None else f"{gate.value:.4f}"
        yield Text(
            f"gate {word}: {safe(gate.name)} = {value} {sign} {gate.minimum:g}", "green" if gate.passed else "red"
        )


def _headline(result: "Report") -> Table:
    protocol, overall, coco = result.protocol, result.overall, result.coco
    title = f"Detection at IoU {protocol['iou']:.2f}, classes: {protocol['classes']}{choices(protocol)}"
    title += f"; {protocol['pictures']:,} pictures, {protocol['objects']:,} objects"
    headline = table("measure", "value", "95 % interval", title=title)
    headline.caption = f"AP ranks boxes by: {score_source(result)}"
    mean_iou = f"mean IoU@{protocol['iou'] * 100:.0f}"
    for name, key in (("F1", "f1"), ("precision", "precision"), ("recall", "recall"), (mean_iou, "mean_iou")):
        low_high = result.intervals.get(key)
        interval = Text(f"{low_high[0]:.3f} – {low_high[1]:.3f}") if low_high else cell(None)
        headline.add_row(cell(name), cell(overall[key]), interval)
    for name, value in (
        ("macro F1", overall["macro_f1"]),
        ("F1 over 0.50:0.95", overall["f1_50_95"]),
        ("COCO AP", coco["AP"]),
        ("COCO AP50", coco["AP50"]),
        ("COCO AP75", coco["AP75"]),
        ("found / false / missed", f"{overall['tp']:,} / {overall['fp']:,} / {overall['fn']:,}"),
    ):
        headline.add_row(cell(name), cell(value), "")
    return headline


def _errors(result: "Report", limit: int = 3) -> Table:
    """TIDE's kinds of error, and the most frequent confusions of two classes."""
    errors = table("error", "boxes", "AP50 if fixed", title="Kinds of error")
    for name, kind in result.errors.items():
        row(errors, name, kind["count"], kind["delta_ap50"])
    confusions = [
        (count, true, predicted)
        for true, counts in result.confusion.get("pairs", {}).items()
        for predicted, count in counts.items()
        if predicted != true
    ]
    for count, true, predicted in sorted(confusions, reverse=True)[:limit]:
        row(errors, f"{true} predicted as {predicted}", count, None)
    return errors


def _counting(result: "Report", limit: int = 5) -> Table:
    """The counting error of all classes together and of the classes with the largest errors."""
    counting = table("count error of", "pictures", "mean absolute", "bias", "exact", title="Counting, by boxes")
    worst = sorted(result.counting["per_class"].items(), key=lambda pair: -(pair[1]["mean_absolute_error"] or 0))
    for name, error in [("all classes", result.counting), *worst[:limit]]:
        row(counting, name, error["n"], error["mean_absolute_error"], error["bias"], error["exact"])
    return counting


def _score_quality(result: "Report") -> Views:
    best, calibration = result.scores["best"], result.protocol["calibration"]
    precision_recall = f"(P {best['precision']:.3f}, R {best['recall']:.3f})"
    yield line("best F1", f"{best['f1']:.3f} with scores ≥ {best['threshold']:.3f} {precision_recall}")
    if before := result.scores.get("before_calibration"):
        yield _reliability(before, "Reliability before calibration: error")
        yield line("calibrated", f"by Platt's map, fitted on {calibration['boxes']:,} boxes of {calibration['split']}")
    if reliability := result.scores["calibration"]:
        title = "Reliability when calibrated: error" if before else "Reliability of scores: calibration error"
        yield _reliability(reliability, title)


def _reliability(reliability: Mapping[str, Any], title: str) -> Table:
    bins = table(
        "score", "boxes", "mean score", "share right",
        title=f"{title} {reliability['expected_calibration_error']:.3f}",
    )  # fmt: skip
    for part in reliability["bins"]:
        row(bins, f"{part['from']:.1f} – {part['to']:.1f}", part["count"], part["mean_score"], part["share_right"])
    return bins


def _per_class(result: "Report", limit: int = 20) -> Table:
    """Classes that have objects, most frequent first; all other classes share a row."""
    order = _frequent(result)
    title = "By class" if len(order) <= limit else f"By class: the {limit} most frequent of {len(order)}"
    classes = _scores(dict(order[:limit]), title, "class")
    if others := [scores for scores in result.per_class.values() if not scores["tp"] + scores["fn"]]:
        empty = [cell(None)] * (len(classes.columns) - 4)
        false = sum(scores["fp"] for scores in others)
        classes.add_row(f"{len(others)} without objects", *empty, "0", cell(false), "0")
    return classes


def _scores(groups: Mapping[str, Mapping[str, Any]], title: str, first: str) -> Table:
    """Precision, recall and so on, a row a group; ``first`` heads the column of the groups' names."""
    columns = {"P": "precision", "R": "recall", "F1": "f1", "mIoU": "mean_iou", "AP": "ap"}
    if not any("ap" in scores for scores in groups.values()):
        del columns["AP"]
    result = table(first, *columns, "found", "false", "missed", title=title)
    for name, scores in groups.items():
        row(result, name, *(scores[key] for key in columns.values()), scores["tp"], scores["fp"], scores["fn"])
    return result


def _tasks(result: "Report") -> Table:
    tasks = table("question", "asked", "accuracy", "answers", title="Questions", text=("answers",))
    for kind, task in result.tasks.items():
        answers = ", ".join(f"{count:,} {name}" for name, count in task["said"].items())
        tasks.add_row(cell(kind), cell(task["n"]), cell(task["accuracy"]), Text(answers))
    return tasks


def _answers(result: "Report") -> Table:
    answers = table("answers", "", title="Health of answers")
    for part in ("health", "finish", "problems"):
        for name, count in result.answers[part].items():
            row(answers, f"{part}: {name}", count)
    row(answers, "duplicate rate", result.answers["duplicate_rate"])
    return answers


def compare(result: "Comparison") -> Views:
    """Where the protocols differ, the measures, the F1 of classes, and the settings that differ."""
    pictures, objects = result.protocol["pictures"], result.protocol["objects"]
    title = f"Detection at IoU {result.protocol['iou']:.2f}: {pictures:,} pictures, {objects:,} objects"
    for text in result.differs:
        yield Text.assemble(("protocols differ: ", "yellow"), safe(text))
    yield _compared("measure", result.names, result.measures, title)
    for text in result.notes:
        yield Text(safe(text))
    yield _compared("F1 of class", result.names, dict(list(result.per_class.items())[:20]), "")
    if result.settings:
        settings = table("settings that differ", *result.names, text=result.names)
        for key, values in result.settings.items():
            settings.add_row(cell(key), *(cell(None if value is None else str(value)) for value in values))
        yield settings


def _compared(first: str, names: Iterable[str], rows: "Mapping[str, Row]", title: str) -> Table:
    """A column a report, and after each but the first its difference to the first, with the interval if known."""
    baseline, *others = names
    result = table(first, baseline, title=title)
    for name in others:
        result.add_column(name, justify="right")
        result.add_joined_column("change", justify="right")
    for name, compared in rows.items():
        cells = [cell(compared.values[0])]
        for value, difference, low_high in zip(
            compared.values[1:], compared.differences, compared.intervals, strict=True
        ):
            cells += [cell(value), change(difference, low_high)]
        result.add_row(cell(name), *cells)
    return result
