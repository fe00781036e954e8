"""A loaded project: its settings, and the path of every artefact."""

from pathlib import Path

import msgspec

from vlmdet_cli.project.config import Config


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
