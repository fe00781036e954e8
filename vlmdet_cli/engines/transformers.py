"""A local model folder by transformers' ``generate``, in this process, in batches, greedily.

The family writes the chat, resizes each picture as in training, and names the tokens that end an answer; the processor
resizes nothing. Special tokens of an answer are kept; only its end and padding are cut.
"""

import gc
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmdet_cli.core.answers import Token
from vlmdet_cli.core.memory import keep_freed_memory, no_collection
from vlmdet_cli.core.model_hash import model_folder_hash
from vlmdet_cli.engines import Completion, EngineSettings, Request
from vlmdet_cli.engines.adapted import with_adapters
from vlmdet_cli.engines.batches import BatchedAnswers, Sized
from vlmdet_cli.engines.failures import engine_errors
from vlmdet_cli.engines.greedy import GeneratedRow, GreedyDecoder
from vlmdet_cli.engines.loops import LoopRule, LoopWatch
from vlmdet_cli.engines.pictures import PictureReader
from vlmdet_cli.engines.settings import TransformersOptions
from vlmdet_cli.engines.shared_pictures import SharedPictures
from vlmdet_cli.errors import EngineError
from vlmdet_cli.models import dialects

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL import Image

_PACKAGES = ("torch", "torchvision", "transformers", "PIL")
# a model's own generation settings may name these; greedy search has no use for them and warns
_NO_SAMPLING = {"temperature": None, "top_p": None, "top_k": None}


class TransformersEngine:
    """Answers with the model of ``settings``, which it loads when it is asked for the first time and keeps."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._model: LoadedModel | None = None

    def identity(self) -> dict[str, Any]:
        settings = self._settings
        options = _options(settings)
        return {
            "name": "transformers",
            "model": model_folder_hash(settings.model),
            "adapter": model_folder_hash(settings.adapter) if settings.adapter else None,
            "dtype": options.dtype,
            "attention": options.attention,
        }

    def answer(self, requests: Iterable[Request], max_tokens: int) -> Iterator[Completion]:
        """Greedy completions; ``length`` where the token limit came before the end of the answer."""
        model = self._loaded()
        batches = model.batches(max_tokens)
        with engine_errors("The engine transformers failed", _RUN_HINT):
            yield from batches.completions(requests)

    def _loaded(self) -> "LoadedModel":
        if self._model is None:
            name = self._settings.adapter or self._settings.model
            with engine_errors(f"Cannot load the model: {name}", _LOAD_HINT, _MEMORY_HINT), no_collection():
                self._model = LoadedModel(self._settings)
                gc.freeze()  # a million objects of torch and transformers stay: no collection looks at them again
        return self._model


class LoadedModel:
    """A model with its processor on its device. ``model``: one that is loaded already."""

    def __init__(self, settings: EngineSettings, model: Any = None) -> None:
        _require_packages()
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        import torch
        from transformers import AutoProcessor

        self._torch, self._settings = torch, settings
        self._tokenizing = threading.Lock()  # a tokenizer serves one thread at a time
        self.read = PictureReader(settings)
        self.device = _device(torch, settings.device)
        self._processor = AutoProcessor.from_pretrained(settings.model, local_files_only=True)
        self.model = load(settings, [settings.adapter] if settings.adapter else []) if model is None else model
        # a model in training is left as it is, and what it keeps between two batches must be usable in training
        self._shared = SharedPictures(self.model, self._processor) if model is None else None
        self._without_gradients = torch.inference_mode if model is None else torch.no_grad
        tokenizer = self._processor.tokenizer
        tokenizer.padding_side = "left"
        known = tokenizer.get_vocab()
        self._ends = [known[token] for token in settings.family.end_tokens if token in known]
        self._cuts = {*self._ends, tokenizer.pad_token_id}
        dialect = dialects.get(settings.dialect, settings.max_pixels)
        self._loops = LoopRule(dialect, settings.stop_loops)
        if self.device == "cpu":
            keep_freed_memory()
        _check_decoders()
        settings.family.resize(_blank_picture(), settings.max_pixels)

    def batches(self, max_tokens: int) -> BatchedAnswers:
        """Answers in batches. A GPU gets the next batch's inputs ready-made; a CPU has no core to spare for them."""
        if self.device == "cpu":
            return BatchedAnswers(
                self._settings.batch,
                self.read,
                lambda batch, _: self.complete(batch, self.inputs(batch), max_tokens),
            )
        return BatchedAnswers(
            self._settings.batch,
            self.read,
            lambda batch, inputs: self.complete(batch, inputs, max_tokens),
            self.inputs,
        )

    def complete(self, batch: Sequence[Sized], inputs: Any, max_tokens: int) -> list[Completion]:
        """The completions of a batch, in its order; ``inputs``: what ``inputs`` makes of it."""
        if self._shared:
            self._shared.pictures = [picture for _, picture in batch]
        rows = self.generate(inputs.to(self.device), max_tokens)
        keys = (request.key for request, _ in batch)
        return [self._completion(key, row) for key, row in zip(keys, rows, strict=True)]

    def generate(self, inputs: Any, max_tokens: int, logits_processor: Sequence[Any] = ()) -> list[GeneratedRow]:
        """The answers of a batch by greedy search."""
        watch = LoopWatch(self._loops, self._decode) if self._loops.times else None
        decoder = GreedyDecoder(self._torch, watch, self._shared, scores=self._settings.scores)
        with self._without_gradients():
            self.model.generate(
                **inputs,
                max_new_tokens=max_tokens,
                do_sample=False,
                use_cache=True,
                eos_token_id=self._ends,
                logits_processor=[*logits_processor],
                custom_generate=decoder,
                **_NO_SAMPLING,
            )
        return decoder.rows

    def logits(self, request: Request, answer: str, positions: int) -> "npt.NDArray[np.float32]":
        """The logits ``(T, V)`` of a given answer's first ``positions`` tokens, each after all that come before it.

        The answer ends where it names a picture or a video: a model cannot be fed one that is not there.
        """
        for name in ("image_token", "video_token"):
            if token := getattr(self._processor, name, None):
                answer = answer.partition(token)[0]
        family, picture = self._settings.family, self.read(request)
        text = family.request_text(request.prompt, self._settings.system)
        asked, answered = (family.inputs(self._processor, [part], [picture]) for part in (text, text + answer))
        start = asked["input_ids"].shape[1] - 1  # the logits there are those of the answer's first token
        with self._without_gradients():
            outputs = self.model(**answered.to(self.device), logits_to_keep=answered["input_ids"].shape[1] - start)
        logits: npt.NDArray[np.float32] = outputs.logits[0, :positions].float().cpu().numpy()
        return logits

    def inputs(self, batch: Sequence[Sized]) -> Any:
        """What the model is fed for a batch, padded at the left, still on the CPU. May be called on any thread."""
        family, system = self._settings.family, self._settings.system
        texts = [family.request_text(request.prompt, system) for request, _ in batch]
        pictures = [picture for _, picture in batch]
        with self._tokenizing:
            return family.inputs(self._processor, texts, pictures)

    def _completion(self, key: str, row: GeneratedRow) -> Completion:
        end = next((position for position, token in enumerate(row.ids) if token in self._cuts), None)
        ids = row.ids[:end]
        completion = Completion(
            key=key,
            text=self._decode(ids),
            finish="length" if end is None else "stop",
            tokens=list(self._tokens(ids, row.logprobs[:end])),
            num_tokens=len(ids),
        )
        return self._loops.cut(completion)

    def _decode(self, ids: Sequence[int]) -> str:
        with self._tokenizing:
            return str(self._processor.tokenizer.decode(ids, clean_up_tokenization_spaces=False))

    def _tokens(self, ids: Sequence[int], logprobs: Sequence[float]) -> Iterator[Token]:
        """Tokens as text; those that are parts of one character are joined."""
        start = 0
        for end in range(1, len(logprobs) + 1):
            text = self._decode(ids[start:end])
            if end == len(logprobs) or not text.endswith("\ufffd"):
                yield text, round(sum(logprobs[start:end]), 5)
                start = end


_LOAD_HINT = "A model folder holds config.json, weights (*.safetensors), tokenizer and preprocessor files."
_MEMORY_HINT = "Use a device with more memory, or a smaller infer.transformers.dtype, such as bfloat16."
_RUN_HINT = "What is answered is kept: run the same command again. `vlmdet doctor` checks the installed packages."


def _options(settings: EngineSettings) -> TransformersOptions:
    return settings.options if isinstance(settings.options, TransformersOptions) else TransformersOptions()


def load(settings: EngineSettings, adapters: Sequence[Path]) -> Any:
    """The model of the settings, with adapters on it, on its device."""
    import torch
    from transformers import AutoModelForImageTextToText
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    options, device = _options(settings), _device(torch, settings.device)
    arguments: dict[str, Any] = {"dtype": _dtype(torch, options.dtype, device), "local_files_only": True}
    if options.attention != "auto":
        arguments["attn_implementation"] = options.attention
    model = AutoModelForImageTextToText.from_pretrained(settings.model, **arguments)
    if adapters:
        model = with_adapters(model, adapters)
    return model.to(device).eval()


def _device(torch: Any, name: str) -> str:
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def _dtype(torch: Any, name: str, device: str) -> Any:
    if name == "auto":
        name = "float32" if device == "cpu" else "bfloat16"
    return getattr(torch, name)


def _require_packages() -> None:
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise EngineError(
            f"Inference needs packages that are not installed: {', '.join(missing)}",
            hint="Install the training stack: pip install 'vlmdet[train]'.",
        )


def _blank_picture() -> "Image.Image":
    from PIL import Image

    return Image.new("RGB", (64, 48))


def _check_decoders() -> None:
    """Raises where Pillow cannot read back a JPEG or PNG file that it wrote: every picture would seem bad."""
    import io

    from PIL import Image

    for name in ("JPEG", "PNG"):
        file = io.BytesIO()
        _blank_picture().save(file, name)
        Image.open(file).load()
