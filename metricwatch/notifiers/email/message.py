"""A notification as a mail: headers, a text, and HTML with the curves in it."""

from __future__ import annotations

import hashlib
import re
from email.message import EmailMessage
from email.policy import EmailPolicy
from email.utils import format_datetime, parseaddr

from metricwatch.api import Notification
from metricwatch.notifiers.email.curves import curves_of
from metricwatch.notifiers.email.html import html_of
from metricwatch.notifiers.email.text import one_line, text_of

_SUBJECT_LIMIT = 200
# Python folds a long subject right behind its name, and readers then see it begin with a space: filters miss it.
_POLICY = EmailPolicy(max_line_length=500)


def compose(notification: Notification, *, sender: str, to: tuple[str, ...]) -> EmailMessage:
    """The message: the same notification always gives the same headers, Message-ID included.

    All messages about one alert refer to a common root, so that mail programs show them as one thread; so do those
    about several alerts of one group. The text and the HTML are alternatives; the curves are related to the HTML.
    """
    message = EmailMessage(policy=_POLICY)
    message["From"] = sender
    message["To"] = ", ".join(to)
    message["Subject"] = one_line(notification.title)[:_SUBJECT_LIMIT]
    message["Date"] = format_datetime(notification.created_at)
    domain = re.sub(r"[^A-Za-z0-9.-]", "", parseaddr(sender)[1].rpartition("@")[2]) or "metricwatch"
    about, thread = _thread(notification)
    # The moment is part of it: a fresh ledger counts its notifications from 1 again.
    this = _digest(about, notification.id, notification.event, notification.created_at.isoformat())
    message["Message-ID"] = f"<{this}.{notification.id}.{notification.event}@{domain}>"
    if notification.event != "test":
        # The first message cannot be the root: one that reports recovery does not know its Message-ID.
        root = f"<{about}.{thread}@{domain}>"
        message["In-Reply-To"] = root
        message["References"] = root
    message["Auto-Submitted"] = "auto-generated"
    curves = curves_of(notification, f"{this}@{domain}")
    notes = [note for note in (notification.note, curves.note) if note.strip()]
    message.set_content(text_of(notification, notes))
    message.add_alternative(html_of(notification, notes, curves.inline), subtype="html")
    _, page = message.iter_parts()
    for curve in curves.inline.values():
        page.add_related(curve.content, "image", "png", cid=f"<{curve.cid}>", disposition="inline", filename=curve.name)
    return message


def _thread(notification: Notification) -> tuple[str, str]:
    """What the message is about, as a digest, and the rest of its thread's name."""
    if len(notification.notices) == 1 and notification.event != "digest":
        alert = notification.alert
        return _digest(alert.run, alert.rule, alert.id, alert.fired_step), f"{alert.id}.alert"
    labels = [part for pair in sorted(notification.group.items()) for part in pair]
    return _digest("group", notification.receiver, *labels), "group"


def _digest(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:16]


__all__ = ["compose"]
