"""The notification log: which message about which alerts was handed to whom, and whether it arrived."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from metricwatch.clock import to_ms
from metricwatch.records import Alert, AlertEvent
from metricwatch.store.alerts import alert_of
from metricwatch.store.db import Database

MessageEvent = Literal["firing", "resolved", "reminder", "digest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One alert of a message. first: nothing was told of it to this receiver before."""

    event: AlertEvent
    alert: Alert
    first: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingNotification:
    """A message that one receiver has still to take. group holds the labels that its alerts share."""

    id: int
    event: MessageEvent
    receiver: str
    group: Mapping[str, str]
    attempts: int
    created_ms: int
    note: str
    instead_of: int | None
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupState:
    """How a group stands with a receiver: when its last message was made or arrived, and whether one is under way."""

    last_ms: int | None
    pending: bool


class NotificationLog:
    """Written by the alerts stage alone. The readers for people also read the ledger of an older daemon."""

    def __init__(self, db: Database) -> None:
        self._db = db

    # --- messages ------------------------------------------------------------------------------------------

    def add(
        self,
        receiver: str,
        event: MessageEvent,
        alerts: Sequence[tuple[int, AlertEvent]],
        *,
        group: Mapping[str, str],
        now: datetime,
        note: str = "",
        instead_of: int | None = None,
    ) -> int:
        """Log a message before it is sent; returns its id. Join the transaction that notes what was told."""
        with self._db.transaction("notify") as tx:
            row = tx.execute(
                """INSERT INTO notifications (receiver, group_key, event, state, note, created_ms, instead_of)
                   VALUES (?, ?, ?, 'pending', ?, ?, ?) RETURNING id""",
                (receiver, group_key(group), event, note, to_ms(now), instead_of),
            ).fetchone()
            tx.executemany(
                "INSERT INTO notification_alerts (notification, alert, event) VALUES (?, ?, ?)",
                [(row["id"], alert, told) for alert, told in alerts],
            )
            return int(row["id"])

    def group_state(self, receiver: str, group: Mapping[str, str], *, digest: bool = False) -> GroupState:
        """How the newest message of a group, or the newest digest, stands."""
        row = self._db.read_one(
            """SELECT max(max(created_ms, coalesce(sent_ms, 0))) AS last, max(state = 'pending') AS pending
               FROM (SELECT created_ms, sent_ms, state FROM notifications
                     WHERE receiver = ? AND group_key = ? AND (event = 'digest') = ? AND state <> 'withdrawn'
                     ORDER BY id DESC LIMIT 20)""",
            (receiver, group_key(group), digest),
        )
        return GroupState(last_ms=row["last"] if row else None, pending=bool(row and row["pending"]))

    def next(self, receiver: str, now: datetime) -> PendingNotification | None:
        """The oldest pending message of a receiver, or None while it waits for another try. Order is kept."""
        row = self._db.read_one(
            "SELECT * FROM notifications WHERE receiver = ? AND state = 'pending' ORDER BY id LIMIT 1", (receiver,)
        )
        if row is None or row["not_before_ms"] > to_ms(now):
            return None
        return PendingNotification(
            id=row["id"],
            event=row["event"],
            receiver=row["receiver"],
            group=json.loads(row["group_key"]),
            attempts=row["attempts"],
            created_ms=row["created_ms"],
            note=row["note"],
            instead_of=row["instead_of"],
            items=self._items(row["id"], receiver),
        )

    def _items(self, notification: int, receiver: str) -> tuple[Item, ...]:
        rows = self._db.read(
            """SELECT alerts.*, told.event AS told_event, NOT EXISTS (
                 SELECT 1 FROM notification_alerts AS earlier JOIN notifications AS n ON n.id = earlier.notification
                 WHERE earlier.alert = alerts.id AND n.receiver = ? AND n.id < told.notification
                   AND n.state <> 'withdrawn') AS first
               FROM notification_alerts AS told JOIN alerts ON alerts.id = told.alert
               WHERE told.notification = ? ORDER BY alerts.id""",
            (receiver, notification),
        )
        return tuple(Item(event=row["told_event"], alert=alert_of(row), first=bool(row["first"])) for row in rows)

    def sent(self, notification: int, note: str, now: datetime) -> None:
        with self._db.transaction("notified") as tx:
            tx.execute(
                """UPDATE notifications SET state = 'sent', attempts = attempts + 1, reason = '', note = ?, sent_ms = ?
                   WHERE id = ?""",
                (note, to_ms(now), notification),
            )

    def postpone(self, notification: int, reason: str, until: datetime) -> None:
        with self._db.transaction("notify-later") as tx:
            tx.execute(
                "UPDATE notifications SET attempts = attempts + 1, reason = ?, not_before_ms = ? WHERE id = ?",
                (reason, to_ms(until), notification),
            )

    def put_back(self, notification: int, now: datetime) -> None:
        """Queue a message that failed as if its event had happened now."""
        with self._db.transaction("resend") as tx:
            tx.execute(
                """UPDATE notifications SET state = 'pending', attempts = 0, not_before_ms = 0, created_ms = ?,
                     reason = '' WHERE id = ? AND state = 'failed'""",
                (to_ms(now), notification),
            )

    def fail(self, notification: int, reason: str) -> None:
        """It will never arrive: keep the reason where `status` shows it."""
        with self._db.transaction("notify-failed") as tx:
            tx.execute(
                "UPDATE notifications SET state = 'failed', attempts = attempts + 1, reason = ? WHERE id = ?",
                (reason, notification),
            )

    def withdraw(self, notification: int, reason: str) -> None:
        """It is not sent any more. What it tells is made into another message when its time has come."""
        with self._db.transaction("withdraw") as tx:
            tx.execute("UPDATE notifications SET state = 'withdrawn', reason = ? WHERE id = ?", (reason, notification))

    def stood_in_for(self, notification: int) -> bool:
        """True when another receiver has been handed this message already."""
        return bool(self._db.read("SELECT 1 FROM notifications WHERE instead_of = ? LIMIT 1", (notification,)))

    def fail_unknown(self, known: Iterable[str]) -> int:
        """Set aside what waits for receivers that the configuration no longer names; returns how many."""
        names = json.dumps(sorted(known))
        with self._db.transaction("notifiers-gone") as tx:
            return tx.execute(
                """UPDATE notifications SET state = 'failed', reason = 'this receiver is no longer configured'
                   WHERE state = 'pending' AND receiver NOT IN (SELECT value FROM json_each(?))""",
                (names,),
            ).rowcount

    def last_sent_ms(self, receiver: str) -> int | None:
        """When a receiver took its last message."""
        row = self._db.read_one(
            "SELECT max(sent_ms) AS last FROM notifications WHERE receiver = ? AND sent_ms IS NOT NULL", (receiver,)
        )
        return row["last"] if row else None

    # --- for people ----------------------------------------------------------------------------------------

    def pending(self) -> int:
        """How many messages are on their way."""
        row = self._db.read_one("SELECT count(*) AS n FROM notifications WHERE state = 'pending'")
        return int(row["n"]) if row else 0

    def unannounced(self) -> bool:
        """True while something is due that is no message yet. What is held back is not due."""
        return bool(
            self._db.read(
                """SELECT 1 FROM alerts
                   WHERE announce AND NOT EXISTS (SELECT 1 FROM routed_alerts WHERE alert = alerts.id)
                   UNION ALL
                   SELECT 1 FROM alert_receivers JOIN alerts ON alerts.id = alert
                   WHERE NOT closed AND announce AND held = '' AND (told = '' OR alerts.state = 'resolved')
                   LIMIT 1"""
            )
        )

    def held(self) -> list[tuple[str, str, str, str]]:
        """What is told to nobody for now: (the run's name, rule, receiver, why)."""
        if not self._db.has("alert_receivers"):
            return []
        return [
            tuple(row)
            for row in self._db.read(
                """SELECT runs.name, rule, receiver, held FROM alert_receivers
                     JOIN alerts ON alerts.id = alert JOIN runs ON runs.key = alerts.run
                   WHERE NOT closed AND held <> '' ORDER BY alerts.id, receiver"""
            )
        ]

    def rows(self, limit: int = 50) -> list[dict[str, object]]:
        """The newest entries of the log, newest first, as plain columns.

        alerts names the rules and their runs; note says whose place a message took, or that a template failed.
        """
        sql = _ROWS if self._db.has("notification_alerts") else _ROWS_BEFORE_GROUPS
        return [_row(row) for row in self._db.read(sql, (limit,))]


def group_key(group: Mapping[str, str]) -> str:
    """A group's labels as the ledger has them."""
    return json.dumps(dict(group), sort_keys=True, ensure_ascii=False)


def _row(row: sqlite3.Row) -> dict[str, object]:
    return dict(row)


_ROWS = """
  SELECT n.id, receiver, event, state, attempts, reason, note, created_ms, sent_ms, instead_of,
    (SELECT group_concat(rule || ' of ' || name, ', ')
     FROM (SELECT rule, runs.name AS name FROM notification_alerts AS told JOIN alerts ON alerts.id = told.alert
             JOIN runs ON runs.key = alerts.run WHERE told.notification = n.id ORDER BY alerts.id)) AS alerts
  FROM notifications AS n ORDER BY n.id DESC LIMIT ?
"""
_ROWS_BEFORE_GROUPS = """
  SELECT n.id, notifier AS receiver, event, n.state AS state, attempts, n.reason AS reason, '' AS note, n.created_ms,
    sent_ms, NULL AS instead_of, rule || ' of ' || runs.name AS alerts
  FROM notifications AS n JOIN alerts ON alerts.id = n.alert JOIN runs ON runs.key = alerts.run
  ORDER BY n.id DESC LIMIT ?
"""
