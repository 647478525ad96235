"""Figures of evaluations: fixed when they are born, drawn later, their materials kept until nobody waits for them."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from metricwatch.clock import from_ms, to_ms
from metricwatch.drawing.figures import Comparison, ContactSheet, Figure, Lookalikes, Radar, Spoke
from metricwatch.records import Compared, KeptSample, Lookalike, Neighbour, Picture
from metricwatch.store.db import Database

# The folder of the state folder in which a job's materials lie, in a folder of its own.
FOLDER = "looks"

_KINDS: dict[type[Figure], str] = {
    ContactSheet: "contact_sheet",
    Comparison: "comparison",
    Radar: "radar",
    Lookalikes: "lookalikes",
}


def kind_of(figure: Figure) -> str:
    """What the figure is called in the ledger, and at the end of its picture's key."""
    return _KINDS[type(figure)]


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureJob:
    """A figure to draw for one run, from materials of one evaluation's job. picture is what the sinks get."""

    id: int
    run: str
    job: int
    kind: str
    picture: Picture
    figure: Figure
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Undrawn:
    """Figures of one run that wait to be drawn, since when the oldest does, and why it has not been drawn yet."""

    run: str
    pending: int
    oldest: datetime
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedFigure:
    """A figure that will not be drawn, and why."""

    run: str
    kind: str
    step: int
    reason: str


class Figures:
    """enqueue() joins the transaction that makes an evaluation true; everything else belongs to the figures stage."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._state = str(db.path.parent)

    def enqueue(self, figure: Figure, picture: Picture, *, run: str, job: int, evaluation: int, now: datetime) -> None:
        """Put down what to draw of an evaluation. A second figure of the same kind changes nothing."""
        with self._db.transaction("figure") as tx:
            tx.execute(
                """INSERT INTO figures (run, job, evaluation, kind, key, step, timestamp_ms, content, state, created_ms)
                   VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'pending', ?) ON CONFLICT DO NOTHING""",
                (
                    run,
                    job,
                    evaluation,
                    kind_of(figure),
                    picture.key,
                    picture.step,
                    picture.timestamp_ms,
                    json.dumps(asdict(_moved(figure, self._stored))),
                    to_ms(now),
                ),
            )

    def due(self, now: datetime, limit: int, after: str = "") -> list[FigureJob]:
        """The oldest figures of one run that are due, in order; [] when none is.

        The runs that are due take turns in the order of their keys: the one that follows `after` is next.
        """
        rows = self._db.read(
            """SELECT * FROM figures WHERE state = 'pending' AND not_before_ms <= :now AND run = (
                 SELECT run FROM figures WHERE state = 'pending' AND not_before_ms <= :now
                 ORDER BY run <= :after, run LIMIT 1)
               ORDER BY id LIMIT :limit""",
            {"now": to_ms(now), "limit": limit, "after": after},
        )
        return [self._job(row) for row in rows]

    def left_of(self, figures: Collection[FigureJob]) -> set[int]:
        """The ids of those of them that still wait. Join the transaction that hands them on."""
        sql = "SELECT 1 FROM figures WHERE id = ? AND state = 'pending'"
        return {figure.id for figure in figures if self._db.read(sql, (figure.id,))}

    def drawn(self, figures: Collection[FigureJob], now: datetime) -> None:
        """They are pictures now. Join the transaction that hands these on."""
        with self._db.transaction("figures-drawn") as tx:
            tx.executemany(
                """UPDATE figures SET state = 'drawn', attempts = attempts + 1, reason = '', drawn_ms = ?
                   WHERE id = ? AND state = 'pending'""",
                [(to_ms(now), figure.id) for figure in figures],
            )

    def postpone(self, figures: Collection[FigureJob], reason: str, until: datetime, *, counted: bool = True) -> None:
        """Try them again, not before `until`. counted: whether it was a try of theirs."""
        with self._db.transaction("figures-later") as tx:
            tx.executemany(
                """UPDATE figures SET attempts = attempts + ?, not_before_ms = ?, reason = ?
                   WHERE id = ? AND state = 'pending'""",
                [(int(counted), to_ms(until), reason, figure.id) for figure in figures],
            )

    def fail(self, figure: FigureJob, reason: str) -> None:
        """Give it up, with its reason."""
        with self._db.transaction("figure-failed") as tx:
            tx.execute(
                """UPDATE figures SET state = 'failed', attempts = attempts + 1, reason = ?
                   WHERE id = ? AND state = 'pending'""",
                (reason, figure.id),
            )

    def cap(self, most: int, reason: str) -> dict[str, list[int]]:
        """Give up the oldest that wait beyond so many of a run; returns their jobs, one for each figure, by run."""
        crowded = self._db.read(
            "SELECT run FROM figures WHERE state = 'pending' GROUP BY run HAVING count(*) > ?", (most,)
        )
        found = {}
        for row in crowded:
            with self._db.transaction("figures-cap") as tx:
                given_up = tx.execute(
                    """UPDATE figures SET state = 'failed', reason = :reason
                       WHERE run = :run AND state = 'pending' AND id <= (
                         SELECT id FROM figures WHERE run = :run AND state = 'pending'
                         ORDER BY id DESC LIMIT 1 OFFSET :most)
                       RETURNING job""",
                    {"run": row["run"], "most": most, "reason": reason},
                ).fetchall()
            found[row["run"]] = [each["job"] for each in given_up]
        return found

    def awaited(self, jobs: Collection[int]) -> set[int]:
        """Those of these jobs whose materials a waiting figure needs."""
        sql = "SELECT 1 FROM figures WHERE job = ? AND state = 'pending' LIMIT 1"
        return {job for job in jobs if self._db.read(sql, (job,))}

    # --- what people are told ------------------------------------------------------------------------------

    def pending(self) -> int:
        """How many wait to be drawn."""
        row = self._db.read_one("SELECT count(*) AS n FROM figures WHERE state = 'pending'")
        return int(row["n"]) if row else 0

    def backlog(self) -> list[Undrawn]:
        """What waits, by run, oldest first."""
        rows = self._db.read(
            """SELECT head.run, pending, head.created_ms AS oldest, head.reason
               FROM (SELECT min(id) AS first, count(*) AS pending FROM figures WHERE state = 'pending' GROUP BY run)
               CROSS JOIN figures AS head ON head.id = first ORDER BY oldest"""
        )
        return [
            Undrawn(run=row["run"], pending=row["pending"], oldest=from_ms(row["oldest"]), reason=row["reason"])
            for row in rows
        ]

    def failures(self) -> int:
        """How many were given up, of those that the ledger still knows."""
        row = self._db.read_one("SELECT count(*) AS n FROM figures WHERE state = 'failed'")
        return int(row["n"]) if row else 0

    def failed(self, limit: int = 20) -> list[FailedFigure]:
        """The newest of those that were given up."""
        rows = self._db.read(
            "SELECT run, kind, step, reason FROM figures WHERE state = 'failed' ORDER BY id DESC LIMIT ?", (limit,)
        )
        return [FailedFigure(**dict(row)) for row in rows]

    # --- rows ----------------------------------------------------------------------------------------------

    def _job(self, row: sqlite3.Row) -> FigureJob:
        return FigureJob(
            id=row["id"],
            run=row["run"],
            job=row["job"],
            kind=row["kind"],
            picture=Picture(key=row["key"], step=row["step"], timestamp_ms=row["timestamp_ms"]),
            figure=_moved(_restored(row["kind"], json.loads(row["content"])), self._full),
            attempts=row["attempts"],
        )

    def _stored(self, path: str) -> str:
        """As seen from the state folder, which may be moved, or be reached by another way some other day."""
        folder, name = os.path.split(path)
        real, state = os.path.join(os.path.realpath(folder), name), os.path.realpath(self._state)
        return os.path.relpath(real, state) if real.startswith(state + os.sep) else path

    def _full(self, path: str) -> str:
        return os.path.join(self._state, path)


def files_of(figure: Figure) -> list[str]:
    """The files that a figure is drawn from."""
    found: list[str] = []

    def noted(path: str) -> str:
        found.append(path)
        return path

    _moved(figure, noted)
    return found


def _moved(figure: Figure, move: Callable[[str], str]) -> Figure:
    """The figure with its files at other places. "" stands for no file."""

    def moved(path: str) -> str:
        return move(path) if path else ""

    match figure:
        case ContactSheet():
            return replace(figure, samples=tuple(replace(item, path=moved(item.path)) for item in figure.samples))
        case Comparison():
            return replace(figure, rows=tuple(_compared(row, moved) for row in figure.rows))
        case Lookalikes():
            return replace(figure, rows=tuple(_lookalike(row, moved) for row in figure.rows))
        case Radar():
            return figure


def _compared(row: Compared, moved: Callable[[str], str]) -> Compared:
    return replace(
        row, image=moved(row.image), content=moved(row.content), style=moved(row.style), heat=moved(row.heat)
    )


def _lookalike(row: Lookalike, moved: Callable[[str], str]) -> Lookalike:
    nearest = tuple(replace(item, image=moved(item.image)) for item in row.nearest)
    return replace(row, image=moved(row.image), nearest=nearest)


def _restored(kind: str, content: dict[str, Any]) -> Figure:
    """JSON has neither tuples nor our records: put them back."""
    match kind:
        case "contact_sheet":
            return ContactSheet(**{**content, "samples": tuple(KeptSample(**item) for item in content["samples"])})
        case "comparison":
            return Comparison(**{**content, "rows": tuple(Compared(**item) for item in content["rows"])})
        case "radar":
            return Radar(**{**content, "spokes": tuple(Spoke(**item) for item in content["spokes"])})
    rows = (
        Lookalike(**{**row, "nearest": tuple(Neighbour(**item) for item in row["nearest"])}) for row in content["rows"]
    )
    return Lookalikes(**{**content, "rows": tuple(rows)})
