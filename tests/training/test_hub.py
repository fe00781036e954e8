"""Where a hub's model is on this machine, and its download."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import pytest

import vlmdet_cli.demo
from tests.conftest import picture
from vlmdet_cli.training.hub import cached_folder, is_hub_name


def test_a_hubs_model_is_searched_for_in_both_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "modelscope"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--Qwen--Other"
    folders = {
        "Qwen/Qwen2.5": tmp_path / "modelscope" / "models" / "Qwen" / "Qwen2___5",
        "Qwen/Qwen3-VL": tmp_path / "modelscope" / "models" / "Qwen--Qwen3-VL" / "snapshots" / "master",
        "Qwen/Other": repository / "snapshots" / "abc123",
    }
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc123\n")
    for name, folder in folders.items():
        assert cached_folder(name) is None
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        assert cached_folder(name) == folder


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("Qwen/Qwen2-VL-2B-Instruct", True),
        ("Qwen/Qwen2.5-VL", True),
        ("merged", False),
        ("./Qwen/model", False),
        ("/Qwen/model", False),
        ("a/b/c", False),
        ("out/merged", False),
        ("", False),
    ],
)
def test_a_hubs_name_is_told_from_a_path(
    model: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()  # a folder that is there makes `out/merged` a path
    assert is_hub_name(model) == expected


class HubServer(BaseHTTPRequestHandler):
    """Hugging Face's protocol for the files of one folder, as much of it as its own client needs."""

    folder: Path
    paths: list[str]

    def do_HEAD(self) -> None:
        self.answer(head=True)

    def do_GET(self) -> None:
        self.answer(head=False)

    def answer(self, *, head: bool) -> None:
        self.paths.append(self.path)
        name = self.path.rpartition("/")[2]
        file = self.folder / name
        if "/tree/" in self.path:
            entries = [{"type": "file", "path": path.name, "size": path.stat().st_size, "oid": "0" * 40}
                       for path in sorted(self.folder.iterdir())]  # fmt: skip
            body = json.dumps(entries).encode()
        elif self.path.startswith("/api/models/"):
            files = [{"rfilename": path.name} for path in sorted(self.folder.iterdir())]
            body = json.dumps({"id": "vlmdet/tiny-qwen2-vl", "sha": "0" * 40, "siblings": files}).encode()
        elif file.is_file():
            body = file.read_bytes()
        else:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()
        if not head:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@pytest.fixture
def hub_server() -> Iterator[HTTPServer]:
    HubServer.folder, HubServer.paths = Path(vlmdet_cli.demo.__file__).parent / "model", []
    server = ThreadingHTTPServer(("127.0.0.1", 0), HubServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def infer(folder: Path, model: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    picture(folder, "photo.png", (112, 112))
    caches = {"HF_HOME": str(folder / "hf"), "MODELSCOPE_CACHE": str(folder / "modelscope")}
    command = [sys.executable, "-m", "vlmdet_cli", "infer", "--model", model, "photo.png", "--json"]
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "USE_HF"))}
    variables |= caches | environment
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("swift") is None, reason="needs the extra `train`")
def test_a_hubs_model_is_downloaded_by_swift_and_then_taken_from_its_cache(
    tmp_path: Path, hub_server: HTTPServer
) -> None:
    endpoint = f"http://127.0.0.1:{hub_server.server_port}"
    first = infer(tmp_path, "vlmdet/tiny-qwen2-vl", USE_HF="1", HF_ENDPOINT=endpoint)
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["finish"] in {"stop", "length"}
    assert any("model.safetensors" in path for path in HubServer.paths)
    HubServer.paths.clear()
    again = infer(tmp_path, "vlmdet/tiny-qwen2-vl", USE_HF="1", HF_ENDPOINT=endpoint)
    assert (again.returncode, again.stdout) == (0, first.stdout)
    assert not HubServer.paths


@pytest.mark.slow
@pytest.mark.skipif(find_spec("swift") is None, reason="needs the extra `train`")
def test_without_a_network_the_message_names_the_hub_the_model_and_the_way_out(tmp_path: Path) -> None:
    result = infer(tmp_path, "vlmdet/tiny-qwen2-vl", USE_HF="1", HF_ENDPOINT="http://127.0.0.1:9")
    assert (result.returncode, result.stdout) == (4, "")
    assert "error: Cannot download the model from Hugging Face: vlmdet/tiny-qwen2-vl\n" in result.stderr
    assert "Offline, name a folder: --model DIR." in result.stderr
    assert "Traceback" not in result.stderr
