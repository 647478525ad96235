"""What needs somebody's attention now, for `status` and the health endpoint: rules and receivers. Reads only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from metricwatch.clock import from_ms
from metricwatch.store.db import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingRule:
    """A rule that may fire soon, at the newest step it has looked at."""

    run: str
    rule: str
    step: int
    direction: str | None
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiverBacklog:
    """How messages to one receiver fare.

    oldest is since when the oldest of them waits, None when none does, and reason what the receiver last said to it.
    failed counts the messages it will never get, of those still remembered; last_failure says why of the newest.
    """

    receiver: str
    pending: int
    oldest: datetime | None
    reason: str
    failed: int
    last_failure: str


class Attention:
    """Also reads the ledger of an older daemon."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def pending_rules(self, limit: int = 100) -> list[PendingRule]:
        """The configured rules whose state is pending now."""
        rows = self._db.read(
            """SELECT now.run, now.rule, now.step, now.direction, now.note FROM rule_marks AS marks
               CROSS JOIN rule_states AS now ON now.run = marks.run AND now.rule = marks.rule AND now.step = (
                 SELECT max(step) FROM rule_states WHERE run = marks.run AND rule = marks.rule)
               WHERE now.state = 'pending' ORDER BY now.run, now.rule LIMIT ?""",
            (limit,),
        )
        return [PendingRule(**dict(row)) for row in rows]

    def receivers(self) -> list[ReceiverBacklog]:
        """Every receiver that has messages waiting or failed, by name."""
        # Before there were messages of several alerts, a receiver was called a notifier.
        name = "receiver" if self._db.has("notification_alerts") else "notifier"
        rows = self._db.read(
            f"""SELECT {name} AS receiver, sum(state = 'pending') AS pending, sum(state = 'failed') AS failed,
                  min(CASE state WHEN 'pending' THEN created_ms END) AS oldest,
                  min(CASE state WHEN 'pending' THEN id END) AS head, max(CASE state WHEN 'failed' THEN id END) AS last
                FROM notifications WHERE state IN ('pending', 'failed') GROUP BY {name} ORDER BY {name}"""  # noqa: S608 - ours
        )
        return [
            ReceiverBacklog(
                receiver=row["receiver"],
                pending=row["pending"],
                oldest=None if row["oldest"] is None else from_ms(row["oldest"]),
                reason=self._reason(row["head"]),
                failed=row["failed"],
                last_failure=self._reason(row["last"]),
            )
            for row in rows
        ]

    def _reason(self, notification: int | None) -> str:
        row = self._db.read_one("SELECT reason FROM notifications WHERE id = ?", (notification,))
        return str(row["reason"]) if row else ""
