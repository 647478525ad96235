"""Runs, snapshots and jobs: what was seen on disk and how far its evaluation has come."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from metricwatch.clock import from_ms, to_ms
from metricwatch.records import Job, JobState, Run, Snapshot
from metricwatch.store.db import Database
from metricwatch.store.waiting import next_job

_JOB_COLUMNS = """
  jobs.id AS job_id, jobs.attempt, snapshots.id, snapshots.source, run, snapshots.step, revision, path, members, digest,
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


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedJobs:
    """The jobs of a run that were skipped: how many, their lowest and highest step, and why the newest of them was."""

    run: str
    count: int
    first_step: int
    last_step: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """The newest revision of a step. newest_ns and mtime_ns are the times of its youngest image and its folder.

    changed_ns is the newest time at which the file system changed one of its images (ctime); 0 where nobody noted it.
    """

    revision: int
    digest: str
    images: int
    newest_ns: int
    mtime_ns: int
    changed_ns: int = 0


class Ledger:
    """Snapshots are born here, each with its job; the supervisor moves the job through its states."""

    def __init__(self, db: Database) -> None:
        self._db = db

    # --- written by watch ----------------------------------------------------------------------------------

    def register_run(self, run: Run, now: datetime) -> None:
        """Remember a run as the configuration names it today."""
        with self._db.transaction("run") as tx:
            tx.execute(
                """INSERT INTO runs (key, name, id, id_file, total_steps, created_ms) VALUES (?, ?, ?, ?, ?, ?)
                   ON CONFLICT (key) DO UPDATE SET name = excluded.name, id = excluded.id,
                     id_file = excluded.id_file, total_steps = excluded.total_steps""",
                (run.key, run.name, run.id, run.id_file, run.total_steps, to_ms(now)),
            )

    def newest(self, source: str) -> dict[int, Recorded]:
        """Per step of a source: its newest revision."""
        rows = self._db.read(
            """SELECT step, max(revision) AS revision, digest, images, newest_ns, mtime_ns, changed_ns FROM snapshots
               WHERE source = ? GROUP BY step""",
            (source,),
        )
        return {
            row["step"]: Recorded(
                revision=row["revision"],
                digest=row["digest"],
                images=row["images"],
                newest_ns=row["newest_ns"],
                mtime_ns=row["mtime_ns"],
                changed_ns=row["changed_ns"],
            )
            for row in rows
        }

    def add_snapshot(
        self,
        *,
        source: str,
        run: str,
        step: int,
        path: str,
        members: tuple[str, ...] | None,
        recorded: Recorded,
        now: datetime,
    ) -> int | None:
        """Record a settled snapshot and queue its job, together. Returns its id, None when it is known already.

        A job of an older revision that nobody has begun is superseded: its files are gone.
        """
        with self._db.transaction("snapshot") as tx:
            row = tx.execute(
                """INSERT INTO snapshots
                     (source, run, step, revision, path, members, digest, images, newest_ns, mtime_ns, changed_ns,
                      settled_ms)
                   VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING id""",
                (
                    source,
                    run,
                    step,
                    recorded.revision,
                    path,
                    None if members is None else json.dumps(members),
                    recorded.digest,
                    recorded.images,
                    recorded.newest_ns,
                    recorded.mtime_ns,
                    recorded.changed_ns,
                    to_ms(now),
                ),
            ).fetchone()
            if row is None:
                return None
            tx.execute(
                """UPDATE jobs SET state = 'superseded', finished_ms = ?, reason = 'rewritten before it was scored'
                   WHERE state = 'queued' AND snapshot IN
                     (SELECT id FROM snapshots WHERE source = ? AND step = ? AND revision < ?)""",
                (to_ms(now), source, step, recorded.revision),
            )
            _queue(tx, row["id"], now)
            return int(row["id"])

    def repeat(self, job: int, now: datetime) -> Snapshot | None:
        """Record the files of a job once more, as the step's next revision, and queue it; None where there is one.

        The worker checks that they are still what they were.
        """
        with self._db.transaction("repeat") as tx:
            row = tx.execute(
                """INSERT INTO snapshots
                     (source, run, step, revision, path, members, digest, images, newest_ns, mtime_ns, changed_ns,
                      settled_ms)
                   SELECT source, run, step, revision + 1, path, members, digest, images, newest_ns, mtime_ns,
                     changed_ns, ? FROM snapshots WHERE id = (SELECT snapshot FROM jobs WHERE id = ?)
                   ON CONFLICT DO NOTHING RETURNING *""",
                (to_ms(now), job),
            ).fetchone()
            if row is None:
                return None
            _queue(tx, row["id"], now, asked=True)
            return _snapshot(row)

    # --- written by the supervisor -------------------------------------------------------------------------

    def claim(
        self,
        now: datetime,
        ttl: timedelta,
        sources: Collection[str],
        *,
        newest_first: Collection[str] = (),
        after: str = "",
    ) -> Job | None:
        """Claim the job of these sources that is next, or None: see waiting.next_job. Not renewed in ttl, it lapses."""
        with self._db.transaction("claim") as tx:
            number = next_job(tx, now, sources, newest_first=newest_first, after=after)
            if number is None:
                return None
            tx.execute(
                "UPDATE jobs SET state = 'leased', attempt = attempt + 1, lease_ms = ? WHERE id = ?",
                (to_ms(now + ttl), number),
            )
            row = tx.execute(
                f"SELECT {_JOB_COLUMNS} FROM jobs JOIN snapshots ON snapshots.id = jobs.snapshot WHERE jobs.id = ?",  # noqa: S608
                (number,),
            ).fetchone()
            return _job(row)

    def renew(self, job: int, now: datetime, ttl: timedelta) -> None:
        """Push a lease's end away: its worker is alive."""
        with self._db.transaction("lease") as tx:
            tx.execute("UPDATE jobs SET lease_ms = ? WHERE id = ? AND state = 'leased'", (to_ms(now + ttl), job))

    def release_all(self) -> int:
        """Queue again what is leased: its worker was stopped. Only the owner of the ledger's lock may call this."""
        with self._db.transaction("release") as tx:
            return tx.execute(
                "UPDATE jobs SET state = 'queued', attempt = attempt - 1, lease_ms = NULL WHERE state = 'leased'"
            ).rowcount

    def take_back(self) -> list[tuple[Job, int]]:
        """Queue again what a daemon had leased that was killed. Only the owner of the ledger's lock may call this.

        Returns these jobs, each with the number of its turns in a row that ended so. A turn that ends with a word of
        the worker, whatever it says, begins the count anew; the worker's death, or a daemon that is stopped, does not.
        """
        with self._db.transaction("release") as tx:
            rows = tx.execute(
                f"""SELECT {_JOB_COLUMNS}, cut_off FROM jobs JOIN snapshots ON snapshots.id = jobs.snapshot
                    WHERE state = 'leased' ORDER BY jobs.id"""  # noqa: S608 - constants
            ).fetchall()
            tx.execute("UPDATE jobs SET cut_off = cut_off + 1 WHERE state = 'leased'")
            self.release_all()
            return [(_job(row), row["cut_off"] + 1) for row in rows]

    def postpone(
        self, job: int, reason: str, until: datetime, *, crashed: bool = False, holds_back: bool = True
    ) -> int:
        """Queue a leased job again, not before `until`; returns how often it has killed its worker by now.

        holds_back=False lets the later jobs of its source pass meanwhile.
        """
        with self._db.transaction("postpone") as tx:
            row = tx.execute(
                """UPDATE jobs SET state = 'queued', lease_ms = NULL, not_before_ms = ?, reason = ?,
                     crashes = crashes + ?, cut_off = cut_off * ?, holds_back = ? WHERE id = ? RETURNING crashes""",
                (to_ms(until), reason, int(crashed), int(crashed), int(holds_back), job),
            ).fetchone()
            return int(row["crashes"])

    def count_change(self, job: int) -> int:
        """Count a try of a leased job that met other files than the snapshot's; returns how many have by now.

        The attempt is given back: it is no sign of a worker or a GPU in trouble.
        """
        with self._db.transaction("change") as tx:
            row = tx.execute(
                "UPDATE jobs SET attempt = attempt - 1, changes = changes + 1 WHERE id = ? RETURNING changes", (job,)
            ).fetchone()
            return int(row["changes"])

    def put_back(self, job: int) -> bool:
        """Queue a job that gave no scores as if it were new; False when it is none of those.

        A person asked for that: the backlog's policy does not pass it over.
        """
        with self._db.transaction("put-back") as tx:
            return bool(
                tx.execute(
                    """UPDATE jobs SET state = 'queued', attempt = 0, crashes = 0, changes = 0, cut_off = 0,
                         not_before_ms = 0, reason = '', holds_back = 1, asked = 1, finished_ms = NULL
                       WHERE id = ? AND state IN ('failed', 'quarantined', 'skipped')""",
                    (job,),
                ).rowcount
            )

    def finish(self, job: int, state: JobState, now: datetime, reason: str = "") -> None:
        """End a job: done, failed, quarantined, superseded or skipped."""
        with self._db.transaction("finish") as tx:
            tx.execute(
                "UPDATE jobs SET state = ?, lease_ms = NULL, reason = ?, finished_ms = ? WHERE id = ?",
                (state.value, reason, to_ms(now), job),
            )

    # --- read by everyone ----------------------------------------------------------------------------------

    def unfinished(self, sources: Collection[str]) -> int:
        """How many jobs of these sources are queued or at work."""
        row = self._open_jobs("count(*) AS n", "jobs.state IN ('queued', 'leased')", sources)
        return int(row["n"])

    def next_due(self, sources: Collection[str]) -> datetime | None:
        """When the earliest queued job of these sources may be claimed, or None when none is queued."""
        row = self._open_jobs("min(not_before_ms) AS due", "jobs.state = 'queued'", sources)
        return from_ms(row["due"]) if row["due"] is not None else None

    def has_newer(self, snapshot: Snapshot) -> bool:
        """True when the step has been rewritten since."""
        sql = "SELECT 1 FROM snapshots WHERE source = ? AND step = ? AND revision > ?"
        return bool(self._db.read(sql, (snapshot.source, snapshot.step, snapshot.revision)))

    def _open_jobs(self, columns: str, condition: str, sources: Collection[str]) -> sqlite3.Row:
        (row,) = self._db.read(
            f"""SELECT {columns} FROM jobs INDEXED BY jobs_open
                WHERE jobs.state IN ('queued', 'leased') AND {condition}
                  AND source IN (SELECT value FROM json_each(?))""",  # noqa: S608 - constants of this class
            (json.dumps(list(sources)),),
        )
        return row

    def job_counts(self) -> Mapping[str, int]:
        """Jobs by state; every state is named, also those that count 0."""
        rows = self._db.read("SELECT state, count(*) AS n FROM jobs GROUP BY state")
        return {state.value: 0 for state in JobState} | {row["state"]: row["n"] for row in rows}

    def jobs(self, *states: JobState, limit: int = 100) -> list[JobRow]:
        """The newest jobs in any of these states; a step that was rewritten since is told by its newest revision."""
        marks = ", ".join("?" * len(states))
        rows = self._db.read(
            f"""SELECT run, snapshots.step, revision, path, state, reason FROM jobs
                JOIN snapshots ON snapshots.id = jobs.snapshot
                WHERE state IN ({marks}) AND NOT EXISTS (
                  SELECT 1 FROM snapshots AS newer WHERE newer.source = snapshots.source
                    AND newer.step = snapshots.step AND newer.revision > snapshots.revision)
                ORDER BY jobs.id DESC LIMIT ?""",  # noqa: S608 - only question marks
            (*(state.value for state in states), limit),
        )
        return [JobRow(**dict(row)) for row in rows]

    def skipped(self) -> list[SkippedJobs]:
        """What was skipped, by run; a step that was rewritten since is told by its newest revision."""
        rows = self._db.read(
            """SELECT run, count(*) AS count, min(snapshots.step) AS first_step, max(snapshots.step) AS last_step,
                 reason, max(jobs.id) AS newest FROM jobs JOIN snapshots ON snapshots.id = jobs.snapshot
               WHERE state = 'skipped' AND NOT EXISTS (
                 SELECT 1 FROM snapshots AS newer WHERE newer.source = snapshots.source
                   AND newer.step = snapshots.step AND newer.revision > snapshots.revision)
               GROUP BY run ORDER BY run"""
        )
        return [SkippedJobs(**{key: row[key] for key in SkippedJobs.__slots__}) for row in rows]

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


def _queue(tx: sqlite3.Connection, snapshot: int, now: datetime, *, asked: bool = False) -> None:
    tx.execute(
        """INSERT INTO jobs (snapshot, source, step, state, created_ms, asked)
           SELECT id, source, step, 'queued', ?, ? FROM snapshots WHERE id = ?""",
        (to_ms(now), int(asked), snapshot),
    )


def _job(row: sqlite3.Row) -> Job:
    return Job(id=row["job_id"], snapshot=_snapshot(row), attempt=row["attempt"])


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
