"""How busy the engine ``server`` keeps a vLLM server, against vLLM's own load generator, ``vllm bench serve``.

Both ask one server the same 575 requests of the demo, picture for picture as the same PNG, greedily, with at most 64 at
once, in turns. A turn's time runs from its first request to its last answer: of the engine with reading, resizing and
encoding the pictures, of the load generator without, which has them ready. The pair's name tells the ratio of requests
a second in each pair of turns. The server keeps neither prompts nor pictures between the turns. It has half of the
cores, and whoever asks has the others: a server with a GPU does not share it with its clients either.

``VLMDET_VLLM_PYTHON`` names the Python of vLLM's environment, by default that of ``make vllm-env``.
"""

import json
import os
import resource
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.timing import Cost, Pair, process, vlmdet
from tests.engines.vllm_server import ENVIRONMENT, vllm_server
from vlmdet_cli.engines import EngineSettings, Request
from vlmdet_cli.engines.pictures import sized_picture
from vlmdet_cli.engines.server.engine import ServerEngine, served_model
from vlmdet_cli.engines.server.protocol import ChatForm, data_url
from vlmdet_cli.engines.settings import ServerOptions
from vlmdet_cli.models.family import IMAGE_TAG
from vlmdet_cli.models.qwen2_vl import QWEN2_VL

PYTHON = os.environ.get("VLMDET_VLLM_PYTHON", str(Path(".vllm-venv/bin/python").absolute()))
AT_ONCE, MAX_TOKENS, MAX_PIXELS, TURNS = 64, 256, 168 * 168, 3
NOTHING_KEPT = ("--no-enable-prefix-caching", "--mm-processor-cache-gb", "0")
BENCH = (
    "import sys; from vllm.benchmarks.serve import add_cli_args, main;"
    "from vllm.utils.argparse_utils import FlexibleArgumentParser as Parser;"
    "parser = Parser(); add_cli_args(parser); main(parser.parse_args(sys.argv[1:]))"
)


def run(folder: Path) -> Iterator[Pair]:
    if not Path(PYTHON).is_file():
        print("serving: left out, there is no vLLM; `make vllm-env` installs it")
        return
    process(vlmdet("init", "--demo", "demo"), folder)
    demo = folder / "demo"
    for step in ("prepare", "augment"):
        process(vlmdet(step, "-q"), demo)
    asked = requests(demo / "out")
    server_cores, client_cores = two_parts(sorted(os.sched_getaffinity(0)))
    os.sched_setaffinity(0, server_cores)  # what is started from here on inherits it
    with vllm_server(PYTHON, demo / "model", folder / "server.log", *NOTHING_KEPT) as url:
        os.sched_setaffinity(0, client_cores)
        settings = EngineSettings(
            model=demo / "model",
            family=QWEN2_VL,
            max_pixels=MAX_PIXELS,
            options=ServerOptions(urls=(url,), concurrency=AT_ONCE),
        )
        rows = folder / "rows.jsonl"
        rows.write_text("".join(json.dumps(content(request, settings)) + "\n" for request in asked))
        engine, members = ServerEngine(settings), request_members(settings)
        turns = [
            (ours(engine, asked), peers(url, demo / "model", rows, len(asked), members)) for _ in range(TURNS + 1)
        ][1:]  # the engine probes the server in the first
    os.sched_setaffinity(0, {*server_cores, *client_cores})
    ratios = sorted(peer.seconds / our.seconds for our, peer in turns)
    told = f"{ratios[0]:.3f} / {statistics.median(ratios):.3f} / {ratios[-1]:.3f}"
    name = f"{len(asked)} requests to a vLLM server, against vllm bench serve; requests/s min / median / max: {told}"
    yield Pair(name, *(median([turn[side] for turn in turns]) for side in (0, 1)))


def two_parts(cores: list[int]) -> tuple[set[int], set[int]]:
    """Half of the cores for the server, the others for the client; both have all where there is one."""
    half = (len(cores) + 1) // 2
    return set(cores[:half]), set(cores[half:] or cores)


def requests(output: Path) -> list[Request]:
    """The requests of ``vlmdet infer`` on the demo's test split."""
    files = (output / "data" / "coco_final_test.jsonl", output / "augment" / "questions_test.jsonl")
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return [
        Request(key=str(number), image=output / row["images"][0], prompt=row["messages"][0]["content"])
        for number, row in enumerate(rows)
    ]


def content(request: Request, settings: EngineSettings) -> dict[str, Any]:
    """A request as the load generator reads it."""
    url = data_url(sized_picture(request, settings))
    text = {"type": "text", "text": request.prompt.replace(IMAGE_TAG, "")}
    return {"content": [{"type": "image_url", "image_url": {"url": url}}, text]}


def request_members(settings: EngineSettings) -> dict[str, Any]:
    """What the engine's requests have beside model, messages and the number of tokens."""
    assert isinstance(settings.options, ServerOptions)
    form = ChatForm(served_model(settings.options, str(settings.model)), settings)
    members: dict[str, Any] = json.loads(form.body("?", "", 1))
    return {name: value for name, value in members.items() if name not in {"model", "messages", "max_tokens"}}


def ours(engine: ServerEngine, asked: list[Request]) -> Cost:
    started, cpu = time.perf_counter(), time.process_time()
    completions = list(engine.answer(asked, MAX_TOKENS))
    seconds = time.perf_counter() - started
    assert {completion.finish for completion in completions} <= {"stop", "length"}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Cost(seconds, time.process_time() - cpu, memory)


def peers(url: str, model: Path, rows: Path, count: int, members: dict[str, Any]) -> Cost:
    result = rows.with_name("result.json")
    command = [
        PYTHON, "-c", BENCH, "--backend", "openai-chat", "--base-url", url.removesuffix("/v1"),
        "--endpoint", "/v1/chat/completions", "--model", str(model), "--dataset-name", "custom_image",
        "--dataset-path", str(rows), "--num-prompts", str(count), "--disable-shuffle", "--custom-output-len",
        str(MAX_TOKENS), "--max-concurrency", str(AT_ONCE), "--disable-tqdm", "--extra-body", json.dumps(members),
        "--save-result", "--result-dir", str(result.parent), "--result-filename", result.name,
    ]  # fmt: skip
    done = subprocess.run(command, env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(result.read_text())
    assert told["completed"] == count, told
    return Cost(told["duration"], float("nan"), float("nan"))


def median(costs: list[Cost]) -> Cost:
    return Cost(*(statistics.median(values) for values in zip(*costs, strict=True)))
