"""Ports on the loopback interface that nobody uses."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TypeVar

from metricwatch.errors import MetricwatchError

HOST = "127.0.0.1"
_TRIES = 5

Started = TypeVar("Started")


class PortTakenError(Exception):
    """The port that was free a moment ago is not any more."""


def on_free_port(start: Callable[[int], Started]) -> tuple[Started, int]:
    """What start(port) returns, and the port. Tried again with another port when the first one was snatched away.

    start says so by raising PortTakenError or OSError.
    """
    reason: Exception | None = None
    for _ in range(_TRIES):
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port = int(probe.getsockname()[1])
        try:
            return start(port), port
        except (PortTakenError, OSError) as error:
            reason = error
    raise MetricwatchError(f"demo: found no free port on {HOST} in {_TRIES} tries: {reason}")
