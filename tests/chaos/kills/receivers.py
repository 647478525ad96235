"""A webhook and a mail server that note when each message came, and which event of which rule it tells."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.smtp_server import Mail, smtp_server

SLACK, MAIL = "team", "mail"
Key = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message, complete at the receiver. Its key is the same for every sending of one event."""

    key: Key
    at: float


@dataclass(slots=True)
class Receivers:
    """Everything that came, by receiver and in order. settings: the `notify` section that names them."""

    settings: dict[str, Any] = field(default_factory=dict)
    arrivals: dict[str, list[Arrival]] = field(default_factory=lambda: {SLACK: [], MAIL: []})


class _Mails(list[Mail]):
    def __init__(self, arrivals: list[Arrival]) -> None:
        super().__init__()
        self._arrivals = arrivals

    def append(self, mail: Mail) -> None:
        number = re.match(r"<[0-9a-f]+\.(\d+)\.", mail.message["Message-ID"])
        assert number, mail.message["Message-ID"]
        self._arrivals.append(Arrival((int(number[1]),), time.monotonic()))


@contextmanager
def receivers() -> Iterator[Receivers]:
    """Run both on the loopback interface."""
    found = Receivers()

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            body = self.rfile.read(length)
            if len(body) == length:
                found.arrivals[SLACK].append(Arrival(_slack_key(json.loads(body)), time.monotonic()))
            # The sender may have been killed by now.
            with suppress(OSError):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"ok")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    web = ThreadingHTTPServer(("127.0.0.1", 0), Webhook)
    web.daemon_threads = True
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.1}, name="webhook", daemon=True)
    thread.start()
    try:
        with smtp_server() as mail:
            mail.mails = _Mails(found.arrivals[MAIL])
            found.settings = {
                SLACK: {"use": "slack", "webhook_url": f"http://127.0.0.1:{web.server_port}/services/T/B/x"},
                MAIL: {
                    "use": "email",
                    "host": mail.host,
                    "port": mail.port,
                    "starttls": False,
                    "from": "mw@example.org",
                    "to": ["ml@example.org"],
                },
            }
            yield found
    finally:
        web.shutdown()
        web.server_close()
        thread.join()


def slack_key(*, rule: str, event: str, direction: str, created_ms: int) -> Key:
    """Slack has no message ids: what a message shows of its row in the log. Events of one second may share it."""
    return rule, event, direction, created_ms // 1000


def _slack_key(payload: dict[str, Any]) -> Key:
    fields = dict(
        item["text"].removeprefix("*").split("*\n", 1)
        for block in payload["blocks"]
        for item in block.get("fields", ())
    )
    when = re.search(r"<!date\^(\d+)\^", payload["blocks"][-1]["elements"][0]["text"])
    assert when
    return slack_key(
        rule=fields["Rule"],
        event="resolved" if payload["text"].startswith("[resolved]") else "firing",
        direction=fields["Direction"].split(" ")[0],
        created_ms=int(when[1]) * 1000,
    )
