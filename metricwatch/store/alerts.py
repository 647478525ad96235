"""Rule states and alerts: what the rules say, written by them alone."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from metricwatch.clock import from_ms, to_ms
from metricwatch.records import Alert, AlertState, WindowPoint
from metricwatch.store.db import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleMark:
    """How far a rule has been evaluated on a run, and from which score on its alerts are news."""

    definition: str
    since_score: int
    up_to_score: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleState:
    """A rule's state at one step, as last computed."""

    step: int
    state: str
    direction: str | None
    change: float | None
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingRule:
    """A rule whose condition holds on a run, but not for long enough yet."""

    run: str
    rule: str
    step: int
    note: str


class Alerts:
    """What the rules say: per step, and as episodes that fire and resolve."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def mark(self, run: str, rule: str) -> RuleMark | None:
        row = self._db.read_one(
            "SELECT definition, since_score, up_to_score FROM rule_marks WHERE run = ? AND rule = ?", (run, rule)
        )
        return RuleMark(**dict(row)) if row else None

    def set_mark(self, run: str, rule: str, mark: RuleMark) -> None:
        with self._db.transaction("rule-mark") as tx:
            tx.execute(
                """INSERT INTO rule_marks (run, rule, definition, since_score, up_to_score) VALUES (?, ?, ?, ?, ?)
                   ON CONFLICT (run, rule) DO UPDATE SET definition = excluded.definition,
                     since_score = excluded.since_score, up_to_score = excluded.up_to_score""",
                (run, rule, mark.definition, mark.since_score, mark.up_to_score),
            )

    def marked(self) -> list[tuple[str, str]]:
        """The runs and rules that have a mark, also of runs that nobody watches now."""
        return [(row["run"], row["rule"]) for row in self._db.read("SELECT run, rule FROM rule_marks ORDER BY 1, 2")]

    def forget_mark(self, run: str, rule: str) -> None:
        """Drop the mark of a rule that does not look at a run any more: if it comes back it starts like a new one."""
        with self._db.transaction("forget-mark") as tx:
            tx.execute("DELETE FROM rule_marks WHERE run = ? AND rule = ?", (run, rule))

    def states(self, run: str, rule: str, *, since_step: int = 0) -> dict[int, RuleState]:
        """Per step from that one on, what the rule said when it was last computed."""
        rows = self._db.read(
            "SELECT step, state, direction, change, note FROM rule_states WHERE run = ? AND rule = ? AND step >= ?",
            (run, rule, since_step),
        )
        return {row["step"]: RuleState(**dict(row)) for row in rows}

    def latest_state(self, run: str, rule: str) -> RuleState | None:
        """The rule's state at the run's last evaluated step."""
        row = self._db.read_one(
            """SELECT step, state, direction, change, note FROM rule_states
               WHERE run = ? AND rule = ? ORDER BY step DESC LIMIT 1""",
            (run, rule),
        )
        return RuleState(**dict(row)) if row else None

    def pending(self) -> list[PendingRule]:
        """The rules that are pending at the last evaluated step of a run, by run and rule. Removed rules never are."""
        rows = self._db.read(
            """SELECT marks.run, marks.rule, states.step, states.note FROM rule_marks AS marks
                 JOIN rule_states AS states ON states.run = marks.run AND states.rule = marks.rule AND states.step =
                   (SELECT max(step) FROM rule_states WHERE run = marks.run AND rule = marks.rule)
               WHERE states.state = 'pending' ORDER BY marks.run, marks.rule"""
        )
        return [PendingRule(**dict(row)) for row in rows]

    def set_states(self, run: str, rule: str, states: Iterable[RuleState]) -> None:
        with self._db.transaction("rule-states") as tx:
            tx.executemany(
                """INSERT INTO rule_states (run, rule, step, state, direction, change, note)
                   VALUES (?, ?, ?, ?, ?, ?, ?)
                   ON CONFLICT (run, rule, step) DO UPDATE SET state = excluded.state, direction = excluded.direction,
                     change = excluded.change, note = excluded.note""",
                [(run, rule, s.step, s.state, s.direction, s.change, s.note) for s in states],
            )

    def forget_states(self, run: str, rule: str, steps: Iterable[int]) -> None:
        """Drop what a rule has said at these steps: it looks at another metric now."""
        with self._db.transaction("forget-states") as tx:
            tx.executemany(
                "DELETE FROM rule_states WHERE run = ? AND rule = ? AND step = ?", [(run, rule, step) for step in steps]
            )

    def of_rule(self, run: str, rule: str) -> list[Alert]:
        """All alerts of a rule on a run, oldest first."""
        return [
            alert_of(row)
            for row in self._db.read("SELECT * FROM alerts WHERE run = ? AND rule = ? ORDER BY id", (run, rule))
        ]

    def recent(self, run: str, limit: int = 20) -> list[Alert]:
        """The newest alerts of a run, newest first."""
        return [
            alert_of(row)
            for row in self._db.read("SELECT * FROM alerts WHERE run = ? ORDER BY id DESC LIMIT ?", (run, limit))
        ]

    def firing(self) -> list[Alert]:
        """Everything that fires now."""
        return [alert_of(row) for row in self._db.read("SELECT * FROM alerts WHERE state = 'firing' ORDER BY id")]

    def firing_of(self, run: str, rule: str) -> list[Alert]:
        """What fires of a rule on a run: at most one alert for each direction."""
        return [
            alert_of(row)
            for row in self._db.read(
                "SELECT * FROM alerts WHERE run = ? AND rule = ? AND state = 'firing' ORDER BY id", (run, rule)
            )
        ]

    def revision(self, run: str) -> str:
        """A text that is another one whenever an alert of the run was added, amended or resolved."""
        row = self._db.read_one(
            "SELECT count(*) AS n, coalesce(max(id), 0) AS newest, total(changes) AS changes FROM alerts WHERE run = ?",
            (run,),
        )
        return f"{row['n']}.{row['newest']}.{row['changes']:.0f}" if row else ""

    def add(self, alert: Alert, *, announce: bool, now: datetime) -> int:
        """Record a new alert (its id is ignored) and return its id. announce=False: history, nobody is told."""
        with self._db.transaction("alert") as tx:
            row = tx.execute(
                """INSERT INTO alerts (run, rule, metric, direction, severity, state, fired_step, resolved_step, change,
                     threshold, window, moved, reason, announce, fired_ms, resolved_ms, resolved_value, what, detail,
                     kind, labels)
                   VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id""",
                (
                    alert.run,
                    alert.rule,
                    alert.metric,
                    alert.direction,
                    alert.severity,
                    alert.state.value,
                    alert.fired_step,
                    alert.resolved_step,
                    alert.change,
                    alert.threshold,
                    _dump(alert.window),
                    _dump(alert.moved),
                    alert.reason,
                    int(announce),
                    to_ms(now),
                    to_ms(now) if alert.state is AlertState.RESOLVED else None,
                    alert.resolved_value,
                    alert.what,
                    alert.detail,
                    alert.kind,
                    json.dumps(dict(alert.labels), sort_keys=True),
                ),
            ).fetchone()
            return int(row["id"])

    def resolve(
        self,
        alert: int,
        *,
        step: int | None,
        value: float | None,
        reason: str,
        now: datetime,
        announce: bool = True,
    ) -> None:
        """End a firing alert. announce=False ends it without a word."""
        with self._db.transaction("resolve") as tx:
            tx.execute(
                """UPDATE alerts SET state = 'resolved', resolved_step = ?, resolved_value = ?, reason = ?,
                     resolved_ms = ?, announce = announce AND ?,
                     changes = changes + 1 WHERE id = ? AND state = 'firing'""",
                (step, value, reason, to_ms(now), int(announce), alert),
            )

    def amend(self, alert: int, new: Alert) -> None:
        """A firing alert began elsewhere, or otherwise, as late evaluations or its rule's new form say."""
        with self._db.transaction("amend") as tx:
            tx.execute(
                """UPDATE alerts SET fired_step = ?, change = ?, threshold = ?, window = ?, moved = ?, what = ?,
                     detail = ?, kind = ?, changes = changes + 1 WHERE id = ?""",
                (
                    new.fired_step,
                    new.change,
                    new.threshold,
                    _dump(new.window),
                    _dump(new.moved),
                    new.what,
                    new.detail,
                    new.kind,
                    alert,
                ),
            )


def _dump(points: Sequence[WindowPoint]) -> str:
    return json.dumps([[point.step, point.value, point.stderr] for point in points])


def _load(text: str) -> tuple[WindowPoint, ...]:
    return tuple(WindowPoint(step=step, value=value, stderr=stderr) for step, value, stderr in json.loads(text))


def alert_of(row: sqlite3.Row) -> Alert:
    """The alert that a row of the table `alerts` holds."""
    # `status` may look into the ledger of a daemon that is a schema or two older.
    there = set(row.keys())
    worded, labelled = "what" in there, "labels" in there
    return Alert(
        id=row["id"],
        run=row["run"],
        rule=row["rule"],
        metric=row["metric"],
        direction=row["direction"],
        severity=row["severity"],
        state=AlertState(row["state"]),
        fired_step=row["fired_step"],
        resolved_step=row["resolved_step"],
        change=row["change"],
        threshold=row["threshold"],
        window=_load(row["window"]),
        moved=_load(row["moved"]),
        resolved_value=row["resolved_value"],
        reason=row["reason"],
        what=row["what"] if worded else "",
        detail=row["detail"] if worded else "",
        kind=row["kind"] if labelled else "moves",
        labels=json.loads(row["labels"]) if labelled else {},
        fired_at=from_ms(row["fired_ms"]),
        resolved_at=None if row["resolved_ms"] is None else from_ms(row["resolved_ms"]),
    )
