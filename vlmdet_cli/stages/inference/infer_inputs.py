"""What ``infer`` works on: pictures named on the command line or a prepared split, and the model to ask."""

import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import orjson

from vlmdet_cli import engines
from vlmdet_cli.core.files import file_hash, open_file
from vlmdet_cli.core.settings import DEFAULT_SCORE_RULE
from vlmdet_cli.data import dataset
from vlmdet_cli.data.image_files import IMAGE_SUFFIXES, Unreadable, upright_size
from vlmdet_cli.engines import choice as choice_of_engine
from vlmdet_cli.engines.answers import AnswersFile, AnswersMeta, read_answers
from vlmdet_cli.engines.infer_rows import InferRow, RowSpool
from vlmdet_cli.engines.ray_executor import RayExecutor
from vlmdet_cli.engines.settings import ServerOptions
from vlmdet_cli.errors import DataError, UsageError
from vlmdet_cli.models.dialects import Dialect
from vlmdet_cli.project import SPLITS, Format, GetProject, Infer, Project, infer_settings
from vlmdet_cli.project.runs import ResultFolder
from vlmdet_cli.prompts.object_rows import texts
from vlmdet_cli.prompts.questions import kind_of
from vlmdet_cli.stages.data import chunks, shards
from vlmdet_cli.stages.data.prepare import read_split
from vlmdet_cli.stages.inference.answer_reading import PictureAnswers, ReadingRules, by_picture, reading_rules
from vlmdet_cli.stages.inference.infer import InferResult, infer
from vlmdet_cli.stages.inference.infer_model import (
    AskedAs,
    InferRequest,
    ModelChoice,
    ResultChoice,
    asked_as,
    choose_model,
)
from vlmdet_cli.stages.inference.infer_progress import OnProgress
from vlmdet_cli.stages.inference.infer_prompts import as_asked, uncut_warning, unseen_prompt_warning, with_prompts
from vlmdet_cli.stages.inference.infer_shards import shard_path, shard_rows

STDIN = Path("-")
_PREPARE_AGAIN = "Run `vlmdet prepare` and `vlmdet augment` again."


class InferJob(msgspec.Struct, frozen=True, kw_only=True):
    rows: RowSpool
    engine: engines.Engine
    file: AnswersFile
    rules: ReadingRules
    warnings: tuple[str, ...] = ()

    def run(self, on_progress: OnProgress, *, retry_failed: bool = False) -> InferResult:
        return infer(
            self.rows,
            self.engine,
            self.file,
            rules=self.rules,
            retry_failed=retry_failed,
            on_progress=on_progress,
        )

    def pictures(self) -> list[PictureAnswers]:
        """The answers about each picture, in the order of the rows."""
        return by_picture(read_answers(self.file.path), self.rules)


def infer_job(project: GetProject, request: InferRequest) -> InferJob:
    """Raises ``UsageError`` for a model, run or split that is not there, ``DataError`` for pictures that are not."""
    loaded, settings = project_and_settings(project, request)
    split = split_of(settings, request)
    if request.shard and (request.images or request.output):
        raise UsageError("--shard takes no pictures and no --output", hint="It answers a part of a prepared split.")
    choice = choose_model(loaded, request, settings)
    asked = asked_as(loaded, choice, settings)
    engine = create_engine(settings, choice, asked, loaded.root if loaded else Path())
    warnings = [choice.warning]
    categories, data = None, None
    if request.images:
        rows = RowSpool(_picture_rows(loaded, settings, request))
        categories = _labels(rows.values())
    else:
        if request.categories:
            raise UsageError("--category is for named pictures", hint="Those of a split are in subset.categories.")
        loaded = loaded or project()
        loaded = loaded.with_data_of(choice.run) if choice.run else loaded
        rows, categories = split_rows(loaded, split)
        data = file_hash(loaded.subset(split))
        warnings.append(_dialect_warning(loaded, asked))
    if request.images or settings.ask != "rows":
        warnings.append(unseen_prompt_warning(rows.values(), loaded))
    warnings.append(uncut_warning(rows.values(), settings))
    file = answers_path(choice, request, settings.answers_name(split))
    if request.shard:
        rows, file = RowSpool(shard_rows(rows.values(), request.shard)), shard_path(file, request.shard)
    elif not rows:
        raise DataError("No picture to ask about", hint="Name images, a folder, or a prepared split.")
    meta = _meta(settings, choice, asked, engine, split=None if request.images else split, data=data)
    return InferJob(
        rows=rows,
        engine=engine,
        file=AnswersFile(file, meta),
        rules=reading_rules(meta, categories, loaded.config.eval.score_rule if loaded else DEFAULT_SCORE_RULE),
        warnings=tuple(filter(None, warnings)),
    )


def project_and_settings(project: GetProject, request: InferRequest) -> tuple[Project | None, Infer]:
    """The project, None where pictures and a model are named without one, and the settings of inference."""
    is_alone = bool(request.images and request.model) and not (request.run or request.in_project)
    loaded = None if is_alone else project()
    return loaded, loaded.config.infer if loaded else infer_settings({}, request.sets)


def split_of(settings: Infer, request: InferRequest) -> str:
    """The split that is asked. Raises ``UsageError`` for a name that is none."""
    split = request.split or settings.split
    if split not in SPLITS:
        raise UsageError(f"No such split: {split}", hint=f"There are {', '.join(SPLITS)}.")
    return split


def answers_path(kept: ModelChoice | ResultChoice, request: InferRequest, name: str) -> Path:
    """The file of the answers to all rows. ``name``: the default one of answers that are asked so."""
    results = kept.results or ResultFolder(Path())
    return request.output or results.answers(request.name or f"{kept.prefix}{name}")


def create_engine(settings: Infer, choice: ModelChoice, asked: AskedAs, root: Path = Path()) -> engines.Engine:
    """The engine of the settings for a model; it loads nothing yet. ``root``: where relative paths in them start."""
    name = choice_of_engine.choose(choice_of_engine.Situation(settings, asked.family, choice.adapter))
    options = settings.options(name, root)
    if isinstance(options, ServerOptions):
        options = msgspec.structs.replace(options, model=choice.name)
    engine = engines.create(
        name,
        engines.EngineSettings(
            model=choice.model,
            adapter=choice.adapter,
            family=asked.family,
            max_pixels=asked.max_pixels,
            system=asked.system,
            device=settings.device,
            batch=settings.batch,
            scores=settings.scores,
            swift=asked.swift,
            options=options,
            dialect=asked.dialect,
            stop_loops=settings.stop_loops,
        ),
    )
    return RayExecutor(engine, settings.ray) if settings.executor == "ray" else engine


def _meta(
    settings: Infer,
    choice: ModelChoice,
    asked: AskedAs,
    engine: engines.Engine,
    *,
    split: str | None,
    data: str | None,
) -> AnswersMeta:
    identity = engine.identity()
    adapter = {"name": str(choice.adapter), "hash": identity.get("adapter")} if choice.adapter else None
    return AnswersMeta(
        engine=identity,
        model={"name": choice.name, "hash": identity.get("model")},
        adapter=adapter,
        family=asked.family.name,
        dialect=asked.dialect,
        max_pixels=asked.max_pixels,
        max_tokens=settings.max_tokens,
        system=asked.system,
        scores=settings.scores,
        ask=settings.ask,
        prompt=settings.prompt,
        tiles=settings.tiling,
        dedupe=settings.dedupe,
        noise_label=asked.noise_label,
        stop_loops=settings.stop_loops,
        split=split,
        data=data,
        run=choice.run.name if choice.run else None,
    )


# --- the rows ------------------------------------------------------------------------------------------------


def _pictures(images: Iterable[Path]) -> list[Path]:
    """Pictures as named, each once. A folder stands for those in it, ``-`` for those that standard input lists.

    A missing one is an error.
    """
    pictures: list[Path] = []
    for path in images:
        pictures += _listed_pictures() if path == STDIN else _named_pictures(path)
    return list(dict.fromkeys(pictures))


def _listed_pictures() -> Iterator[Path]:
    """The pictures that standard input names, a path a line; blank lines count for nothing."""
    is_empty = True
    for number, line in enumerate(sys.stdin.buffer, 1):
        if name := os.fsdecode(line).strip("\r\n"):
            is_empty = False
            yield from _named_pictures(Path(name), f"Line {number:,} of standard input.")
    if is_empty:
        raise DataError("Standard input lists no picture", hint="Each line is the path of a picture.")


def _named_pictures(path: Path, where: str = "") -> list[Path]:
    if path.is_dir():
        in_folder = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        if not in_folder:
            raise DataError(f"No pictures in the folder: {path}", why=where or ())
        return in_folder
    if not path.is_file():
        raise DataError(f"No such picture: {path}", why=where or (), hint="Check the path.")
    return [path]


def _picture_rows(project: Project | None, settings: Infer, request: InferRequest) -> list[InferRow]:
    """The rows of the pictures that are named."""

    def categories() -> Sequence[str]:
        if project is None:
            raise UsageError(
                "The prompt names classes, and nothing says which",
                hint="Name them with --category, or a project with -p.",
            )
        return read_split(project, "train", objects=False).categories

    pictures = [_picture_row(path) for path in _pictures(request.images)]
    return with_prompts(
        pictures, settings, project.config.format if project else Format(), request.categories, categories
    )


def _picture_row(path: Path) -> InferRow:
    """The row of a named picture, without a prompt; its size is the upright one."""
    try:
        size = upright_size(path)
    except Unreadable:
        size = (0, 0)  # the engine says why
    return InferRow(image=str(path), path=str(path), prompt="", size=size)


def _labels(rows: Iterable[InferRow]) -> tuple[str, ...] | None:
    """The categories that the prompts name; None where they name none."""
    names = dict.fromkeys(name for row in rows for name in row.asked or ())
    return tuple(names) or None


def split_rows(project: Project, split: str) -> tuple[RowSpool, tuple[str, ...]]:
    """A prepared split's rows, detection first, then the questions; and its categories."""
    shards.join(project, questions=project.config.infer.questions)
    data = read_split(project, split, objects=project.config.infer.ask != "rows")
    images = {project.image_row(split, image.file_name): image for image in data.images}
    dialect = chunks.row_settings(project, split).dialect  # reads the model's settings: once, not for each row

    def rows_of(path: Path) -> Iterator[InferRow]:
        return (_split_row(project, dialect, row, images, path) for row in _instruction_rows(path))

    rows = as_asked(rows_of(project.rows(split)), data, project, split)
    if project.config.infer.questions and project.questions(split).is_file():
        rows = itertools.chain(rows, rows_of(project.questions(split)))
    return RowSpool(rows), data.categories


def _instruction_rows(path: Path) -> Iterator[dict[str, Any]]:
    with open_file(path, "instruction rows") as file:
        yield from map(orjson.loads, file)


def _split_row(
    project: Project, dialect: Dialect, row: dict[str, Any], images: dict[str, dataset.Image], path: Path
) -> InferRow:
    name = row["images"][0]
    if name not in images:
        raise DataError(f"A row asks about a picture that is not in its split: {path}", why=name, hint=_PREPARE_AGAIN)
    size = (images[name].width, images[name].height)
    prompt, answer = texts(row, dialect, size, str(path))
    return InferRow(
        image=name,
        path=str(project.data_folder / name),
        prompt=prompt,
        kind=kind_of(prompt),
        image_id=images[name].id,
        size=size,
        expected=answer,
        asked=row.get("asked"),
    )


def _dialect_warning(project: Project, asked: AskedAs) -> str:
    rows = project.config.format.dialect
    if not rows or rows == asked.dialect:
        return ""
    return f"the rows are written in {rows}, and the model was trained to answer in {asked.dialect}."
