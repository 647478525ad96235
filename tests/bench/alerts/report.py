"""The results as tables. Every number in them is one of the document's, rounded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.bench.alerts.contenders import BEST, DEFAULT, LAST

_NONE = "–"
_FLAT = "flat, noise "
# The columns of the compact table and the scenarios that they show: false alerts, then what is found.
FALSE = {
    "false, noise 2%": "flat, noise 2.0%",
    "false, noise 4%": "flat, noise 4.0%",
    "false, restless": "flat, restless",
}
FOUND = {
    "+20%, noise 1%": "break +20%, noise 1%",
    "+20%, noise 4%": "break +20%, noise 4%",
    "drift 1%, noise 1%": "drift 1.0%, noise 1%",
}
# Its rows, so that it can be read at a glance.
ROWS = (
    DEFAULT,
    *(f"{DEFAULT}, beyond_noise {multiple}" for multiple in (2, 3, 4)),
    f"{DEFAULT}, worse, for 2",
    f"{DEFAULT}, net, worse, for 2",
    "moves 10% across 20, net, beyond_noise 3",
    "z_score 4",
    "z_score 4, for 2",
    "above +10%, for 2",
    LAST,
    BEST,
)


def compact(document: dict[str, Any]) -> str:
    """For each rule: false alerts where nothing happens; then how many events it finds, after how many evaluations."""
    head = ["rule", *FALSE, *FOUND]
    rows = []
    for rule in ROWS:
        quiet = [find(document["results"], name, rule)["false_per_1000"] for name in FALSE.values()]
        events = [find(document["results"], name, rule) for name in FOUND.values()]
        rows.append([rule, *(number(each) for each in quiet), *(_found(each) for each in events)])
    return _table(head, rows)


def by_noise(document: dict[str, Any]) -> str:
    """False alerts on curves on which nothing happens, by their noise."""
    levels = [name for name in document["scenarios"] if name.startswith(_FLAT)]
    rows = [
        [rule, *(number(find(document["results"], name, rule)["false_per_1000"]) for name in levels)] for rule in ROWS
    ]
    return _table(["rule", *(name.removeprefix(_FLAT) for name in levels)], rows)


def details(document: dict[str, Any]) -> str:
    """A table for each scenario, with intervals."""
    parts = []
    head = ["rule", "false per 1,000", "firing per 1,000", "better per 1,000"]
    event_head = ["found", "delay: median", "delay: 90%", "alerts per event", "fired already"]
    for name, about in document["scenarios"].items():
        results = [find(document["results"], name, rule) for rule in document["rules"]]
        eventful = results[0]["found"] is not None
        rows = [
            [
                each["rule"],
                *(_ranged(each[key]) for key in ("false_per_1000", "firing_per_1000", "better_per_1000")),
                *(_event_cells(each) if eventful else []),
            ]
            for each in results
        ]
        parts.append(f"#### {name} ({about['story']})\n\n{_table([*head, *(event_head if eventful else [])], rows)}")
    return "\n".join(parts)


def windows(document: dict[str, Any]) -> str:
    """How far noise alone goes within a window, in standard errors."""
    rows = document["windows"]
    head = ["across", "mode", "direction"]
    head += [f"beyond {multiple}" for multiple in rows[0]["exceeded"]]
    head += [f"{float(chance):.1%} of windows" for chance in rows[0]["needed"]]
    return _table(
        head,
        [
            [
                str(row["across"]),
                row["mode"],
                row["direction"],
                *(f"{share:.2%}" for share in row["exceeded"].values()),
                *(f"{multiple:.2f}" for multiple in row["needed"].values()),
            ]
            for row in rows
        ],
    )


def find(results: Sequence[dict[str, Any]], scenario: str, rule: str) -> dict[str, Any]:
    """What is known of a rule in a scenario."""
    return next(each for each in results if each["scenario"] == scenario and each["rule"] == rule)


def number(measure: dict[str, float]) -> str:
    """A rate as tables show it: two significant digits below ten. Nothing seen is 0."""
    value = measure["value"]
    if value == 0:
        return "0"
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 10 else f"{value:.0f}"


def _found(result: dict[str, Any]) -> str:
    if result["delay"] is None:
        return f"{result['found']['value']:.0%}"
    return f"{result['found']['value']:.0%}, {result['delay']['value']:.0f}"


def _event_cells(result: dict[str, Any]) -> list[str]:
    found, delay, late = result["found"], result["delay"], result["delay_p90"]
    return [
        f"{found['value']:.0%} ({found['low']:.0%} to {found['high']:.0%})",
        _NONE if delay is None else f"{delay['value']:.0f} ({delay['low']:.0f} to {delay['high']:.0f})",
        _NONE if late is None else f"{late['value']:.0f} ({late['low']:.0f} to {late['high']:.0f})",
        _ranged(result["alerts_per_event"]),
        f"{result['busy']['value']:.0%}",
    ]


def _ranged(measure: dict[str, float]) -> str:
    return f"{number(measure)} ({measure['low']:.2f} to {measure['high']:.2f})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(line) + " |" for line in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:], ""])
