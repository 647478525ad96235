"""An HTTP proxy on loopback before a real server, which fails in the ways that servers and gateways fail."""

from __future__ import annotations

import enum
import json
import socket
import struct
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LOG_BATCH = "/runs/log-batch"
HANGING_SECONDS = 60.0


class Mode(enum.Enum):
    """What happens to a request. The marked ones reach the server, which acts on them."""

    PASS = "passed on"  # reaches the server
    SLOW = "answered late, but in time"  # reaches the server
    TRICKLE = "answered byte by byte"  # reaches the server
    TOO_SLOW = "answered after the client has given up"  # reaches the server
    LOSE = "done, then hung up without an answer"  # reaches the server
    RESET = "done, then reset in the middle of the answer"  # reaches the server
    REFUSE = "nobody listens"
    HANG = "accepted, and nothing said"
    UNAVAILABLE = "503"
    RETRY_AFTER = "503 with Retry-After"
    BAD_GATEWAY = "a gateway's 502 page"
    BAD_REQUEST = "a gateway's 400 page"
    NOT_FOUND = "a gateway's 404 page"
    TOO_LARGE = "a gateway's 413 page"


_PAGES = {
    Mode.UNAVAILABLE: 503,
    Mode.RETRY_AFTER: 503,
    Mode.BAD_GATEWAY: 502,
    Mode.BAD_REQUEST: 400,
    Mode.NOT_FOUND: 404,
    Mode.TOO_LARGE: 413,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One request that came by, at a time of time.monotonic(); body is its JSON, {} where it has none."""

    path: str
    at: float
    mode: Mode
    body: dict[str, Any]


@dataclass(slots=True)
class FaultProxy:
    """mode holds for every request from now on; a request that hangs is let go when it changes.

    choose, where it is set, decides for each request by itself. lose holds path endings: the next answer to each is
    swallowed once. seen lists the requests in the order of their arrival; in REFUSE nobody is there to see them.
    """

    uri: str
    lose: list[str] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    choose: Callable[[Seen], Mode] | None = None
    slow_seconds: float = 1.0
    _mode: Mode = Mode.PASS
    _listen: Callable[[bool], None] = lambda _: None
    _changed: threading.Event = field(default_factory=threading.Event)

    @property
    def mode(self) -> Mode:
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        self._listen(mode is not Mode.REFUSE)
        self._mode = mode
        # Whoever waits has the old event.
        self._changed.set()
        self._changed = threading.Event()

    def paths(self) -> list[str]:
        return [request.path for request in self.seen]

    def batches(self) -> list[Seen]:
        return [request for request in self.seen if request.path.endswith(LOG_BATCH)]


@contextmanager
def fault_proxy(upstream: str) -> Iterator[FaultProxy]:
    """Forward everything to upstream, byte for byte, but for what the mode does to it."""
    # Bound and never listening: it keeps the port ours while nobody listens there.
    holder = _bound(0)
    port = holder.getsockname()[1]
    servers: list[tuple[_Server, threading.Thread]] = []

    def listen(wanted: bool) -> None:
        if wanted and not servers:
            server = _Server(port, proxy, upstream)
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, name="fault-proxy")
            thread.start()
            servers.append((server, thread))
        elif not wanted and servers:
            server, thread = servers.pop()
            server.shutdown()
            server.server_close()
            thread.join()

    proxy = FaultProxy(uri=f"http://127.0.0.1:{port}", _listen=listen)
    try:
        proxy.mode = Mode.PASS
        yield proxy
    finally:
        proxy.mode = Mode.REFUSE
        holder.close()


def _bound(port: int) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(("127.0.0.1", port))
    return made


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_port = True
    # A request that hangs must not keep the listener from going away.
    block_on_close = False

    def __init__(self, port: int, proxy: FaultProxy, upstream: str) -> None:
        self.proxy, self.upstream = proxy, upstream
        super().__init__(("127.0.0.1", port), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients hang up here as a matter of course."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        proxy = self.server.proxy
        changed, mode = proxy._changed, proxy.mode
        seen = Seen(path=self.path.partition("?")[0], at=time.monotonic(), mode=mode, body=_json(body))
        if proxy.choose is not None:
            mode = proxy.choose(seen)
            seen = Seen(path=seen.path, at=seen.at, mode=mode, body=seen.body)
        proxy.seen.append(seen)
        if mode is Mode.HANG:
            changed.wait(HANGING_SECONDS)
        elif mode in _PAGES:
            self._page(_PAGES[mode], retry_after="3600" if mode is Mode.RETRY_AFTER else None)
        else:
            self._forward(seen, body, changed)

    do_GET = do_POST = _serve  # noqa: N815 - http.server's names

    def _page(self, status: int, retry_after: str | None) -> None:
        content = f"<html><body><h1>{status}</h1><hr>nginx</body></html>".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html")
        if retry_after:
            self.send_header("Retry-After", retry_after)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _forward(self, seen: Seen, body: bytes, changed: threading.Event) -> None:
        proxy = self.server.proxy
        status, content = self._ask(body)
        if ending := next((ending for ending in proxy.lose if seen.path.endswith(ending)), None):
            proxy.lose.remove(ending)
            return
        head = f"HTTP/1.0 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        answer = head.encode() + content
        match seen.mode:
            case Mode.LOSE:
                return
            case Mode.SLOW:
                time.sleep(proxy.slow_seconds)
            case Mode.TOO_SLOW:
                changed.wait(HANGING_SECONDS)
                return
            case Mode.RESET:
                self.wfile.write(answer[: len(answer) - len(content) // 2 - 1])
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                return
            case Mode.TRICKLE:
                for start in range(0, len(answer), 16):
                    self.wfile.write(answer[start : start + 16])
                    time.sleep(0.05)
                return
        self.wfile.write(answer)

    def _ask(self, body: bytes) -> tuple[int, bytes]:
        headers = {"Content-Type": self.headers.get("Content-Type", "application/json")}
        if login := self.headers.get("Authorization"):
            headers["Authorization"] = login
        request = urllib.request.Request(
            self.server.upstream + self.path, data=body or None, headers=headers, method=self.command
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def log_message(self, *args: object) -> None:
        """Stay quiet."""


def _json(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
