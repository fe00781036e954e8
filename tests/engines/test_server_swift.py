"""The server engine against a real ``swift deploy`` of the demo's model: it answers as the engine transformers does."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from vlmdet_cli.demo import HERE
from vlmdet_cli.demo.worlds import STREET, write_coco
from vlmdet_cli.engines import Completion, Engine, EngineSettings, Request
from vlmdet_cli.engines.server.engine import ServerEngine
from vlmdet_cli.engines.settings import ServerOptions, TransformersOptions
from vlmdet_cli.engines.transformers import TransformersEngine
from vlmdet_cli.models.qwen2_vl import QWEN2_VL

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("swift") is None, reason="needs the extra `train`"),
]
MODEL = HERE / "model"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a ``swift deploy`` of the demo's model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("deploy")
    command = [
        str(Path(sys.executable).parent / "swift"), "deploy", "--infer_backend", "transformers", "--model", str(MODEL),
        "--model_type", "qwen2_vl", "--template", "vlmdet_demo", "--external_plugins", str(HERE / "plugin.py"),
        "--torch_dtype", "float32", "--max_pixels", str(168 * 168), "--host", "127.0.0.1", "--port", str(port),
        "--verbose", "false",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until_it_listens(process, f"http://127.0.0.1:{port}/health", folder / "log")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # swift's program starts another
        process.wait()


def wait_until_it_listens(process: "subprocess.Popen[bytes]", health: str, log: Path) -> None:
    deadline = time.monotonic() + 300
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            urllib.request.urlopen(health, timeout=5).close()  # noqa: S310  (http on loopback)
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.2)
        else:
            return


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> list[Request]:
    folder = tmp_path_factory.mktemp("street")
    write_coco(folder, STREET, {"test": 20})
    pictures = sorted((folder / "images" / "test").glob("*.jpg"))
    return [Request(key=path.name, image=path, prompt="<image>Draw the bounding box of objects") for path in pictures]


def settings(options: Any, **values: Any) -> EngineSettings:
    plain = {"model": MODEL, "family": QWEN2_VL, "max_pixels": 168 * 168, "device": "cpu", "scores": True}
    return EngineSettings(**{**plain, **values}, options=options)


def answers(engine: Engine, requests: list[Request]) -> dict[str, Completion]:
    return {completion.key: completion for completion in engine.answer(requests, 64)}


@pytest.mark.parametrize("system", [None, "", "Be brief."], ids=["the family's", "none", "another"])
def test_swift_deploy_answers_as_transformers_does(url: str, requests: list[Request], system: str | None) -> None:
    requests = requests if system is None else requests[:5]
    served = answers(ServerEngine(settings(ServerOptions(urls=(url,)), system=system)), requests)
    own = answers(TransformersEngine(settings(TransformersOptions(), system=system)), requests)
    assert system or any(completion.text.count("<|box_start|>") for completion in own.values())
    assert len(served) == len(requests)
    for key, completion in own.items():
        assert (served[key].text, served[key].finish) == (completion.text, completion.finish)
        assert [text for text, _ in served[key].tokens] == [text for text, _ in completion.tokens]
        logprobs = [logprob for _, logprob in completion.tokens]
        assert [logprob for _, logprob in served[key].tokens] == pytest.approx(logprobs, abs=1e-4)


def test_the_token_limit_shows_in_the_finish(url: str, requests: list[Request]) -> None:
    engine = ServerEngine(settings(ServerOptions(urls=(url,)), scores=False))
    (completion,) = engine.answer(requests[:1], 2)
    assert (completion.finish, completion.num_tokens) == ("length", 2)
    assert (engine.identity()["kind"], engine.identity()["served_model"]) == ("swift", "model")
