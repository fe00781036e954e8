r"""The rows of a training by reward: prompts without answers, each with the truth of its picture in a column.

    {"messages": [{"role": "user", "content": "<image>Draw the bounding box of objects"}],
     "images": ["data/subset/images/train/7.jpg"],
     "truth": "{\"size\":[640,480],\"objects\":[[\"cat\",[4.0,6.0,24.0,26.0]]]}"}

swift hands every column that it does not know to the reward, and throws answers away. ``truth`` is JSON in a text
(``metrics.rewards.RowTruth``), for the data sets that swift reads rows into have a type for each column. The truth is
that of the prepared subset, as ``eval`` takes it: crowds, and objects that are ignored, included.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import msgspec
import orjson

from vlmdet_cli.core.annotations import Box
from vlmdet_cli.core.files import whole_file
from vlmdet_cli.core.settings import RewardName
from vlmdet_cli.data import ground_truth
from vlmdet_cli.errors import DataError
from vlmdet_cli.metrics.rewards import RowTruth
from vlmdet_cli.project import Project
from vlmdet_cli.prompts.detection import classes_named
from vlmdet_cli.prompts.object_rows import texts
from vlmdet_cli.prompts.questions import kind_of
from vlmdet_cli.stages.data import chunks
from vlmdet_cli.stages.evaluation.eval_boxes import object_columns
from vlmdet_cli.stages.training.train_rows import Row, read_rows

SPLIT = "train"
OTHER_PICTURE = "its picture is not in the split train"


def write_rows(project: Project, dataset: Path, file: Path, rewards: Collection[RewardName]) -> "Counter[str]":
    """Write the rows of ``dataset`` that a reward of ``rewards`` is for; the number of rows by task.

    Rows that are left out are counted by the reason in place of the task. Raises ``DataError`` where none is left.
    """
    counts = Counter[str]()
    with whole_file(file) as temporary, temporary.open("wb") as out:
        for row in _rows(project, dataset, rewards, counts):
            out.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
    if not any(name in rewards for name in counts):
        raise DataError(
            f"No row has a reward: {dataset}",
            why=[f"{reason}: {count:,} rows" for reason, count in counts.items()],
            hint="Give a task that the rows are of a weight in [train.reward], or run `vlmdet prepare` again.",
        )
    return counts


def _rows(project: Project, dataset: Path, rewards: Collection[RewardName], counts: "Counter[str]") -> Iterator[Row]:
    pictures, categories = _pictures(project)
    dialect = chunks.row_settings(project, SPLIT).dialect
    for number, row in enumerate(read_rows(dataset), 1):
        image = row["images"][0]
        truth = pictures.get(image)
        if truth is None:
            counts[OTHER_PICTURE] += 1
            continue
        prompt, answer = texts(row, dialect, truth.size, f"{dataset}, line {number}")
        asked = classes_named(prompt, project.config.format, categories)
        truth = _of_row(truth, prompt, answer, asked)
        if truth.task not in rewards:
            counts[f"train.reward.{truth.task} = 0"] += 1
            continue
        counts[truth.task] += 1
        yield {
            "messages": [{"role": "user", "content": prompt}],
            "images": [image],
            "truth": msgspec.json.encode(truth).decode(),
        }


def _of_row(picture: RowTruth, prompt: str, answer: str, asked: Sequence[str] | None) -> RowTruth:
    """The truth of a row about a picture. Where the prompt names classes, the objects of others do not count."""
    kind = kind_of(prompt)
    if kind != "detection":
        return RowTruth(kind=kind, size=picture.size, answer=answer)
    if asked is None:
        return picture
    groups = {name: getattr(picture, name) for name in ("objects", "crowds", "ignored")}
    kept = {name: tuple(entry for entry in group if entry[0] in asked) for name, group in groups.items()}
    return msgspec.structs.replace(picture, **kept)


def _pictures(project: Project) -> tuple[dict[str, RowTruth], Sequence[str]]:
    """The truth of each picture of the split, by the path that rows name; and the categories."""
    truth = ground_truth.read(project.subset(SPLIT))
    data, (objects, _) = truth.data, object_columns(truth)
    labels = [data.labels[index] for index in objects.label.tolist()]
    boxes: list[Box] = [(x1, y1, x2, y2) for x1, y1, x2, y2 in objects.box.tolist()]
    crowd, ignored, starts = objects.crowd.tolist(), objects.ignored.tolist(), data.starts.tolist()
    pictures = dict[str, RowTruth]()
    for image, first, last in zip(data.images, starts, starts[1:], strict=False):
        indices = range(first, last)
        pictures[project.image_row(SPLIT, image.file_name)] = RowTruth(
            size=(image.width, image.height),
            objects=tuple((labels[n], boxes[n]) for n in indices if not crowd[n] and not ignored[n]),
            crowds=tuple((labels[n], boxes[n]) for n in indices if crowd[n]),
            ignored=tuple((labels[n], boxes[n]) for n in indices if ignored[n]),
            exhaustive=image.exhaustive_categories,
        )
    return pictures, data.categories
