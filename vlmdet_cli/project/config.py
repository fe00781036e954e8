"""The project file ``vlmdet.toml`` as frozen records.

The records' fields, types and defaults *are* the format; a check beyond the type is a ``Literal`` or a
``msgspec.Meta`` bound at the field. The records of a room's own settings are defined in that room.
"""

from typing import Annotated, Any, Literal

import msgspec

from vlmdet_cli.core.settings import DEFAULT_SCORE_RULE, Classes, Count, Duplicates, ScoreRule, ScoreSource, Table, Text
from vlmdet_cli.data.settings import Split, SplitShares, Subset
from vlmdet_cli.engines.settings import Infer
from vlmdet_cli.prompts.settings import Augment, Format
from vlmdet_cli.training.settings import Flag, Train

FormatName = Literal["auto", "coco", "lvis", "yolo", "voc", "open_images", "swift_rows", "detections"]


class About(Table, frozen=True, kw_only=True):
    output: Text
    name: Text = "vlmdet"
    seed: Count = 0


class Source(Table, frozen=True, kw_only=True):
    """Annotations and the folder of their images. ``format``: ``auto`` recognises it by the file's content. ``name``:
    a prefix of the file names in a split that has several sources.
    """

    annotations: Text
    images: str = ""
    format: FormatName = "auto"
    name: str = ""


Sources = Source | tuple[Source, ...]


class Data(Table, frozen=True, kw_only=True):
    """``images``: pictures are linked, copied, or reached through one link to their folder. ``check``: what is read of
    each picture. ``categories``: names to other names; equal names become one category, an empty name leaves the
    category out.
    """

    train: Sources | None = None
    val: Sources | None = None
    test: Sources | None = None
    split: SplitShares = SplitShares()
    categories: dict[str, str] = msgspec.field(default_factory=dict)
    on_error: Literal["stop", "skip"] = "stop"
    images: Literal["link", "copy", "folder"] = "link"
    check: Literal["none", "header", "pixels"] = "header"
    workers: Count = 0

    def sources(self, split: Split) -> tuple[Source, ...]:
        """The sources of a split, () where it has none of its own."""
        given: Sources | None = getattr(self, split)
        return () if given is None else given if isinstance(given, tuple) else (given,)


class Merge(Table, frozen=True, kw_only=True):
    """``checkpoint``: a folder, or a step of the newest run that has it; several are merged in their order; empty: the
    one that the latest done run was trained to keep. ``verify``: the number of pictures that the adapter and the merged
    model are asked, 0 for none.
    """

    checkpoint: str | tuple[str, ...] = ""
    verify: Count = 8
    swift: dict[str, Flag] = msgspec.field(default_factory=dict)

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """The checkpoints that are named, () where none is."""
        names = (self.checkpoint,) if isinstance(self.checkpoint, str) else self.checkpoint
        return tuple(filter(None, names))


class Eval(Table, frozen=True, kw_only=True):
    iou: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    classes: Classes = "all"
    duplicates: Duplicates = "count"
    scores: ScoreSource = "auto"
    score_rule: ScoreRule = DEFAULT_SCORE_RULE
    fail_under: tuple[str, ...] = ()


class Viz(Table, frozen=True, kw_only=True):
    pictures: Count = 24
    order: Literal["worst", "first"] = "worst"


class Config(Table, frozen=True, kw_only=True):
    """The whole file. ``experiments``: by name, tables of overrides; ``project.experiments`` reads them."""

    project: About
    data: Data
    subset: Subset = Subset()
    format: Format = Format()
    augment: Augment = Augment()
    train: Train = Train()
    merge: Merge = Merge()
    infer: Infer = Infer()
    eval: Eval = Eval()
    viz: Viz = Viz()
    experiments: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)


def plain(config: Config) -> dict[str, Any]:
    """The settings in the plain values of TOML, without the splits that are not set: TOML has no null."""
    tree: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(config))
    tree["data"] = {name: value for name, value in tree["data"].items() if value is not None}
    return tree
