"""``python -m tests.models.tiny_models FOLDER NAME…`` writes tiny models into ``FOLDER/NAME``."""

import sys
from pathlib import Path

from tests.models import tiny_models

if __name__ == "__main__":
    folder, builders = Path(sys.argv[1]), tiny_models.builders() | tiny_models.builders(without_family=True)
    for name in sys.argv[2:]:
        builders[name](folder / name)
