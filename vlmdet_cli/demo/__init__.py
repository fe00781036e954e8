"""The embedded demo: a synthetic COCO data set of street objects, and a tiny Qwen2-VL that has never seen them.

``worlds`` draws the pictures, ``object_drawings`` the objects in them. ``model/`` holds the weights, which ``pretrain``
trains with the architecture of ``tiny``; ``plugin.py`` registers the model with ms-swift. Writing the demo needs no
network and no torch.
"""

import shutil
from pathlib import Path

HERE = Path(__file__).parent
COUNTS = {"train": 2400, "val": 60, "test": 120}


def write_demo(folder: Path, seed: int = 0) -> None:
    """Write pictures, annotations, model and plug-in below ``folder``; the same bytes for the same seed."""
    from vlmdet_cli.demo.worlds import STREET, write_coco

    write_coco(folder, STREET, COUNTS, seed)
    shutil.copytree(HERE / "model", folder / "model", dirs_exist_ok=True)
    shutil.copyfile(HERE / "plugin.py", folder / "plugin.py")
