"""The embedded demo: a made COCO data set of a little street, and a tiny Qwen2-VL that has never seen it.

``worlds`` draws pictures (numpy and Pillow), ``tiny`` and ``pretrain`` made the weights in ``model/``,
``plugin.py`` makes them known to swift. Writing the demo needs no network and no torch.
"""

import shutil
from pathlib import Path

HERE = Path(__file__).parent
COUNTS = {"train": 1200, "val": 60, "test": 120}


def write_demo(folder: Path, seed: int = 0) -> None:
    """Pictures, annotations, model and plug-in below ``folder``; the same bytes for the same seed."""
    from vlmdet_cli.demo.worlds import STREET, write_coco

    write_coco(folder, STREET, COUNTS, seed)
    shutil.copytree(HERE / "model", folder / "model", dirs_exist_ok=True)
    shutil.copyfile(HERE / "plugin.py", folder / "plugin.py")
