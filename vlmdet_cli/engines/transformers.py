"""A model by transformers' ``generate``, in this process, in batches, greedily.

The model's family sizes a picture exactly as ms-swift sizes it in training; the processor resizes nothing. Special tokens of an answer are kept; only the end of the turn and
padding are cut.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vlmdet_cli.core.answers import Token
from vlmdet_cli.engines import Reply
from vlmdet_cli.errors import EngineError
from vlmdet_cli.models import registry


class TransformersEngine:
    """A local model folder on one device; ``adapter`` is a LoRA checkpoint put on top of it.

    ``max_pixels`` is what the model was trained with; without it the model's own limit holds. With ``scores`` a reply
    carries the log-probability of each of its pieces.
    """

    def __init__(
        self,
        model: Path,
        *,
        adapter: Path | None = None,
        device: str = "auto",
        max_pixels: int | None = None,
        scores: bool = False,
    ) -> None:
        _require_stack()
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        import torch
        from transformers import AutoModelForImageTextToText, AutoProcessor
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self._torch = torch
        self._scores = scores
        self._family = registry.family_of(str(model))
        self._max_pixels = max_pixels or self._family.pixel_limit(model)
        self.device = _device(torch, device)
        dtype = torch.float32 if self.device == "cpu" else torch.bfloat16
        try:
            self._processor = AutoProcessor.from_pretrained(model, local_files_only=True)
            loaded = AutoModelForImageTextToText.from_pretrained(model, dtype=dtype, local_files_only=True)
            if adapter is not None:
                from peft import PeftModel

                loaded = PeftModel.from_pretrained(loaded, str(adapter), local_files_only=True)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise EngineError(
                f"Cannot load the model: {adapter or model}",
                why=first,
                hint="A model folder holds config.json, weights (*.safetensors), tokenizer and preprocessor files.",
            ) from None
        self._model = loaded.to(self.device).eval()
        self._processor.tokenizer.padding_side = "left"
        end = self._processor.tokenizer.convert_tokens_to_ids(self._family.end_tokens[0])
        self._ends = {end, self._processor.tokenizer.pad_token_id}
        self._end = end

    def load(self, path: Path) -> Any:
        """The picture in RGB, sized as in training."""
        from PIL import Image

        with Image.open(path) as opened:
            return self._family.resize(opened, self._max_pixels)

    def answer(self, questions: Sequence[tuple[Any, str]], max_tokens: int) -> list[Reply]:
        """Greedy replies; ``length`` where the token limit came before the end of the turn."""
        inputs = self.inputs(questions)
        recorder = _Recorder(self._torch)
        with self._torch.inference_mode():
            made = self._model.generate(
                **inputs,
                max_new_tokens=max_tokens,
                do_sample=False,
                eos_token_id=self._end,
                logits_processor=[recorder] if self._scores else [],
                **_NO_SAMPLING,
            )
        rows = made[:, inputs["input_ids"].shape[1] :].tolist()
        chances = list(zip(*recorder.steps, strict=True)) if self._scores else [()] * len(rows)
        return [self._reply(ids, one) for ids, one in zip(rows, chances, strict=True)]

    def inputs(self, questions: Sequence[tuple[Any, str]]) -> Any:
        """What the model is fed for (loaded picture, prompt) pairs, padded at the left."""
        texts = [self._family.request_text(prompt) for _, prompt in questions]
        images = [image for image, _ in questions]
        made = self._processor(text=texts, images=images, padding=True, do_resize=False, return_tensors="pt")
        return made.to(self.device)

    def _reply(self, ids: list[int], chances: Sequence[float]) -> Reply:
        end = next((place for place, one in enumerate(ids) if one in self._ends), None)
        tokens = list(self._pieces(ids[:end], chances[:end])) if chances else []
        return Reply(text=self._decode(ids[:end]), finish="length" if end is None else "stop", tokens=tokens)

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._processor.tokenizer.decode(ids, clean_up_tokenization_spaces=False))

    def _pieces(self, ids: Sequence[int], chances: Sequence[float]) -> Iterator[Token]:
        """Tokens as text; those that are parts of one character are one piece."""
        start = 0
        for end in range(1, len(ids) + 1):
            text = self._decode(ids[start:end])
            if end == len(ids) or not text.endswith("\ufffd"):
                yield text, round(sum(chances[start:end]), 5)
                start = end


class _Recorder:
    """Keeps the log-probability of each greedily chosen token: the largest one of its step."""

    def __init__(self, torch: Any) -> None:
        self.steps: list[list[float]] = []
        self._torch = torch

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        del input_ids
        self.steps.append(self._torch.log_softmax(scores.float(), dim=-1).max(dim=-1).values.tolist())
        return scores


# a model's own generation settings may name these; greedy search has no use for them and warns
_NO_SAMPLING = {"temperature": None, "top_p": None, "top_k": None}


def _device(torch: Any, wanted: str) -> str:
    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


def _require_stack() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("torch", "transformers", "qwen_vl_utils", "torchvision") if find_spec(name) is None]
    if missing:
        raise EngineError(
            f"Inference needs packages that are not installed: {', '.join(missing)}",
            hint="Install the training stack: pip install 'vlmdet[train]'.",
        )
