"""The jobs that wait for the worker: which of them is next, and which the backlog's policy passes over.

Both look at queued jobs alone, through indexes: what a source has scored, or will bring, changes nothing.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from metricwatch.clock import to_ms
from metricwatch.config.watching import Backlog
from metricwatch.store.db import Database

# With the pauses between tries, a quarter of a minute.
_TRIES_IN_ORDER = 3

# SQLite finds a partial index by its own condition, word for word.
_QUEUED = "jobs.state IN ('queued', 'leased') AND jobs.state = 'queued'"
# In its first tries: the next in its order, only not at this moment.
_TRYING = f"(jobs.attempt BETWEEN 1 AND {_TRIES_IN_ORDER} AND jobs.holds_back)"
_IN_ORDER = ("jobs_open", "jobs.id")
_NEWEST_FIRST = ("jobs_by_step", "jobs.step DESC, jobs.id DESC")

# The first job of each source in its order that can be claimed, or that holds back those behind it.
_HEADS = """
  SELECT jobs.id, jobs.source, jobs.state = 'queued' AND jobs.not_before_ms > :now AS waits
  FROM json_each(:sources) AS named CROSS JOIN jobs ON jobs.id = (
    SELECT jobs.id FROM jobs INDEXED BY {index}
    WHERE jobs.state IN ('queued', 'leased') AND jobs.source = named.value
      AND ((jobs.state = 'queued' AND (jobs.not_before_ms <= :now OR (jobs.holds_back AND jobs.attempt <= :held_back)))
           OR (jobs.state = 'leased' AND jobs.lease_ms <= :now))
    ORDER BY {order} LIMIT 1)
"""
_SKIP = """
  UPDATE jobs SET state = 'skipped', finished_ms = :now,
    reason = :why || CASE reason WHEN '' THEN '' ELSE '; before that: ' || reason END
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassedOver:
    """Jobs of one source that were skipped together: how many, their lowest and highest step, and why."""

    source: str
    count: int
    first: int
    last: int
    reason: str


def next_job(
    tx: sqlite3.Connection, now: datetime, sources: Collection[str], *, newest_first: Collection[str] = (), after: str
) -> int | None:
    """The id of the job to claim next, or None: queued and due, or leased and lapsed.

    A source's jobs come in the order of their arrival; for those of newest_first it is the highest step first. A job
    that waits for another try holds back those behind it, so that rules judge a curve in order; but no longer than its
    first few tries, for what one snapshot suffers from need not concern the others.

    Of all sources the oldest job is next. Where one is of newest_first they take turns instead, in the order of their
    names from the one that follows `after`: else one would wait for as long as another has a backlog.
    """
    heads = []
    for (index, order), names in (
        (_IN_ORDER, [source for source in sources if source not in newest_first]),
        (_NEWEST_FIRST, [source for source in sources if source in newest_first]),
    ):
        parameters = {"now": to_ms(now), "sources": json.dumps(names), "held_back": _TRIES_IN_ORDER}
        heads += tx.execute(_HEADS.format(index=index, order=order), parameters).fetchall() if names else []
    due = [(row["source"], row["id"]) for row in heads if not row["waits"]]
    if not due:
        return None
    if newest_first:
        return int(min(due, key=lambda head: (head[0] <= after, head[0]))[1])
    return int(min(number for _, number in due))


def pass_over(db: Database, backlogs: Mapping[str, Backlog], now: datetime) -> list[PassedOver]:
    """Skip what the policies of these sources leave out, with the reason; join the transaction that claims.

    `latest` leaves out all but the highest step that is queued, also one that waits for another try: the newer one is
    tried at once. What was scored before does not count, for a job may go back to an earlier checkpoint.

    `most` leaves out the oldest ones in the order of the policy until so many wait beside the next one. One in its
    first tries does not count and is not left out: its turn had come, and it is the next one that all wait for.

    A job that a person asked for is never left out, and does not count.
    """
    passed = []
    with db.transaction("pass-over") as tx:
        for source, backlog in backlogs.items():
            if backlog.policy == "latest":
                passed += _all_but_the_newest(tx, source, now)
            if backlog.most is not None:
                passed += _beyond(tx, source, backlog.most, now, in_order=backlog.policy == "every")
    return passed


def changed_steps(db: Database, source: str) -> set[int]:
    """The steps of a source whose job waits because its files were not those of the snapshot when it was tried."""
    sql = f"SELECT step FROM jobs INDEXED BY jobs_open WHERE {_QUEUED} AND source = ? AND changes"  # noqa: S608
    return {row["step"] for row in db.read(sql, (source,))}


def is_unscored(db: Database, source: str, step: int) -> bool:
    """True when the newest revision of a step waits for its turn, or has failed because its files had changed."""
    row = db.read_one(
        """SELECT state, changes FROM jobs WHERE snapshot =
             (SELECT id FROM snapshots WHERE source = ? AND step = ? ORDER BY revision DESC LIMIT 1)""",
        (source, step),
    )
    return row is not None and (row["state"] == "queued" or (row["state"] == "failed" and row["changes"] > 0))


def _all_but_the_newest(tx: sqlite3.Connection, source: str, now: datetime) -> list[PassedOver]:
    (newest,) = tx.execute(
        f"SELECT max(step) FROM jobs INDEXED BY jobs_by_step WHERE {_QUEUED} AND source = ?",  # noqa: S608 - constants
        (source,),
    ).fetchone()
    if newest is None:
        return []
    reason = f"passed over: step {newest} is newer"
    sql = f"""{_SKIP} WHERE id IN (
      SELECT jobs.id FROM jobs INDEXED BY jobs_by_step
      WHERE {_QUEUED} AND source = :source AND step < :newest AND NOT asked) RETURNING step"""  # noqa: S608
    rows = tx.execute(sql, {"now": to_ms(now), "why": reason, "source": source, "newest": newest}).fetchall()
    return _told(source, rows, reason)


def _beyond(tx: sqlite3.Connection, source: str, most: int, now: datetime, *, in_order: bool) -> list[PassedOver]:
    index, order = ("jobs_open", "jobs.id DESC") if in_order else _NEWEST_FIRST
    trying = tx.execute(
        f"SELECT 1 FROM jobs INDEXED BY {index} WHERE {_QUEUED} AND source = ? AND {_TRYING} LIMIT 1",  # noqa: S608
        (source,),
    ).fetchone()
    reason = f"passed over: more than {most} waited, which is the backlog's `most`"
    sql = f"""{_SKIP} WHERE id IN (
      SELECT jobs.id FROM jobs INDEXED BY {index}
      WHERE {_QUEUED} AND source = :source AND NOT asked AND NOT {_TRYING}
      ORDER BY {order} LIMIT -1 OFFSET :kept) RETURNING step"""  # noqa: S608
    # One is about to be claimed, unless that is the one in its first tries.
    kept = most if trying else most + 1
    rows = tx.execute(sql, {"now": to_ms(now), "why": reason, "source": source, "kept": kept}).fetchall()
    return _told(source, rows, reason)


def _told(source: str, rows: list[sqlite3.Row], reason: str) -> list[PassedOver]:
    steps = [row["step"] for row in rows]
    if not steps:
        return []
    return [PassedOver(source=source, count=len(steps), first=min(steps), last=max(steps), reason=reason)]
