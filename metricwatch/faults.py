"""Named points at which a test may have this process killed, as by a power cut. In production they do nothing.

METRICWATCH_FAULT="kill NAME N" sends SIGKILL to the process that passes the point NAME for the Nth time (1: the first).
METRICWATCH_FAULT="trace FILE" appends the name of each point that is passed to a file, a line each.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

VARIABLE = "METRICWATCH_FAULT"


def reached(name: str) -> None:
    """Say that the process is at a point where being killed would be the most unwelcome."""
    if _on_reaching is not None:
        _on_reaching(name)


def plan(text: str) -> Callable[[str], None]:
    """What to do at each point, as the variable says. Leaves with a message for a text that is neither form."""
    match text.split(" "):
        case ["kill", name, count] if count.isdecimal():
            return _kill_at(name, int(count))
        case ["trace", file]:
            return _trace_to(file)
    raise SystemExit(f'{VARIABLE}={text!r}: write "kill NAME N" or "trace FILE"; it is for tests')


def _kill_at(name: str, count: int) -> Callable[[str], None]:
    left = count
    lock = threading.Lock()

    def pass_by(passed: str) -> None:
        nonlocal left
        if passed != name:
            return
        with lock:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return pass_by


def _trace_to(file: str) -> Callable[[str], None]:
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def pass_by(passed: str) -> None:
        os.write(descriptor, f"{passed}\n".encode())

    return pass_by


_on_reaching = plan(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None
