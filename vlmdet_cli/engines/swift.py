"""Any model that ms-swift knows, by swift's own Python engine, in this process, in batches, greedily.

swift's template writes the chat as it does in training. A picture comes sized by the family, and the template changes
it no more; where vlmdet knows no family it comes as it is, and the template sizes it. Special tokens of an answer are
kept; only its end is cut. swift's own settings in a model's folder (``args.json``) are not read here:
``EngineSettings`` says all.
"""

import contextlib
import importlib.metadata
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from vlmdet_cli.core.answers import Token
from vlmdet_cli.core.files import file_hash
from vlmdet_cli.core.model_hash import model_folder_hash
from vlmdet_cli.engines import Completion, EngineSettings, Request
from vlmdet_cli.engines.adapted import TOWER
from vlmdet_cli.engines.batches import BatchedAnswers, Sized
from vlmdet_cli.engines.failures import engine_errors
from vlmdet_cli.engines.pictures import PictureReader
from vlmdet_cli.engines.settings import SwiftOptions
from vlmdet_cli.errors import EngineError, UsageError

if TYPE_CHECKING:
    from PIL import Image

_LOAD_HINT = (
    "The flags train.swift.model_type, template and external_plugins tell swift what the model is; "
    "`vlmdet doctor` checks the installed packages."
)
_MEMORY_HINT = "Use a device with more memory, or a smaller infer.swift.dtype, such as bfloat16."
_RUN_HINT = "What is answered is kept: run the same command again. `vlmdet doctor` checks the installed packages."
# what a template raises for the machine's sake; any other exception of it is of the picture or its prompt
_OF_THE_MACHINE = (MemoryError, ImportError, OSError)

_TOO_LONG = "leaves no room for generation"  # what swift says of a whole batch with one prompt over the model's length


class SwiftEngine:
    """Answers with the model of ``settings``, which swift loads when it is asked for the first time and keeps."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._model: LoadedModel | None = None

    def identity(self) -> dict[str, Any]:
        """Raises ``UsageError`` for an adapter that is a part of its training only."""
        settings, options = self._settings, _options(self._settings)
        if settings.adapter and (settings.adapter / TOWER).is_file():
            raise UsageError(
                f"The engine swift would leave a part of the training out: {settings.adapter / TOWER}",
                why='With train.tuner_type = "lora_llm", the vision tower and the aligner are trained whole.',
                hint='Set infer.engine = "transformers", or ask the merged model: `vlmdet merge`.',
            )
        return {
            "name": "swift",
            "model": model_folder_hash(settings.model),
            "adapter": model_folder_hash(settings.adapter) if settings.adapter else None,
            "dtype": options.dtype,
            "attention": options.attention,
            "model_type": settings.swift.model_type,
            "template": settings.swift.template,
            "plugins": [file_hash(path) for path in settings.swift.plugins],
            "swift": _version(),
        }

    def answer(self, requests: Iterable[Request], max_tokens: int) -> Iterator[Completion]:
        """Greedy completions; ``length`` where the token limit came before the end of the answer."""
        model = self._loaded()
        batches = BatchedAnswers(self._settings.batch, model.read, lambda batch, _: model.complete(batch, max_tokens))
        with engine_errors("The engine swift failed", _RUN_HINT):
            yield from batches.completions(requests)

    def _loaded(self) -> "LoadedModel":
        if self._model is None:
            name = self._settings.adapter or self._settings.model
            with engine_errors(f"swift cannot load the model: {name}", _LOAD_HINT, _MEMORY_HINT), _quiet():
                self._model = LoadedModel(self._settings)
        return self._model


class LoadedModel:
    """A model, its processor and its template, as swift loads them."""

    def __init__(self, settings: EngineSettings) -> None:
        if not _version():
            raise EngineError(
                "The engine swift needs ms-swift, which is not installed",
                hint="Install the training stack: pip install 'vlmdet[train]'.",
            )
        import torch
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        from swift.infer_engine import InferRequest, RequestConfig, TransformersEngine
        from swift.model import get_model_processor
        from swift.template import get_template
        from swift.utils import import_external_file

        for plugin in settings.swift.plugins:
            import_external_file(str(plugin))
        self._settings, self._request_type, self._config_type = settings, InferRequest, RequestConfig
        self.read = PictureReader(settings)
        options, device = _options(settings), _device(torch, settings.device)
        model, processor = get_model_processor(
            str(settings.model),
            torch_dtype=_dtype(torch, options.dtype, device),
            device_map=device,
            model_type=settings.swift.model_type or None,
            attn_impl=None if options.attention == "auto" else options.attention,
        )
        self.template = get_template(
            processor,
            settings.system,
            template_type=settings.swift.template or None,
            max_pixels=None if settings.family.is_known else settings.max_pixels,
        )
        adapters = [str(settings.adapter)] if settings.adapter else []
        self._engine = TransformersEngine(model, template=self.template, adapters=adapters, max_batch_size=0)
        self._engine.strict = False  # a request that the template refuses is returned as its exception
        self._check_template()

    def complete(self, batch: Sequence[Sized], max_tokens: int) -> list[Completion]:
        """The completions of a batch, in its order."""
        config = self._config_type(
            max_tokens=max_tokens, temperature=0, logprobs=self._settings.scores, return_details=True
        )
        requests = [self._request(request.prompt, picture) for request, picture in batch]
        try:
            with _quiet():
                responses = self._engine.infer(requests, config, use_tqdm=False)
        except ValueError as error:
            if _TOO_LONG not in str(error):
                raise
            if len(batch) == 1:
                return [Completion(key=batch[0][0].key, finish="error", error=f"swift refuses it: {error}")]
            return [self.complete([item], max_tokens)[0] for item in batch]
        keys = (request.key for request, _ in batch)
        return [self._completion(key, response) for key, response in zip(keys, responses, strict=True)]

    def _request(self, prompt: str, picture: "Image.Image") -> Any:
        return self._request_type(messages=[{"role": "user", "content": prompt}], images=[picture])

    def _completion(self, key: str, response: Any) -> Completion:
        if isinstance(response, _OF_THE_MACHINE):
            raise response
        if isinstance(response, Exception):
            return Completion(key=key, finish="error", error=f"swift refuses it: {response}")
        (choice,) = response.choices
        ids = list(choice.token_ids)
        kept = ids[: len(self.template.skip_stop_tokens(ids))]
        is_cut = choice.finish_reason == "length" and len(kept) == len(ids)
        logprobs = [token["logprob"] for token in choice.logprobs["content"]] if choice.logprobs else []
        return Completion(
            key=key,
            text=choice.message.content,
            finish="length" if is_cut else "stop",
            tokens=list(self._tokens(kept, logprobs)) if logprobs else [],
            num_tokens=len(kept),
        )

    def _tokens(self, ids: Sequence[int], logprobs: Sequence[float]) -> Iterator[Token]:
        """Tokens as text; those that are parts of one character are joined."""
        start = 0
        for end in range(1, len(ids) + 1):
            text = self._decode(ids[start:end])
            if end == len(ids) or not text.endswith("\ufffd"):
                yield text, round(sum(logprobs[start:end]), 5)
                start = end

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.template.tokenizer.decode(ids, spaces_between_special_tokens=False))

    def _check_template(self) -> None:
        """Raises where the template fails on a plain picture: every picture would seem bad."""
        from PIL import Image

        self.template.set_mode("transformers")
        self.template.encode(self._request("<image>", Image.new("RGB", (448, 336))))


def _options(settings: EngineSettings) -> SwiftOptions:
    return settings.options if isinstance(settings.options, SwiftOptions) else SwiftOptions()


def _version() -> str:
    """The installed ms-swift's version, "" where there is none."""
    try:
        return importlib.metadata.version("ms-swift") if find_spec("swift") else ""
    except importlib.metadata.PackageNotFoundError:
        return ""


def _device(torch: Any, name: str) -> str | None:
    """None where swift chooses: one GPU or several."""
    if name != "auto":
        return name
    return None if torch.cuda.is_available() else "cpu"


def _dtype(torch: Any, name: str, device: str | None) -> Any:
    if name == "auto":
        name = "float32" if device == "cpu" else "bfloat16"
    return getattr(torch, name)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep swift's remarks away, and what it prints out of stdout, which is for the result.

    Processes that are started later, such as a training of the same experiment, shall talk: their logs are read.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    is_open = "LOG_LEVEL" not in os.environ
    os.environ.setdefault("LOG_LEVEL", "ERROR")
    try:
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if is_open:
            del os.environ["LOG_LEVEL"]
