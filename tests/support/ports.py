"""Free ports on the loopback interface."""

import socket


def free_port() -> int:
    """A TCP port that was free a moment ago: another process may still take it first."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
