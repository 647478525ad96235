"""What each receiver was told of each alert, beside what is. Written by the alerts stage alone."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from metricwatch.clock import to_ms
from metricwatch.records import AlertEvent, AlertState, Direction, Severity
from metricwatch.store.db import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """An alert as routes and silences see it. labels are all of them; news False: it ended without a word."""

    id: int
    run: str
    rule: str
    metric: str
    severity: Severity
    direction: Direction
    state: AlertState
    fired_step: int
    resolved_step: int | None
    what: str
    change: float
    news: bool
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a receiver knows of an alert.

    told is the state that it was told last, "" for nothing, at told_ms (None: before there were reminders). due_ms is
    since when there is something to tell that nobody silenced; held says for people why it is not told now; quiet:
    quiet hours held it. closed: nothing is left to tell.
    """

    alert: int
    receiver: str
    told: Literal["", "firing", "resolved"] = ""
    told_ms: int | None = None
    due_ms: int | None = None
    held: str = ""
    quiet: bool = False
    closed: bool = False


# What happened to an alert.
Event = tuple[int, AlertEvent]

_UNKNOWN = "gone.receiver NOT IN (SELECT value FROM json_each(:known))"
_NEVER_REACHED = """NOT EXISTS (
  SELECT 1 FROM notification_alerts AS t JOIN notifications AS n ON n.id = t.notification
  WHERE t.alert = gone.alert AND n.receiver = gone.receiver AND n.state = 'sent')"""
_SUBJECT = """alerts.id, run, rule, metric, severity, direction, kind, labels, state, fired_step, resolved_step, what,
  change, announce, runs.name AS run_name"""


class AlertReceivers:
    """Who hears of which alert, and how much each has heard."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def unseen(self) -> list[Subject]:
        """Alerts for which it has not been decided who hears of them, in the order they began."""
        return self._subjects(
            """announce AND NOT EXISTS (SELECT 1 FROM routed_alerts WHERE alert = alerts.id)
               ORDER BY fired_ms, alerts.id"""
        )

    def ended(self) -> list[Subject]:
        """Alerts that are over since they were last looked at, also those that ended without a word."""
        return self._subjects(
            """state = 'resolved' AND alerts.id IN (SELECT alert FROM routed_alerts WHERE state = 'firing')
               ORDER BY resolved_ms, alerts.id"""
        )

    def firing(self) -> list[Subject]:
        """Everything that fires, whether told or not."""
        return self._subjects("state = 'firing' ORDER BY alerts.id")

    def open(self) -> list[tuple[Subject, Told]]:
        """The alerts about which a receiver may still have to hear, with what it knows, oldest first."""
        rows = self._db.read(
            f"""SELECT {_SUBJECT}, receiver, told, told_ms, due_ms, held, quiet, closed
                FROM alert_receivers INDEXED BY alert_receivers_open
                  JOIN alerts ON alerts.id = alert_receivers.alert JOIN runs ON runs.key = alerts.run
                WHERE NOT closed ORDER BY alerts.id, receiver"""  # noqa: S608 - constants
        )
        return [(_subject(row), _told(row)) for row in rows]

    def seen(self, subjects: Iterable[Subject]) -> None:
        """Note that it is decided who hears of these, and which state of them the log has."""
        with self._db.transaction("routed") as tx:
            tx.executemany(
                """INSERT INTO routed_alerts (alert, state) VALUES (?, ?)
                   ON CONFLICT (alert) DO UPDATE SET state = excluded.state""",
                [(subject.id, subject.state.value) for subject in subjects],
            )

    def write(self, rows: Sequence[Told]) -> None:
        with self._db.transaction("told") as tx:
            tx.executemany(
                """INSERT OR REPLACE INTO alert_receivers (alert, receiver, told, told_ms, due_ms, held, quiet, closed)
                   VALUES (?, ?, ?, ?, ?, ?, ?, ?)""",
                [
                    (row.alert, row.receiver, row.told, row.told_ms, row.due_ms, row.held, row.quiet, row.closed)
                    for row in rows
                ],
            )

    def of(self, alert: int) -> dict[str, Told]:
        """What each receiver that was ever to hear of an alert knows of it, by receiver."""
        rows = self._db.read("SELECT *, alert AS id FROM alert_receivers WHERE alert = ?", (alert,))
        return {row["receiver"]: _told(row) for row in rows}

    def take_over(self, receiver: str, events: Sequence[Event], now: datetime) -> list[Event]:
        """Of these events those that a receiver should hear in another's place, noted as told to it.

        Left out is what it has heard, or will hear of by itself. Of an alert that it is told of it hears the end too.
        """
        with self._db.transaction("stand-in"):
            known = {alert: self.of(alert).get(receiver) for alert, _ in events}
            mine = [
                (alert, event)
                for alert, event in events
                if (told := known[alert]) is None or not self._knows(told, event)
            ]
            self.write(
                [
                    Told(
                        alert=alert,
                        receiver=receiver,
                        told=_state_after(event),
                        told_ms=to_ms(now),
                        closed=event == "resolved",
                    )
                    for alert, event in mine
                ]
            )
            return mine

    def _knows(self, told: Told, event: AlertEvent) -> bool:
        """True when a receiver has heard of this event, knows more than it, or will hear of it by itself."""
        if not told.closed and (event == "reminder" or told.told != _state_after(event)):
            return True
        if told.told != _state_after(event):
            return told.told == "resolved"
        return event != "reminder" and bool(
            self._db.read(
                """SELECT 1 FROM notification_alerts AS t JOIN notifications AS n ON n.id = t.notification
                   WHERE t.alert = ? AND t.event = ? AND n.receiver = ? AND n.state IN ('pending', 'sent')""",
                (told.alert, event, told.receiver),
            )
        )

    def take_back(self, receiver: str, events: Sequence[Event], *, first: Collection[int], made_ms: int) -> bool:
        """Note that a message was not told after all; first are the alerts of which it told the first time.

        Each is due again, since the message was made. False, and nothing is noted, where the receiver knows otherwise
        by now.
        """
        with self._db.transaction("take-back"):
            rows = []
            for alert, event in events:
                row = self.of(alert).get(receiver)
                if row is None or row.told != _state_after(event):
                    return False
                if event == "reminder":
                    row = replace(row, told_ms=0)
                else:
                    row = replace(row, told="" if alert in first else "firing", due_ms=made_ms, closed=False)
                rows.append(row)
            self.write(rows)
            return True

    def close_unknown(self, known: Iterable[str]) -> None:
        """Nothing is left to tell to receivers that the configuration no longer names.

        What still fires is routed anew, where one of them never got a message of it, or nobody is left who would hear
        of its end.
        """
        names = {"known": json.dumps(sorted(known))}
        with self._db.transaction("receivers-gone") as tx:
            tx.execute(
                f"""DELETE FROM routed_alerts WHERE alert IN (
                      SELECT gone.alert FROM alert_receivers AS gone JOIN alerts ON alerts.id = gone.alert
                      WHERE alerts.state = 'firing'
                        AND (NOT gone.closed AND {_UNKNOWN} AND {_NEVER_REACHED} OR NOT EXISTS (
                          SELECT 1 FROM alert_receivers AS other WHERE other.alert = gone.alert
                            AND NOT other.closed AND other.receiver IN (SELECT value FROM json_each(:known)))))""",  # noqa: S608
                names,
            )
            tx.execute(
                f"""UPDATE alert_receivers AS gone SET closed = 1, held = '',
                      told = CASE WHEN {_NEVER_REACHED} THEN '' ELSE told END
                    WHERE NOT closed AND {_UNKNOWN}""",  # noqa: S608 - constants
                names,
            )

    def _subjects(self, condition: str) -> list[Subject]:
        rows = self._db.read(
            f"SELECT {_SUBJECT} FROM alerts JOIN runs ON runs.key = alerts.run WHERE {condition}"  # noqa: S608 - constants
        )
        return [_subject(row) for row in rows]


def _state_after(event: AlertEvent) -> Literal["firing", "resolved"]:
    return "resolved" if event == "resolved" else "firing"


def _subject(row: sqlite3.Row) -> Subject:
    return Subject(
        id=row["id"],
        run=row["run"],
        rule=row["rule"],
        metric=row["metric"],
        severity=row["severity"],
        direction=row["direction"],
        state=AlertState(row["state"]),
        fired_step=row["fired_step"],
        resolved_step=row["resolved_step"],
        what=row["what"],
        change=row["change"],
        news=bool(row["announce"]),
        labels={
            **json.loads(row["labels"]),
            "alertname": row["rule"],
            "run": row["run_name"],
            "metric": row["metric"],
            "severity": row["severity"],
            "direction": row["direction"],
            "kind": row["kind"],
        },
    )


def _told(row: sqlite3.Row) -> Told:
    return Told(
        alert=row["id"],
        receiver=row["receiver"],
        told=row["told"],
        told_ms=row["told_ms"],
        due_ms=row["due_ms"],
        held=row["held"],
        quiet=bool(row["quiet"]),
        closed=bool(row["closed"]),
    )
