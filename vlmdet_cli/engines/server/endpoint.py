"""One OpenAI-compatible server: its model, and one request at a time, with every failure as one of five kinds.

unreachable  no connection, one that is closed half-way, no answer in time, a gateway without its server
busy         it has too much to do (429, 503), and may say for how long
broken       another error of the server's (408, 409, 5xx), or an answer that is none
picture      the server says of this picture that it cannot be used (400)
refused      the server will not answer such requests (other 4xx)
"""

import asyncio
import email.utils
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from vlmdet_cli.engines.server.load import Load
from vlmdet_cli.engines.server.protocol import (
    BadAnswer,
    ListedModel,
    ServedModel,
    kind_of,
    listed_models,
    shortened,
)
from vlmdet_cli.engines.settings import ServerOptions
from vlmdet_cli.errors import EngineError, UsageError, nearest

if TYPE_CHECKING:
    from openai import APIStatusError

FailureKind = Literal["unreachable", "busy", "broken", "picture", "refused"]
LIST_TIMEOUT = 10.0  # seconds to connect, and for the list of models
_OF_PICTURE = re.compile(r"image|picture|pixel|multi-?modal|aspect ratio", re.I)
# a prompt that is too long is the picture's fault, a limit that is too low for every prompt is not
_OF_PROMPT = re.compile(r"prompt \(length|input length|your prompt contains|leaves no room for generation", re.I)
_OF_LIMIT = re.compile(r"max_model_len|context length|cannot be greater", re.I)
_TAG = re.compile(r"<(style|script)\b.*?</\1>|<[^>]*>", re.I | re.S)


class Failure(Exception):  # noqa: N818  (what happened to one attempt; most are tried again)
    """An attempt without a usable answer; the text is the reason. ``wait``: the seconds that the server asks for."""

    def __init__(self, kind: FailureKind, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.kind = kind
        self.wait = wait


class Endpoint:
    """The server at ``url``. It is made and used in one event loop.

    ``extra``: what is added to the JSON object of each request. ``is_ready``: it has been checked since it was last
    unreachable. ``failures``: of the checks since then, ``last_failure`` the newest.
    """

    def __init__(self, url: str, options: ServerOptions) -> None:
        from openai import AsyncOpenAI

        self.url = url
        self.options = options
        self.load = Load(options.concurrency, options.timeout / 2)
        self.extra: dict[str, Any] = {}
        self.is_ready = False
        self.failures = 0
        self.last_failure = ""
        self._client = AsyncOpenAI(
            base_url=url, api_key=api_key(options), timeout=options.timeout, max_retries=0, organization="", project=""
        )

    async def models(self) -> list[ListedModel]:
        """The models that it lists. Raises ``Failure``: ``refused`` where it is no such server."""
        seconds = min(LIST_TIMEOUT, self.options.timeout)
        try:
            return listed_models(await asyncio.wait_for(self._client.get("/models", cast_to=str), seconds))
        except BadAnswer as error:
            raise Failure("refused", str(error)) from None
        except Exception as error:
            raise failure_of(error, seconds) from None

    async def ask(self, body: bytes, members: Mapping[str, Any] | None = None) -> str:
        """The text of the answer to a chat request; ``members`` are added to its object. Raises ``Failure``."""
        if added := {**self.extra, **(members or {})}:
            body = body[:-1] + b"," + msgspec.json.encode(added)[1:]
        return await self.post("/chat/completions", body)

    async def post(self, path: str, body: bytes) -> str:
        """The text of the answer to a request at ``path``, below the URL or a whole one. Raises ``Failure``."""
        headers = {"Content-Type": "application/json"}
        call = self._client.post(path, cast_to=str, content=body, options={"headers": headers})
        try:
            return await asyncio.wait_for(call, self.options.timeout)
        except Exception as error:
            raise failure_of(error, self.options.timeout) from None

    async def close(self) -> None:
        await self._client.close()


def api_key(options: ServerOptions) -> str:
    """The key in the environment variable that the options name; a word that says nothing where they name none."""
    if not options.api_key_env:
        return "none"
    key = os.environ.get(options.api_key_env, "")
    if not key:
        raise UsageError(
            f"The environment variable {options.api_key_env} is not set",
            hint="infer.server.api_key_env names the variable that holds the server's key.",
        )
    return key


# --- failures ------------------------------------------------------------------------------------------------


def failure_of(error: Exception, seconds: float) -> Failure:
    """What an exception of one attempt means. ``seconds``: the time that the attempt had."""
    from openai import APIConnectionError, APIStatusError, APITimeoutError

    if isinstance(error, APITimeoutError | asyncio.TimeoutError):
        return Failure("unreachable", f"no answer within {seconds:g} seconds")
    if isinstance(error, APIConnectionError):
        cause = error.__cause__ or error
        return Failure("unreachable", shortened(f"{type(cause).__name__}: {cause}"))
    if isinstance(error, APIStatusError):
        return _status_failure(error)
    raise error


def _status_failure(error: "APIStatusError") -> Failure:
    status, message = error.status_code, _message(error)
    why = f"status {status}: {message}"
    if status == 429 and error.code == "insufficient_quota":
        return Failure("refused", why)
    if status in {429, 503}:
        return Failure("busy", why, _retry_after(error.response.headers.get("retry-after", "")))
    if status in {502, 504}:
        return Failure("unreachable", why)
    if status in {408, 409} or status >= 500:
        return Failure("broken", why)
    is_of_picture = _OF_PROMPT.search(message) or (_OF_PICTURE.search(message) and not _OF_LIMIT.search(message))
    return Failure("picture" if status == 400 and is_of_picture else "refused", why)


def _message(error: "APIStatusError") -> str:
    """What the server says, in the forms of OpenAI, ms-swift and FastAPI, or as a page."""
    body = error.body
    if isinstance(body, dict):
        message = body.get("message") or body.get("detail") or body.get("error") or body
        return shortened(str(message), 300)
    return shortened(_TAG.sub(" ", error.response.text), 300)


def _retry_after(header: str) -> float | None:
    """The seconds of a header ``Retry-After``: a number, or a date."""
    try:
        seconds = float(header)
    except ValueError:
        date = email.utils.parsedate_tz(header)
        seconds = email.utils.mktime_tz(date) - time.time() if date else -1
    return seconds if 0 <= seconds < float("inf") else None


# --- the model -----------------------------------------------------------------------------------------------


def chosen_model(url: str, listed: list[ListedModel], options: ServerOptions, named: str) -> ServedModel:
    """The model that is asked at a server: the one of ``options.model``, else the one of ``named``, else its only one.

    ``named``: a folder, a hub's name, or empty. Raises ``EngineError`` where the server does not list that model, and
    ``UsageError`` where it has several and none is named.
    """
    name = options.model or named
    matching = [model for model in listed if _is_named(model, name, exactly=bool(options.model))]
    if not matching:
        names = ", ".join(model.id for model in listed) or "none"
        raise EngineError(
            f"The server has another model than the one that is named: {url}",
            why=[f"named: {nearest(name, [model.id for model in listed])}", f"at the server: {names}"],
            hint="infer.server.model is the model's name at the server. Or start the server with the model.",
        )
    if len(matching) > 1:
        names = ", ".join(model.id for model in matching)
        raise UsageError(f"The server has several models: {url}", why=names, hint="Name one: infer.server.model.")
    model = matching[0]
    kind = kind_of(model) if options.kind == "auto" else options.kind
    return ServedModel(kind=kind, name=model.id, root=model.root, parent=model.parent)


def _is_named(model: ListedModel, name: str, *, exactly: bool) -> bool:
    """Whether a listed model has that name, or lies in that folder. ms-swift lists the last part of a folder's name."""
    if not name or name == model.id:
        return True
    folder = Path(name).expanduser()
    return not exactly and (
        folder.resolve() in {Path(model.id), Path(model.root or model.id)} or folder.name == model.id
    )
