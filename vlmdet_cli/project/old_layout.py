"""Output folders of versions before ``runs/``: their trainings are in ``train/run-*``, the model in ``merged/``."""

from pathlib import Path

from vlmdet_cli.errors import UsageError


def refuse(folder: Path) -> None:
    """Raises ``UsageError`` where the output folder above the runs' ``folder`` has the old layout."""
    old = sorted((folder.parent / "train").glob("run-*/run.json"))
    if old:
        raise UsageError(
            f"The runs are in the layout of an earlier version: {old[0].parent.parent}",
            hint="Move them with `vlmdet runs --migrate`.",
        )
