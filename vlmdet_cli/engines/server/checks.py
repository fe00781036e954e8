"""What is checked of a server before it gets requests: its model, that it takes pictures, and leaves them alone."""

import re
from itertools import groupby
from typing import TYPE_CHECKING, Any

import msgspec

from vlmdet_cli.engines.server.endpoint import Endpoint, Failure, chosen_model
from vlmdet_cli.engines.server.protocol import (
    BadAnswer,
    ChatForm,
    ServedModel,
    data_url,
    detokenized,
    listed_tokens,
    prompt_tokens,
)
from vlmdet_cli.errors import EngineError
from vlmdet_cli.models.family import IMAGE_TAG

if TYPE_CHECKING:
    from PIL import Image

_PROMPT = f"{IMAGE_TAG}?"


async def check(endpoint: Endpoint, form: ChatForm, extras: dict[str, dict[str, Any]]) -> None:
    """Raise ``EngineError`` for a server that cannot answer these requests, ``Failure`` for one that may later.

    ``extras``: what each probed server takes beside OpenAI's members of a request, by URL.
    """
    served = form.served
    require_same(endpoint.url, await stated_model(endpoint, served.name), served)
    if endpoint.options.probe and endpoint.url not in extras:
        _require_no_adapter(endpoint, served)
        await _probe(endpoint, form)
        if served.kind == "vllm":
            await _require_prompt_of_training(endpoint, form)
        extras[endpoint.url] = endpoint.extra
    endpoint.extra = extras.get(endpoint.url, {})


async def stated_model(endpoint: Endpoint, named: str) -> ServedModel:
    """The model that a server answers with, as ``chosen_model`` chooses it. Raises as ``check`` does."""
    try:
        listed = await endpoint.models()
    except Failure as failure:
        raise _not_a_server(endpoint, failure) from None
    return chosen_model(endpoint.url, listed, endpoint.options, named)


def require_same(url: str, model: ServedModel, asked: ServedModel) -> None:
    """Raise ``EngineError`` where a server's model is another than that of the other servers."""
    if model != asked:
        raise EngineError(
            f"The server has another model than the one that is asked: {url}",
            why=[f"asked: {_described(asked)}", f"at the server: {_described(model)}"],
            hint="The servers of infer.server.urls have one model, under one name and from one folder.",
        )


def _described(served: ServedModel) -> str:
    root = f" from {served.root}" if served.root not in {None, served.name} else ""
    return f"{served.name}{root}, by {served.kind}"


def _not_a_server(endpoint: Endpoint, failure: Failure) -> Exception:
    """A refusal to list the models as an error; any other failure as it is."""
    if _may_pass(failure):
        return failure
    key = endpoint.options.api_key_env
    return EngineError(
        f"The server does not list its models: {endpoint.url}/models",
        why=str(failure),
        hint="The URL of an OpenAI-compatible server often ends in /v1. "
        + (f"Is the key in {key} right?" if key else "Does it want a key? See infer.server.api_key_env."),
    )


def _require_no_adapter(endpoint: Endpoint, served: ServedModel) -> None:
    if served.kind == "vllm" and served.parent:
        raise EngineError(
            f"The server answers with an adapter: {endpoint.url}",
            why=f"{served.name} is one of {served.parent}. vLLM applies an adapter to the language model alone, and "
            "leaves its part in the vision tower out.",
            hint="Serve the merged model (`vlmdet merge`), or ask anyway with infer.server.probe = false.",
        )


async def _probe(endpoint: Endpoint, form: ChatForm) -> None:
    """Ask about a blank picture, to see what requests the server takes."""
    family = form.settings.family
    arguments = family.processor_arguments()
    if form.served.kind == "vllm" and arguments.get("do_resize") is False:
        endpoint.extra = {"mm_processor_kwargs": arguments}
    blank = family.resize(_blank(64, 48), form.settings.max_pixels)
    try:
        await _num_prompt_tokens(endpoint, form, blank)
    except Failure as failure:
        if _may_pass(failure):
            raise
        if not endpoint.extra or "mm_processor_kwargs" not in str(failure):
            raise _takes_no_pictures(endpoint, failure) from None
        endpoint.extra = {}
        await _require_pictures_left_alone(endpoint, form)


async def _require_pictures_left_alone(endpoint: Endpoint, form: ChatForm) -> None:
    """Raise ``EngineError`` where a picture below the family's least size takes as many tokens as one of that size.

    A processor that resizes makes it larger; vLLM does not say how it was started.
    """
    width, height = form.settings.family.trained_size((8, 8), form.settings.max_pixels)
    sizes = ((width // 2, height // 2), (width, height))
    try:
        counts = [await _num_prompt_tokens(endpoint, form, _blank(*size)) for size in sizes]
    except Failure as failure:
        raise failure if _may_pass(failure) else _takes_no_pictures(endpoint, failure) from None
    if counts[0] == counts[1]:
        raise EngineError(
            f"The server resizes pictures: {endpoint.url}",
            why="They are sent in the pixels that the model sees in training; resized again, they may get other boxes.",
            hint="""Start it with: vllm serve MODEL --mm-processor-kwargs '{"do_resize": false}'""",
        )


def _may_pass(failure: Failure) -> bool:
    return failure.kind in {"unreachable", "busy", "broken"}


async def _require_prompt_of_training(endpoint: Endpoint, form: ChatForm) -> None:
    """Raise ``EngineError`` where the server's chat template writes another prompt than the model was trained with.

    vLLM tokenizes a chat and a text on demand. Of a run of equal tokens, such as a picture's, one is compared.
    """
    family = form.settings.family
    chat = form.messages(_PROMPT, data_url(_blank(*family.trained_size((64, 48), None))))
    text = family.request_text(_PROMPT, form.settings.system)
    bodies: list[dict[str, Any]] = [{"messages": chat}, {"prompt": text, "add_special_tokens": False}]
    try:
        at_server, trained = [await _tokens(endpoint, {"model": form.served.name, **body}) for body in bodies]
    except (Failure, BadAnswer) as failure:
        if isinstance(failure, Failure) and _may_pass(failure):
            raise
        return  # a server without /tokenize
    if [token for token, _ in groupby(at_server)] != [token for token, _ in groupby(trained)]:
        raise EngineError(
            f"The server's chat template writes another prompt than training: {endpoint.url}",
            why=[f"training: {text!r}", f"the server: {await _text(endpoint, form, at_server)!r}"],
            hint="Start it with the template of training (--chat-template FILE), or ask anyway with "
            "infer.server.probe = false.",
        )


async def _tokens(endpoint: Endpoint, body: dict[str, Any]) -> list[int]:
    return listed_tokens(await endpoint.post(f"{_root(endpoint)}/tokenize", msgspec.json.encode(body)))


async def _text(endpoint: Endpoint, form: ChatForm, tokens: list[int]) -> str:
    """What the tokens are of, a picture's as a single one."""
    body = msgspec.json.encode({"model": form.served.name, "tokens": tokens})
    text = detokenized(await endpoint.post(f"{_root(endpoint)}/detokenize", body))
    image = form.settings.family.image_token
    return re.sub(f"({re.escape(image)})+", image, text) if image else text


def _root(endpoint: Endpoint) -> str:
    """The URL without the part that is OpenAI's."""
    return endpoint.url.rstrip("/").removesuffix("/v1")


async def _num_prompt_tokens(endpoint: Endpoint, form: ChatForm, picture: "Image.Image") -> int:
    text = await endpoint.ask(form.body(_PROMPT, data_url(picture), 1))
    try:
        return prompt_tokens(text)
    except BadAnswer as error:
        raise Failure("broken", str(error)) from None


def _takes_no_pictures(endpoint: Endpoint, failure: Failure) -> EngineError:
    return EngineError(
        f"The server refuses a request with a picture: {endpoint.url}",
        why=str(failure),
        hint="Is its model a vision-language model, and was it started for one picture a prompt, with enough context?",
    )


def _blank(width: int, height: int) -> "Image.Image":
    from PIL import Image

    return Image.new("RGB", (width, height))
