"""ms-swift as a program: where it is.

swift runs as a program of its own, installed beside the running interpreter (``pipx`` puts no dependency's program
on PATH; another program called ``swift`` there is a different one).
"""

import shutil
import sys
from pathlib import Path

from vlmdet_cli.errors import EngineError
from vlmdet_cli.training.arguments import version


def program() -> str:
    """``swift`` where a shell finds the right one by name, else its whole path."""
    own = Path(sys.executable).parent / "swift"
    on_path = shutil.which("swift")
    return str(own) if own.exists() and (on_path is None or not own.samefile(on_path)) else "swift"


def require() -> None:
    """Raise ``EngineError`` where ms-swift is not installed beside vlmdet."""
    if not version() or not (Path(sys.executable).parent / "swift").exists():
        raise EngineError(
            "swift is not installed beside vlmdet",
            why=f"Looked for ms-swift in {Path(sys.executable).parent}.",
            hint="Install the training stack: pip install 'vlmdet[train]' (pipx: pipx install 'vlmdet[train]').",
        )
