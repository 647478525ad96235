"""The curves of a message as files for Slack."""

from __future__ import annotations

import re
from dataclasses import dataclass

from metricwatch.api import Notification

# Each takes two requests, and the alerts behind this one wait.
MOST_CURVES = 5
_PNG = b"\x89PNG\r\n\x1a\n"
_TITLE_LIMIT = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveFile:
    """A PNG file's content, with the words shown above it and read out in its place."""

    name: str
    title: str
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """What is uploaded; note says how many are left out, "" mostly."""

    files: tuple[CurveFile, ...]
    note: str


def curves_of(notification: Notification) -> Curves:
    """The curves of the gravest alerts. What is not a PNG file is left out."""
    files = [
        CurveFile(
            name=f"{_safe(notice.alert.metric) or 'curve'}-{notice.alert.fired_step}.png",
            title=" ".join(notice.title.split())[:_TITLE_LIMIT] or "curve",
            content=notice.picture,
        )
        for notice in notification.notices
        if notice.picture is not None and notice.picture.startswith(_PNG)
    ]
    left = len(files) - MOST_CURVES
    note = f"{MOST_CURVES} of {len(files)} curves are in the thread; the others are beside the run." if left > 0 else ""
    return Curves(files=tuple(files[:MOST_CURVES]), note=note)


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:80]


__all__ = ["MOST_CURVES", "CurveFile", "Curves", "curves_of"]
