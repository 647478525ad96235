"""The page `alerts.html`: one file that needs nothing else, readable in light and in dark.

It has no script and asks no other address for anything, and says so to the browser.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape

from metricwatch.records import Alert, Severity


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleNote:
    """What the page tells of one rule. words define it, "" where they are not known any more.

    state and step are where it stands, "" and None before the first evaluation; picture is its metric's curve as an
    SVG file's content, None where there is none; trouble says why then.
    """

    name: str
    metric: str
    words: str
    state: str
    step: int | None
    note: str
    picture: bytes | None = None
    trouble: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """All that alerts.html says of a run. alerts are the newest first, left_off how many older ones are not shown.

    notes are lines on the run as a whole: where a new series of values begins.
    """

    run_name: str
    made_at: datetime
    rules: Sequence[RuleNote]
    alerts: Sequence[Alert]
    left_off: int = 0
    notes: Sequence[str] = ()


# The severities' colours are those of the curves; each is written out as well.
_STYLE = """
:root { color-scheme: light dark; --ink: #222; --soft: #666; --paper: #fff; --line: #ddd; --card: #f6f6f6; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --soft: #a5a5a5; --paper: #1b1b1b; --line: #444; --card: #262626; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; margin: 0; } h2 { font-size: 1.1rem; margin: 1.6rem 0 .4rem; }
p { margin: .3rem 0; } .soft { color: var(--soft); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .7rem 1rem;
  margin: .8rem 0; }
section h3 { font-size: 1rem; margin: 0 0 .2rem; }
img { display: block; width: 100%; max-width: 48rem; height: auto; background: #fff; margin-top: .6rem;
  border-radius: 4px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .85rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .5rem; border-bottom: 1px solid var(--line);
  overflow-wrap: normal; }
td.what { min-width: 13rem; overflow-wrap: anywhere; } td time { white-space: nowrap; }
.badge { display: inline-block; border-radius: 3px; padding: 0 .4rem; border: 2px solid var(--soft);
  font-size: .85rem; white-space: nowrap; }
.critical { border-color: #D55E00; } .warning { border-color: #E69F00; } .info { border-color: #56B4E9; }
.firing { font-weight: 700; } .resolved { border-style: dashed; }
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_HEADERS = ("State", "Severity", "Rule", "Metric", "What", "Fired", "Resolved")


def build_page(page: Page) -> bytes:
    """The page as UTF-8. Whatever a name or a reason holds is shown as text."""
    return "\n".join(_lines(page)).encode("utf-8", "replace")


def _lines(page: Page) -> Iterator[str]:
    name = escape(page.run_name)
    yield "<!DOCTYPE html>"
    yield '<html lang="en"><head><meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>Alerts of {name}</title><style>{_STYLE}</style></head><body>"
    yield f"<h1>Alerts of {name}</h1>"
    firing = sum(alert.state == "firing" for alert in page.alerts)
    told = f"{firing} firing now" if firing else "Nothing fires now"
    yield f'<p>{told}. <span class="soft">As of {_time(page.made_at)}, by metricwatch.</span></p>'
    for note in page.notes:
        yield f'<p class="soft">{escape(note)}</p>'
    yield "<h2>Rules</h2>"
    for rule in page.rules:
        yield from _rule(rule)
    if not page.rules:
        yield '<p class="soft">None is configured any more.</p>'
    yield "<h2>All alerts, the newest first</h2>"
    heads = "".join(f"<th>{header}</th>" for header in _HEADERS)
    yield f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>'
    for alert in page.alerts:
        yield _row(alert)
    yield "</tbody></table></div>"
    if page.left_off:
        yield f'<p class="soft">{page.left_off:,} older ones are not shown.</p>'
    yield "</body></html>"


def _rule(rule: RuleNote) -> Iterator[str]:
    state = f'<span class="badge {_class(rule.state)}">{escape(rule.state)}</span>' if rule.state else ""
    yield f"<section><h3>{escape(rule.name)} {state}</h3>"
    yield f"<p>{escape(rule.words) or 'This rule is not configured any more.'}</p>"
    if rule.step is not None:
        note = f": {escape(rule.note)}" if rule.note else ""
        yield f'<p class="soft">{escape(rule.state)} at step {rule.step:,}{note}</p>'
    if rule.picture is not None:
        content = base64.b64encode(rule.picture).decode()
        words = escape(f"The curve of {rule.metric} with the alerts of {rule.name}", quote=True)
        # As a picture, not inline: what one SVG defines cannot meet the names of another.
        yield f'<img alt="{words}" src="data:image/svg+xml;base64,{content}">'
    elif rule.trouble:
        yield f'<p class="soft">No curve: {escape(rule.trouble)}</p>'
    yield "</section>"


def _row(alert: Alert) -> str:
    cells = (
        f'<td><span class="badge {_class(alert.state)}">{escape(alert.state)}</span></td>',
        f'<td><span class="badge {_class(alert.severity)}">{escape(alert.severity)}</span></td>',
        f"<td>{escape(alert.rule)}</td>",
        f"<td>{escape(alert.metric) or 'the run'}</td>",
        f'<td class="what">{escape(happened(alert))}</td>',
        f"<td>step {alert.fired_step:,}{_seen(alert.fired_at)}</td>",
        f"<td>{_end(alert)}</td>",
    )
    return f"<tr>{''.join(cells)}</tr>"


def happened(alert: Alert) -> str:
    """What an alert is about, in words that follow the metric's name: "rose by 17.0%, more than 10%"."""
    if alert.what:
        return f"{alert.what} — {alert.detail}" if alert.detail else alert.what
    moved = f"{'rose' if alert.change > 0 else 'fell'} by {abs(alert.change):.1%}"
    between = ""
    if alert.moved:
        first, last = alert.moved[0], alert.moved[-1]
        between = f", from {first.value:.5g} at step {first.step:,} to {last.value:.5g} at step {last.step:,}"
    return f"{moved}{between}; the rule allows {alert.threshold * 100:.4g}%"


def _end(alert: Alert) -> str:
    if alert.state == "firing":
        return '<span class="soft">not yet</span>'
    where = "" if alert.resolved_step is None else f"step {alert.resolved_step:,}"
    value = "" if alert.resolved_value is None else f" at {alert.resolved_value:.5g}"
    reason = f'<br><span class="soft">{escape(alert.reason)}</span>' if alert.reason else ""
    return f"{where}{value}{_seen(alert.resolved_at)}{reason}"


def _seen(moment: datetime | None) -> str:
    return f'<br><span class="soft">{_time(moment)}</span>' if moment else ""


def _time(moment: datetime) -> str:
    return f'<time datetime="{moment.isoformat()}">{moment:%Y-%m-%d %H:%M:%S} UTC</time>'


def _class(word: Severity | str) -> str:
    """The word where it is one that has a style; never what somebody else wrote."""
    return word if word in {"critical", "warning", "info", "firing", "resolved"} else ""
