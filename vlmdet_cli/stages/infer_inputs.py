"""What ``infer`` works on: pictures named on the command line or a prepared split, and the model to ask."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import orjson

from vlmdet_cli.core.answers import Answer, ParsedDetections
from vlmdet_cli.core.files import file_hash, read_bytes
from vlmdet_cli.data import dataset
from vlmdet_cli.data.image_files import IMAGE_SUFFIXES
from vlmdet_cli.engines import Engine
from vlmdet_cli.errors import DataError, UsageError
from vlmdet_cli.models import registry
from vlmdet_cli.project import SPLITS, Format, Infer, Project
from vlmdet_cli.project.runs import ResultFolder, trained_settings
from vlmdet_cli.prompts.detection import CLASSES
from vlmdet_cli.prompts.object_rows import texts
from vlmdet_cli.prompts.questions import kind_of
from vlmdet_cli.stages import chunks
from vlmdet_cli.stages.infer import Ask, InferResult, InferSettings, OnBatch, infer, parse
from vlmdet_cli.stages.merge import merged_model
from vlmdet_cli.stages.prepare import read_split

GetProject = Callable[[], Project]  # loads the project, so that a command whose files are all named needs none


class InferJob(msgspec.Struct, frozen=True, kw_only=True):
    asks: list[Ask]
    model: Path
    adapter: Path | None
    device: str
    scores: bool
    max_pixels: int | None
    answers: Path
    how: InferSettings
    categories: tuple[str, ...] | None
    warning: str = ""

    def run(self, on_batch: OnBatch) -> InferResult:
        return infer(self.asks, self._engine, self.answers, self.how, categories=self.categories, on_batch=on_batch)

    def _engine(self) -> Engine:
        from vlmdet_cli.engines.transformers import TransformersEngine

        return TransformersEngine(
            self.model, adapter=self.adapter, device=self.device, max_pixels=self.max_pixels, scores=self.scores
        )


def infer_job(
    project: GetProject,
    images: Sequence[Path],
    *,
    model: Path | None,
    adapter: Path | None,
    split: str,
    name: str,
    answers: Path | None,
) -> InferJob:
    """A prepared split, or pictures and folders by name, and the model to ask; ``answers`` where named."""
    loaded = None if images and model else project()
    infer_, format_ = (loaded.config.infer, loaded.config.format) if loaded else (Infer(), Format())
    split = split or infer_.split
    if split not in SPLITS:
        raise UsageError(f"No such split: {split}", hint=f"There are {', '.join(SPLITS)}.")
    folder, warning, results = _model(loaded, model, adapter)
    family = registry.family_of(str(folder))
    dialect = format_.dialect or family.dialect
    categories = None
    if images:
        prompt = _prompt(loaded, format_)
        asks = [_ask_image(path, prompt) for path in _pictures(images)]
    else:
        loaded = loaded or project()
        asks, categories = _split_asks(loaded, split)
        answers = answers or (results or loaded.results).answers(name or split)
    identity = {
        "model": _identity(folder),
        "adapter": _identity(adapter) if adapter else None,
        "dialect": dialect,
        "max_tokens": infer_.max_tokens,
        "scores": infer_.scores,
        "max_pixels": (max_pixels := _max_pixels(loaded, folder)),
    }
    how = InferSettings(
        batch=infer_.batch,
        max_tokens=infer_.max_tokens,
        dialect=dialect,
        identity=identity,
        max_pixels=max_pixels or family.pixel_limit(folder) or 0,
    )
    return InferJob(
        asks=asks,
        model=folder,
        adapter=adapter,
        device=infer_.device,
        scores=infer_.scores,
        max_pixels=max_pixels,
        answers=answers or Path("answers.jsonl"),
        how=how,
        categories=categories,
        warning=warning,
    )


def found(job: InferJob) -> list[dict[str, Any]]:
    """What the model found in each picture that was named, in the order they were named in."""
    rows = [msgspec.json.decode(line, type=Answer) for line in read_bytes(job.answers, "answers file").splitlines()]
    return [_found(row, parse(row, job.categories)) for row in rows]


def _found(row: Answer, parsed: ParsedDetections) -> dict[str, Any]:
    values = {
        "image": row.image,
        "size": row.size,
        "object": parsed.by_label(),
        "problems": parsed.problems,
        "health": "error" if row.finish == "error" else parsed.health,
        "text": row.text,
        "finish": row.finish,
    }
    return values | ({"error": row.error} if row.error else {})


def _model(project: Project | None, model: Path | None, adapter: Path | None) -> tuple[Path, str, ResultFolder | None]:
    if adapter is not None and not (adapter / "adapter_config.json").is_file():
        raise UsageError(f"No LoRA adapter: {adapter}", hint="An adapter folder holds adapter_config.json.")
    if model is None and project is not None and adapter is None:
        run = project.run()
        return *merged_model(run), run
    if model is None and project is not None:
        model = Path(project.model(project.config.train.model))
    if model is None or not (model / "config.json").is_file():
        raise UsageError(f"No model folder: {model}", hint="A model folder holds config.json and weights.")
    return model, "", None


def _max_pixels(project: Project | None, model: Path) -> int | None:
    """The limit that a merged model was trained with, else that of the project's settings."""
    trained = trained_settings(model)
    limit = trained.max_pixels if trained else project.config.train.swift.get("max_pixels") if project else None
    return limit if isinstance(limit, int) else None


def _identity(folder: Path) -> dict[str, Any]:
    """A model by content: sizes and hashes of its weights; a copy elsewhere is the same model."""
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin"), folder / "config.json"])
    return {path.name: file_hash(path) for path in files if path.is_file()}


def _pictures(images: Iterable[Path]) -> list[Path]:
    """Pictures as named; a folder stands for those in it, in order of name. A missing one is an error."""
    out: list[Path] = []
    for path in images:
        if path.is_dir():
            found = sorted(one for one in path.iterdir() if one.suffix.lower() in IMAGE_SUFFIXES)
            if not found:
                raise DataError(f"No pictures in the folder: {path}")
            out += found
        elif path.is_file():
            out.append(path)
        else:
            raise DataError(f"No such picture: {path}", hint="Check the path.")
    return list(dict.fromkeys(out))


def _ask_image(path: Path, prompt: str) -> Ask:
    return Ask(image=str(path), path=path, prompt=f"<image>{prompt}")


def _prompt(project: Project | None, wanted: Format) -> str:
    """The first phrase that asks for all classes; where it names them, they are those of the prepared data."""
    phrase = (wanted.prompts if wanted.ask == "all" else wanted.class_prompts)[0]
    if CLASSES not in phrase:
        return phrase
    if project is None:
        raise UsageError("The prompt names classes, and there is no project to tell them", hint="Name one with -p.")
    return phrase.replace(CLASSES, ", ".join(read_split(project, "train").categories))


def _split_asks(project: Project, split: str) -> tuple[list[Ask], tuple[str, ...]]:
    """A prepared split's questions: detection first, then the others kind by kind."""
    file = read_split(project, split)
    known = {project.image_row(split, one.file_name): one for one in file.images}
    files = [project.rows(split)]
    if project.config.infer.questions and project.questions(split).is_file():
        files.append(project.questions(split))
    return [_ask_row(project, row, known, path) for path in files for row in _rows(path)], file.categories


def _rows(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in read_bytes(path, "instruction rows").splitlines()]


def _ask_row(project: Project, row: dict[str, Any], known: dict[str, dataset.Image], path: Path) -> Ask:
    image = row["images"][0]
    if image not in known:
        raise DataError(f"A row asks about a picture that is not in its split: {path}", why=image, hint=_AGAIN)
    size = (known[image].width, known[image].height)
    prompt, answer = texts(row, chunks.row_settings(project, "test").dialect, size, str(path))
    return Ask(
        image=image,
        path=project.output / image,
        prompt=prompt,
        kind=kind_of(prompt),
        image_id=known[image].id,
        size=size,
        expected=answer,
        asked=row.get("asked"),
    )


_AGAIN = "Run `vlmdet prepare` and `vlmdet augment` again."
