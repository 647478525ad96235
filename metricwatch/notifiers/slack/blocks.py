"""A message in Slack's Block Kit, within Slack's limits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from metricwatch.api import Alert, Notice, Notification, WindowPoint
from metricwatch.notifiers.slack.mrkdwn import cut, escaped, link

# https://docs.slack.dev/reference/block-kit/blocks: characters, after escaping.
HEADER_LIMIT = 150
SECTION_LIMIT = 3000
MOST_BLOCKS = 50
# All blocks together, as JSON. Slack says nowhere where msg_blocks_too_long begins; people met it from 13,000 on.
_MOST_IN_ALL = 11_000
_SUMMARY_LIMIT = 2000
_NOTE_LIMIT = 800
_VALUE_LIMIT = 500
_TITLE_LIMIT = 300

_MARKS = {"firing": "●", "resolved": "✓", "reminder": "↻", "digest": "☰", "test": "○"}

Block = dict[str, Any]


def blocks_of(notification: Notification, notes: Sequence[str] = ()) -> list[Block]:
    """The message: all about a single alert, or the chief facts of each of several. Notes are shown below it.

    Alerts that do not fit are counted.
    """
    header = f"{_MARKS[notification.event]} {' '.join(notification.title.split())}"
    head: list[Block] = [
        {"type": "header", "text": {"type": "plain_text", "text": header[:HEADER_LIMIT], "emoji": False}},
    ]
    if len(notification.notices) == 1 or notification.event == "digest":
        # Of several alerts each has a section, which says the same.
        head.append(_section(cut(notification.summary or notification.title, _SUMMARY_LIMIT)))
    foot = [_context(cut(note, _NOTE_LIMIT)) for note in (notification.note, *notes) if note.strip()]
    foot.append(_context(_origin(notification)))
    if len(notification.notices) == 1:
        return [*head, *_alone(notification.notices[0]), *foot]
    return [*head, *_each(notification, _size([*head, *foot]), len(head) + len(foot)), *foot]


def fallback(notification: Notification) -> str:
    """What is shown where blocks are not: in notices of the desktop and to screen readers."""
    return cut(f"{notification.title} — {notification.summary}", SECTION_LIMIT)


# --- one alert ---------------------------------------------------------------------------------------------


def _alone(notice: Notice) -> list[Block]:
    alert = notice.alert
    blocks = [{"type": "section", "fields": _fields({"Run": notice.run_name, **_facts(alert)})}]
    if alert.window:
        blocks.append(_section(f"```{_table(alert.metric or 'value', alert.window)}```"))
    if address := link(notice.run_url, "Open the run in MLflow"):
        blocks.append(_section(address))
    return blocks


def _facts(alert: Alert) -> dict[str, str]:
    facts = {"Metric": alert.metric} if alert.metric else {}
    step = alert.fired_step if alert.resolved_step is None else alert.resolved_step
    return {
        **facts,
        "Rule": alert.rule,
        **_what(alert),
        "Direction": f"{alert.direction} ({alert.severity})",
        "Step": str(step),
    }


def _what(alert: Alert) -> dict[str, str]:
    if alert.what:
        return {"What": alert.what}
    return {"Change": f"{_percent(alert.change)} (threshold {_percent(alert.threshold).lstrip('+')})"}


def _table(metric: str, window: Sequence[WindowPoint]) -> str:
    """Steps and values in columns. A window too long for one section loses its middle."""
    rows = [("step", metric[:60])]
    for point in window:
        noise = "" if point.stderr is None else f" ± {point.stderr:.2g}"
        rows.append((str(point.step), f"{point.value:.6g}{noise}"))
    width = max(len(step) for step, _ in rows)
    lines = [escaped(f"{step:>{width}}  {value}") for step, value in rows]
    most = (SECTION_LIMIT - 200) // max(len(line) + 1 for line in lines)
    if len(lines) > most:
        lines = [*lines[: most // 2], f"{'…':>{width}}", *lines[-(most // 2) :]]
    return "\n".join(lines)


# --- several alerts ----------------------------------------------------------------------------------------


def _each(notification: Notification, size: int, blocks: int) -> list[Block]:
    """A section for each alert, as many as fit beside what else is in the message, and the number of the others."""
    notices = notification.notices
    runs = {(notice.run_name, notice.run_url) for notice in notices}
    # One link for all where they are of one run; the count of what is left out needs a place, too.
    tail = [_section(_run(notices[0]))] if len(runs) == 1 and notices[0].run_url else []
    size += _size(tail) + _NOTE_LIMIT // 4
    places = MOST_BLOCKS - blocks - len(tail) - 1
    sections: list[Block] = []
    for notice in notices:
        section = _short(notice, with_run=len(runs) > 1)
        size += _size([section])
        if len(sections) == places or size > _MOST_IN_ALL:
            break
        sections.append(section)
    if left := len(notices) - len(sections):
        sections.append(_section(f"… and {left} more"))
    return sections + tail


def _short(notice: Notice, *, with_run: bool) -> Block:
    title = cut(" ".join(notice.title.split()) or "-", _TITLE_LIMIT)
    # A star in the title would end the bold type early: what it looks like then is harmless.
    lines = [f"{_MARKS[notice.event]} *{title}*"]
    if with_run and (run := _run(notice)):
        lines.append(run)
    facts = _facts(notice.alert)
    if window := notice.alert.window:
        first, last = window[0], window[-1]
        facts["Window"] = f"{first.value:.5g} (step {first.step})"
        if len(window) > 1:
            facts["Window"] = f"{first.value:.5g} → {last.value:.5g} (steps {first.step}-{last.step})"
    return {**_section("\n".join(lines)), "fields": _fields(facts)}


def _run(notice: Notice) -> str:
    name = cut(" ".join(notice.run_name.split()), _TITLE_LIMIT)
    return " — ".join(filter(None, (name, link(notice.run_url, "Open the run in MLflow"))))


# --- parts -------------------------------------------------------------------------------------------------


def _fields(facts: dict[str, str]) -> list[dict[str, str]]:
    return [
        {"type": "mrkdwn", "text": f"*{name}*\n{cut(value if value.strip() else '-', _VALUE_LIMIT)}"}
        for name, value in facts.items()
    ]


def _section(text: str) -> Block:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text}}


def _context(text: str) -> Block:
    return {"type": "context", "elements": [{"type": "mrkdwn", "text": text}]}


def _origin(notification: Notification) -> str:
    moment = notification.created_at
    written = f"{moment:%Y-%m-%d %H:%M %Z}".strip()
    when = f"<!date^{int(moment.timestamp())}^{{date_short_pretty}} {{time}}|{written}>"
    kind = f"{notification.event} · " if notification.event in {"reminder", "digest", "test"} else ""
    return f"metricwatch · {kind}{when}"


def _size(blocks: Sequence[Block]) -> int:
    return len(json.dumps(blocks, ensure_ascii=False))


def _percent(fraction: float) -> str:
    return f"{fraction * 100:+.3g}%"


__all__ = ["HEADER_LIMIT", "MOST_BLOCKS", "SECTION_LIMIT", "blocks_of", "fallback"]
