"""The server engine against real servers on loopback: right ones, and ones that fail in every way."""

import itertools
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import picture
from tests.engines.fake_engine import TEXT
from tests.engines.fake_server import (
    Behaviour,
    FakeServer,
    Handler,
    chat_answer,
    picture_of,
    prompt_of,
    serving,
    tokens_of,
)
from vlmdet_cli.engines import Completion, EngineSettings, Request
from vlmdet_cli.engines.pictures import sized_picture
from vlmdet_cli.engines.server import load as server_load
from vlmdet_cli.engines.server.engine import ServerEngine
from vlmdet_cli.engines.settings import ServerOptions
from vlmdet_cli.errors import EngineError, UsageError, VlmdetError
from vlmdet_cli.models.qwen2_vl import QWEN2_VL
from vlmdet_cli.models.qwen3_vl import QWEN3_VL

pytest.importorskip("openai")
DEFAULT = "You are a helpful assistant."


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_load, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(server_load, "LONGEST_WAIT", 0.05)
    # reading the machine's certificates takes most of a client's start, and loopback needs none
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda *_arguments, **_options: None)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + 2
    while left := [thread for thread in set(threading.enumerate()) - before if "vlmdet" in thread.name]:
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with serving() as fake:
        yield fake


def engine(*servers: FakeServer | str, model: str = "demo", folder: Path = Path(), **values: Any) -> ServerEngine:
    """``values``: fields of ``ServerOptions``, or of ``EngineSettings``."""
    names = set(ServerOptions.__struct_fields__)
    urls = tuple(entry if isinstance(entry, str) else entry.url for entry in servers)
    given = {"urls": urls, "model": model, "timeout": 5.0, "retries": 2}
    options = ServerOptions(**{**given, **{name: value for name, value in values.items() if name in names}})
    rest = {name: value for name, value in values.items() if name not in names}
    return ServerEngine(EngineSettings(**{"model": folder, "family": QWEN2_VL, "options": options, **rest}))


def requests(folder: Path, count: int = 1) -> list[Request]:
    return [
        Request(key=str(number), image=picture(folder, f"{number}.png", (200, 160)), prompt="<image>x" + "y" * number)
        for number in range(count)
    ]


def texts(completions: Sequence[Completion]) -> dict[str, str]:
    return {completion.key: completion.text for completion in completions}


def expected(count: int) -> dict[str, str]:
    return {str(number): TEXT.format(n=len("<image>x") + number) for number in range(count)}


def nobody_listens() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/v1"


def failing(act: Behaviour, *, times: int = 999, probes: bool = False) -> Behaviour:
    """``act`` for so many requests; those that probe the server are answered unless ``probes``."""
    left, lock = [times], threading.Lock()

    def behave(handler: Handler, body: dict[str, Any]) -> bool:
        with lock:
            if not left[0] or (body["max_tokens"] == 1 and not probes):
                return False
            left[0] -= 1
        return act(handler, body)

    return behave


def say(status: int, message: str, **headers: str) -> Behaviour:
    def behave(handler: Handler, _body: dict[str, Any]) -> bool:
        handler.reply_json({"error": {"message": message, "code": status}}, status, **headers)
        return True

    return behave


def html(handler: Handler, _body: dict[str, Any]) -> bool:
    handler.reply(b"<html><body>Welcome to the gateway</body></html>")
    return True


def garbage(handler: Handler, _body: dict[str, Any]) -> bool:
    handler.reply(b'{"choices": [{"mess', 200, "application/json")
    return True


def no_choices(handler: Handler, _body: dict[str, Any]) -> bool:
    handler.reply_json({"choices": []})
    return True


def closes(handler: Handler, _body: dict[str, Any]) -> bool:
    handler.close_half_way()
    return True


def sleeps(_handler: Handler, _body: dict[str, Any]) -> bool:
    time.sleep(0.6)
    return False


# --- a right server ------------------------------------------------------------------------------------------


def test_every_request_is_answered_once(server: FakeServer, tmp_path: Path) -> None:
    completions = list(engine(server).answer(requests(tmp_path, 60), 64))
    assert texts(completions) == expected(60)
    assert len(completions) == len(server.asked) == 60
    assert {(completion.finish, completion.num_tokens) for completion in completions} == {("stop", 7)}


def test_the_picture_arrives_in_the_pixels_of_training(server: FakeServer, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (130, 170, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    asked = [
        Request(key=str(crop), image=tmp_path / "a.png", prompt="<image>x", size=(170, 130), crop=crop)
        for crop in (None, (10, 20, 110, 90))
    ]
    wanted_engine = engine(server, max_pixels=112 * 112)
    assert len(list(wanted_engine.answer(asked, 64))) == 2
    arrived = {np.asarray(picture_of(body)).tobytes() for body in server.asked}
    settings = EngineSettings(model=Path(), family=QWEN2_VL, options=ServerOptions(), max_pixels=112 * 112)
    assert arrived == {np.asarray(sized_picture(request, settings)).tobytes() for request in asked}


def test_the_system_prompt_is_sent_and_the_picture_stands_where_the_prompt_says(
    server: FakeServer, tmp_path: Path
) -> None:
    request = Request(key="", image=picture(tmp_path, "a.png"), prompt="In <image> find cats")
    list(engine(server).answer([request], 64))
    list(engine(server, system="Be brief.").answer([request], 64))
    list(engine(server, family=QWEN3_VL).answer([request], 64))
    systems = [[turn["content"] for turn in body["messages"] if turn["role"] == "system"] for body in server.asked]
    assert systems == [["You are a helpful assistant."], ["Be brief."], []]
    assert [prompt_of(body) for body in server.asked] == ["In <image> find cats"] * 3


def test_each_kind_of_server_gets_what_it_takes(tmp_path: Path) -> None:
    bodies = {}
    for owner in ("vllm", "swift", "somebody"):
        with serving(models=[{"id": "demo", "owned_by": owner}]) as server:
            list(engine(server, family=QWEN3_VL).answer(requests(tmp_path), 64))
            (bodies[owner],) = server.asked
    common = {"model", "messages", "max_tokens", "temperature"}
    vllm = {"skip_special_tokens": False, "spaces_between_special_tokens": False,
            "mm_processor_kwargs": {"do_resize": False}}  # fmt: skip
    assert set(bodies["swift"]) == set(bodies["somebody"]) == common
    assert {name: bodies["vllm"][name] for name in set(bodies["vllm"]) - common} == vllm
    assert [turn["role"] for turn in bodies["vllm"]["messages"]] == ["user"]
    assert bodies["swift"]["messages"][0] == {"role": "system", "content": ""}  # else it puts one of its own


def test_vllm_is_told_what_it_leaves_out_of_the_models_generation_settings(server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"repetition_penalty": 1.05, "suppress_tokens": [7], "top_k": 1}')
    asking = engine(server, folder=tmp_path)
    list(asking.answer(requests(tmp_path), 64))
    members = {"repetition_penalty": 1.05, "logit_bias": {"7": -100.0}}
    assert {name: server.asked[0].get(name) for name in members} == members
    assert asking.identity()["generation"] == members


@pytest.mark.parametrize("finish", ["stop", "length"])
def test_the_finish_is_the_servers(server: FakeServer, tmp_path: Path, finish: str) -> None:
    def behave(handler: Handler, body: dict[str, Any]) -> bool:
        handler.reply_json(chat_answer(body, finish_reason=finish))
        return True

    server.behave = behave
    (completion,) = engine(server).answer(requests(tmp_path), 64)
    assert completion.finish == finish


BOX = TEXT.format(n=9)


@pytest.mark.parametrize(
    ("repeated", "finish", "times_asked"), [(BOX, "loop", 1), ("no cat, no cat, ", "stop", 2)], ids=["boxes", "words"]
)
def test_vllm_ends_a_loop_of_boxes_and_is_asked_again_where_other_words_repeat(
    server: FakeServer, tmp_path: Path, repeated: str, finish: str, times_asked: int
) -> None:
    def behave(handler: Handler, body: dict[str, Any]) -> bool:
        looped = {"message": {"content": repeated * 4}, "finish_reason": "repetition",
                  "stop_reason": "repetition_detected"}  # fmt: skip
        whole = {"message": {"content": repeated * 9}}
        handler.reply_json(chat_answer(body, **(looped if "repetition_detection" in body else whole)))
        return True

    server.behave = behave
    (completion,) = engine(server, stop_loops=3).answer(requests(tmp_path), 64)
    assert (completion.finish, completion.text) == (finish, repeated * (4 if finish == "loop" else 9))
    assert len(server.asked) == times_asked
    assert server.asked[0]["repetition_detection"]["min_count"] == 4
    list(engine(server).answer(requests(tmp_path), 64))
    assert "repetition_detection" not in server.asked[-1]  # with stop_loops = 0


def test_log_probabilities_come_with_the_text_they_are_of(server: FakeServer, tmp_path: Path) -> None:
    parts = [("<|box_start|>", -0.5), ("(", -1.0), ("�", -0.25), ("�", -0.25), (")", -2.0), ("<|im_end|>", -9.0)]

    def behave(handler: Handler, body: dict[str, Any]) -> bool:
        content = [{"token": token, "logprob": logprob} for token, logprob in parts]
        message = {"content": "<|box_start|>(犬)"}
        handler.reply_json(chat_answer(body, message=message, logprobs={"content": content}))
        return True

    server.behave = behave
    (completion,) = engine(server, scores=True).answer(requests(tmp_path), 64)
    assert server.asked[0]["logprobs"] is True
    assert completion.tokens == [("<|box_start|>", -0.5), ("(", -1.0), ("犬)", -2.5)]
    parts[1] = ("[", -1.0)
    with pytest.raises(EngineError, match="failed to answer about a picture 3 times"):
        list(engine(server, scores=True).answer(requests(tmp_path), 64))


def test_a_bad_picture_is_recorded_and_the_others_answered(server: FakeServer, tmp_path: Path) -> None:
    asked = requests(tmp_path, 3)
    asked[1].image.write_bytes(b"")
    completions = {completion.key: completion for completion in engine(server).answer(asked, 64)}
    assert (completions["1"].finish, completions["1"].error) == ("error", "empty file")
    assert [completions[key].finish for key in "02"] == ["stop", "stop"]


def test_the_key_comes_from_the_variable_that_is_named(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "of another server")
    list(engine(server).answer(requests(tmp_path), 64))
    assert server.keys == {"Bearer none"}
    monkeypatch.setenv("DEMO_KEY", "secret")
    list(engine(server, api_key_env="DEMO_KEY").answer(requests(tmp_path), 64))
    assert server.keys == {"Bearer none", "Bearer secret"}
    monkeypatch.delenv("DEMO_KEY")
    with pytest.raises(UsageError, match="The environment variable DEMO_KEY is not set"):
        engine(server, api_key_env="DEMO_KEY").identity()


def vllm_flags(*flags: str) -> Behaviour:
    """As vLLM started with these flags: it resizes to 56 x 56 pixels at least, and takes no arguments for that."""

    def behave(handler: Handler, body: dict[str, Any]) -> bool:
        if "mm_processor_kwargs" in body and "trust" not in flags:
            message = "Per-request mm_processor_kwargs are disabled by default"
            return say(400, message)(handler, body)
        answer = chat_answer(body)
        if "mm_processor_kwargs" not in body and "do_resize" not in flags:
            answer["usage"]["prompt_tokens"] = 20 + max(tokens_of(body), 4)
        handler.reply_json(answer)
        return True

    return behave


@pytest.mark.parametrize(("flags", "is_sent"), [(("do_resize",), False), (("trust",), True)])
def test_a_vllm_that_leaves_pictures_alone_is_asked_as_it_was_started(
    server: FakeServer, tmp_path: Path, flags: tuple[str, ...], is_sent: bool
) -> None:
    server.behave = vllm_flags(*flags)
    assert len(list(engine(server).answer(requests(tmp_path, 3), 64))) == 3
    assert ["mm_processor_kwargs" in body for body in server.asked] == [is_sent] * 3


def test_a_vllm_that_resizes_pictures_is_refused_unless_it_is_not_to_be_probed(
    server: FakeServer, tmp_path: Path
) -> None:
    server.behave = vllm_flags()
    with pytest.raises(EngineError, match="The server resizes pictures") as caught:
        list(engine(server).answer(requests(tmp_path, 3), 64))
    assert """vllm serve MODEL --mm-processor-kwargs '{"do_resize": false}'""" in caught.value.hint
    assert server.asked == []
    assert len(list(engine(server, probe=False).answer(requests(tmp_path, 3), 64))) == 3


def test_an_adapter_that_vllm_serves_is_refused(server: FakeServer, tmp_path: Path) -> None:
    server.models.append({"id": "tuned", "owned_by": "vllm", "root": "/runs/checkpoint-9", "parent": "demo"})
    with pytest.raises(EngineError, match="The server answers with an adapter") as caught:
        list(engine(server, model="tuned").answer(requests(tmp_path), 64))
    assert caught.value.why[0].startswith("tuned is one of demo.")


def chat_text(messages: list[dict[str, Any]]) -> str:
    """As the chat template in a folder of Qwen2-VL: without a system turn it puts its own."""
    turns = messages if messages[0]["role"] == "system" else [{"role": "system", "content": DEFAULT}, *messages]
    image = "<|vision_start|>" + "<|image_pad|>" * 4 + "<|vision_end|>"
    texts = [(turn["role"], turn["content"]) for turn in turns]
    return (
        "".join(
            f"<|im_start|>{role}\n{content if role == 'system' else image + content[-1]['text']}<|im_end|>\n"
            for role, content in texts
        )
        + "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_a_chat_template_as_in_training_passes(server: FakeServer, tmp_path: Path, system: str | None) -> None:
    server.template = tokens_as_runs(chat_text)
    assert len(list(engine(server, system=system).answer(requests(tmp_path, 2), 64))) == 2


def test_a_chat_template_that_writes_another_prompt_than_training_is_refused(
    server: FakeServer, tmp_path: Path
) -> None:
    server.template = tokens_as_runs(chat_text)
    with pytest.raises(EngineError, match="chat template writes another prompt than training") as caught:
        list(engine(server, system="").answer(requests(tmp_path, 2), 64))
    trained, at_server = caught.value.why
    assert DEFAULT not in trained
    assert DEFAULT in at_server
    assert "--chat-template" in caught.value.hint
    assert server.asked == []


def tokens_as_runs(template: Callable[[list[dict[str, Any]]], str]) -> Callable[[list[dict[str, Any]]], str]:
    """The template with the picture's tokens as one run, as they are in token ids."""
    return lambda messages: template(messages).replace("<|image_pad|>" * 4, "<|image_pad|>")


# --- which model ---------------------------------------------------------------------------------------------


def test_the_identity_is_what_the_server_says_and_not_where_it_is(server: FakeServer) -> None:
    identity = engine(server).identity()
    stated = {"kind": "vllm", "served_model": "demo", "root": "/models/demo"}
    assert identity == {"name": "server", **stated, "generation": {}}
    with serving() as other:
        assert engine(other).identity() == identity
        other.models = [{"id": "demo", "owned_by": "vllm", "root": "/models/tuned"}]
        assert engine(other).identity() != identity


@pytest.mark.parametrize("named", ["/models/demo", "demo", "somewhere/demo"])
def test_a_folder_names_the_model_that_the_server_has_from_it(server: FakeServer, named: str) -> None:
    server.models.append({"id": "other", "owned_by": "vllm", "root": "/models/other"})
    assert engine(server, model="", adapter=Path(named)).identity()["served_model"] == "demo"


def test_another_model_than_named_is_an_error_that_names_both(server: FakeServer) -> None:
    with pytest.raises(EngineError) as caught:
        engine(server, model="demos").identity()
    assert caught.value.what == f"The server has another model than the one that is named: {server.url}"
    assert caught.value.why == ("named: demos: did you mean demo?", "at the server: demo")
    assert "infer.server.model" in caught.value.hint


def test_servers_of_different_models_are_refused(server: FakeServer) -> None:
    with (
        serving(models=[{"id": "demo", "owned_by": "vllm", "root": "/models/tuned"}]) as other,
        pytest.raises(EngineError, match="has another model than the one that is asked") as caught,
    ):
        engine(server, other).identity()
    assert sorted(caught.value.why)[0].startswith("asked: demo from /models/")


def test_an_url_of_no_such_server_is_named_at_once(server: FakeServer) -> None:
    with pytest.raises(EngineError, match="does not list its models") as caught:
        engine(server.url.removesuffix("/v1"), retries=99).identity()
    assert caught.value.why == ("status 404: Not here",)
    assert "often ends in /v1" in caught.value.hint


# --- failures ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "act",
    [html, garbage, no_choices, closes, say(500, "CUDA error"), say(408, "late"), say(409, "twice"),
     say(429, "slow down"), say(503, "loading"), say(502, "no upstream")],
    ids=["html", "garbage", "no choices", "closes", "500", "408", "409", "429", "503", "502"],
)  # fmt: skip
@pytest.mark.parametrize("probes", [False, True], ids=["later", "at first"])
def test_a_failure_that_passes_is_tried_again(server: FakeServer, tmp_path: Path, act: Behaviour, probes: bool) -> None:
    server.behave = failing(act, times=2, probes=probes)
    assert texts(list(engine(server).answer(requests(tmp_path, 5), 64))) == expected(5)


@pytest.mark.parametrize(
    ("act", "reason"),
    [(html, "it does not answer as OpenAI's API does (<html><body>Welcome to the gateway</body></html>)"),
     (garbage, 'it does not answer as OpenAI\'s API does ({"choices": [{"mess)'),
     (no_choices, "its answer has no choices"),
     (say(500, "CUDA error"), "status 500: CUDA error"), (say(429, "slow down"), "status 429: slow down")],
    ids=["html", "garbage", "no choices", "500", "429"],
)  # fmt: skip
def test_a_failure_that_stays_ends_with_the_servers_reason_and_the_picture(
    server: FakeServer, tmp_path: Path, act: Behaviour, reason: str
) -> None:
    server.behave = failing(act)
    with pytest.raises(EngineError) as caught:
        list(engine(server).answer(requests(tmp_path), 64))
    assert caught.value.what == f"The server failed to answer about a picture 3 times: {tmp_path}/0.png"
    assert caught.value.why[0].startswith(f"{server.url}: {reason}")
    assert "What is answered is kept" in caught.value.hint
    assert len(server.asked) == 3


def test_a_server_that_fails_on_one_picture_alone_does_not_make_its_row_a_bad_picture(
    server: FakeServer, tmp_path: Path
) -> None:
    def behave(handler: Handler, body: dict[str, Any]) -> bool:
        return prompt_of(body) == "<image>xyy" and say(500, "an internal image error")(handler, body)

    server.behave = behave
    completions = list[Completion]()
    with pytest.raises(EngineError, match=r"failed to answer about a picture 3 times: .*2\.png"):
        completions.extend(engine(server).answer(requests(tmp_path, 4), 64))


@pytest.mark.parametrize(
    "message",
    [
        "Failed to load the image",
        "The decoder prompt (length 4000) is longer than the maximum model length of 1024. Make sure that "
        "`max_model_len` is no smaller than the number of text tokens plus multimodal tokens.",
    ],
    ids=["image", "too long"],
)
def test_a_picture_that_the_server_refuses_is_recorded_with_its_reason(
    server: FakeServer, tmp_path: Path, message: str
) -> None:
    def behave(handler: Handler, body: dict[str, Any]) -> bool:
        return prompt_of(body) == "<image>xyy" and say(400, message)(handler, body)

    server.behave = behave
    completions = {completion.key: completion for completion in engine(server).answer(requests(tmp_path, 4), 64)}
    assert completions["2"].error == f"the server: status 400: {message}"
    assert [completions[key].finish for key in "0123"] == ["stop", "stop", "error", "stop"]


def test_a_server_that_takes_no_picture_at_all_is_no_reason_to_record_bad_pictures(
    server: FakeServer, tmp_path: Path
) -> None:
    server.behave = say(400, "At most 0 image(s) may be provided in one prompt.")
    with pytest.raises(EngineError, match="The server refuses a request with a picture") as caught:
        list(engine(server).answer(requests(tmp_path, 4), 64))
    assert caught.value.why == ("status 400: At most 0 image(s) may be provided in one prompt.",)


@pytest.mark.parametrize(
    "message", ["max_tokens=64 cannot be greater than max_model_len=32. Is there an image?", "bad key"]
)
def test_a_refusal_that_is_not_of_the_picture_ends_at_once(server: FakeServer, tmp_path: Path, message: str) -> None:
    server.behave = failing(say(400, message))
    with pytest.raises(EngineError, match=r"refused to answer about a picture: .*0\.png") as caught:
        list(engine(server).answer(requests(tmp_path), 64))
    assert caught.value.why == (f"{server.url}: status 400: {message}",)
    assert len(server.asked) == 1


def test_a_server_that_is_down_is_named_with_its_reason(tmp_path: Path) -> None:
    url = nobody_listens()
    with pytest.raises(EngineError) as caught:
        list(engine(url).answer(requests(tmp_path), 64))
    assert caught.value.what == f"The server does not answer: {url}"
    assert "onnect" in caught.value.why[0]
    assert "infer.server.urls" in caught.value.hint


def test_a_server_that_goes_down_ends_the_inference_and_what_came_before_is_kept(tmp_path: Path) -> None:
    received: list[Completion] = []
    with serving(seconds=0.01) as server:
        completions = engine(server, concurrency=2).answer(requests(tmp_path, 60), 64)
        received += itertools.islice(completions, 5)
        server.behave = closes
    with pytest.raises(EngineError, match="The server does not answer"):
        received.extend(completions)
    assert 5 <= len(received) < 60
    assert set(texts(received).items()) <= set(expected(60).items())


def test_a_slow_answer_is_asked_for_again_and_then_an_error(server: FakeServer, tmp_path: Path) -> None:
    server.behave = failing(sleeps, times=1)
    assert texts(list(engine(server, timeout=0.3).answer(requests(tmp_path, 3), 64))) == expected(3)
    server.behave = failing(sleeps)
    with pytest.raises(EngineError) as caught:
        list(engine(server, timeout=0.1, retries=1).answer(requests(tmp_path), 64))
    assert caught.value.why == (f"{server.url}: no answer within 0.1 seconds",)


def test_retry_after_is_heeded(server: FakeServer, tmp_path: Path) -> None:
    moments: list[float] = []

    def behave(handler: Handler, body: dict[str, Any]) -> bool:
        moments.append(time.monotonic())
        return say(429, "wait", Retry_After="0.4")(handler, body)

    server.behave = failing(behave, times=1)
    assert len(list(engine(server).answer(requests(tmp_path, 1), 64))) == 1
    assert time.monotonic() - moments[0] >= 0.4


# --- several servers -----------------------------------------------------------------------------------------


def test_requests_are_spread_and_a_server_that_is_down_is_left_out(tmp_path: Path) -> None:
    with serving(seconds=0.01) as first, serving(seconds=0.01) as second:
        completions = list(engine(first, nobody_listens(), second, retries=0).answer(requests(tmp_path, 60), 64))
        assert texts(completions) == expected(60)
        assert min(len(first.asked), len(second.asked)) > 15


def test_a_server_that_comes_back_gets_requests_again(tmp_path: Path) -> None:
    with serving(seconds=0.02) as first:
        late = FakeServer()
        port = late.server_address[1]
        late.server_close()
        completions, second = [], None
        for completion in engine(first, f"http://127.0.0.1:{port}/v1", concurrency=2).answer(
            requests(tmp_path, 80), 64
        ):
            completions.append(completion)
            if second is None:
                context = serving(port=port)
                second = context.__enter__()
        assert second is not None
        context.__exit__(None, None, None)
    assert texts(completions) == expected(80)
    assert len(second.asked) > 5


def test_a_request_that_fails_at_one_server_is_answered_by_the_other(tmp_path: Path) -> None:
    with serving() as good, serving() as bad:
        bad.behave = failing(say(500, "broken"))
        assert texts(list(engine(good, bad).answer(requests(tmp_path, 20), 64))) == expected(20)


# --- load ----------------------------------------------------------------------------------------------------


def test_no_server_gets_more_at_once_than_the_limit(tmp_path: Path) -> None:
    with serving(seconds=0.02) as server:
        assert len(list(engine(server, concurrency=5).answer(requests(tmp_path, 40), 64))) == 40
        assert 1 < server.most_at_once <= 5


def test_a_server_that_refuses_more_than_it_can_do_gets_fewer_at_once(tmp_path: Path) -> None:
    with serving(seconds=0.01) as server:
        refusals = []

        def behave(handler: Handler, body: dict[str, Any]) -> bool:
            if server.at_once <= 4:
                return False
            refusals.append(len(server.asked))
            return say(429, "too many")(handler, body)

        server.behave = behave
        completions = list(engine(server, concurrency=32, retries=3).answer(requests(tmp_path, 120), 64))
        assert texts(completions) == expected(120)
        assert 0 < len(refusals) < 60


# --- the end -------------------------------------------------------------------------------------------------


def test_an_interrupt_ends_promptly(tmp_path: Path) -> None:
    with serving(seconds=0.5) as server:
        completions = engine(server, concurrency=4).answer(requests(tmp_path, 40), 64)
        next(completions)
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            completions.throw(KeyboardInterrupt)  # type: ignore[attr-defined]
        assert time.monotonic() - started < 0.3


def test_an_error_of_the_requests_source_is_raised_as_it_is(server: FakeServer, tmp_path: Path) -> None:
    def source() -> Iterator[Request]:
        yield from requests(tmp_path, 3)
        raise UsageError("the source broke")

    with pytest.raises(VlmdetError, match="the source broke"):
        list(engine(server).answer(source(), 64))


def test_answers_come_while_the_source_of_requests_is_slow(server: FakeServer, tmp_path: Path) -> None:
    received = list[Completion]()

    def source() -> Iterator[Request]:
        for request in requests(tmp_path, 4):
            time.sleep(0.2)
            yield request
        assert received

    received.extend(engine(server).answer(source(), 64))
    assert texts(received) == expected(4)


def test_the_limit_doubles_at_first_and_then_grows_by_one_a_round() -> None:
    now = [0.0]
    load = server_load.Load(64, 10.0, lambda: now[0])

    def answer_round() -> None:
        sent = [load.sent() for _ in range(load.free())]
        now[0] += 1
        for moment in sent:
            load.ended_well(moment)

    assert load.free() == 16
    answer_round()
    assert load.free() == 32
    sent = [load.sent() for _ in range(32)]
    now[0] += 1
    for moment in sent:
        load.refused(moment, None)  # together they are one trouble
    assert load.free() == 0
    now[0] = load.paused_until
    assert load.free() == 21
    answer_round()
    assert 21 < load.limit <= 22.5
    slow = [load.sent() for _ in range(load.free())]
    now[0] += 11
    for moment in slow:
        load.ended_well(moment)
    assert load.limit < 16


def test_waits_grow_to_a_bound_and_differ() -> None:
    random.seed(0)
    waits = [server_load.backoff(failures) for failures in range(1, 9)]
    assert max(waits) <= server_load.LONGEST_WAIT
    assert len(set(waits)) == 8
