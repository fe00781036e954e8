"""Which engine answers where ``infer.engine`` is ``auto``, and why an engine cannot answer here.

A new engine is a line in ``_CANDIDATES``.
"""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from vlmdet_cli.core import gpus
from vlmdet_cli.engines.settings import Infer, ServerOptions
from vlmdet_cli.errors import UsageError
from vlmdet_cli.models.family import Family

AUTO = "auto"


class Situation(NamedTuple):
    """What an engine is chosen for: the settings of inference, and the model's family and adapter."""

    settings: Infer
    family: Family
    adapter: Path | None = None


class Candidate(NamedTuple):
    """An engine that may be chosen.

    ``lacks``: why it cannot answer in the situation, in words; "" where it can. ``suits``: whether ``auto`` takes it
    where nothing is in its way. ``needs_family``: whether it asks only models of families that vlmdet knows.
    """

    engine: str
    lacks: Callable[[Situation], str]
    suits: Callable[[Situation], bool]
    needs_family: bool = True


def choose(situation: Situation) -> str:
    """The name of the engine: of those that suit, the first that can answer.

    Where none can, the last that suits: its own error says what to install. Raises ``UsageError`` where the settings
    name an engine that needs to know the model's family, and it is not known.
    """
    name = situation.settings.engine
    if name != AUTO:
        if not situation.family.is_known and _needs_family(name):
            raise UsageError(
                f"The engine {name} cannot ask this model",
                why=_NO_FAMILY,
                hint='Set infer.engine = "swift" or "auto".',
            )
        return name
    suited = [candidate for candidate in _CANDIDATES if candidate.suits(situation)]
    able = [candidate for candidate in suited if not obstacle(candidate.engine, situation)]
    return (able or suited[-1:])[0].engine


def obstacle(engine: str, situation: Situation) -> str:
    """Why an engine cannot answer in the situation, in words; "" where it can, or nothing is known of it."""
    if not situation.family.is_known and _needs_family(engine):
        return _NO_FAMILY
    return next((candidate.lacks(situation) for candidate in _CANDIDATES if candidate.engine == engine), "")


_NO_FAMILY = "vlmdet has no module for the model's family"


def _needs_family(engine: str) -> bool:
    return any(candidate.engine == engine and candidate.needs_family for candidate in _CANDIDATES)


def _missing(*packages: str) -> str:
    absent = [name for name in packages if not _is_installed(name)]
    return f"not installed: {', '.join(absent)}" if absent else ""


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ImportError:
        return True  # installed and broken: the engine says how


def asks_server(settings: Infer) -> bool:
    """Whether a server answers: it is named as the engine, or ``auto`` finds URLs in the settings."""
    has_urls = settings.server.urls != ServerOptions().urls
    return settings.engine == "server" or (settings.engine == AUTO and has_urls)


def _server_lacks(situation: Situation) -> str:
    if not asks_server(situation.settings):
        return "infer.server.urls names no server"
    return _missing("openai")


def _vllm_lacks(situation: Situation) -> str:
    if situation.adapter is not None:
        return "it takes no adapter"
    python = situation.settings.vllm.python
    return "" if python else _missing("vllm")


# in the order in which ``auto`` prefers them
_CANDIDATES = (
    Candidate("server", lacks=_server_lacks, suits=lambda situation: asks_server(situation.settings)),
    Candidate("vllm", lacks=_vllm_lacks, suits=lambda situation: situation.family.is_known and gpus.gpus() > 0),
    Candidate(
        "transformers",
        lacks=lambda _: _missing("torch", "torchvision", "transformers"),
        suits=lambda situation: situation.family.is_known,
    ),
    Candidate(
        "swift",
        lacks=lambda _: _missing("torch", "swift"),
        suits=lambda situation: not situation.family.is_known,
        needs_family=False,
    ),
)
