"""The versions of installed packages."""

import importlib.metadata
from collections.abc import Sequence


def installed(names: Sequence[str]) -> dict[str, str]:
    """Those of the packages ``names`` that are installed."""
    versions: dict[str, str] = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
