"""The model card of a merged model: ``README.md`` in its folder, in the form that model hubs read.

It says what is known and no more: what the run's record holds, what the base model's own folder says of its licence,
and reports on answers of this very model. ``refresh`` puts the reports of today into a card that is there.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import orjson
import yaml  # type: ignore[import-untyped]

from vlmdet_cli import __version__
from vlmdet_cli.core.files import file_hash, write_text
from vlmdet_cli.core.model_hash import model_folder_hash
from vlmdet_cli.engines.answers import read_meta
from vlmdet_cli.errors import VlmdetError
from vlmdet_cli.models import dialects, registry
from vlmdet_cli.project import Project
from vlmdet_cli.project.run_record import MergeRecord, RunRecord, TrainedSettings
from vlmdet_cli.project.runs import ResultFolder, Run, trained_settings
from vlmdet_cli.stages.data.prepare import read_split
from vlmdet_cli.stages.merging.merge_sources import MergeSources
from vlmdet_cli.training.hub import is_hub_name
from vlmdet_cli.training.settings import Train

CARD = "README.md"
UNKNOWN = "unknown"
MAX_CATEGORIES = 100  # that are counted one by one
_BEGIN, _END = "<!-- measures: written by `vlmdet eval` -->", "<!-- end of measures -->"
_FRONT_MATTER = re.compile(r"\A---\n(.*?\n)---\n", re.S)
# of [train], those that say what the training was
_SETTINGS = (
    "tuner_type", "lora_rank", "lora_alpha", "target_modules", "freeze_vit", "freeze_aligner", "freeze_llm",
    "per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs", "learning_rate",
    "lr_scheduler_type", "warmup_ratio", "max_length", "torch_dtype",
)  # fmt: skip
_MACHINE = {"model", "swift", "gpus", "device", "nproc_per_node", "save_steps", "logging_steps"}  # where, not what
_FORMAT = ("ask", "order", "group")


def write_card(folder: Path, project: Project, sources: MergeSources, record: MergeRecord) -> None:
    """Write the card of the merged model in ``folder``, which is not in its final place yet."""
    base = sources.base_name if is_hub_name(sources.base_name) else Path(sources.base_name).name
    licence = licence_of(sources.base)
    run = sources.run.record if sources.run else None
    trained = trained_settings(sources.checkpoints[-1]) or TrainedSettings()
    name = f"{project.config.project.name} {run.name if run else sources.checkpoints[-1].name}"
    parts = [
        *_front_matter(sources.base_name, licence),
        f"# {_plain(name)}",
        f"{_plain(base)} tuned to detect objects: LoRA on the base model, merged into it.",
        *_asking(trained, run),
        "## Data",
        *(_data(project, sources.run) if sources.run else ["Not known: the adapter is of no run."]),
        "## Training",
        *_training(run, record),
        "## Measures",
        _BEGIN,
        _END,
        "## Merge",
        *_merge(record),
        "## Base model and licence",
        f"Base model: {_plain(base)}. Licence of the base model: {_plain(licence)}."
        + ("" if licence != UNKNOWN else " Its folder states none: look it up before you pass the model on."),
    ]
    text = "\n\n".join(parts)
    write_text(folder / CARD, _with_measures(text, _reports(sources.owner, folder)))


def refresh(report: Path) -> None:
    """Put the reports into the card of the merged model beside them, where there is one; ``report``: one of them."""
    results = ResultFolder(report.parent.parent)
    card = results.folder / "merged" / CARD
    if card.is_file() and _BEGIN in (text := card.read_text("utf-8")):
        write_text(card, _with_measures(text, _reports(results, card.parent)))


def licence_of(base: Path | None) -> str:
    """What the base model's folder says of its licence, ``unknown`` where it says nothing."""
    if base is None:
        return UNKNOWN
    card = base / CARD
    match = _FRONT_MATTER.match(card.read_text("utf-8", "replace")) if card.is_file() else None
    try:
        head = yaml.safe_load(match[1]) if match else {}
    except yaml.YAMLError:
        head = {}
    stated = head.get("license_name") or head.get("license") if isinstance(head, dict) else None
    if isinstance(stated, str) and stated:
        return stated
    files = sorted(path for path in base.iterdir() if path.name.upper().startswith(("LICENSE", "LICENCE")))
    lines = files[0].read_text("utf-8", "replace").splitlines() if files else []
    return next((line.strip() for line in lines if line.strip()), UNKNOWN)


# --- the parts -----------------------------------------------------------------------------------------------


def _front_matter(base: str, licence: str) -> Iterator[str]:
    head: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": ["object-detection", "lora", "ms-swift", "vlmdet"],
    }
    if is_hub_name(base):
        head["base_model"] = base
    if re.fullmatch(r"[a-z0-9.-]+", licence) and licence != UNKNOWN:
        head["license"] = licence
    yield f"---\n{yaml.safe_dump(head, sort_keys=False)}---"


def _asking(trained: TrainedSettings, run: RunRecord | None) -> Iterator[str]:
    """How the model is asked and answers, with samples."""
    yield "## How to ask it"
    settings = run.settings.get("format", {}) if run else {}
    prompts = settings.get("prompt") or "Draw the bounding box of objects"
    prompt = prompts if isinstance(prompts, str) else prompts[0]
    limit = f" Pictures are shrunk to at most {trained.max_pixels:,} pixels." if trained.max_pixels else ""
    yield f"Prompt: `{prompt}`.{limit} It answers in the dialect `{trained.dialect or UNKNOWN}`, such as:"
    if trained.dialect in dialects.names():
        dialect = dialects.get(trained.dialect, trained.max_pixels)
        yield _code(dialect.render([("person", (10.0, 20.0, 110.0, 220.0))], (448, 448)), "")
    yield (
        "vlmdet asks as in training, sizes the picture as in training, and reads the boxes (pixels, left, top, right, "
        "bottom). In this folder:"
    )
    yield _code(
        "from vlmdet_cli import Detector\n\n"
        f'detector = Detector(".", prompt={prompt!r})\n'
        'seen = detector("photo.jpg")\n'
        "for label, box in zip(seen.labels, seen.boxes):\n    print(label, box)",
        "python",
    )
    if sample := _transformers_sample(trained, prompt):
        yield "With transformers alone, whose processor resizes the picture in its own way, so that boxes may move:"
        yield _code(sample, "python")


def _transformers_sample(trained: TrainedSettings, prompt: str) -> str:
    """Code that asks without vlmdet; empty where the chat form is not known."""
    try:
        text = registry.get(trained.family).request_text(f"<image>{prompt}", trained.system)
    except VlmdetError:
        return ""
    return (
        "from PIL import Image\n"
        "from transformers import AutoModelForImageTextToText, AutoProcessor\n\n"
        'processor = AutoProcessor.from_pretrained(".")\n'
        'model = AutoModelForImageTextToText.from_pretrained(".", dtype="auto")\n'
        'picture = Image.open("photo.jpg").convert("RGB")\n'
        f"text = {text!r}  # the chat, as in training\n"
        'inputs = processor(text=[text], images=[picture], return_tensors="pt")\n'
        "ids = model.generate(**inputs, max_new_tokens=512, do_sample=False)\n"
        'print(processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :]))'
    )


def _data(project: Project, run: Run) -> Iterator[str]:
    record = run.record
    yield f"{record.dataset.rows:,} rows of training."
    project = project.with_data_of(run)
    try:
        file = project.output / record.dataset.file
        unchanged = file.is_file() and file_hash(file) == record.dataset.hash
        data = read_split(project, "train") if unchanged else None
    except VlmdetError:
        data = None
    if data is None:
        yield "The data are not here as they were in training: nothing is counted."
        return
    counts = np.bincount(data.label[data.is_target], minlength=len(data.labels)).tolist()
    yield f"{len(data.images):,} pictures with {sum(counts):,} boxes of {len(data.categories):,} categories."
    rows = sorted(zip(data.categories, counts, strict=False), key=lambda pair: -pair[1])
    yield _table(("category", "boxes"), [(name, f"{count:,}") for name, count in rows[:MAX_CATEGORIES]])
    if len(rows) > MAX_CATEGORIES:
        yield f"And {len(rows) - MAX_CATEGORIES:,} more categories."


def _training(run: RunRecord | None, record: MergeRecord) -> Iterator[str]:
    yield f"Adapters, in the order in which they were merged: {', '.join(map(_plain, record.checkpoints))}."
    if run is None:
        return
    if run.parent:
        yield f"By reward ({run.method}), going on with the adapter of {run.parent.run}, {run.parent.checkpoint}."
    yield _table(("setting", "value"), [(name, _value(value)) for name, value in _settings(run)])
    loss = f", last loss {run.loss:.4f}" if run.loss is not None else ""
    yield f"{run.steps:,} steps{loss}."
    versions = {"vlmdet": __version__, **run.versions}
    yield f"Versions in training: {', '.join(f'{name} {version}' for name, version in versions.items())}."


def _settings(run: RunRecord) -> Iterator[tuple[str, Any]]:
    """The settings that say what the training was: the documented ones, and all that are not at their default."""
    train, format_ = run.settings.get("train", {}), run.settings.get("format", {})
    default = msgspec.to_builtins(Train())
    for name, value in train.items():
        if name in _SETTINGS or (name not in _MACHINE and value != default.get(name)):
            yield f"train.{name}", value
    yield from ((f"train.swift.{name}", value) for name, value in train.get("swift", {}).items())
    yield from ((f"format.{name}", format_[name]) for name in _FORMAT if name in format_)
    yield "augment.questions", run.settings.get("augment", {}).get("questions") or "none"
    if run.arguments:
        yield "after `--`", list(run.arguments)


def _value(value: Any) -> str:
    """A setting in words; of a path the last name, since it is of the machine that trained."""
    if isinstance(value, list | tuple):
        return " ".join(map(_value, value))
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else str(value)


def _merge(record: MergeRecord) -> Iterator[str]:
    check = record.check
    if check is None:
        yield f"Merged on {record.merged}. Not verified ({record.reason})."
        return
    yield (
        f"Merged on {record.merged} and verified: {check.equal} of {check.answers} answers are equal to those of the "
        f"adapter on its base, and no logit differs by more than {check.difference:.2g} ({check.dtype}; rounding "
        f"explains {check.bound:.2g}, the adapter itself changes logits by up to {check.effect:.2g})."
    )


# --- measures ------------------------------------------------------------------------------------------------


def _with_measures(text: str, reports: list[tuple[str, dict[str, Any]]]) -> str:
    head, _, rest = text.partition(_BEGIN)
    _, _, tail = rest.partition(_END)
    measures = "\n\n".join(_measures(reports))
    return f"{head}{_BEGIN}\n\n{measures}\n\n{_END}{tail}"


def _measures(reports: list[tuple[str, dict[str, Any]]]) -> Iterator[str]:
    if not reports:
        yield "Not measured yet: `vlmdet infer && vlmdet eval` write the measures here."
        return
    rows = []
    for name, report in reports:
        overall, interval = report["overall"], report.get("intervals", {}).get("f1")
        shown = f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
        rows.append(
            (
                name, f"{report['protocol']['pictures']:,}", f"{_number(overall['f1'])}{shown}",
                _number(overall["precision"]), _number(overall["recall"]), _number(report["coco"].get("AP")),
                f"{report['protocol']['iou']:g}",
            )
        )  # fmt: skip
    yield _table(("answers", "pictures", "F1 [95 %]", "precision", "recall", "AP", "IoU"), rows)


def _reports(results: ResultFolder, merged: Path) -> list[tuple[str, dict[str, Any]]]:
    """The reports on answers of this very model, by name: those of an earlier merge are left out."""
    model, reports = model_folder_hash(merged), []
    for path in sorted((results.folder / "reports").glob("*.json")):
        meta = read_meta(results.answers(path.stem))
        if meta is None or meta.adapter or meta.model.get("hash") != model:
            continue
        try:
            report = orjson.loads(path.read_bytes())
            reports.append((path.stem, report | {"overall": report["overall"], "coco": report["coco"]}))
        except (ValueError, KeyError, TypeError):  # a report of another version
            continue
    return reports


# --- Markdown ------------------------------------------------------------------------------------------------


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    names = list(head)
    lines = [names, ["---"] * len(names), *([_plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    """Text from files as it is, not as Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", " ".join(text.split()))


def _code(text: str, language: str) -> str:
    fence = "`" * max([3, *(len(ticks) + 1 for ticks in re.findall("`+", text))])
    return f"{fence}{language}\n{text}\n{fence}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
