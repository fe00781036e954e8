"""The project: its file as records, its runs, and the path of every artefact."""

from vlmdet_cli.data.settings import SPLITS, Split, SplitShares, Subset
from vlmdet_cli.engines.settings import Infer
from vlmdet_cli.project.config import About, Config, Data, Eval, Merge, Source, Sources, Viz
from vlmdet_cli.project.loading import FILE_NAME, convert, infer_settings, load
from vlmdet_cli.project.paths import GetProject, Project
from vlmdet_cli.prompts.settings import Augment, Format
from vlmdet_cli.training.settings import Flag, Train

__all__ = [
    "FILE_NAME", "SPLITS", "About", "Augment", "Config", "Data", "Eval", "Flag", "Format", "GetProject", "Infer",
    "Merge", "Project", "Source", "Sources", "Split", "SplitShares", "Subset", "Train", "Viz", "convert",
    "infer_settings", "load",
]  # fmt: skip
