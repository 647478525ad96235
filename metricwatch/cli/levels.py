"""One line of `metricwatch check`: how bad, about what, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """An error stops the daemon from doing its work; a warning may be what the user wants, for now."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing looked at. item is where in the configuration, detail one line without secrets."""

    level: Level
    item: str
    detail: str


def ok(item: str, detail: str) -> Finding:
    return Finding(level=Level.OK, item=item, detail=detail)


def warning(item: str, detail: str) -> Finding:
    return Finding(level=Level.WARNING, item=item, detail=detail)


def error(item: str, detail: str) -> Finding:
    """An error; a message of several lines becomes one."""
    return Finding(level=Level.ERROR, item=item, detail=" ".join(detail.split()))
