"""The prompts of ``infer``: the rows of a prepared split or the pictures named, asked as ``infer.ask`` says.

Requests about the same picture stand next to each other, so that an engine reads it once.
"""

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import msgspec

from vlmdet_cli.data.dataset import Dataset
from vlmdet_cli.engines.infer_rows import InferRow
from vlmdet_cli.engines.settings import Infer
from vlmdet_cli.errors import UsageError, counted, first_few
from vlmdet_cli.project import Format, Project
from vlmdet_cli.prompts.asking import Asked, Wording, classes_by_prompt, wording
from vlmdet_cli.prompts.detection import CLASSES


def as_asked(detection: Iterable[InferRow], data: Dataset, project: Project, split: str) -> Iterator[InferRow]:
    """The detection rows of a prepared split as ``infer.ask``, ``infer.prompt`` and ``infer.tiles`` say."""
    settings = project.config.infer
    words = wording(project.config.format, settings.prompt)
    if settings.ask != "rows":
        detection = _rows_by_class(data, words, project, split)
    elif settings.prompt:
        detection = (_in_words(row, words, data.categories) for row in detection)
    return in_tiles(detection, settings)


def _in_words(row: InferRow, words: Wording, categories: Sequence[str]) -> InferRow:
    asked = None if row.asked is None else tuple(row.asked)
    return msgspec.structs.replace(row, prompt=words.prompt(asked, categories))


def _rows_by_class(data: Dataset, words: Wording, project: Project, split: str) -> Iterator[InferRow]:
    for image, prompts in zip(data.images, classes_by_prompt(data, project.config.infer.ask), strict=True):
        name = project.image_row(split, image.file_name)
        path, size = str(project.data_folder / name), (image.width, image.height)
        row = InferRow(image=name, path=path, prompt="", image_id=image.id, size=size)
        for asked in prompts:
            yield _with_classes(row, asked, words, data.categories)


def with_prompts(
    pictures: Sequence[InferRow],
    settings: Infer,
    format_: Format,
    named: Sequence[str],
    categories: Callable[[], Sequence[str]],
) -> list[InferRow]:
    """A row for each prompt about each picture. ``named``: the categories of the command line; where there are none,
    ``categories`` returns all of the project's, or raises ``UsageError``.
    """
    if settings.ask == "present":
        raise UsageError(
            'infer.ask = "present" is for a prepared split',
            why="Only a ground truth says which classes a picture has.",
            hint='Name the classes with --category, or set infer.ask = "each".',
        )
    words = wording(format_, settings.prompt)
    prompts: list[Asked] = [tuple(named) or None]
    if settings.ask == "each":
        prompts = [(name,) for name in named or categories()]
    names = categories() if prompts == [None] and CLASSES in words.all_phrase else ()
    return list(in_tiles([_with_classes(row, asked, words, names) for row in pictures for asked in prompts], settings))


def in_tiles(rows: Iterable[InferRow], settings: Infer) -> Iterator[InferRow]:
    """The rows for each tile of their pictures, tile by tile; rows about the same picture stand together."""
    tiling = settings.tiling
    if tiling is None:
        yield from rows
        return
    for _, group in itertools.groupby(rows, lambda row: row.image):
        same = list(group)
        for crop in tiling.crops(same[0].size):
            for row in same:
                # the row's true answer is to the whole picture
                yield msgspec.structs.replace(row, crop=crop, expected=row.expected if crop is None else None)


def uncut_warning(rows: Collection[InferRow], settings: Infer) -> str:
    """Where pictures are too small to be cut."""
    tiling = settings.tiling
    if tiling is None:
        return ""
    cut = {row.image for row in rows if row.crop is not None}
    uncut = list(dict.fromkeys(row.image for row in rows if row.kind == "detection" and row.image not in cut))
    if not uncut or tiling.rows * tiling.columns == 1:
        return ""
    pictures = counted(len(uncut), "picture is", "pictures are")
    return f"infer.tiles: {pictures} too small to be cut, or unreadable: {', '.join(first_few(uncut, 3))}"


def _with_classes(row: InferRow, asked: Asked, words: Wording, categories: Sequence[str]) -> InferRow:
    return msgspec.structs.replace(
        row, prompt=words.prompt(asked, categories), asked=None if asked is None else list(asked)
    )


def unseen_prompt_warning(rows: Collection[InferRow], project: Project | None) -> str:
    """Where a model trained on the project's rows has seen no such prompt, or no such prompt with an object."""
    if project is None or project.config.infer.prompt or all(row.asked is None for row in rows):
        return ""
    training = project.config.format
    if training.ask == "all":
        return (
            'the prompts name classes, in the words of format.class_prompt, and rows with format.ask = "all" do not: a '
            "model that was trained on them has not seen such prompts."
        )
    least = training.negatives_range[0]
    if training.ask == "some" and least and project.config.infer.ask == "each":
        return (
            f'the prompts name one class each, and rows with format.ask = "some" and {least} or more absent classes '
            "never name a single class that is there: a model trained on them may answer that there is nothing. "
            'Train with format.ask = "each", or ask with infer.ask = "all".'
        )
    return ""
