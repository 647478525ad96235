"""The notification log: which event of which alert was handed to whom, and whether it arrived."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from metricwatch.clock import to_ms
from metricwatch.records import Alert
from metricwatch.store.alerts import alert_of
from metricwatch.store.db import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingNotification:
    """A message that one notifier has still to take."""

    id: int
    event: str
    notifier: str
    attempts: int
    created_ms: int
    alert: Alert


class NotificationLog:
    """Written by the alerts stage alone."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def unannounced(self) -> list[tuple[Alert, str]]:
        """Alerts and events that nobody has been told of yet, in the order they happened."""
        rows = self._db.read(
            """SELECT alerts.*, events.event FROM alerts
               JOIN (SELECT 'firing' AS event UNION ALL SELECT 'resolved') AS events
               WHERE alerts.announce AND (events.event = 'firing' OR alerts.state = 'resolved')
                 AND NOT EXISTS (SELECT 1 FROM announcements AS told
                                 WHERE told.alert = alerts.id AND told.event = events.event)
               ORDER BY CASE events.event WHEN 'firing' THEN fired_ms ELSE resolved_ms END, alerts.id, events.event"""
        )
        return [(alert_of(row), row["event"]) for row in rows]

    def announce(self, alert: Alert, event: str, notifiers: Sequence[str], now: datetime) -> None:
        """Hand an event to its receivers. A second call for the same event changes nothing."""
        with self._db.transaction("announce") as tx:
            tx.execute(
                "INSERT INTO announcements (alert, event) VALUES (?, ?) ON CONFLICT DO NOTHING", (alert.id, event)
            )
            tx.executemany(
                """INSERT INTO notifications (alert, event, notifier, state, created_ms)
                   VALUES (?, ?, ?, 'pending', ?) ON CONFLICT DO NOTHING""",
                [(alert.id, event, notifier, to_ms(now)) for notifier in notifiers],
            )

    def next(self, notifier: str, now: datetime) -> PendingNotification | None:
        """The oldest pending message of a notifier, or None while it waits for another try. Order is kept."""
        row = self._db.read_one(
            """SELECT alerts.*, n.id AS notification, n.event, n.notifier, n.attempts, n.created_ms, n.not_before_ms
               FROM notifications AS n JOIN alerts ON alerts.id = n.alert
               WHERE n.notifier = ? AND n.state = 'pending' ORDER BY n.id LIMIT 1""",
            (notifier,),
        )
        if row is None or row["not_before_ms"] > to_ms(now):
            return None
        return PendingNotification(
            id=row["notification"],
            event=row["event"],
            notifier=row["notifier"],
            attempts=row["attempts"],
            created_ms=row["created_ms"],
            alert=alert_of(row),
        )

    def sent(self, notification: int, now: datetime) -> None:
        with self._db.transaction("notified") as tx:
            tx.execute(
                """UPDATE notifications SET state = 'sent', attempts = attempts + 1, reason = '', sent_ms = ?
                   WHERE id = ?""",
                (to_ms(now), notification),
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

    def fail_unknown(self, known: Iterable[str]) -> int:
        """Set aside what waits for notifiers that the configuration no longer names; returns how many."""
        names = json.dumps(sorted(known))
        with self._db.transaction("notifiers-gone") as tx:
            return tx.execute(
                """UPDATE notifications SET state = 'failed', reason = 'this notifier is no longer configured'
                   WHERE state = 'pending' AND notifier NOT IN (SELECT value FROM json_each(?))""",
                (names,),
            ).rowcount

    def pending(self) -> int:
        row = self._db.read_one("SELECT count(*) AS n FROM notifications WHERE state = 'pending'")
        return int(row["n"]) if row else 0

    def rows(self, limit: int = 50) -> list[dict[str, object]]:
        """The newest entries of the log, newest first, as plain columns."""
        return [
            dict(row)
            for row in self._db.read(
                """SELECT run, rule, event, notifier, n.state AS state, attempts, n.reason AS reason,
                     created_ms, sent_ms
                   FROM notifications AS n JOIN alerts ON alerts.id = n.alert ORDER BY n.id DESC LIMIT ?""",
                (limit,),
            )
        ]
