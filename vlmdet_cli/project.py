"""The project file ``vlmdet.toml`` as frozen records, and the path of every artefact.

``load`` is the border: it reads the file, applies ``--set`` overrides, checks every key against the records
below and reports all problems at once, each with its key path. Paths in the file are relative to the file.
The records' fields, types and defaults *are* the format; a check beyond the type is a ``Literal`` or a
``msgspec.Meta`` bound at the field.
"""

import difflib
import json
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import tomli

from vlmdet_cli.errors import UsageError
from vlmdet_cli.records import Classes, QuestionKind, ScoreSource

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
FILE_NAME = "vlmdet.toml"

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
AboveZero = Annotated[float, msgspec.Meta(gt=0)]
Text = Annotated[str, msgspec.Meta(min_length=1)]
Phrases = Text | Annotated[tuple[Text, ...], msgspec.Meta(min_length=1)]  # one, or several that are drawn from
FormatName = Literal["auto", "coco", "lvis", "yolo", "voc", "open_images", "swift_rows", "detections"]
Flag = bool | int | float | str | list[str | int | float]


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """One table of the project file."""


class About(Table, frozen=True, kw_only=True):
    output: Text
    name: Text = "vlmdet"
    seed: Count = 0


class Source(Table, frozen=True, kw_only=True):
    """Annotations and the folder of their images. ``format``: ``auto`` looks into the file. ``name`` stands before the
    file names of a split that has several sources.
    """

    annotations: Text
    images: str = ""
    format: FormatName = "auto"
    name: str = ""


Sources = Source | tuple[Source, ...]


class SplitShares(Table, frozen=True, kw_only=True):
    """The shares of train's pictures that become val and test where the project names no files for them."""

    val: Share = 0.1
    test: Share = 0.1


class Data(Table, frozen=True, kw_only=True):
    """``images``: how pictures come into the project. ``check``: how closely they are looked at. ``categories``: names
    to other names; several with the same one become one category, an empty one leaves the category out.
    """

    train: Sources | None = None
    val: Sources | None = None
    test: Sources | None = None
    split: SplitShares = SplitShares()
    categories: dict[str, str] = {}
    on_error: Literal["stop", "skip"] = "stop"
    images: Literal["link", "copy", "folder"] = "link"
    check: Literal["none", "header", "pixels"] = "header"
    workers: Count = 0

    def sources(self, split: Split) -> tuple[Source, ...]:
        """The sources of a split, () where it has none of its own."""
        given: Sources | None = getattr(self, split)
        return () if given is None else given if isinstance(given, tuple) else (given,)


class Subset(Table, frozen=True, kw_only=True):
    """Which pictures and boxes are kept; 0 and an empty list mean no limit."""

    categories: tuple[str, ...] = ()
    pictures: Count = 0
    val_pictures: Count = 0
    test_pictures: Count = 0
    min_box_size: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    max_objects: Count = 0
    crowd: Literal["ignore", "drop", "keep"] = "ignore"
    empty: Share = 0.1


class Format(Table, frozen=True, kw_only=True):
    """How rows are written. ``ask``: all classes in one row, those present, each in a row of its own, or some drawn
    ones; ``absent``: how many classes that a picture does not have are asked for beside those (for ``each``, ``some``).
    ``too_long``: what becomes of train rows over ``train.max_length`` tokens.
    """

    dialect: Text = "qwen2_vl"
    prompt: Phrases = "Draw the bounding box of objects"
    class_prompt: Phrases = "Draw the bounding box of objects of these categories: {classes}"
    ask: Literal["all", "present", "each", "some"] = "all"
    absent: Count = 1
    order: Literal["position", "area", "annotation"] = "position"
    group: bool = False
    rows: Literal["text", "objects"] = "text"
    too_long: Literal["split", "largest", "drop", "stop"] = "split"
    also: tuple[Literal["yolo"], ...] = ()

    @property
    def prompts(self) -> tuple[str, ...]:
        return _phrases(self.prompt)

    @property
    def class_prompts(self) -> tuple[str, ...]:
        return _phrases(self.class_prompt)


def _phrases(given: Phrases) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else given


class Augment(Table, frozen=True, kw_only=True):
    """``per_picture`` questions of each kind a picture; ``per_kind`` rows of a kind at most (0: no limit);
    ``mix``: question rows in the mixed train file, at most this many for each detection row.
    """

    questions: tuple[QuestionKind, ...] = ("count", "full", "partial", "none")
    per_picture: Positive = 1
    per_kind: Count = 0
    mix: Annotated[float, msgspec.Meta(ge=0)] = 1.0


class Train(Table, frozen=True, kw_only=True):
    """The documented run. All but ``gpus``, ``nproc_per_node``, ``rows_must_match`` and ``swift`` are swift's flags."""

    model: Text = "Qwen/Qwen2-VL-2B-Instruct"
    gpus: str = "0"
    nproc_per_node: Positive = 1
    tuner_type: Literal["lora", "full", "longlora", "adalora", "vera", "boft", "fourierft", "bone"] = "lora"
    lora_rank: Positive = 32
    lora_alpha: Positive = 64
    target_modules: Text = "all-linear"
    freeze_vit: bool = False
    freeze_aligner: bool = False
    freeze_llm: bool = False
    per_device_train_batch_size: Positive = 1
    gradient_accumulation_steps: Positive = 4
    num_train_epochs: AboveZero = 10
    learning_rate: AboveZero = 5e-5
    lr_scheduler_type: Text = "cosine"
    warmup_ratio: Share = 0.05
    max_length: Positive = 2048
    torch_dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    split_dataset_ratio: Share = 0.0
    dataset_num_proc: Positive = 1
    lazy_tokenize: bool = True
    dataloader_num_workers: Count = 0
    save_steps: Positive = 500
    logging_steps: Positive = 5
    add_version: bool = True
    rows_must_match: bool = True
    swift: dict[str, Flag] = {}


class Merge(Table, frozen=True, kw_only=True):
    """``checkpoint``: a folder, or a step of the latest run; empty for the latest checkpoint."""

    checkpoint: str = ""
    swift: dict[str, Flag] = {}


class Infer(Table, frozen=True, kw_only=True):
    engine: Literal["transformers"] = "transformers"
    split: Literal["val", "test", "train"] = "test"
    batch: Positive = 16
    max_tokens: Positive = 1024
    device: str = "auto"
    questions: bool = True
    scores: bool = False


class Eval(Table, frozen=True, kw_only=True):
    iou: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    classes: Classes = "all"
    scores: ScoreSource = "auto"
    fail_under: tuple[str, ...] = ()


class Viz(Table, frozen=True, kw_only=True):
    pictures: Count = 24
    order: Literal["worst", "first"] = "worst"


class Config(Table, frozen=True, kw_only=True):
    """The whole file."""

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


class Project(msgspec.Struct, frozen=True):
    """A loaded project: its file's folder, its settings, and where everything lies.

    ``shard``: with (i, n), ``prepare`` and ``augment`` work on the i-th of n parts of the pictures; the texts of a part
    have a folder of their own, ``texts``.
    """

    root: Path
    config: Config
    shard: tuple[int, int] | None = None

    @property
    def output(self) -> Path:
        return self.root / self.config.project.output

    @property
    def texts(self) -> Path:
        return self.output / "shards" / f"{self.shard[0]}-of-{self.shard[1]}" if self.shard else self.output

    @property
    def train_file(self) -> Path:
        return self.texts / "augment" / "train.jsonl"

    @property
    def runs(self) -> Path:
        return self.output / "train"

    @property
    def merged(self) -> Path:
        return self.output / "merged"

    def subset(self, split: str) -> Path:
        return self.texts / "data" / "subset" / f"{split}.json"

    def images(self, split: str) -> Path:
        return self.output / "data" / "subset" / "images" / split

    def image_row(self, split: str, file_name: str) -> str:
        """A picture's path as rows name it: relative to the output folder, with forward slashes."""
        return f"data/subset/images/{split}/{file_name}"

    def detections(self, split: str) -> Path:
        return self.texts / "data" / f"detections_{split}.json"

    def rows(self, split: str) -> Path:
        return self.texts / "data" / f"coco_final_{split}.jsonl"

    def skipped(self, split: str) -> Path:
        return self.texts / "data" / f"skipped_{split}.jsonl"

    @property
    def yolo(self) -> Path:
        return self.texts / "data" / "yolo"

    @property
    def data_report(self) -> Path:
        return self.texts / "data" / "report.json"

    def questions(self, split: str) -> Path:
        return self.texts / "augment" / f"questions_{split}.jsonl"

    def answers(self, name: str) -> Path:
        return self.output / "answers" / f"{name}.jsonl"

    def report(self, name: str) -> Path:
        return self.output / "reports" / f"{name}.json"

    def viz(self, name: str) -> Path:
        return self.output / "viz" / name

    def path(self, value: str) -> Path:
        """A path of the project file; relative ones start at the file's folder."""
        return self.root / Path(value).expanduser()

    def model(self, value: str) -> str:
        """A model as swift takes it: a folder where there is one, else a hub's name as it stands."""
        folder = self.path(value)
        return str(folder) if folder.is_dir() else value


def load(path: Path, overrides: Sequence[str] = ()) -> Project:
    """The project of a file (or of the folder that holds one) with ``KEY=VALUE`` overrides applied.

    Raises ``UsageError`` for a missing or invalid file and for all wrong keys together.
    """
    path = path / FILE_NAME if path.is_dir() else path
    return Project(path.parent.absolute(), convert(_read(path), overrides, str(path)))


def convert(tree: dict[str, Any], overrides: Sequence[str] = (), name: str = FILE_NAME) -> Config:
    """Settings of parsed TOML; ``name`` is what errors call the file."""
    bad_sets = [problem for one in overrides for problem in _override(tree, one)]
    problems = [*bad_sets, *_problems(tree, Config, ())]
    if problems:
        count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise UsageError(f"The project file has {count}: {name}", why=problems, hint=_HINT)
    return msgspec.convert(tree, Config)


_HINT = "`vlmdet init` writes a file with every key explained."


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomli.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UsageError(
            f"No project file: {path}",
            hint="Write one with `vlmdet init`, or name one with -p or VLMDET_PROJECT.",
        ) from None
    except OSError as error:
        raise UsageError(f"Cannot read the project file: {path}", why=f"{error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"The project file is not UTF-8: {path}", why=f"Byte {error.start}.") from None
    except tomli.TOMLDecodeError as error:
        raise UsageError(
            f"The project file is not valid TOML: {path}",
            why=f"{error}.",
            hint='Text values need quotes: output = "out"',
        ) from None


def _override(tree: dict[str, Any], text: str) -> Iterator[str]:
    """Put one ``KEY=VALUE`` into the tree; the value is TOML, or plain text where it is not. Yields problems."""
    key, equals, value = text.partition("=")
    *tables, last = key.strip().split(".")
    if not equals or not last or not all(tables):
        yield f"--set {text}: wants KEY=VALUE, such as train.lora_rank=16"
        return
    for name in tables:
        inner: Any = tree.setdefault(name, {})
        if isinstance(inner, dict):
            tree = inner
        else:
            yield f"--set {text}: {name} is no table"
            return
    try:
        tree[last] = tomli.loads(f"v = {value}")["v"]
    except tomli.TOMLDecodeError:
        tree[last] = value


def _problems(tree: Any, record: type[msgspec.Struct], place: tuple[str, ...]) -> Iterator[str]:
    if not isinstance(tree, dict):
        yield f"{'.'.join(place)}: expected a table, got {type(tree).__name__}"
        return
    fields = {field.name: field for field in msgspec.structs.fields(record)}
    for key in tree:
        if key not in fields:
            yield _unknown(key, place, fields)
    for name, field in fields.items():
        here = (*place, name)
        if name in tree:
            yield from _value_problems(tree[name], field.type, here)
        elif field.required:
            yield f"{'.'.join(here)}: missing"
    if record is Data and "train" not in tree and not {"val", "test"} & set(tree):
        yield "data.train: missing"


def _value_problems(value: Any, kind: Any, place: tuple[str, ...]) -> Iterator[str]:
    record = _record_of(kind)
    if record is not None:
        several = isinstance(value, list) and value and kind == Sources | None
        for number, one in enumerate(value if several else [value]):
            yield from _problems(one, record, (*place, str(number)) if several else place)
        return
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        yield f"{'.'.join(place)}: {_wanted(kind, str(error))}, got {_short(value)}"


_WORDS = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false", "array": "a list"}


def _wanted(kind: Any, message: str) -> str:
    """What a key takes, in the words of TOML, from msgspec's message."""
    choices = typing.get_args(kind) if typing.get_origin(kind) is Literal else ()
    if choices:
        return f"expected one of {', '.join(map(str, choices))}"
    expected, _, place = message.partition(" - at ")
    expected = expected.replace("`", "").removeprefix("Expected ").partition(", got ")[0]
    words = expected.split(" | ") if " | " in expected else [expected]
    first, *rest = words[0].split(" ", 1)
    return " ".join(["expected", " or ".join([_WORDS.get(first, first), *words[1:]]), *rest, *_item(place)])


def _item(place: str) -> list[str]:
    found = place.strip("`").removeprefix("$")
    return [f"at {found}"] if found else []


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else text[:39] + "…"


def _record_of(kind: Any) -> type[msgspec.Struct] | None:
    options: Iterable[Any] = (kind,)
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        options = typing.get_args(kind)
    return next((o for o in options if isinstance(o, type) and issubclass(o, msgspec.Struct)), None)


def _unknown(key: str, place: tuple[str, ...], fields: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(key, fields, n=1)
    if near:
        guess = f"did you mean {near[0]}?"
    elif place == ("train",):
        guess = "other swift flags stand in [train.swift]"
    else:
        guess = f"known are {', '.join(fields)}"
    return f"{'.'.join((*place, key))}: unknown key; {guess}"
