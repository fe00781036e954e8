"""Run as a program in vLLM's environment: one vLLM engine that reads requests from stdin and writes answers to stdout.

It needs the standard library, Pillow and vLLM. A message is a line of JSON; a picture's pixels follow theirs.

    stdin   {"load": arguments of LLM, where "dtype" may be "auto" and "gpu_memory_utilization" 0,
             "end_tokens": […], "scores": bool, "sampling": more arguments of SamplingParams, "logit_bias" as pairs,
             "loops": null or the arguments of RepetitionDetectionParams}
            {"key": …, "text": …, "max_tokens": n, "size": [width, height]}, then width x height x 3 bytes of RGB
            {"key": …, "again": whether to answer once more and not to stop a loop}, after each answer "loop"
            …
    stdout  {"loaded": {"device": …}}
            {"key": …, "text": …, "finish": "stop", "length" or "loop", "num_tokens": n, "tokens": [[text, logprob], …]}
            {"key": …, "error": why vLLM does not take the request}
            {"failed": the error that ends the program}

Answers come in any order, each when it is complete; requests are taken while others run. The end of stdin means that no
more requests come. What vLLM prints goes to stderr.
"""

import importlib.util
import json
import os
import queue
import runpy
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

Message = dict[str, Any]
CHANNELS = 3


def main() -> None:
    if sys.argv[1:] == ["--version"]:
        sys.stdout.write(json.dumps({"vllm": installed_version()}) + "\n")
        return
    source, target = private_pipes()
    try:
        Worker(json.loads(source.readline()), target).answer(arriving(source))
    except Exception as error:
        target.write({"failed": " ".join(f"{type(error).__name__}: {error}".split())})
        raise


def installed_version() -> "str | None":
    """The version of vLLM, without the seconds of importing it; None where it is not installed."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        return None
    return str(runpy.run_path(str(Path(spec.origin).with_name("_version.py")))["__version__"])


class Output:
    """Where answers are written, a line each."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, message: Message) -> None:
        self._file.write(json.dumps(message).encode() + b"\n")
        self._file.flush()


def private_pipes() -> "tuple[IO[bytes], Output]":
    """The pipes of the answers and requests; from now on this process prints to stderr and reads nothing.

    vLLM forks processes, which must not keep the pipes open after this one has ended: that tells the reader of it.
    """
    source, target = os.dup(0), os.dup(1)
    os.dup2(2, 1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.register_at_fork(after_in_child=lambda: close(source, target))
    return open(source, "rb", closefd=False), Output(open(target, "wb", closefd=False))


def close(*descriptors: int) -> None:
    for descriptor in descriptors:
        try:
            os.close(descriptor)
        except OSError:
            return  # a child's child


def arriving(source: IO[bytes]) -> "queue.SimpleQueue[tuple[Message, bytes] | None]":
    """Requests with their pixels as they arrive, read by a thread; None after the last."""
    requests: queue.SimpleQueue[tuple[Message, bytes] | None] = queue.SimpleQueue()

    def read() -> None:
        while line := source.readline():
            message = json.loads(line)
            width, height = message.get("size", (0, 0))
            pixels = source.read(width * height * CHANNELS)
            if len(pixels) < width * height * CHANNELS:
                break  # the sender has gone
            requests.put((message, pixels))
        requests.put(None)

    threading.Thread(target=read, daemon=True).start()
    return requests


class Worker:
    """vLLM with the model of ``job``, the first message."""

    def __init__(self, job: Message, output: Output) -> None:
        from vllm import LLM
        from vllm.platforms import current_platform

        is_cpu = current_platform.is_cpu()
        arguments = dict(job["load"])
        if arguments["dtype"] == "auto":
            arguments["dtype"] = "float32" if is_cpu else "bfloat16"
        arguments["gpu_memory_utilization"] = arguments["gpu_memory_utilization"] or (0.3 if is_cpu else 0.9)
        self._llm = LLM(**arguments)
        self._engine = self._llm.llm_engine
        self._output = output
        self._tokenizer: Any = self._llm.get_tokenizer()
        known = self._tokenizer.get_vocab()
        ends = [known[token] for token in job["end_tokens"] if token in known]
        self._cuts = {*ends, self._tokenizer.pad_token_id}
        self._scores = job["scores"]
        self._sampling = {"stop_token_ids": ends, "logprobs": 0 if self._scores else None, **job["sampling"]}
        if "logit_bias" in self._sampling:
            self._sampling["logit_bias"] = dict(self._sampling["logit_bias"])  # JSON has no numbers as keys
        self._loops = job["loops"] and repetition_detection(job["loops"])
        self._prompts: dict[str, tuple[Any, int]] = {}  # of requests that are not answered for good
        output.write({"loaded": {"device": current_platform.device_type}})

    def answer(self, requests: "queue.SimpleQueue[tuple[Message, bytes] | None]") -> None:
        """Answer until the requests have ended and all are answered."""
        more = True
        while more or self._engine.has_unfinished_requests():
            more = more and self._take(requests)
            if self._engine.has_unfinished_requests():
                for output in self._engine.step():
                    self._output.write(self._answer(output.request_id, output.outputs[0]))

    def _take(self, requests: "queue.SimpleQueue[tuple[Message, bytes] | None]") -> bool:
        """Give vLLM all requests that have come; wait for one where it has none. Whether more may come."""
        while True:
            try:
                arrived = requests.get(block=not self._engine.has_unfinished_requests())
            except queue.Empty:
                return True
            if arrived is None:
                return False
            self._add(*arrived)

    def _add(self, message: Message, pixels: bytes) -> None:
        from PIL import Image

        key = message["key"]
        if "again" in message:
            prompt, max_tokens = self._prompts.pop(key)
            if message["again"]:
                self._ask(key, prompt, max_tokens, {})
            return
        picture = Image.frombytes("RGB", tuple(message["size"]), pixels)
        prompt, max_tokens = {"prompt": message["text"], "multi_modal_data": {"image": picture}}, message["max_tokens"]
        if self._loops:
            self._prompts[key] = prompt, max_tokens
        self._ask(key, prompt, max_tokens, {"repetition_detection": self._loops} if self._loops else {})

    def _ask(self, key: str, prompt: Any, max_tokens: int, loops: Message) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        parameters = SamplingParams(
            temperature=0.0,
            max_tokens=max_tokens,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            **self._sampling,
            **loops,
        )
        try:
            self._engine.add_request(key, prompt, parameters)
        except ValueError as error:  # such as more tokens than max_model_len
            self._prompts.pop(key, None)
            self._output.write({"key": key, "error": " ".join(str(error).split())})

    def _answer(self, key: str, output: Any) -> Message:
        ids = list(output.token_ids)
        end = next((position for position, token in enumerate(ids) if token in self._cuts), None)
        answer: Message = {
            "key": key,
            "text": self._decode(ids[:end]),
            "finish": "length" if end is None else "stop",
            "num_tokens": len(ids),
        }
        if output.stop_reason == "repetition_detected":
            answer["finish"] = "loop"
        else:
            self._prompts.pop(key, None)
        if self._scores:
            chosen = [step[token].logprob for step, token in zip(output.logprobs, ids, strict=True)]
            answer["tokens"] = list(parts(self._decode, ids[:end], chosen))
        return answer

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def repetition_detection(arguments: Message) -> Any:
    """The record of these arguments; None where this vLLM cannot stop a text that repeats itself."""
    try:
        from vllm.sampling_params import RepetitionDetectionParams
    except ImportError:
        return None
    return RepetitionDetectionParams(**arguments)


def parts(
    decode: Callable[[Sequence[int]], str], ids: Sequence[int], logprobs: Sequence[float]
) -> "Iterator[tuple[str, float]]":
    """Tokens as text with their log-probabilities; those that are parts of one character are joined."""
    start = 0
    for end in range(1, len(ids) + 1):
        text = decode(ids[start:end])
        if end == len(ids) or not text.endswith("\ufffd"):
            yield text, round(sum(logprobs[start:end]), 5)
            start = end


if __name__ == "__main__":
    main()
