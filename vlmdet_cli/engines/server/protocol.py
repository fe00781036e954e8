"""What an OpenAI-compatible server is sent, and what it sends back: bytes and records, without a network.

A picture goes in the pixels of ``PictureReader``, as a lossless PNG in a data URL. The system prompt of training is
sent explicitly, since servers have defaults of their own. vLLM is told to keep special tokens as they are and not to
resize, and what of the model's generation settings it leaves out; ms-swift does all that by itself; another server gets
nothing that is not OpenAI's.
"""

import base64
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec
import numpy as np

from vlmdet_cli.core.answers import Token
from vlmdet_cli.engines import Completion, EngineSettings, Finish
from vlmdet_cli.engines.loops import LoopRule
from vlmdet_cli.engines.vllm.engine import REPEATED_TOKENS, generation_arguments
from vlmdet_cli.models import dialects
from vlmdet_cli.models.family import IMAGE_TAG

if TYPE_CHECKING:
    from PIL import Image

Form = TypeVar("Form")
Kind = Literal["vllm", "swift", "openai"]
_KEEP_SPECIAL_TOKENS = {"skip_special_tokens": False, "spaces_between_special_tokens": False}
_FINISHES: dict[str | None, Finish] = {"stop": "stop", "length": "length"}
_LOOPED = "repetition_detected"  # vLLM's reason for the end of a text that repeats itself


class ServedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model as its server says. ``root``: the folder or hub's name behind ``name``, ``parent``: the model that it is
    an adapter of; None where it is not said.
    """

    kind: Kind
    name: str
    root: str | None = None
    parent: str | None = None


class BadAnswer(Exception):  # noqa: N818  (a finding about an answer; the request is asked again)
    """The answer is none that a server of this kind gives; the text is the reason."""


# --- the request ---------------------------------------------------------------------------------------------


class ChatForm:
    """How a served model is asked.

    ``generation``: what the model's generation settings change in a greedy answer, where its folder is here, as a
    request to vLLM has it. ``loop_stop``: what makes vLLM end an answer that ``loops`` will cut, as soon as the rule
    cannot miss it; empty where nothing is cut.
    """

    def __init__(self, served: ServedModel, settings: EngineSettings) -> None:
        self.served, self.settings = served, settings
        self.generation = _generation_members(settings.model) if served.kind == "vllm" else {}
        self.loops = LoopRule(dialects.get(settings.dialect), settings.stop_loops)
        self.loop_stop = _loop_stop(settings.stop_loops) if served.kind == "vllm" else {}
        self._members: dict[str, Any] = {"model": served.name, "temperature": 0}
        if settings.scores:
            self._members["logprobs"] = True
        if served.kind == "vllm":
            self._members |= _KEEP_SPECIAL_TOKENS | self.generation

    def body(self, prompt: str, url: str, max_tokens: int) -> bytes:
        """The JSON object that asks for a greedy answer to a prompt about a picture. ``url``: its ``data_url``."""
        members = {**self._members, "max_tokens": max_tokens, "messages": self.messages(prompt, url)}
        return msgspec.json.encode(members)

    def messages(self, prompt: str, url: str) -> list[dict[str, Any]]:
        """The turns of a chat request: the system prompt, and the prompt with its picture."""
        before, tag, after = prompt.partition(IMAGE_TAG)
        texts = (before, after) if tag else ("", prompt)
        image: dict[str, Any] = {"type": "image_url", "image_url": {"url": url}}
        before_part, after_part = ([{"type": "text", "text": text}] if text else [] for text in texts)
        user = {"role": "user", "content": [*before_part, image, *after_part]}
        system = self.settings.family.system_prompt if self.settings.system is None else self.settings.system
        # ms-swift takes an empty one for no system turn, and without any puts its template's own
        return [{"role": "system", "content": system or ""}, user] if system or self.served.kind == "swift" else [user]


def _loop_stop(times: int) -> dict[str, Any]:
    shortest, longest = REPEATED_TOKENS
    detection = {"min_pattern_size": shortest, "max_pattern_size": longest, "min_count": times + 1}
    return {"repetition_detection": detection} if times else {}


def _generation_members(model: Path) -> dict[str, Any]:
    members = generation_arguments(model)
    if bias := members.get("logit_bias"):
        members["logit_bias"] = {str(token): value for token, value in bias}
    return members


def data_url(picture: "Image.Image") -> str:
    """A picture, sized as the model shall see it, without loss."""
    return f"data:image/png;base64,{base64.b64encode(png(picture)).decode()}"


def png(picture: "Image.Image") -> bytes:
    """A lossless PNG of an RGB picture, several times as fast as Pillow's; zlib leaves Python's lock to others."""
    pixels = np.asarray(picture)
    height, width, channels = pixels.shape
    lines = pixels.reshape(height, width * channels)
    filtered = np.empty((height, width * channels + 1), np.uint8)
    filtered[:, 0] = 2  # PNG's filter "up": each line as its difference from the line above
    filtered[0, 1:] = lines[0]
    np.subtract(lines[1:], lines[:-1], out=filtered[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(filtered.data, 1)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


# --- the answer ----------------------------------------------------------------------------------------------


class ListedModel(msgspec.Struct, frozen=True):
    id: str
    owned_by: str | None = None
    root: str | None = None
    parent: str | None = None


class _ModelList(msgspec.Struct, frozen=True):
    data: list[ListedModel]


class _Message(msgspec.Struct, frozen=True):
    content: str | None = None


class _TokenEntry(msgspec.Struct, frozen=True):
    token: str
    logprob: float


class _Logprobs(msgspec.Struct, frozen=True):
    content: list[_TokenEntry] | None = None


class _Choice(msgspec.Struct, frozen=True):
    message: _Message
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    logprobs: _Logprobs | None = None


class _Usage(msgspec.Struct, frozen=True):
    completion_tokens: int = 0
    prompt_tokens: int = 0


class _ChatAnswer(msgspec.Struct, frozen=True):
    choices: list[_Choice]
    usage: _Usage | None = None


class _Tokens(msgspec.Struct, frozen=True):
    tokens: list[int]


class _Detokenized(msgspec.Struct, frozen=True):
    prompt: str


def listed_models(text: str) -> list[ListedModel]:
    """The answer to ``GET /models``. Raises ``BadAnswer``."""
    models: list[ListedModel] = _decoded(text, _ModelList).data
    return models


def kind_of(model: ListedModel) -> Kind:
    """The kind of the server that lists a model: vLLM and ms-swift name themselves as its owner."""
    owner = (model.owned_by or "").lower()
    return "vllm" if owner == "vllm" else "swift" if "swift" in owner else "openai"


def completion(key: str, text: str, *, scores: bool) -> Completion:
    """The completion in the answer to ``POST /chat/completions``. Raises ``BadAnswer``."""
    answer = _decoded(text, _ChatAnswer)
    if not answer.choices:
        raise BadAnswer("its answer has no choices")
    choice = answer.choices[0]
    content = choice.message.content or ""
    entries = (choice.logprobs and choice.logprobs.content) or []
    return Completion(
        key=key,
        text=content,
        finish=_finish(choice),
        tokens=list(_tokens(content, entries)) if scores else [],
        num_tokens=answer.usage.completion_tokens if answer.usage else 0,
    )


def prompt_tokens(text: str) -> int:
    """The number of tokens of the prompt, pictures included, as an answer states it. Raises ``BadAnswer``."""
    usage = _decoded(text, _ChatAnswer).usage
    return usage.prompt_tokens if usage else 0


def listed_tokens(text: str) -> list[int]:
    """The token ids in vLLM's answer to ``POST /tokenize``. Raises ``BadAnswer``."""
    tokens: list[int] = _decoded(text, _Tokens).tokens
    return tokens


def detokenized(text: str) -> str:
    """The text in vLLM's answer to ``POST /detokenize``. Raises ``BadAnswer``."""
    return str(_decoded(text, _Detokenized).prompt)


def _finish(choice: _Choice) -> Finish:
    if choice.stop_reason == _LOOPED:
        return "loop"
    finish = _FINISHES.get(choice.finish_reason)
    if finish is None:
        raise BadAnswer(f"its answer ended for the reason {choice.finish_reason}")
    return finish


def _decoded(text: str, form: type[Form]) -> Form:
    try:
        return msgspec.json.decode(text, type=form)
    except msgspec.DecodeError as error:
        raise BadAnswer(f"it does not answer as OpenAI's API does ({shortened(text)}): {error}") from None


def _tokens(text: str, entries: Sequence[_TokenEntry]) -> Iterator[Token]:
    """The text in parts with their log-probabilities; the token that ends the answer is no part of it.

    Tokens that are parts of one character arrive as replacement characters: they are joined to the text up to the next
    token that stands in it. Raises ``BadAnswer`` where the tokens are not those of the text.
    """
    start, logprob, is_broken = 0, 0.0, False
    for entry in entries:
        position = text.find(entry.token, start)
        if start == len(text) or (position < 0 and "\ufffd" not in entry.token):
            break
        logprob += entry.logprob
        if position < 0 or not entry.token or (position > start and not is_broken):
            is_broken = True
            continue
        end = position + len(entry.token)
        yield text[start:end], round(logprob, 5)
        start, logprob, is_broken = end, 0.0, False
    if start < len(text):
        if not is_broken:
            raise BadAnswer("the tokens of its log-probabilities do not make up its text")
        yield text[start:], round(logprob, 5)


def shortened(text: str, limit: int = 120) -> str:
    """The beginning of a server's answer, on a line."""
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[:limit]}…"
