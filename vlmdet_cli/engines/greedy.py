"""Greedy decoding of a batch that finished rows leave, so that a long answer does not make the others' rows run on.

``GreedyDecoder`` takes the place of the loop of transformers' ``generate`` (its argument ``custom_generate``), which
computes every row until the last one has ended. All else stays transformers' own: how inputs are prepared, the model's
logits processors, the tokens that end an answer. On the demo it takes 13 % less time and gives the same 575 texts.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from vlmdet_cli.engines.loops import LoopWatch
from vlmdet_cli.engines.shared_pictures import SharedPictures

KEPT_SHARE = 0.75  # rows leave when no more than this share of the batch still runs: each time the cache is copied
# the inputs of each step that have a row for each row of the batch; positions have them in the last dimension but one
_ROW_INPUTS = ("attention_mask", "token_type_ids", "mm_token_type_ids")


class GeneratedRow(NamedTuple):
    """The tokens of an answer with the one that ended it, and their log-probabilities where they were asked for."""

    ids: list[int]
    logprobs: list[float]


class GreedyDecoder:
    """Decodes one batch; ``rows`` are its answers afterwards. ``watch``: ends rows that loop; None lets them run.
    ``shared``: the batch's pictures; None where each row is computed by itself.
    """

    def __init__(self, torch: Any, watch: LoopWatch | None, shared: SharedPictures | None, *, scores: bool) -> None:
        self.rows: list[GeneratedRow] = []
        self._torch, self._watch, self._shared, self._scores = torch, watch, shared, scores

    def __call__(
        self,
        model: Any,
        input_ids: Any,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        **inputs: Any,
    ) -> Any:
        """The prompts' ids as they came; the answers are in ``rows``."""
        batch = _RunningBatch(self._torch, model, input_ids, inputs)
        answers: dict[int, GeneratedRow] = {}
        outputs = self._shared.prefill(model, input_ids, inputs) if self._shared else None
        outputs = outputs or model._prefill(input_ids, generation_config, inputs)
        with model._optimize_model_for_decode():
            while True:
                batch.extend(outputs, logits_processor, scores=self._scores)
                answers |= batch.finish(stopping_criteria(batch.ids, None) | self._looping(batch))
                if not batch.num_running:
                    break
                if batch.num_running <= KEPT_SHARE * len(batch.numbers):
                    batch.drop_finished()
                outputs = batch.next_outputs()
        self.rows = [answers[number] for number in range(len(input_ids))]
        return input_ids

    def _looping(self, batch: "_RunningBatch") -> Any:
        """``(rows,)`` of bool: those whose answer repeats itself."""
        looping = [False] * len(batch.numbers)
        if self._watch is not None and batch.num_tokens % LoopWatch.EVERY == 0:
            answers = batch.ids[:, batch.prompt_length :].cpu().numpy()
            looping = [self._watch.looping(*row) for row in zip(batch.numbers, answers, strict=True)]
        return self._torch.tensor(looping, device=batch.ids.device)


class _RunningBatch:
    """The rows that are still computed. ``numbers``: their places in the whole batch. ``ids``: ``(rows, length)``."""

    def __init__(self, torch: Any, model: Any, input_ids: Any, inputs: dict[str, Any]) -> None:
        self.ids = input_ids
        self.prompt_length: int = input_ids.shape[1]
        self.numbers: Sequence[int] = range(len(input_ids))
        self.num_running = len(input_ids)
        self._torch, self._model, self._inputs = torch, model, inputs
        self._running = torch.ones(len(input_ids), dtype=torch.bool, device=input_ids.device)
        self._logprobs = torch.zeros((len(input_ids), 0), device=input_ids.device)

    @property
    def num_tokens(self) -> int:
        length: int = self.ids.shape[1]
        return length - self.prompt_length

    def extend(self, outputs: Any, logits_processor: Any, *, scores: bool) -> None:
        """Add the likeliest token to each row, with the model's own probability: processors only choose."""
        torch = self._torch
        self._inputs = self._model._update_model_kwargs_for_generation(
            outputs, self._inputs, is_encoder_decoder=self._model.config.is_encoder_decoder
        )
        logits = outputs.logits[:, -1].to(copy=True, dtype=torch.float32, device=self.ids.device)
        logprobs = torch.log_softmax(logits, dim=-1) if scores else None  # processors may write into the logits
        chosen = logits_processor(self.ids, logits).argmax(dim=-1, keepdim=True)
        self.ids = torch.cat([self.ids, chosen], dim=1)
        if logprobs is not None:
            self._logprobs = torch.cat([self._logprobs, logprobs.gather(1, chosen)], dim=1)

    def finish(self, ended: Any) -> dict[int, GeneratedRow]:
        """The answers of the running rows that have ended now, by their numbers."""
        finished = (self._running & ended).nonzero()[:, 0].tolist()
        self._running &= ~ended
        self.num_running -= len(finished)
        return {
            self.numbers[row]: GeneratedRow(self.ids[row, self.prompt_length :].tolist(), self._logprobs[row].tolist())
            for row in finished
        }

    def drop_finished(self) -> None:
        """Compute the running rows alone from now on, where the model's cache can be cut."""
        cache: Any = self._inputs.get("past_key_values")
        if self._model.config.is_encoder_decoder or not hasattr(cache, "batch_select_indices"):
            return
        kept = self._running.nonzero()[:, 0]
        cache.batch_select_indices(kept)
        self.numbers = [self.numbers[row] for row in kept.tolist()]
        self.ids, self._running, self._logprobs = self.ids[kept], self._running[kept], self._logprobs[kept]
        for name in _ROW_INPUTS:
            if self._inputs.get(name) is not None:
                self._inputs[name] = self._inputs[name][kept]
        positions = self._inputs.get("position_ids")
        if positions is not None:
            self._inputs["position_ids"] = positions.index_select(positions.dim() - 2, kept)

    def next_outputs(self) -> Any:
        """The model's outputs for the newest token of each row."""
        inputs = self._model.prepare_inputs_for_generation(self.ids, next_sequence_length=1, **self._inputs)
        return self._model(**inputs, return_dict=True)
