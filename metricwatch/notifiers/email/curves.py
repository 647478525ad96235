"""The curves of a message as pictures inside a mail."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from metricwatch.api import Notification

MOST_CURVES = 5
# Many servers refuse mails of more than 10 MB. Base64 makes 4/3 of it, with the line ends 1.37.
MOST_BYTES = 7_000_000
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class InlineCurve:
    """A PNG file's content; cid is the Content-ID that the HTML shows it by."""

    cid: str
    name: str
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """What is shown, by the place of its alert in the message; note says what is left out, "" mostly."""

    inline: Mapping[int, InlineCurve]
    note: str


def curves_of(notification: Notification, suffix: str) -> Curves:
    """The curves of the gravest alerts, as many as a mail may hold. What is not a PNG file is left out."""
    given = {
        place: notice.picture
        for place, notice in enumerate(notification.notices)
        if notice.picture is not None and notice.picture.startswith(_PNG)
    }
    inline: dict[int, InlineCurve] = {}
    size = 0
    for place, content in given.items():
        if len(inline) == MOST_CURVES or size + len(content) > MOST_BYTES:
            continue
        size += len(content)
        alert = notification.notices[place].alert
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", alert.metric).strip("-.")[:80] or "curve"
        inline[place] = InlineCurve(
            cid=f"curve-{place}.{suffix}", name=f"{name}-{alert.fired_step}.png", content=content
        )
    left = len(given) - len(inline)
    note = f"{left} of {len(given)} curves are left out to keep the mail small; all are beside the run." if left else ""
    return Curves(inline=inline, note=note)


__all__ = ["MOST_BYTES", "MOST_CURVES", "Curves", "InlineCurve", "curves_of"]
