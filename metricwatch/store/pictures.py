"""Pictures on their way to a sink: fixed when they are born, their files kept until nobody waits for them."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from metricwatch.clock import to_ms
from metricwatch.records import Picture
from metricwatch.store.db import Database
from metricwatch.store.outbox import Outbox

# The folder of the state folder in which a job's kept pictures lie, in a folder of its own.
FOLDER = "pictures"


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureDelivery:
    """A picture that one sink must receive for one run. path is its PNG file; attempts made so far."""

    id: int
    sink: str
    run: str
    identity: str
    picture: Picture
    path: str
    attempts: int


class Pictures(Outbox):
    """enqueue() joins the transaction that makes an evaluation true; everything else belongs to export."""

    table = "pictures"

    def __init__(self, db: Database) -> None:
        super().__init__(db)
        self._state = str(db.path.parent)

    def enqueue(self, *, sink: str, run: str, identity: str, picture: Picture, path: str, now: datetime) -> None:
        """Queue a picture, once its PNG file is whole. The same identity a second time changes nothing."""
        with self._db.transaction("picture") as tx:
            tx.execute(
                """INSERT INTO pictures (sink, run, identity, key, step, timestamp_ms, path, state, created_ms)
                   VALUES (?, ?, ?, ?, ?, ?, ?, 'pending', ?) ON CONFLICT DO NOTHING""",
                (
                    sink,
                    run,
                    identity,
                    picture.key,
                    picture.step,
                    picture.timestamp_ms,
                    self._stored(path),
                    to_ms(now),
                ),
            )

    def due(self, sink: str, now: datetime, limit: int, after: str = "") -> list[PictureDelivery]:
        """The oldest waiting pictures of one run that is due, in order; [] when none is.

        The runs that are due take turns in the order of their keys: the one that follows `after` is next. Order within
        a run is kept: while its oldest picture waits for another try, none of the run is due; nor is any while points
        of the run wait for this sink.
        """
        # From the runs, of which there are few, to the head of each: what lies behind the heads is not looked at.
        rows = self._db.read(
            """SELECT * FROM pictures WHERE sink = :sink AND state = 'pending' AND run = (
                 SELECT head.run FROM runs CROSS JOIN pictures AS head ON head.id = (
                   SELECT min(id) FROM pictures WHERE sink = :sink AND run = runs.key AND state = 'pending')
                 WHERE head.not_before_ms <= :now AND NOT EXISTS (
                   SELECT 1 FROM deliveries WHERE sink = :sink AND run = head.run AND state = 'pending')
                 ORDER BY head.run <= :after, head.run LIMIT 1)
               ORDER BY id LIMIT :limit""",
            {"sink": sink, "now": to_ms(now), "limit": limit, "after": after},
        )
        return [
            PictureDelivery(
                id=row["id"],
                sink=row["sink"],
                run=row["run"],
                identity=row["identity"],
                picture=Picture(key=row["key"], step=row["step"], timestamp_ms=row["timestamp_ms"]),
                path=self._full(row["path"]),
                attempts=row["attempts"],
            )
            for row in rows
        ]

    def sent(self, delivery: PictureDelivery, now: datetime) -> None:
        """The sink has it."""
        with self._db.transaction("picture-sent") as tx:
            tx.execute(
                """UPDATE pictures SET state = 'sent', attempts = attempts + 1, reason = '', sent_ms = ?
                   WHERE id = ? AND state = 'pending'""",
                (to_ms(now), delivery.id),
            )

    def postpone(self, delivery: PictureDelivery, reason: str, until: datetime) -> None:
        """Try it again, not before `until`."""
        with self._db.transaction("picture-later") as tx:
            tx.execute(
                """UPDATE pictures SET attempts = attempts + 1, not_before_ms = ?, reason = ?
                   WHERE id = ? AND state = 'pending'""",
                (to_ms(until), reason, delivery.id),
            )

    def reject(self, delivery: PictureDelivery, reason: str) -> None:
        """The sink will never take this one: set it aside with its reason."""
        with self._db.transaction("picture-reject") as tx:
            tx.execute(
                """UPDATE pictures SET state = 'rejected', attempts = attempts + 1, reason = ?
                   WHERE id = ? AND state = 'pending'""",
                (reason, delivery.id),
            )

    def cap(self, most: int) -> dict[tuple[str, str], list[str]]:
        """Reject the oldest that wait beyond so many of a sink and a run; returns their files by sink and run."""
        crowded = self._db.read(
            "SELECT sink, run FROM pictures WHERE state = 'pending' GROUP BY sink, run HAVING count(*) > ?", (most,)
        )
        found = {}
        for row in crowded:
            with self._db.transaction("picture-cap") as tx:
                rejected = tx.execute(
                    """UPDATE pictures SET state = 'rejected', reason = :reason
                       WHERE sink = :sink AND run = :run AND state = 'pending' AND id <= (
                         SELECT id FROM pictures WHERE sink = :sink AND run = :run AND state = 'pending'
                         ORDER BY id DESC LIMIT 1 OFFSET :most)
                       RETURNING path""",
                    {
                        "sink": row["sink"],
                        "run": row["run"],
                        "most": most,
                        "reason": f"more than {most:,} pictures waited: the newest were kept",
                    },
                ).fetchall()
            found[row["sink"], row["run"]] = [self._full(each["path"]) for each in rejected]
        return found

    def awaited(self, paths: Collection[str]) -> set[str]:
        """Those of these files that a waiting picture needs."""
        sql = "SELECT 1 FROM pictures WHERE path = ? AND state = 'pending' LIMIT 1"
        return {path for path in paths if self._db.read(sql, (self._stored(path),))}

    def _stored(self, path: str) -> str:
        """As seen from the state folder, which may be moved, or be reached by another way some other day."""
        folder, name = os.path.split(path)
        real, state = os.path.join(os.path.realpath(folder), name), os.path.realpath(self._state)
        return os.path.relpath(real, state) if real.startswith(state + os.sep) else path

    def _full(self, path: str) -> str:
        return os.path.join(self._state, path)
