"""A small OpenAI-compatible server in this process, with every way to misbehave that the tests need."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, str], bytes]
"""Status, headers, body."""


@dataclass
class Server:
    """What it does, and what was asked of it."""

    models: list[str] | None = field(default_factory=lambda: ["base", "tuned"])
    """None: it has no such path."""
    key: str | None = None
    say: Callable[[str, bytes], str] = lambda model, image: f"{model} sees {len(image)} bytes"
    """Answer to a model's name and an image."""
    faults: list[Callable[[], Reply | None]] = field(default_factory=list)
    """Each spoils one request for an answer, the first one first; none as its reply leaves it alone."""
    broken: Callable[[bytes], Reply | None] = lambda image: None
    """Spoils every request about an image."""
    complete: Callable[[dict[str, Any]], dict[str, Any] | None] = lambda body: None
    """The whole chat completion for a request; none for one of ``say``."""
    seconds: float = 0.0
    """What an answer takes."""
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    under_way: int = 0
    most_under_way: int = 0
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def images(self) -> list[bytes]:
        """Of all requests, in the order in which they came."""
        return [picture(body)[1] for body in self.asked]


def picture(body: dict[str, Any]) -> tuple[str, bytes]:
    """MIME type and bytes of the image in a request."""
    url = next(part["image_url"]["url"] for part in body["messages"][-1]["content"] if part["type"] == "image_url")
    head, data = url.split(",", 1)
    return head.removeprefix("data:").removesuffix(";base64"), base64.b64decode(data)


def reply(status: int, body: object, **headers: str) -> Reply:
    """With ``body`` as JSON, unless it is bytes."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return status, {name.replace("_", "-"): value for name, value in headers.items()}, data


def error(status: int, message: str, **headers: str) -> Reply:
    """OpenAI's form of an error."""
    return reply(status, {"error": {"message": message, "type": "x", "code": status}}, **headers)


def answer(text: str, finish: str | None = "stop", tokens: int = 4, **more: Any) -> dict[str, Any]:
    """A chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish, **more}
    return {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": tokens}}


def streamed(completion: dict[str, Any]) -> Reply:
    """A chat completion in pieces, a word each, as server-sent events."""
    (choice,) = completion["choices"]
    words = choice["message"]["content"].split(" ")
    deltas = [{"content": word if not number else f" {word}"} for number, word in enumerate(words)]
    chunks: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]})
    chunks.append({"choices": [], "usage": completion["usage"]})
    lines = [*(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks), "data: [DONE]\n\n"]
    return 200, {"Content-Type": "text/event-stream"}, "".join(lines).encode()


class _Handler(BaseHTTPRequestHandler):
    behaves: Server

    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None: ...

    def do_GET(self) -> None:
        if self.path == "/health":
            self.send(reply(200, b""))
        elif self.behaves.key and self.headers.get("Authorization") != f"Bearer {self.behaves.key}":
            self.send(error(401, f"Incorrect API key provided: {self.headers.get('Authorization')}"))
        elif self.path == "/v1/models" and self.behaves.models is not None:
            self.send(reply(200, {"object": "list", "data": [{"id": name} for name in self.behaves.models]}))
        else:
            self.send(error(404, "no such path"))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.behaves.lock:
            self.behaves.asked.append(body)
            self.behaves.headers.append(dict(self.headers))
            self.behaves.under_way += 1
            self.behaves.most_under_way = max(self.behaves.most_under_way, self.behaves.under_way)
            fault = self.behaves.faults.pop(0) if self.behaves.faults else None
        try:
            time.sleep(self.behaves.seconds)
            self.send((fault() if fault else None) or self.judged(body))
        finally:
            with self.behaves.lock:
                self.behaves.under_way -= 1

    def judged(self, body: dict[str, Any]) -> Reply:
        if self.behaves.key and self.headers.get("Authorization") != f"Bearer {self.behaves.key}":
            return error(401, f"Incorrect API key provided: {self.headers.get('Authorization')}")
        if self.path != "/v1/chat/completions":
            return error(404, "no such path")
        if body["model"] not in (self.behaves.models or [body["model"]]):
            return error(404, f"The model `{body['model']}` does not exist.")
        image = picture(body)[1]
        said = self.behaves.complete(body) or answer(self.behaves.say(body["model"], image))
        return self.behaves.broken(image) or (streamed(said) if body.get("stream") else reply(200, said))

    def send(self, given: Reply) -> None:
        status, headers, data = given
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(data)
        if "Content-Length" in headers:  # it promised another length
            self.close_connection = True


@contextmanager
def running(port: int = 0, **what: Any) -> Iterator[Server]:
    """Serve until the block ends, on any free port as it is; ``url`` ends in ``/v1``."""
    server = Server(**what)
    http = ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (_Handler,), {"behaves": server}))
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
