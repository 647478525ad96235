"""A TCP server that breaks off: for what happens when the other side dies in the middle."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

Answer = bytes | Callable[[bytes], bytes]


@contextmanager
def rude_server(
    answer: bytes = b"",
    *,
    then: Sequence[Answer] = (),
    silent_for: float = 0.0,
    reset: bool = False,
    heard: list[bytes] | None = None,
) -> Iterator[int]:
    """Give the port of a server that reads a little, sends answer, stays silent for so long, and hangs up.

    then are further answers, each sent after it has read a little again, which a callable is given. With reset it hangs
    up by a reset instead of an orderly end. What it reads is added to heard.
    """
    stop = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.1)

    def read(connection: socket.socket) -> bytes:
        said = connection.recv(65536)
        if heard is not None:
            heard.append(said)
        return said

    def speak(connection: socket.socket) -> None:
        if not answer.startswith(b"220"):  # SMTP servers speak first
            read(connection)
        connection.sendall(answer)
        for reply in then:
            said = read(connection)
            connection.sendall(reply(said) if callable(reply) else reply)

    def serve() -> None:
        while not stop.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            with connection:
                # A client that leaves in the middle must not keep the next one waiting.
                connection.settimeout(2.0 if then else 0.2)
                with suppress(OSError):
                    speak(connection)
                stop.wait(silent_for)
                if reset:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    thread = threading.Thread(target=serve, name="rude-server")
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        stop.set()
        thread.join()
        listener.close()
