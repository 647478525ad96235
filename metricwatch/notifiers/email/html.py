"""A notification as HTML. Styles stand in the elements: mail programs drop style sheets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from metricwatch.api import Notice, Notification
from metricwatch.notifiers.email.curves import InlineCurve
from metricwatch.notifiers.email.text import MOST_NOTICES, common_link, facts, left_out, rows

_COLOURS = {"critical": "#b3261e", "warning": "#b26a00", "info": "#1f6fb2"}
_OVER = "#2e7d32"
_CELL = 'style="padding:2px 16px 2px 0;text-align:left;font-weight:normal;vertical-align:top"'
_NAME = 'style="padding:2px 16px 2px 0;text-align:left;font-weight:normal;vertical-align:top;color:#666"'
_NUMBER = 'style="padding:2px 16px 2px 0;text-align:right;font-family:monospace"'
_TABLE = 'style="border-collapse:collapse;margin-top:12px;font-size:14px"'


def html_of(notification: Notification, notes: Sequence[str], curves: Mapping[int, InlineCurve]) -> str:
    """The message as a page, with a section for each alert; curves are shown by their Content-ID."""
    alone = len(notification.notices) == 1
    parts = [
        '<html><body style="font-family:Helvetica,Arial,sans-serif;font-size:14px;color:#222;max-width:720px">',
        f'<h2 style="font-size:18px;margin:0 0 8px">{escape(notification.title)}</h2>',
        f'<p style="margin:0 0 12px;white-space:pre-line">{escape(notification.summary)}</p>',
    ]
    parts += [f'<p style="margin:0 0 12px;padding:8px 12px;background:#fff4d6">{escape(note)}</p>' for note in notes]
    for place, notice in enumerate(notification.notices[:MOST_NOTICES]):
        parts += _section(notice, curves.get(place), alone=alone)
        if not alone and common_link(notification) is None:
            parts += _link(notice.run_url)
    if left := left_out(notification):
        parts.append(f"<p>{escape(left)}</p>")
    parts += _link(common_link(notification))
    parts.append("</body></html>")
    return "\n".join(parts)


def _section(notice: Notice, curve: InlineCurve | None, *, alone: bool) -> list[str]:
    alert = notice.alert
    colour = _OVER if notice.event == "resolved" else _COLOURS[alert.severity]
    parts = [f'<div style="border-left:4px solid {colour};padding:2px 0 2px 14px;margin:0 0 18px">']
    if not alone:
        parts.append(f'<h3 style="font-size:15px;margin:0 0 4px">{escape(notice.title)}</h3>')
        parts.append(f'<p style="margin:0 0 8px;white-space:pre-line">{escape(notice.summary)}</p>')
    parts.append('<table style="border-collapse:collapse;font-size:14px">')
    for name, value in facts(notice).items():
        parts.append(f"<tr><th {_NAME}>{escape(name)}</th><td {_CELL}>{escape(value)}</td></tr>")
    parts.append("</table>")
    if curve is not None:
        what = escape(f"The curve of {alert.metric or notice.run_name}", quote=True)
        parts.append(f'<p style="margin:12px 0 0"><img src="cid:{curve.cid}" alt="{what}" style="max-width:100%"></p>')
    if table := rows(alert, short=not alone):
        titles = ("step", alert.metric or "value", "")
        parts.append(f"<table {_TABLE}>")
        parts.append("<tr>" + "".join(f"<th {_NUMBER}>{escape(title)}</th>" for title in titles) + "</tr>")
        parts += ["<tr>" + "".join(f"<td {_NUMBER}>{escape(text)}</td>" for text in row) + "</tr>" for row in table]
        parts.append("</table>")
    parts.append("</div>")
    return parts


def _link(url: str | None) -> list[str]:
    if url is None or not url.startswith(("http://", "https://")):
        return []
    return [f'<p><a href="{escape(url)}">Open the run in MLflow</a></p>']


__all__ = ["html_of"]
