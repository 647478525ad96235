"""An HTTP server and a mail server on the loopback interface that fail as a script says, and keep what reached them."""

from __future__ import annotations

import socketserver
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default as modern
from http.client import responses
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# What a client that hangs up in the middle leaves behind.
_GONE = (ConnectionError, TimeoutError, ValueError)
_A_FEW = 20


# --- HTTP --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What is said to one request, after some seconds of silence. status 0: nothing, the connection is closed.

    cut: only half of the body comes. taken: the server keeps the message, whatever it then says.
    """

    status: int = 200
    body: str = "ok"
    headers: Mapping[str, str] = field(default_factory=dict)
    silent_for: float = 0.0
    cut: bool = False
    taken: bool = True


HANG_UP = Reply(status=0, taken=False)


def refusal(status: int, body: str = "", **headers: str) -> Reply:
    """The message is not taken. retry_after="1" is the header Retry-After."""
    named = {name.replace("_", "-").title(): value for name, value in headers.items()}
    return Reply(status=status, body=body, headers=named, taken=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Posted:
    """One request as it came. moment is in seconds of the monotonic clock, when it had been read."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    moment: float
    reply: Reply


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpServer:
    """A running server. url ends without a slash; posted grows."""

    url: str
    posted: list[Posted]

    def at(self, path: str) -> list[Posted]:
        return [item for item in self.posted if item.path == path]

    def taken(self, path: str) -> list[Posted]:
        return [item for item in self.at(path) if item.reply.taken]


@contextmanager
def http_server(answer: Callable[[str, Mapping[str, str], bytes], Reply]) -> Iterator[HttpServer]:
    """Answer every POST as `answer(path, headers, body)` says."""
    posted: list[Posted] = []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with lock:
                reply = answer(self.path, self.headers, body)
                posted.append(
                    Posted(path=self.path, headers=self.headers, body=body, moment=time.monotonic(), reply=reply)
                )
            time.sleep(reply.silent_for)
            self.close_connection = True
            if not reply.status:
                return
            content = reply.body.encode()
            head = {"Content-Length": str(len(content)), "Connection": "close", **reply.headers}
            lines = [f"HTTP/1.1 {reply.status} {responses.get(reply.status, '')}", *map(": ".join, head.items())]
            with suppress(*_GONE):
                self.wfile.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
                self.wfile.write(content[: len(content) // 2] if reply.cut else content)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that is killed in the middle is what the tests are about."""

    with Server(("127.0.0.1", 0), Handler) as server, _serving(server):
        yield HttpServer(url=f"http://127.0.0.1:{server.server_port}", posted=posted)


@contextmanager
def _serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="faulty")
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()


# --- mail --------------------------------------------------------------------------------------------------

# None: hang up. A callable is asked when it comes to that, with what was said.
Word = str | None | Callable[[str], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A mail of which the end was reached. answer is what was said to it, None where nothing was."""

    mail: EmailMessage
    session: int
    moment: float
    answer: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MailServer:
    """A running server. received grows when a mail has been read and before that is answered."""

    port: int
    received: list[Received]
    sessions: list[float]
    heard: list[str]


class _Session(socketserver.StreamRequestHandler):
    """One connection to a _MailListener."""

    server: _MailListener

    def handle(self) -> None:
        listener = self.server
        with listener.lock:
            self.number = len(listener.state.sessions)
            listener.state.sessions.append(time.monotonic())
        listed = self.number < len(listener.scripts)
        self.script = listener.scripts[self.number] if listed else listener.usual
        with suppress(*_GONE):
            self.word("banner", "220 mail.example.org")
            while self.answered(self.line()):
                pass

    def line(self) -> str:
        read = self.rfile.readline()
        if not read:
            raise ConnectionResetError
        text = read.decode(errors="replace").rstrip("\r\n")
        self.server.state.heard.append(text)
        return text

    def say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())

    def word(self, step: str, otherwise: str, said: str = "") -> None:
        found = self.script.get(step, otherwise)
        text = found(said) if callable(found) else found
        if text is None:
            raise ConnectionResetError
        self.say(text)

    def answered(self, said: str) -> bool:
        """False when that was the last word."""
        verb = said[:4].upper()
        if verb == "QUIT":
            self.say("221 bye")
        elif verb == "EHLO":
            login = "250-AUTH PLAIN LOGIN\r\n" if "AUTH" in self.script else ""
            self.say(f"250-mail.example.org\r\n{login}250 8BITMIME")
        elif verb == "AUTH":
            if said.upper().startswith("AUTH LOGIN"):
                self.say("334 UGFzc3dvcmQ6")
                said = self.line()
            self.word("AUTH", "235 welcome", said.rpartition(" ")[2])
        elif verb == "DATA":
            self.word("DATA", "354 go on")
            self.take()
        else:
            self.word(verb, "250 OK", said)
        return verb != "QUIT"

    def take(self) -> None:
        lines: list[bytes] = []
        while (line := self.rfile.readline()) != b".\r\n":
            if not line or ("half" in self.script and len(lines) > _A_FEW):
                raise ConnectionResetError
            lines.append(line.removeprefix(b".") if line.startswith(b"..") else line)
        found = self.script.get("end", "250 taken")
        mail = message_from_bytes(b"".join(lines), policy=modern)
        assert isinstance(mail, EmailMessage)
        answer = found if isinstance(found, str) else None
        received = Received(mail=mail, session=self.number, moment=time.monotonic(), answer=answer)
        self.server.state.received.append(received)
        self.word("end", "250 taken")


class _MailListener(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self, scripts: Sequence[Mapping[str, Word]], usual: Mapping[str, Word]) -> None:
        super().__init__(("127.0.0.1", 0), _Session)
        self.scripts, self.usual = scripts, usual
        self.lock = threading.Lock()
        self.state = MailServer(port=self.server_address[1], received=[], sessions=[], heard=[])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """As above."""


@contextmanager
def mail_server(
    scripts: Sequence[Mapping[str, Word]] = (), usual: Mapping[str, Word] | None = None
) -> Iterator[MailServer]:
    """Speak SMTP without TLS. The scripts are those of the first connections, usual is that of all others.

    Each names what is said instead at: banner, AUTH, MAIL, RCPT, DATA, "half" (when the mail's first lines have come,
    the connection is closed) and "end" (to the whole of the mail). AUTH is offered where a script names it.
    """
    with _MailListener(scripts, usual or {}) as listener, _serving(listener):
        yield listener.state


__all__ = [
    "HANG_UP",
    "HttpServer",
    "MailServer",
    "Posted",
    "Received",
    "Reply",
    "http_server",
    "mail_server",
    "refusal",
]
