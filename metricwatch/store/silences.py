"""Silences: what people do not want to be told for a while. Written by `metricwatch silence` alone."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from metricwatch.clock import from_ms, to_ms
from metricwatch.config.matchers import Matcher, all_match, parse_matchers
from metricwatch.store.db import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """Alerts that match all of matchers are told to nobody from starts_at to before ends_at. No matchers: all.

    meaning is what the matchers say, None where they cannot be read: then it covers nothing.
    """

    id: int
    matchers: tuple[str, ...]
    meaning: tuple[Matcher, ...] | None
    author: str
    comment: str
    created_at: datetime
    starts_at: datetime
    ends_at: datetime

    def state(self, now: datetime) -> Literal["pending", "active", "expired"]:
        """Pending: it has still to begin."""
        if now >= self.ends_at:
            return "expired"
        return "active" if now >= self.starts_at else "pending"

    def covers(self, labels: Mapping[str, str]) -> bool:
        """True when an alert with these labels is meant."""
        return self.meaning is not None and all_match(self.meaning, labels)


# The matchers of a silence, and what they mean.
_Read = tuple[tuple[str, ...], tuple[Matcher, ...] | None]


class Silences:
    """The silences there are and were. [] from the ledger of a daemon too old to know them."""

    def __init__(self, db: Database) -> None:
        self._db = db
        # By the text in the ledger: the stage asks every few seconds, and there may be thousands.
        self._known: dict[str, _Read] = {}

    def add(
        self, matchers: Sequence[str], *, author: str, comment: str, starts: datetime, ends: datetime, now: datetime
    ) -> int:
        """Begin one; returns its id. matchers must be readable."""
        with self._db.transaction("silence") as tx:
            row = tx.execute(
                """INSERT INTO silences (matchers, author, comment, created_ms, starts_ms, ends_ms)
                   VALUES (?, ?, ?, ?, ?, ?) RETURNING id""",
                (json.dumps(list(matchers)), author, comment, to_ms(now), to_ms(starts), to_ms(ends)),
            ).fetchone()
            return int(row["id"])

    def expire(self, silence: int, now: datetime) -> None:
        """End one now. One that is over stays as it is."""
        with self._db.transaction("expire-silence") as tx:
            tx.execute(
                """UPDATE silences SET ends_ms = :now, starts_ms = min(starts_ms, :now)
                   WHERE id = :id AND ends_ms > :now""",
                {"now": to_ms(now), "id": silence},
            )

    def get(self, silence: int) -> Silence:
        """One by its id, which exists."""
        return self._read("id = ?", silence)[0]

    def active(self, now: datetime) -> list[Silence]:
        """Those that hold at this moment, oldest first."""
        return [silence for silence in self._read("ends_ms > ?", to_ms(now)) if silence.starts_at <= now]

    def all(self) -> list[Silence]:
        """Every silence, also those to come and, for thirty days, those that are over; oldest first."""
        return self._read("ends_ms >= ?", 0)

    def _read(self, condition: str, parameter: int) -> list[Silence]:
        if not self._db.has("silences"):
            return []
        rows = self._db.read(f"SELECT * FROM silences WHERE {condition} ORDER BY id", (parameter,))  # noqa: S608 - ours
        self._known = {text: self._known.get(text) or _read(text) for text in {row["matchers"] for row in rows}}
        return [_silence(row, self._known[row["matchers"]]) for row in rows]


def _read(text: str) -> _Read:
    matchers = tuple(json.loads(text))
    try:
        return matchers, parse_matchers(matchers)
    except ValueError:
        return matchers, None


def _silence(row: sqlite3.Row, read: _Read) -> Silence:
    return Silence(
        id=row["id"],
        matchers=read[0],
        meaning=read[1],
        author=row["author"],
        comment=row["comment"],
        created_at=from_ms(row["created_ms"]),
        starts_at=from_ms(row["starts_ms"]),
        ends_at=from_ms(row["ends_ms"]),
    )
