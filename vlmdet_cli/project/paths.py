"""A loaded project: its settings, and the path of every artefact."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from vlmdet_cli.project import runs
from vlmdet_cli.project.config import Config
from vlmdet_cli.project.runs import ResultFolder, Run
from vlmdet_cli.training.arguments import read_system

if TYPE_CHECKING:
    from vlmdet_cli.models.family import Family

DATASETS = "datasets"  # the folder of the experiments' prepared data


class Project(msgspec.Struct, frozen=True):
    """A loaded project: its file's folder, its settings, and the path of every artefact.

    ``shard``: with (i, n), ``prepare`` and ``augment`` work on the i-th of n parts of the pictures; the texts of a part
    have a folder of their own, ``texts``. ``dataset``: the name of an experiment's own prepared data, used in place of
    the output folder's. ``notes``: what the user should know of the file, such as renamed keys.
    """

    root: Path
    config: Config
    shard: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()
    dataset: str = ""

    @property
    def output(self) -> Path:
        return self.root / self.config.project.output

    @property
    def data_folder(self) -> Path:
        """Where the prepared data lie, and where the pictures' paths in rows begin."""
        return self.output / DATASETS / self.dataset if self.dataset else self.output

    @property
    def texts(self) -> Path:
        folder = self.data_folder
        return folder / "shards" / f"{self.shard[0]}-of-{self.shard[1]}" if self.shard else folder

    def with_data_of(self, run: ResultFolder) -> "Project":
        """The project with the prepared data that ``run`` was trained on, where those are of an experiment."""
        first, *rest = Path(run.record.dataset.file).parts if isinstance(run, Run) else ("",)
        return msgspec.structs.replace(self, dataset=rest[0]) if first == DATASETS and rest else self

    @property
    def train_file(self) -> Path:
        return self.texts / "augment" / "train.jsonl"

    @property
    def runs(self) -> Path:
        return self.output / "runs"

    def run(self, name: str = "") -> Run:
        """The run ``name``, or the latest that is done. Raises ``UsageError`` where there is none."""
        return runs.find_run(self.runs, name)

    @property
    def results(self) -> ResultFolder:
        """Answers, reports and drawings of models that are no run of this project."""
        return ResultFolder(self.output)

    def results_of(self, run: str = "") -> ResultFolder:
        """Those of the run ``run``, else of the latest run that is done; where no run is done, ``results``."""
        return self.run(run) if run else runs.latest_done(self.runs) or self.results

    def subset(self, split: str) -> Path:
        return self.texts / "data" / "subset" / f"{split}.json"

    def images(self, split: str) -> Path:
        return self.data_folder / "data" / "subset" / "images" / split

    def image_row(self, split: str, file_name: str) -> str:
        """A picture's path as rows name it: relative to ``data_folder``, with forward slashes."""
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

    def path(self, value: str) -> Path:
        """A path of the project file; relative ones start at the file's folder."""
        return self.root / Path(value).expanduser()

    def model(self, value: str) -> str:
        """A model as swift takes it: a folder where there is one, else a hub's name unchanged."""
        folder = self.path(value)
        return str(folder) if folder.is_dir() else value

    @property
    def family(self) -> "Family":
        """The family of the model to train. Raises ``UsageError`` where vlmdet does not know it."""
        from vlmdet_cli.models import registry  # here, for it imports numpy, which `--help` does without

        train = self.config.train
        model_type = train.swift.get("model_type")
        return registry.family_of(
            self.model(train.model), str(model_type) if model_type else None, dialect=self.config.format.dialect
        )

    @property
    def dialect_name(self) -> str:
        """The dialect of the rows: ``format.dialect``, else the model family's."""
        return self.config.format.dialect or self.family.dialect

    @property
    def max_pixels(self) -> int | None:
        """The pixel limit of training: ``train.swift.max_pixels``, else what the model's own folder states."""
        requested = self.config.train.swift.get("max_pixels")
        if isinstance(requested, int):
            return requested
        model = Path(self.model(self.config.train.model))
        return self.family.pixel_limit(model) if model.is_dir() else None

    @property
    def system(self) -> str | None:
        """The system prompt of training, as swift reads ``train.swift.system``; None where it is the family's own."""
        requested = self.config.train.swift.get("system")
        return read_system(requested, self.root) if isinstance(requested, str) else None


GetProject = Callable[[], Project]  # loads the project, so that a command whose files are all named needs none
