"""A report as text for other programs: CSV by class, Markdown for a comment, JUnit XML for a CI's gates. Pure."""

import csv
import io
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from vlmdet_cli.console import safe

if TYPE_CHECKING:
    from vlmdet_cli.stages.evaluation.evaluate import Report
    from vlmdet_cli.stages.evaluation.gates import Gate

CLASS_COLUMNS = ("precision", "recall", "f1", "mean_iou", "ap", "tp", "fp", "fn", "ignored")


def per_class_csv(report: "Report") -> str:
    """One row a class, in full precision; what is undefined is empty. Text as it is, after RFC 4180."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["class", *CLASS_COLUMNS])
    for name, score in report.per_class.items():
        values = [score.get(column) for column in CLASS_COLUMNS]
        writer.writerow([_formula_free(name), *("" if value is None else value for value in values)])
    return out.getvalue()


def _formula_free(name: str) -> str:
    """The name, with a quote before it where a spreadsheet would run it as a formula."""
    return f"'{name}" if name[:1] in {"=", "+", "-", "@"} else name


def markdown(report: "Report", gates: Sequence["Gate"]) -> str:
    """The headline, the gates, and the classes folded away."""
    protocol, overall, intervals = report.protocol, report.overall, report.intervals
    lines = [
        f"**Detection at IoU {protocol['iou']:.2f}**: {protocol['pictures']:,} pictures, "
        f"{protocol['objects']:,} objects, classes: {protocol['classes']}{choices(protocol)}",
        "",
        "| measure | value | 95 % interval |",
        "|---|---|---|",
    ]
    for name, key in (("F1", "f1"), ("precision", "precision"), ("recall", "recall"), ("mean IoU", "mean_iou")):
        limits = intervals.get(key)
        interval = f"{limits[0]:.3f} – {limits[1]:.3f}" if limits else "–"
        lines.append(f"| {name} | {_number(overall[key])} | {interval} |")
    lines.append(f"| macro F1 | {_number(overall['macro_f1'])} | – |")
    lines.append(f"| COCO AP (scores: {score_source(report)}) | {_number(report.coco['AP'])} | – |")
    if gates:
        lines.append("")
    for gate in gates:
        sign = "✅" if gate.passed else "❌"
        lines.append(f"- {sign} {_cell(gate.name)} = {_number(gate.value)}, required ≥ {gate.minimum:g}")
    lines += ["", "<details><summary>By class</summary>", ""]
    lines += ["| class | P | R | F1 | found | false | missed |", "|---|---|---|---|---|---|---|"]
    for name, score in report.per_class.items():
        cells = (*(_number(score[key]) for key in ("precision", "recall", "f1")), score["tp"], score["fp"], score["fn"])
        lines.append(f"| {_cell(name)} | {' | '.join(map(str, cells))} |")
    lines += ["", "</details>"]
    return "\n".join(lines)


def score_source(report: "Report") -> str:
    """Where the scores come from and, of log-probabilities, by which rule."""
    return ", ".join(filter(None, [report.protocol["score_source"], report.protocol["score_rule"]]))


def choices(protocol: dict[str, Any]) -> str:
    """What was asked and how pictures were cut and answers read, where that is not the default."""
    parts = {"asked for": protocol["asked"], "tiles": protocol["tiles"], "dedupe": protocol["dedupe"]}
    return "".join(f", {name}: {value}" for name, value in parts.items() if value and value != "all classes")


def _number(value: Any) -> str:
    return "–" if value is None else f"{value:.3f}"


def _cell(text: str) -> str:
    """Text without markup: nothing in it ends a cell or opens a tag."""
    plain = safe(text).replace("\n", " ")
    for char in "\\`*_[]|":
        plain = plain.replace(char, f"\\{char}")
    return escape(plain)


def junit(gates: Sequence["Gate"]) -> str:
    """A test suite with one case a gate."""
    failed = sum(not gate.passed for gate in gates)
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<testsuites><testsuite name="vlmdet eval" tests="{len(gates)}" failures="{failed}">',
    ]
    for gate in gates:
        name = escape(safe(f"{gate.name} >= {gate.minimum:g}"))
        message = f"{_number(gate.value)} is under {gate.minimum:g}"
        inner = "" if gate.passed else f'<failure message="{message}"/>'
        lines.append(f'<testcase classname="vlmdet.eval" name="{name}">{inner}</testcase>')
    return "\n".join([*lines, "</testsuite></testsuites>"])
