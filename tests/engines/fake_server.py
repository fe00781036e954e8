"""A small OpenAI-compatible server in a thread, and the ways in which a real one may fail.

It answers with a box that the prompt's length decides, as ``FakeEngine`` does. ``behave`` gets each chat request and
may do something else with it: it is a function of the handler and the body, and returns whether it has answered.
"""

import base64
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

from tests.engines.fake_engine import TEXT

Behaviour = Callable[["Handler", dict[str, Any]], bool]


class FakeServer(ThreadingHTTPServer):
    """``chats``: the bodies of the chat requests. ``most_at_once``: of them. ``template``: writes a chat's prompt, for
    vLLM's ``/tokenize``; None where the server has no such path. ``keys``: those that came for the list of models.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int = 0, **options: Any) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.models: list[dict[str, Any]] = [{"id": "demo", "owned_by": "vllm", "root": "/models/demo"}]
        self.behave: Behaviour = lambda _handler, _body: False
        self.template: Callable[[list[dict[str, Any]]], str] | None = None
        self.seconds = 0.0
        self.chats: list[dict[str, Any]] = []
        self.keys = set[str]()
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        for name, value in options.items():
            setattr(self, name, value)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def asked(self) -> list[dict[str, Any]]:
        """The chat requests without those that probe the server."""
        return [body for body in self.chats if body["max_tokens"] > 1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no error of the test."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeServer

    def do_GET(self) -> None:
        self.server.keys.add(self.headers["Authorization"])
        if self.path != "/v1/models":
            self.reply(b"<h1>Not here</h1>", 404)
            return
        self.reply_json({"object": "list", "data": self.server.models})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        if not self.path.startswith("/v1/"):
            self.tokenize(body)
            return
        with server.lock:
            server.chats.append(body)
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        try:
            time.sleep(server.seconds)
            if not server.behave(self, body):
                self.reply_json(chat_answer(body))
        finally:
            with server.lock:
                server.at_once -= 1

    def tokenize(self, body: dict[str, Any]) -> None:
        """As vLLM's ``/tokenize`` and ``/detokenize``: a token is a character."""
        if self.server.template is None:
            self.reply(b"", 404)
        elif self.path == "/detokenize":
            self.reply_json({"prompt": "".join(map(chr, body["tokens"]))})
        else:
            text = self.server.template(body["messages"]) if "messages" in body else body["prompt"]
            self.reply_json({"tokens": list(map(ord, text))})

    def reply_json(self, document: Any, status: int = 200, **headers: str) -> None:
        self.reply(json.dumps(document).encode(), status, "application/json", **headers)

    def reply(self, data: bytes, status: int = 200, kind: str = "text/html", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def close_half_way(self) -> None:
        """Promise more bytes than are sent, and close."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "5000")
        self.end_headers()
        self.wfile.write(b'{"choices": [{"message"')
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (the parameter of http.server)
        """Tests print nothing."""


def chat_answer(body: dict[str, Any], **choice: Any) -> dict[str, Any]:
    text = TEXT.format(n=len(prompt_of(body)))
    message = {"role": "assistant", "content": text}
    return {
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", **choice}],
        "usage": {"prompt_tokens": 20 + tokens_of(body), "completion_tokens": 7, "total_tokens": 0},
    }


def prompt_of(body: dict[str, Any]) -> str:
    """The prompt of a request as rows have it."""
    parts = body["messages"][-1]["content"]
    return "".join(part["text"] if part["type"] == "text" else "<image>" for part in parts)


def picture_of(body: dict[str, Any]) -> Image.Image:
    (url,) = [part["image_url"]["url"] for part in body["messages"][-1]["content"] if part["type"] == "image_url"]
    head, _, data = url.partition(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def tokens_of(body: dict[str, Any]) -> int:
    """The number of picture tokens where nothing is resized."""
    width, height = picture_of(body).size
    return width * height // 28**2


@contextmanager
def serving(**options: Any) -> Iterator[FakeServer]:
    server = FakeServer(**options)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
