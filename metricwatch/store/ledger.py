"""Runs, snapshots and jobs: what was seen on disk and how far its evaluation has come."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from metricwatch.clock import from_ms, to_ms
from metricwatch.records import Job, JobState, Run, Snapshot
from metricwatch.store.db import Database

_JOB_COLUMNS = """
  jobs.id AS job_id, jobs.attempt, jobs.crashes, snapshots.id, source, run, step, revision, path, members, digest,
  images, settled_ms
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """A job as `status` shows it."""

    run: str
    step: int
    revision: int
    path: str
    state: str
    reason: str


class Ledger:
    """Snapshots are born here, each with its job; the supervisor moves the job through its states."""

    def __init__(self, db: Database) -> None:
        self._db = db

    # --- written by watch ----------------------------------------------------------------------------------

    def register_run(self, run: Run, now: datetime) -> None:
        """Remember a run as the configuration names it today."""
        with self._db.transaction() as tx:
            tx.execute(
                """INSERT INTO runs (key, name, id, id_file, total_steps, created_ms) VALUES (?, ?, ?, ?, ?, ?)
                   ON CONFLICT (key) DO UPDATE SET name = excluded.name, id = excluded.id,
                     id_file = excluded.id_file, total_steps = excluded.total_steps""",
                (run.key, run.name, run.id, run.id_file, run.total_steps, to_ms(now)),
            )

    def newest(self, source: str) -> dict[int, tuple[int, str]]:
        """Per step of a source: its newest revision and that revision's digest."""
        rows = self._db.read(
            "SELECT step, max(revision) AS revision, digest FROM snapshots WHERE source = ? GROUP BY step", (source,)
        )
        return {row["step"]: (row["revision"], row["digest"]) for row in rows}

    def add_snapshot(
        self,
        *,
        source: str,
        run: str,
        step: int,
        revision: int,
        path: str,
        members: tuple[str, ...] | None,
        digest: str,
        images: int,
        now: datetime,
    ) -> int | None:
        """Record a settled snapshot and queue its job, together. Returns its id, None when it is known already.

        A job of an older revision that nobody has begun is superseded: its files are gone.
        """
        with self._db.transaction() as tx:
            row = tx.execute(
                """INSERT INTO snapshots (source, run, step, revision, path, members, digest, images, settled_ms)
                   VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING id""",
                (
                    source,
                    run,
                    step,
                    revision,
                    path,
                    None if members is None else json.dumps(members),
                    digest,
                    images,
                    to_ms(now),
                ),
            ).fetchone()
            if row is None:
                return None
            tx.execute(
                """UPDATE jobs SET state = 'superseded', finished_ms = ?, reason = 'rewritten before it was scored'
                   WHERE state = 'queued' AND snapshot IN
                     (SELECT id FROM snapshots WHERE source = ? AND step = ? AND revision < ?)""",
                (to_ms(now), source, step, revision),
            )
            tx.execute(
                "INSERT INTO jobs (snapshot, state, created_ms) VALUES (?, 'queued', ?)", (row["id"], to_ms(now))
            )
            return int(row["id"])

    # --- written by the supervisor -------------------------------------------------------------------------

    def claim(self, now: datetime, ttl: timedelta) -> Job | None:
        """Claim the oldest queued job that is due, or None. A claim not renewed within ttl lapses."""
        with self._db.transaction() as tx:
            row = tx.execute(
                f"""SELECT {_JOB_COLUMNS} FROM jobs JOIN snapshots ON snapshots.id = jobs.snapshot
                    WHERE (jobs.state = 'queued' AND jobs.not_before_ms <= :now)
                       OR (jobs.state = 'leased' AND jobs.lease_ms <= :now)
                    ORDER BY jobs.id LIMIT 1""",  # noqa: S608 - a constant of ours, no value of the user's
                {"now": to_ms(now)},
            ).fetchone()
            if row is None:
                return None
            tx.execute(
                "UPDATE jobs SET state = 'leased', attempt = attempt + 1, lease_ms = ? WHERE id = ?",
                (to_ms(now + ttl), row["job_id"]),
            )
            return Job(id=row["job_id"], snapshot=_snapshot(row), attempt=row["attempt"] + 1)

    def renew(self, job: int, now: datetime, ttl: timedelta) -> None:
        """Push a lease's end away: its worker is alive."""
        with self._db.transaction() as tx:
            tx.execute("UPDATE jobs SET lease_ms = ? WHERE id = ? AND state = 'leased'", (to_ms(now + ttl), job))

    def release_all(self) -> int:
        """Queue again what an earlier daemon had leased. Only the owner of the ledger's lock may call this."""
        with self._db.transaction() as tx:
            return tx.execute(
                "UPDATE jobs SET state = 'queued', attempt = attempt - 1, lease_ms = NULL WHERE state = 'leased'"
            ).rowcount

    def postpone(self, job: int, reason: str, until: datetime, *, crashed: bool = False) -> int:
        """Queue a leased job again, not before `until`; returns how often it has killed its worker by now."""
        with self._db.transaction() as tx:
            row = tx.execute(
                """UPDATE jobs SET state = 'queued', lease_ms = NULL, not_before_ms = ?, reason = ?,
                     crashes = crashes + ? WHERE id = ? RETURNING crashes""",
                (to_ms(until), reason, int(crashed), job),
            ).fetchone()
            return int(row["crashes"])

    def finish(self, job: int, state: JobState, now: datetime, reason: str = "") -> None:
        """End a job: done, failed, quarantined or superseded."""
        with self._db.transaction() as tx:
            tx.execute(
                "UPDATE jobs SET state = ?, lease_ms = NULL, reason = ?, finished_ms = ? WHERE id = ?",
                (state.value, reason, to_ms(now), job),
            )

    # --- read by everyone ----------------------------------------------------------------------------------

    def unfinished(self) -> int:
        """How many jobs are queued or at work."""
        row = self._db.read_one("SELECT count(*) AS n FROM jobs WHERE state IN ('queued', 'leased')")
        return int(row["n"]) if row else 0

    def next_due(self) -> datetime | None:
        """When the earliest queued job may be claimed, or None when none is queued."""
        row = self._db.read_one("SELECT min(not_before_ms) AS due FROM jobs WHERE state = 'queued'")
        return from_ms(row["due"]) if row and row["due"] is not None else None

    def job_counts(self) -> Mapping[str, int]:
        """Jobs by state; every state is named, also those that count 0."""
        rows = self._db.read("SELECT state, count(*) AS n FROM jobs GROUP BY state")
        return {state.value: 0 for state in JobState} | {row["state"]: row["n"] for row in rows}

    def jobs(self, *states: JobState, limit: int = 100) -> list[JobRow]:
        """The newest jobs in any of these states."""
        marks = ", ".join("?" * len(states))
        rows = self._db.read(
            f"""SELECT run, step, revision, path, state, reason FROM jobs
                JOIN snapshots ON snapshots.id = jobs.snapshot
                WHERE state IN ({marks}) ORDER BY jobs.id DESC LIMIT ?""",  # noqa: S608 - only question marks
            (*(state.value for state in states), limit),
        )
        return [JobRow(**dict(row)) for row in rows]

    def run(self, key: str) -> Run:
        """A run as the configuration last named it, also when it no longer does. Raises KeyError."""
        row = self._db.read_one("SELECT key, name, id, id_file, total_steps FROM runs WHERE key = ?", (key,))
        if row is None:
            raise KeyError(key)
        return Run(**dict(row))

    def runs(self) -> list[Run]:
        """All runs ever seen, oldest first."""
        rows = self._db.read("SELECT key, name, id, id_file, total_steps FROM runs ORDER BY created_ms, key")
        return [Run(**dict(row)) for row in rows]


def _snapshot(row: sqlite3.Row) -> Snapshot:
    return Snapshot(
        id=row["id"],
        source=row["source"],
        run=row["run"],
        step=row["step"],
        revision=row["revision"],
        path=row["path"],
        members=None if row["members"] is None else tuple(json.loads(row["members"])),
        digest=row["digest"],
        images=row["images"],
        settled_at=from_ms(row["settled_ms"]),
    )
