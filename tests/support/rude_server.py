"""A TCP server that breaks off: for what happens when the other side dies in the middle."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def rude_server(answer: bytes = b"", *, silent_for: float = 0.0, reset: bool = False) -> Iterator[int]:
    """Give the port of a server that reads a little, sends answer, stays silent for so long, and hangs up.

    With reset it hangs up by a reset instead of an orderly end.
    """
    stop = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.1)

    def serve() -> None:
        while not stop.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            with connection:
                connection.settimeout(0.2)
                try:
                    if not answer.startswith(b"220"):  # SMTP servers speak first
                        connection.recv(65536)
                    connection.sendall(answer)
                except OSError:
                    pass
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
