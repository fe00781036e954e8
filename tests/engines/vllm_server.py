"""A vLLM server of a model on loopback.

It is started as its module: the command itself does not start in every build of vLLM for CPUs.
"""

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "PYTHONPATH": ""}
SECONDS = 600


@contextlib.contextmanager
def vllm_server(python: str, model: Path, log: Path, *arguments: str) -> Iterator[str]:
    """Its URL, as soon as it answers; afterwards it is ended with all its processes."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [
        python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--host", "127.0.0.1",
        "--port", str(port), "--dtype", "float32", "--max-model-len", "1024", "--enforce-eager",
        "--gpu-memory-utilization", "0.3",
        "--limit-mm-per-prompt", '{"image": 1}', "--mm-processor-kwargs", '{"do_resize": false}', *arguments,
    ]  # fmt: skip
    with log.open("wb") as file:
        process = subprocess.Popen(command, env={**os.environ, **ENVIRONMENT}, stdout=file, stderr=file,
                                   cwd=log.parent, start_new_session=True)  # fmt: skip
    try:
        end = time.monotonic() + SECONDS
        while not _answers(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < end, log.read_text()[-3000:]
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310  (the address is ours)
            return bool(response.status == 200)
    except OSError:
        return False
