"""Who answers: the contract of an engine, and the engines by name.

An engine takes requests and yields completions in any order. It tells three kinds of failure apart:

    of a picture    a ``Completion`` whose ``finish`` is ``error``; the other requests go on
    of memory       the engine halves its batch and goes on; with a single picture it raises ``EngineError`` with advice
    of the engine   ``EngineError``: a missing package, a model that cannot be loaded, a broken device

A new engine is a module with a class like ``transformers.TransformersEngine``, the record of its options in
``settings``, and its line in ``_ENGINES``.
"""

import importlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

from vlmdet_cli.core.answers import Token
from vlmdet_cli.core.settings import Table
from vlmdet_cli.errors import UsageError, nearest

if TYPE_CHECKING:
    from vlmdet_cli.models.family import Family

Finish = Literal["stop", "length", "loop", "error"]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt about a picture. ``key`` names the request in its completion. ``prompt`` has ``<image>`` where the
    picture stands. ``size``: the picture's annotated (width, height), (0, 0) where unknown. ``crop``: the part of the
    upright picture that the prompt is about, xyxy in whole pixels, None for all of it.
    """

    key: str
    image: Path
    prompt: str
    size: tuple[int, int] = (0, 0)
    crop: tuple[int, int, int, int] | None = None


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """The model's text for one request.

    ``finish``: ``stop``, ``length`` (cut by the token limit), ``loop`` (cut because the text repeats itself), or
    ``error`` (the picture is bad; ``error`` is the reason). ``tokens``: the text in parts with their log-probabilities
    (the model's own, before penalties and suppressed tokens), empty where they are not asked for. ``num_tokens``: the
    number of generated tokens, 0 where it is not known.
    """

    key: str
    text: str = ""
    finish: Finish = "stop"
    error: str = ""
    tokens: list[Token] = []
    num_tokens: int = 0


class SwiftModel(msgspec.Struct, frozen=True, kw_only=True):
    """What ms-swift is told of a model, by its flags of these names; where one is empty, the model's folder tells.

    ``plugins``: Python files that make a model or a template known to swift.
    """

    model_type: str = ""
    template: str = ""
    plugins: tuple[Path, ...] = ()


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What every engine is given.

    ``adapter``: a LoRA checkpoint on top of the model. ``max_pixels``: the limit to which the family resizes pictures,
    None where only the family's own holds. ``system``: the system prompt, None for the family's own. ``batch``: the
    number of pictures answered together. ``scores``: keep the tokens' log-probabilities. ``swift``: what ms-swift is
    told of the model. ``dialect``: in which the model answers. ``stop_loops``: an answer may be ended once
    ``loops.LoopRule`` of this number cuts it; the cut itself is made for every engine alike.
    ``options``: the engine's own.
    """

    model: Path
    family: "Family"
    options: Table
    adapter: Path | None = None
    max_pixels: int | None = None
    system: str | None = None
    device: str = "auto"
    batch: int = 16
    scores: bool = False
    swift: SwiftModel = SwiftModel()
    dialect: str = "qwen2_vl"
    stop_loops: int = 0


class Engine(Protocol):
    """Answers requests about pictures."""

    def identity(self) -> dict[str, Any]:
        """All that decides the texts of the answers, as plain JSON; it loads no weights and reads little of them."""

    def answer(self, requests: Iterable[Request], max_tokens: int) -> Iterator[Completion]:
        """One completion for each request, in any order. Raises ``EngineError``."""


_ENGINES = {
    "transformers": "vlmdet_cli.engines.transformers:TransformersEngine",
    "swift": "vlmdet_cli.engines.swift:SwiftEngine",
    "vllm": "vlmdet_cli.engines.vllm.engine:VLLMEngine",
    "server": "vlmdet_cli.engines.server.engine:ServerEngine",
}


def names() -> tuple[str, ...]:
    return tuple(_ENGINES)


def create(name: str, settings: EngineSettings) -> Engine:
    """The engine of that name; it loads nothing yet.

    Raises ``UsageError`` with the nearest known name, or where it cannot answer for the model's family.
    """
    if name not in _ENGINES:
        raise UsageError(f"No such engine: {nearest(name, _ENGINES)}", hint=f"Known engines: {', '.join(_ENGINES)}.")
    if reason := settings.family.no_engines.get(name):
        others = ", ".join(other for other in _ENGINES if other not in settings.family.no_engines)
        raise UsageError(
            f"The engine {name} cannot answer for {settings.family.name}",
            why=reason,
            hint=f"Engines that can: {others}.",
        )
    module, _, engine_class = _ENGINES[name].partition(":")
    engine: Engine = getattr(importlib.import_module(module), engine_class)(settings)
    return engine
