"""Stand-ins for Slack and for a mail server, on loopback: they take messages and keep them."""

from __future__ import annotations

import json
import threading
from datetime import datetime
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default as modern
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from metricwatch.cli.demo.messages import Message, from_email, from_slack
from metricwatch.cli.demo.ports import HOST, on_free_port


class Inbox:
    """All messages in the order of their arrival. Safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._messages: list[Message] = []

    def add(self, message: Message) -> None:
        with self._lock:
            self._messages.append(message)

    def messages(self) -> list[Message]:
        with self._lock:
            return list(self._messages)


class SlackCatcher:
    """An incoming webhook: answers `ok` as Slack does, `invalid_payload` to what is not a message."""

    def __init__(self, inbox: Inbox) -> None:
        self._server = ThreadingHTTPServer((HOST, 0), _webhook(inbox))
        threading.Thread(target=self._server.serve_forever, name="slack-catcher", daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._server.server_port}/services/demo"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class MailCatcher:
    """An SMTP server, aiosmtpd's, that takes every message."""

    def __init__(self, inbox: Inbox) -> None:
        from aiosmtpd.controller import Controller

        def start(port: int) -> Any:
            # Its own host name is looked up otherwise, which takes long where there is no network.
            controller = Controller(_Mailbox(inbox), hostname=HOST, port=port, server_hostname="localhost")
            controller.start()
            return controller

        self._controller, self.port = on_free_port(start)

    def close(self) -> None:
        self._controller.stop()


def _webhook(inbox: Inbox) -> type[BaseHTTPRequestHandler]:
    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            try:
                inbox.add(from_slack(json.loads(body), datetime.now().astimezone()))
            except (ValueError, KeyError, TypeError, AttributeError):
                self._answer(400, b"invalid_payload")
            else:
                self._answer(200, b"ok")

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
            """Requests are messages, which the demo shows itself."""

    return Webhook


class _Mailbox:
    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        message = message_from_bytes(envelope.content, policy=modern)
        if isinstance(message, EmailMessage):
            self._inbox.add(from_email(message, datetime.now().astimezone()))
        return "250 taken"
