"""The real vLLM on the demo's model, in an environment of its own: its answers are those of transformers.

``VLMDET_VLLM_PYTHON`` names the environment's Python; without it the environment is ``.vllm-venv``, which is made here
where it is missing. Where it cannot be made the tests are skipped, with pip's reason.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.engines.vllm_server import vllm_server

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),  # the first of these tests waits for the environment
    pytest.mark.skipif(find_spec("transformers") is None, reason="needs the extra `train`"),
]
Run = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def vllm_python() -> str:
    if named := os.environ.get("VLMDET_VLLM_PYTHON"):
        return named
    made = subprocess.run(["make", "vllm-env"], cwd=ROOT, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"vLLM's environment cannot be made here: {made.stderr.strip().splitlines()[-2:]}")
    return str(ROOT / ".vllm-venv" / "bin" / "python")


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", "VLLM_CPU_KVCACHE_SPACE": "1"}


def vlmdet(folder: Path, *arguments: str, code: int = 0) -> Run:
    command = [sys.executable, "-m", "vlmdet_cli", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo, prepared, with 24 pictures to ask about and as many questions as go with them.

    Its model has a penalty for repetition of its own, as Qwen2.5-VL has: it changes the answers, and each engine must
    heed it.
    """
    folder = tmp_path_factory.mktemp("vllm")
    vlmdet(folder, "init", "--demo", "demo")
    file = folder / "demo" / "model" / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "repetition_penalty": 0.9}))
    for step in ("prepare", "augment"):
        vlmdet(folder / "demo", step, "--quiet", "--set", "subset.test_pictures=24")
    return folder / "demo"


def infer(engine: str, **options: str) -> list[str]:
    """The command of ``vlmdet infer`` of the base model by that engine, into answers of that name."""
    settings = {"engine": engine, "max_tokens": 48, **options}
    sets = [part for name, value in settings.items() for part in ("--set", f"infer.{name}={value}")]
    return ["infer", "--model", "model", "--name", engine, "--json", "--quiet", *sets]


def rows(demo: Path, name: str) -> list[dict[str, Any]]:
    """The answers of that name, without one that is being written."""
    file = demo / "out" / "answers" / f"{name}.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


@pytest.fixture(scope="module")
def expected(demo: Path) -> list[dict[str, Any]]:
    vlmdet(demo, *infer("transformers"))
    return rows(demo, "transformers")


def test_a_killed_vllm_keeps_what_is_answered_and_the_next_run_ends_with_the_answers_of_transformers(
    vllm_python: str, demo: Path, expected: list[dict[str, Any]]
) -> None:
    options = {"vllm.python": vllm_python, "vllm.max_model_len": "1024", "vllm.enforce_eager": "true"}
    command = infer("vllm", **options)
    process = subprocess.Popen([sys.executable, "-m", "vlmdet_cli", *command], cwd=demo, env=environment(),
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
    while process.poll() is None and len(rows(demo, "vllm")) < 20:
        time.sleep(0.01)
    workers = [child for child in psutil.Process(process.pid).children(recursive=True) if child.is_running()]
    os.kill(workers[0].pid, signal.SIGKILL)
    _, stderr = process.communicate()
    assert process.returncode == 4, stderr
    assert "error: vLLM's process failed: killed by signal 9 (SIGKILL)\n" in stderr
    assert not [worker for worker in workers if runs(worker)]
    kept = rows(demo, "vllm")
    assert 20 <= len(kept) < len(expected)

    result = json.loads(vlmdet(demo, *command).stdout)
    assert result["asked"] == len(expected) - len(kept)
    answers = rows(demo, "vllm")
    by_prompt = {(row["image"], row["prompt"]): row["text"] for row in answers}
    assert all(by_prompt[row["image"], row["prompt"]] == row["text"] for row in kept)
    require_equal(answers, expected)


def runs(process: psutil.Process) -> bool:
    """Whether it runs; a zombie, which its new parent has not yet waited for, does not."""
    with contextlib.suppress(psutil.Error):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


def require_equal(answers: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Texts, finishes and tokens are the same, log-probabilities nearly."""
    assert {row.get("finish", "stop") for row in expected} > {"stop"}, "no answer reaches the limit"
    for answer, row in zip(answers, expected, strict=True):
        assert (answer["image"], answer["prompt"], answer.get("finish")) == (
            row["image"], row["prompt"], row.get("finish")
        )  # fmt: skip
        assert answer["text"] == row["text"]
        assert [text for text, _ in answer["tokens"]] == [text for text, _ in row["tokens"]]
        assert [logprob for _, logprob in answer["tokens"]] == pytest.approx(
            [logprob for _, logprob in row["tokens"]], abs=1e-3
        )


@pytest.mark.skipif(find_spec("openai") is None, reason="needs the extra `server`")
def test_a_server_of_vllm_gives_the_answers_of_transformers(
    vllm_python: str, demo: Path, expected: list[dict[str, Any]]
) -> None:
    model = str(demo / "model")
    with vllm_server(vllm_python, Path(model), demo / "server.log") as url:
        command = infer("server", **{"server.urls": json.dumps([url])})
        result = json.loads(vlmdet(demo, *(model if part == "model" else part for part in command)).stdout)
    assert result["asked"] == len(expected)
    require_equal(rows(demo, "server"), expected)
