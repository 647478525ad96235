"""Reports beside runs that have ended: what each should show by now."""

from __future__ import annotations

from metricwatch.store.db import Database
from metricwatch.store.pages import Shown

REPORT_PAGE = "report.html"


def ended_runs(db: Database, sink: str) -> dict[str, Shown]:
    """By run, what its report should show: of runs that a sink says have ended and for which nothing else waits.

    Of what it shows, `alerts` is the end, `scores` the newest score and the newest picture.
    """
    rows = db.read(
        """SELECT remote.run, remote.id, remote.ended_ms,
             (SELECT coalesce(max(id), 0) FROM scores WHERE evaluation =
               (SELECT max(id) FROM evaluations WHERE evaluations.run = remote.run)) AS score,
             (SELECT coalesce(max(id), 0) FROM pictures WHERE sink = :sink AND run = remote.run) AS picture
           FROM remote_runs AS remote
           WHERE remote.sink = :sink AND remote.ended_ms IS NOT NULL
             AND EXISTS (SELECT 1 FROM scores WHERE scores.run = remote.run)
             AND NOT EXISTS (SELECT 1 FROM deliveries WHERE sink = :sink AND run = remote.run AND state = 'pending')
             AND NOT EXISTS (SELECT 1 FROM pictures WHERE sink = :sink AND run = remote.run AND state = 'pending')
             AND NOT EXISTS (SELECT 1 FROM figures WHERE run = remote.run AND state = 'pending')
             AND NOT EXISTS (SELECT 1 FROM jobs JOIN snapshots ON snapshots.id = jobs.snapshot
                             WHERE jobs.state IN ('queued', 'leased') AND snapshots.run = remote.run)
           ORDER BY remote.run""",
        {"sink": sink},
    )
    return {
        row["run"]: Shown(alerts=str(row["ended_ms"]), scores=f"{row['score']} {row['picture']}", target=row["id"])
        for row in rows
    }


def outdated(shown: Shown, wanted: Shown) -> bool:
    """True when a report lacks what is there by now. Pictures that retention has let go of are no news."""
    if (shown.alerts, shown.target) != (wanted.alerts, wanted.target):
        return True
    return any(now > then for then, now in zip(_newest(shown), _newest(wanted), strict=True))


def _newest(shown: Shown) -> tuple[int, int]:
    score, _, picture = shown.scores.partition(" ")
    return int(score or 0), int(picture or 0)
