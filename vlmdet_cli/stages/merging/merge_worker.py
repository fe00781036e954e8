"""The process in which ``merge`` asks an adapter on its base, and then the merged model: ``merge_worker FILE``.

It imports torch and transformers at once, while ``swift export`` still merges, and then waits for its job on stdin. The
two models are loaded one after the other; of the first, texts and logits are kept. The merged model's logits are those
of the *adapter's* answers, so that every position is compared, also behind one where the answers part.
"""

import gc
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from vlmdet_cli.engines import EngineSettings, Request
from vlmdet_cli.engines.failures import engine_errors
from vlmdet_cli.engines.settings import TransformersOptions
from vlmdet_cli.errors import VlmdetError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from vlmdet_cli.engines.transformers import LoadedModel

    Logits = list[npt.NDArray[np.float32]]

_HINT = "`merge_check.log` says more."
_MEMORY_HINT = 'Lower infer.batch, or set infer.device = "cpu".'
POSITIONS = 64  # of an answer, whose logits are compared: a large vocabulary's take 40 MB


class CheckJob(msgspec.Struct, frozen=True, kw_only=True):
    """``adapters``: in their order. The other fields are those of ``EngineSettings``, for both models."""

    base: Path
    adapters: list[Path]
    merged: Path
    requests: list[Request]
    family: str
    dialect: str
    max_pixels: int | None
    system: str | None
    stop_loops: int
    device: str
    dtype: str
    batch: int
    max_tokens: int


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A request and both texts. ``error``: why the picture cannot be used, "" where it can."""

    key: str
    adapter: str = ""
    merged: str = ""
    error: str = ""


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """What the process writes. Differences are the largest between two logits, None where one is no finite number.

    ``difference``: of adapter and merged model; ``effect``: of adapter and its base alone; ``to_base``: of merged model
    and base. ``largest``: the largest logit. ``other_files``: what the merged folder says otherwise than the base's.
    ``error``: what, why and hint of a failure, [] where there was none.
    """

    asked: list[Asked] = []
    positions: int = 0
    difference: float | None = None
    effect: float | None = None
    to_base: float | None = None
    largest: float = 0.0
    device: str = ""
    other_files: list[str] = []
    error: list[str] = []


def compare(job: CheckJob) -> Compared:
    """Ask both models. Raises ``EngineError`` where one of them cannot be loaded or cannot answer."""
    from vlmdet_cli.engines.transformers import LoadedModel, load

    settings = _settings(job, job.base)
    adapter = LoadedModel(settings, load(settings, job.adapters))
    texts, errors = _answers(adapter, job)
    requests = [request for request in job.requests if request.key not in errors]
    expected = _logits(adapter, requests, texts)
    with adapter.model.disable_adapter():
        base = _logits(adapter, requests, texts)
    device = adapter.device
    del adapter
    _free_memory()
    merged = LoadedModel(_settings(job, job.merged))
    merged_texts, _ = _answers(merged, job)
    logits = _logits(merged, requests, texts)
    return Compared(
        asked=[
            Asked(
                key=request.key,
                adapter=texts.get(request.key, ""),
                merged=merged_texts.get(request.key, ""),
                error=errors.get(request.key, ""),
            )
            for request in job.requests
        ],
        positions=sum(len(values) for values in expected),
        difference=largest_difference(expected, logits),
        effect=largest_difference(expected, base),
        to_base=largest_difference(logits, base),
        largest=max((float(abs(values).max()) for values in expected), default=0.0),
        device=device,
        other_files=_other_files(job),
    )


def _settings(job: CheckJob, model: Path) -> EngineSettings:
    from vlmdet_cli.models import registry

    return EngineSettings(
        model=model,
        family=registry.get(job.family),
        options=TransformersOptions(dtype=job.dtype),  # type: ignore[arg-type]
        max_pixels=job.max_pixels,
        system=job.system,
        dialect=job.dialect,
        stop_loops=job.stop_loops,
        device=job.device,
        batch=job.batch,
    )


def _answers(model: "LoadedModel", job: CheckJob) -> tuple[dict[str, str], dict[str, str]]:
    """Texts by key; and the reasons of pictures that cannot be used."""
    completions = list(model.batches(job.max_tokens).completions(job.requests))
    texts = {completion.key: completion.text for completion in completions if completion.finish != "error"}
    return texts, {completion.key: completion.error for completion in completions if completion.finish == "error"}


def _logits(model: "LoadedModel", requests: Sequence[Request], texts: dict[str, str]) -> "Logits":
    """The logits of the adapter's answers, request by request."""
    return [model.logits(request, texts[request.key], POSITIONS) for request in requests]


def largest_difference(first: "Logits", second: "Logits") -> float | None:
    """The largest difference of two logits; None where one is no finite number, or the models have other tokens."""
    import numpy as np

    if any(a.shape != b.shape for a, b in zip(first, second, strict=True)):
        return None
    largest = max((float(abs(a - b).max()) for a, b in zip(first, second, strict=True)), default=0.0)
    return largest if np.isfinite(largest) else None


def _other_files(job: CheckJob) -> list[str]:
    """What the merged folder's processor does otherwise than the base's, in words."""
    from transformers import AutoProcessor

    base, merged = (AutoProcessor.from_pretrained(folder, local_files_only=True) for folder in (job.base, job.merged))
    parts: dict[str, Callable[[Any], Any]] = {
        "the chat template": lambda processor: processor.chat_template or processor.tokenizer.chat_template,
        "the tokenizer's vocabulary": lambda processor: processor.tokenizer.get_vocab(),
    }
    return [name for name, part in parts.items() if part(base) != part(merged)]


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def main() -> None:
    """Wait for the job, and write its result to the file that the command line names."""
    os.dup2(2, 1)  # nobody reads stdout
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ["HF_HUB_OFFLINE"] = "1"  # everything is in folders
    import peft  # noqa: F401
    import transformers  # noqa: F401

    import vlmdet_cli.engines.transformers  # noqa: F401

    document = sys.stdin.buffer.read()
    if not document:
        return  # nothing to ask
    try:
        job = msgspec.json.decode(document, type=CheckJob, dec_hook=lambda kind, value: kind(value))
        with engine_errors("one of the two models cannot be asked", _HINT, _MEMORY_HINT):
            compared = compare(job)
    except VlmdetError as error:
        compared = Compared(error=[error.what, " ".join(error.why), error.hint])
    Path(sys.argv[1]).write_bytes(msgspec.json.encode(compared))


if __name__ == "__main__":
    main()
