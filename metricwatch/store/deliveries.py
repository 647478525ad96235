"""The outbox: points and tags on their way to a sink, fixed when they are born and replayed verbatim."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime

from metricwatch.clock import to_ms
from metricwatch.records import Delivery, Point, RemoteRun
from metricwatch.store.outbox import Outbox


class Deliveries(Outbox):
    """enqueue() joins the transaction that makes a point true; everything else belongs to export."""

    table = "deliveries"

    def enqueue(
        self, *, sink: str, run: str, identity: str, points: Sequence[Point], tags: Mapping[str, str], now: datetime
    ) -> None:
        """Put one delivery into the outbox. The same identity a second time changes nothing."""
        with self._db.transaction("outbox") as tx:
            tx.execute(
                """INSERT INTO deliveries (sink, run, identity, points, tags, state, created_ms)
                   VALUES (?, ?, ?, ?, ?, 'pending', ?) ON CONFLICT DO NOTHING""",
                (
                    sink,
                    run,
                    identity,
                    json.dumps([[point.key, point.value, point.timestamp_ms, point.step] for point in points]),
                    json.dumps(dict(tags)),
                    to_ms(now),
                ),
            )

    def due(self, sink: str, now: datetime, limit: int, after: str = "") -> list[Delivery]:
        """The oldest pending deliveries of one run that is due, in order; [] when none is.

        The runs that are due take turns in the order of their keys: the one that follows `after` is next. Order within
        a run is kept: while its oldest delivery waits for another try, none of the run is due.
        """
        # From the runs, of which there are few, to the head of each: what lies behind the heads is not looked at.
        rows = self._db.read(
            """SELECT id, sink, run, points, tags, attempts FROM deliveries
               WHERE sink = :sink AND state = 'pending' AND run = (
                 SELECT head.run FROM runs CROSS JOIN deliveries AS head ON head.id = (
                   SELECT min(id) FROM deliveries WHERE sink = :sink AND run = runs.key AND state = 'pending')
                 WHERE head.not_before_ms <= :now
                 ORDER BY head.run <= :after, head.run LIMIT 1)
               ORDER BY id LIMIT :limit""",
            {"sink": sink, "now": to_ms(now), "limit": limit, "after": after},
        )
        return [
            Delivery(
                id=row["id"],
                sink=row["sink"],
                run=row["run"],
                points=tuple(
                    Point(key=key, value=value, timestamp_ms=timestamp, step=step)
                    for key, value, timestamp, step in json.loads(row["points"])
                ),
                tags=json.loads(row["tags"]),
                attempts=row["attempts"],
            )
            for row in rows
        ]

    def sent(self, deliveries: Sequence[Delivery], now: datetime) -> None:
        """The sink has them."""
        with self._db.transaction("sent") as tx:
            tx.executemany(
                "UPDATE deliveries SET state = 'sent', attempts = attempts + 1, reason = '', sent_ms = ? WHERE id = ?",
                [(to_ms(now), delivery.id) for delivery in deliveries],
            )

    def postpone(self, deliveries: Sequence[Delivery], reason: str, until: datetime) -> None:
        """Try those of them that are still pending again, not before `until`."""
        with self._db.transaction("send-later") as tx:
            tx.executemany(
                """UPDATE deliveries SET attempts = attempts + 1, not_before_ms = ?, reason = ?
                   WHERE id = ? AND state = 'pending'""",
                [(to_ms(until), reason, delivery.id) for delivery in deliveries],
            )

    def reject(self, delivery: Delivery, reason: str) -> None:
        """The sink will never take this one, or a part of it: set it aside with its reason."""
        with self._db.transaction("reject") as tx:
            tx.execute(
                "UPDATE deliveries SET state = 'rejected', attempts = attempts + 1, reason = ? WHERE id = ?",
                (reason, delivery.id),
            )

    def put_back(self, delivery: int) -> None:
        """Queue one that was rejected as if it were new, without the tags that later deliveries of its run set anew."""
        with self._db.transaction("redeliver") as tx:
            row = tx.execute(
                "SELECT sink, run, tags FROM deliveries WHERE id = ? AND state = 'rejected'", (delivery,)
            ).fetchone()
            if row is None:
                return
            later = tx.execute(
                "SELECT tags FROM deliveries WHERE sink = ? AND run = ? AND id > ? AND tags <> '{}'",
                (row["sink"], row["run"], delivery),
            )
            overtaken = {key for each in later for key in json.loads(each["tags"])}
            tags = {key: value for key, value in json.loads(row["tags"]).items() if key not in overtaken}
            tx.execute(
                """UPDATE deliveries SET state = 'pending', attempts = 0, not_before_ms = 0, reason = '', tags = ?
                   WHERE id = ?""",
                (json.dumps(tags), delivery),
            )

    def remote_run(self, sink: str, run: str) -> RemoteRun | None:
        """The sink's run that a run of ours was found to be."""
        row = self._db.read_one("SELECT id, url FROM remote_runs WHERE sink = ? AND run = ?", (sink, run))
        return RemoteRun(id=row["id"], url=row["url"]) if row else None

    def remember_remote_run(self, sink: str, run: str, remote: RemoteRun) -> None:
        """Pin a run to what the sink found, so that later deliveries cannot land elsewhere."""
        with self._db.transaction("remote-run") as tx:
            tx.execute(
                """INSERT INTO remote_runs (sink, run, id, url) VALUES (?, ?, ?, ?)
                   ON CONFLICT (sink, run) DO UPDATE SET id = excluded.id, url = excluded.url,
                     ended_ms = CASE WHEN id = excluded.id THEN ended_ms END""",
                (sink, run, remote.id, remote.url),
            )
