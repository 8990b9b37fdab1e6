"""The API over HTTP on loopback: ordinary answers, watches and logs."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import parse_qsl, urlsplit

from cluster.fakekube import discovery
from cluster.fakekube.api import Api, Request, Target, nothing_there
from cluster.fakekube.errors import ApiError, Json
from cluster.fakekube.faults import ConnectionDropped, Faults, Served
from cluster.fakekube.logs import LogReader
from cluster.fakekube.rbac import ADMIN
from cluster.fakekube.watching import events


class ApiServer:
    """Serves from the moment that it is made until `stop`, at two doors.

    ``url`` asks for a bearer token. ``admin_url`` takes everybody for the administrator, as ``kubectl proxy`` does:
    helm and kubectl send no token over plain HTTP.
    """

    def __init__(self, api: Api, faults: Faults, logs: LogReader) -> None:
        self._store = api.objects.store
        shared = {"api": api, "faults": faults, "logs": logs}
        doors = [("api-server", {**shared, "admin": False}), ("admin-door", {**shared, "admin": True})]
        self._servers = [_Server(("127.0.0.1", 0), type("Handler", (_Handler,), each)) for _, each in doors]
        self._threads = [
            threading.Thread(target=server.serve_forever, args=(0.05,), name=name, daemon=True)
            for server, (name, _) in zip(self._servers, doors, strict=True)
        ]
        for thread in self._threads:
            thread.start()
        self.url, self.admin_url = (f"http://127.0.0.1:{server.server_address[1]}" for server in self._servers)

    def stop(self) -> None:
        self._store.drop_watches()
        for server, thread in zip(self._servers, self._threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a client may keep its connection open for ever
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hung up is no error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body in one packet
    api: ClassVar[Api]
    faults: ClassVar[Faults]
    logs: ClassVar[LogReader]
    admin: ClassVar[bool]

    def log_message(self, format: str, *args: object) -> None:
        """Quiet; see `Faults.served`."""

    def _serve(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        user, code = ADMIN, 0
        with suppress(ConnectionDropped, ConnectionError):
            try:
                self.faults.strike(self.command, self.path, "before")
                if not self.admin:
                    user = self.api.authority.user(self.headers.get("Authorization") or "")
                query = dict(parse_qsl(url.query, keep_blank_values=True))
                kind = self.headers.get("Content-Type") or ""
                request = Request(self.command, url.path, query, kind, body, user)
                code = self._answer(request)
            except ApiError as error:
                code = error.code
                self._send(error.code, error.status())
        if code == 0:
            self.close_connection = True
        self.faults.served.append(Served(user.name, self.command, self.path, code))

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

    def _answer(self, request: Request) -> int:
        document = discovery.answer(self.api.resources, request.path)
        if document is not None:
            self._send(200, document)
            return 200
        if request.path in ("/healthz", "/livez", "/readyz"):
            self._send_bytes(200, b"ok", "text/plain")
            return 200
        target = self.api.target(request.path)
        if target is None:
            self._not_served(request.path)
            return 404
        self.api.authorize(request, target)
        if target.subresource == "log":
            return self._stream_log(request, target)
        if request.wants_watch:
            return self._stream_watch(request, target)
        code, obj = self.api.answer(request, target)
        self.faults.strike(self.command, self.path, "after")
        self._send(code, obj)
        return code

    def _not_served(self, path: str) -> None:
        """As Kubernetes: plain text for a group that it does not know, a Status within one that it does."""
        if path.count("/") > 3 and any(path.startswith(f"/apis/{group}/") for group in self.api.resources.groups()):
            self._send(404, nothing_there(path).status())
        else:
            self._send_bytes(404, b"404 page not found\n", "text/plain; charset=utf-8")

    def _send(self, code: int, obj: Json) -> None:
        self._send_bytes(code, json.dumps(obj).encode(), "application/json")

    def _send_bytes(self, code: int, body: bytes, kind: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if code == 429:
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def _stream_watch(self, request: Request, target: Target) -> int:
        lines = (json.dumps(event).encode() + b"\n" for event in events(self.api, request, target))
        return self._stream(lines, "application/json")

    def _stream_log(self, request: Request, target: Target) -> int:
        pod = self.api.objects.get(target.resource, target.namespace, target.name)
        return self._stream(self.logs.read(pod, request.query), "text/plain")

    def _stream(self, chunks: Iterator[bytes], kind: str) -> int:
        """Chunked, each chunk at once; an empty one only sees whether the client is still there."""
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        for chunk in chunks:
            if chunk:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()
        return 200
