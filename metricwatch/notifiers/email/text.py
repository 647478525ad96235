"""A notification in plain text, and the facts that its HTML shows as well."""

from __future__ import annotations

import re
from collections.abc import Sequence

from metricwatch.api import Alert, Notice, Notification

# More alerts, and more rows of each, nobody reads in a mail.
MOST_NOTICES = 100
_MOST_ROWS_EACH = 5


def text_of(notification: Notification, notes: Sequence[str]) -> str:
    """All that the message says, without pictures."""
    lines = [notification.summary, ""]
    lines += [line for note in notes for line in (f"Note: {one_line(note)}", "")]
    notices = notification.notices[:MOST_NOTICES]
    if len(notices) == 1:
        lines += _facts_and_rows(notices[0], short=False)
    else:
        for notice in notices:
            title = one_line(notice.title)
            lines += [title, "-" * min(len(title), 72), notice.summary, "", *_facts_and_rows(notice, short=True)]
            own = notice.run_url if common_link(notification) is None else None
            lines += ["", own, ""] if own else [""]
    if left := left_out(notification):
        lines += [left, ""]
    if url := common_link(notification):
        lines += ["", url]
    return "\n".join(lines).rstrip("\n") + "\n"


def facts(notice: Notice) -> dict[str, str]:
    """What is known of an alert, by name, each on one line."""
    alert = notice.alert
    known = {
        "Run": notice.run_name,
        "Metric": alert.metric,
        "Rule": alert.rule,
        **_what(alert),
        "Direction": f"{alert.direction} ({alert.severity})",
        "Fired at step": str(alert.fired_step),
    }
    if not alert.metric:
        del known["Metric"]
    if alert.resolved_step is not None:
        known["Resolved at step"] = str(alert.resolved_step)
    return {name: one_line(value) for name, value in known.items()}


def rows(alert: Alert, *, short: bool) -> list[tuple[str, str, str]]:
    """The window's steps, values and standard errors. A short table of a long window has its ends only."""
    told = [
        (str(point.step), f"{point.value:.6g}", "" if point.stderr is None else f"± {point.stderr:.2g}")
        for point in alert.window
    ]
    if short and len(told) > _MOST_ROWS_EACH:
        half = _MOST_ROWS_EACH // 2
        told = [*told[:half], ("…", "", ""), *told[-half:]]
    return told


def left_out(notification: Notification) -> str:
    """A sentence about alerts that the message has no room for, "" mostly."""
    left = len(notification.notices) - MOST_NOTICES
    return f"… and {left} more" if left > 0 else ""


def common_link(notification: Notification) -> str | None:
    """The page of the run, where all alerts are of one."""
    urls = {notice.run_url for notice in notification.notices}
    return urls.pop() if len(urls) == 1 else None


def one_line(text: str) -> str:
    """Without line breaks and other control characters, which could end a header and begin another."""
    return re.sub(r"[\x00-\x1f\x7f\u0085\u2028\u2029]+", " ", text).strip()


def _facts_and_rows(notice: Notice, *, short: bool) -> list[str]:
    lines = [f"{name}: {value}" for name, value in facts(notice).items()]
    if table := rows(notice.alert, short=short):
        width = max(len("step"), *(len(step) for step, _, _ in table))
        lines += ["", f"{'step':>{width}}  {notice.alert.metric or 'value'}"]
        lines += [f"{step:>{width}}  {value} {noise}".rstrip() for step, value, noise in table]
    return lines


def _what(alert: Alert) -> dict[str, str]:
    if alert.what:
        return {"What": alert.what}
    return {"Change": f"{alert.change * 100:+.3g}% (threshold {alert.threshold * 100:.3g}%)"}


__all__ = ["MOST_NOTICES", "common_link", "facts", "left_out", "one_line", "rows", "text_of"]
