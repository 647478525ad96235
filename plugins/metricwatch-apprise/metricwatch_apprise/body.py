"""A message's body as text, Markdown or HTML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import Literal

from metricwatch.api import Alert, Notice, Notification

Format = Literal["text", "markdown", "html"]

TITLE_LIMIT = 250
# Many services take a few thousand characters.
_MOST_NOTICES = 20
_MOST_ROWS = 12
_TEXT_LIMIT = 600
_MARKS = {"firing": "●", "reminder": "●", "resolved": "✓"}


def title_of(notification: Notification) -> str:
    """One line, never empty."""
    return _cut(notification.title, TITLE_LIMIT) or "metricwatch"


def body_of(notification: Notification, form: Format) -> str:
    """What happened, a line for each alert, and the evaluations that the gravest one's rule looked at."""
    told = notification.notices[:_MOST_NOTICES]
    lines = [_line(notice) for notice in told]
    if left_out := len(notification.notices) - len(told):
        lines.append(f"and {left_out} more")
    paragraphs = [
        text for text in (_cut(notification.note, _TEXT_LIMIT), _cut(notification.summary, _TEXT_LIMIT)) if text
    ]
    table = _table(notification.alert)
    url = notification.run_url or ""
    link = url if url.startswith(("http://", "https://")) else ""
    return {"text": _text, "markdown": _markdown, "html": _html}[form](paragraphs, lines, table, link)


def _line(notice: Notice) -> str:
    alert = notice.alert
    step = alert.resolved_step if notice.event == "resolved" and alert.resolved_step is not None else alert.fired_step
    return (
        f"{_MARKS[notice.event]} {_cut(notice.title, TITLE_LIMIT)} (rule {_cut(alert.rule, 100)}, "
        f"{_cut(alert.metric, 100) or 'the whole run'}, step {step}, {alert.direction}, {alert.severity})"
    )


def _table(alert: Alert) -> list[str]:
    """Steps and values in columns. A long window loses its middle."""
    if not alert.window:
        return []
    rows = [("step", _cut(alert.metric, 40))]
    for point in alert.window:
        noise = "" if point.stderr is None else f" ± {point.stderr:.2g}"
        rows.append((str(point.step), f"{point.value:.6g}{noise}"))
    if len(rows) > _MOST_ROWS + 1:
        rows = [*rows[: _MOST_ROWS // 2 + 1], ("…", ""), *rows[-_MOST_ROWS // 2 :]]
    width = max(len(step) for step, _ in rows)
    return [f"{step:>{width}}  {value}".rstrip() for step, value in rows]


def _text(paragraphs: Sequence[str], lines: Sequence[str], table: Sequence[str], link: str) -> str:
    parts = [*paragraphs, "\n".join(lines), "\n".join(table), link]
    return "\n\n".join(part for part in parts if part)


def _markdown(paragraphs: Sequence[str], lines: Sequence[str], table: Sequence[str], link: str) -> str:
    def plain(text: str) -> str:
        return re.sub(r"([\\`*_{}\[\]<>#|~!])", r"\\\1", text)

    # Indented, not fenced: a metric's name cannot end it.
    parts = [
        *map(plain, paragraphs),
        "\n".join(f"- {plain(line)}" for line in lines),
        # Without a comment between them an indented block would belong to the list.
        *(["<!-- -->", "\n".join(f"    {row}" for row in table)] if table else []),
        f"<{link}>" if link and not re.search(r"[<>\s]", link) else "",
    ]
    return "\n\n".join(part for part in parts if part)


def _html(paragraphs: Sequence[str], lines: Sequence[str], table: Sequence[str], link: str) -> str:
    parts = [f"<p>{escape(paragraph)}</p>" for paragraph in paragraphs]
    parts.append("<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>")
    if table:
        parts.append("<pre>" + escape("\n".join(table)) + "</pre>")
    if link:
        parts.append(f'<p><a href="{escape(link)}">Open the run in MLflow</a></p>')
    return "\n".join(parts)


def _cut(text: str, limit: int) -> str:
    """One line of at most so many characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


__all__ = ["TITLE_LIMIT", "Format", "body_of", "title_of"]
