"""Pages beside runs: what the copy at each sink shows, and what it should show by now."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime

from metricwatch.clock import from_ms, to_ms
from metricwatch.store.db import Database

ALERTS_PAGE = "alerts.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a page shows, or should: alerts changes whenever one is added, amended or resolved.

    scores changes with the evaluations of what fires; target is the sink's run.
    """

    alerts: str
    scores: str = ""
    target: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageMark:
    """What is known of the copy at a sink. reason says why it is not up to date, "" where it is."""

    shows: Shown | None = None
    attempts: int = 0
    not_before: datetime | None = None
    reason: str = ""
    sent_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PageTrouble:
    """A page that could not be written: since when the copy at the sink is as it is, None when there is none."""

    sink: str
    run: str
    name: str
    reason: str
    sent_at: datetime | None
    tried_again: bool


class Pages:
    """Written by export alone: one page of this name for each sink and run. wanted() is about ALERTS_PAGE alone."""

    def __init__(self, db: Database, name: str = ALERTS_PAGE) -> None:
        self._db = db
        self._name = name

    def wanted(self, sink: str) -> dict[str, Shown]:
        """By run, what the page should show: of runs that have had an alert and for which nothing else waits."""
        rows = self._db.read(
            """SELECT had.run, had.alerts, had.changes, coalesce(remote.id, '') AS target
               FROM (SELECT run, count(*) AS alerts, sum(changes) AS changes FROM alerts GROUP BY run) AS had
                 LEFT JOIN remote_runs AS remote ON remote.sink = :sink AND remote.run = had.run
               WHERE NOT EXISTS (SELECT 1 FROM deliveries WHERE sink = :sink AND run = had.run AND state = 'pending')
                 AND NOT EXISTS (SELECT 1 FROM pictures WHERE sink = :sink AND run = had.run AND state = 'pending')""",
            {"sink": sink},
        )
        newest = {
            row["run"]: str(row["newest"])
            for row in self._db.read(
                """SELECT run, sum((SELECT coalesce(max(id), 0) FROM scores
                     WHERE scores.run = firing.run AND scores.key = firing.metric)) AS newest
                   FROM (SELECT DISTINCT run, metric FROM alerts WHERE state = 'firing') AS firing GROUP BY run"""
            )
        }
        return {
            row["run"]: Shown(
                alerts=f"{row['alerts']}+{row['changes']}", scores=newest.get(row["run"], ""), target=row["target"]
            )
            for row in rows
        }

    def alerts(self, run: str) -> int:
        """How many alerts a run has had."""
        row = self._db.read_one("SELECT count(*) AS n FROM alerts WHERE run = ?", (run,))
        return int(row["n"]) if row else 0

    def marks(self, sink: str) -> dict[str, PageMark]:
        """By run, what is known of the copy at a sink."""
        rows = self._db.read("SELECT * FROM pages WHERE sink = ? AND name = ?", (sink, self._name))
        return {
            row["run"]: PageMark(
                shows=Shown(**json.loads(row["shows"])) if row["shows"] else None,
                attempts=row["attempts"],
                not_before=from_ms(row["not_before_ms"]) if row["not_before_ms"] else None,
                reason=row["reason"],
                sent_at=None if row["sent_ms"] is None else from_ms(row["sent_ms"]),
            )
            for row in rows
        }

    def sent(
        self, sink: str, run: str, shows: Shown, now: datetime, *, lacks: str = "", again: datetime | None = None
    ) -> None:
        """The sink has it; with lacks all but that, so that it is written once more at `again`."""
        with self._db.transaction("page-sent") as tx:
            tx.execute(
                """INSERT INTO pages (sink, run, name, shows, sent_ms, attempts, reason, not_before_ms)
                   VALUES (:sink, :run, :name, :shows, :now, :lacks <> '', :lacks, :again)
                   ON CONFLICT (sink, run, name) DO UPDATE SET shows = excluded.shows, sent_ms = excluded.sent_ms,
                     attempts = CASE excluded.reason WHEN '' THEN 0 ELSE attempts + 1 END,
                     reason = excluded.reason, not_before_ms = excluded.not_before_ms""",
                {
                    "sink": sink,
                    "run": run,
                    "name": self._name,
                    "shows": _dump(shows),
                    "now": to_ms(now),
                    "lacks": lacks,
                    "again": to_ms(again) if again else 0,
                },
            )

    def postpone(self, sink: str, run: str, reason: str, until: datetime) -> None:
        """Try it again, not before `until`."""
        with self._db.transaction("page-later") as tx:
            tx.execute(
                """INSERT INTO pages (sink, run, name, attempts, reason, not_before_ms) VALUES (?, ?, ?, 1, ?, ?)
                   ON CONFLICT (sink, run, name) DO UPDATE SET attempts = attempts + 1, reason = excluded.reason,
                     not_before_ms = excluded.not_before_ms""",
                (sink, run, self._name, reason, to_ms(until)),
            )

    def refused(self, sink: str, run: str, shows: Shown, reason: str) -> None:
        """The sink will not take this one: it is tried again when there is another to show."""
        with self._db.transaction("page-refused") as tx:
            tx.execute(
                """INSERT INTO pages (sink, run, name, shows, attempts, reason) VALUES (?, ?, ?, ?, 1, ?)
                   ON CONFLICT (sink, run, name) DO UPDATE SET shows = excluded.shows, attempts = attempts + 1,
                     not_before_ms = 0, reason = excluded.reason""",
                (sink, run, self._name, _dump(shows), reason),
            )

    def troubles(self) -> list[PageTrouble]:
        """The pages that are not as they should be, and why."""
        rows = self._db.read("SELECT * FROM pages WHERE reason <> '' ORDER BY sink, run")
        return [
            PageTrouble(
                sink=row["sink"],
                run=row["run"],
                name=row["name"],
                reason=row["reason"],
                sent_at=None if row["sent_ms"] is None else from_ms(row["sent_ms"]),
                tried_again=row["not_before_ms"] > 0,
            )
            for row in rows
        ]


def _dump(shows: Shown) -> str:
    return json.dumps({"alerts": shows.alerts, "scores": shows.scores, "target": shows.target})
