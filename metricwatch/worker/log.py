"""Lines for the daemon's log, and how errors read in them."""

from __future__ import annotations

import traceback
from typing import Protocol

from metricwatch.errors import MetricwatchError


class LogLine(Protocol):
    """Writes a line into the daemon's log."""

    def __call__(self, level: str, event: str, /, **fields: str) -> None: ...


def describe(error: BaseException) -> str:
    """An error as the user reads it: ours verbatim, others with their type."""
    return str(error) if isinstance(error, MetricwatchError) else f"{type(error).__name__}: {error}"


def one_line(text: str) -> str:
    """Text with all that would not print as itself escaped: file names may hold newlines, colours, half characters."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def log_failure(log: LogLine, event: str, error: Exception, /, **fields: str) -> None:
    """Log an error with its reason; with its traceback where it is not one that we raised for the user to read."""
    if isinstance(error, MetricwatchError):
        log("warning", event, reason=str(error), **fields)
    else:
        log("error", event, reason=describe(error), traceback="".join(traceback.format_exception(error)), **fields)
