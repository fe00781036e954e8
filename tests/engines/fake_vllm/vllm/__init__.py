"""What the worker uses of vLLM, as a small fake: its answers tell the size of the picture.

``print``, ``refuse``, ``break``, ``kill`` and ``leave`` in a prompt make it behave badly. A model folder named
``broken`` does not load.
"""

import atexit
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from vllm.sampling_params import RepetitionDetectionParams, RequestOutputKind

BOX = "<|object_ref_start|>cat<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>"
WORDS = ["<end>", "<pad>", "<box>", "cat", "dog", " at ", "!", BOX]


class SamplingParams(NamedTuple):
    temperature: float
    max_tokens: int
    stop_token_ids: list[int]
    logprobs: int | None
    detokenize: bool
    output_kind: RequestOutputKind
    repetition_detection: RepetitionDetectionParams | None = None
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] | None = None


class Logprob(NamedTuple):
    logprob: float


class Completion(NamedTuple):
    token_ids: list[int]
    logprobs: list[dict[int, Logprob]] | None
    stop_reason: str | int | None = None


class Output(NamedTuple):
    request_id: str
    outputs: list[Completion]


class Tokenizer:
    pad_token_id = 1

    def get_vocab(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(WORDS)}

    def decode(self, ids: list[int], **options: bool) -> str:
        assert options == {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        return "".join(WORDS[number] for number in ids)


class Engine:
    def __init__(self) -> None:
        self._waiting: list[tuple[str, Any, SamplingParams]] = []

    def add_request(self, request_id: str, prompt: Any, params: SamplingParams) -> None:
        text = prompt["prompt"]
        if "print" in text:
            sys.stdout.write('{"key": "none"}\n')
            subprocess.run(["echo", "a child's words"], check=True)
        if "refuse" in text:
            raise ValueError("The prompt is too long.")
        if "break" in text:
            raise RuntimeError("The device has gone.")
        if "kill" in text:
            os.kill(os.getpid(), signal.SIGKILL)
        if "leave" in text:
            sys.exit(0)
        if params.logit_bias:
            assert all(isinstance(token, int) for token in params.logit_bias)
        self._waiting.append((request_id, prompt, params))

    def has_unfinished_requests(self) -> bool:
        return bool(self._waiting)

    def step(self) -> list[Output]:
        request_id, prompt, params = self._waiting.pop()
        for word, token in (("loop", 7), ("stutter", 6)):
            if word in prompt["prompt"]:
                return [Output(request_id, [repeated(token, params)])]
        width, height = prompt["multi_modal_data"]["image"].size
        ids = [2, *[3] * (width // 28), 5, *[4] * (height // 28), *params.stop_token_ids][: params.max_tokens]
        logprobs = None if params.logprobs is None else [{number: Logprob(-0.5)} for number in ids]
        return [Output(request_id, [Completion(ids, logprobs)])]


def repeated(token: int, params: SamplingParams) -> Completion:
    """An answer of one token for ever, stopped where the parameters say so."""
    stop = params.repetition_detection
    if stop is None:
        return Completion([token] * params.max_tokens, None)
    return Completion([token] * stop.min_count, None, "repetition_detected")


class LLM:
    def __init__(self, model: str, **arguments: Any) -> None:
        sys.stdout.write(f"Loading {model} {arguments}\n")
        if Path(model).name == "broken":
            sys.stdout.write("(EngineCore pid=9) ERROR [core.py:1] ValueError: no weights\n" + "and so on\n" * 30)
            raise RuntimeError("See root cause above.")
        self.llm_engine = Engine()
        child = os.fork()  # as vLLM's own engine process, which outlives a killed worker
        if child == 0:
            signal.pause()
        atexit.register(os.kill, child, signal.SIGKILL)

    def get_tokenizer(self) -> Tokenizer:
        return Tokenizer()
