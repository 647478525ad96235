"""The best and the worst evaluation of a curve, among those that may be compared."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from metricwatch.records import Score, ScoreState
from metricwatch.store.db import Database
from metricwatch.store.provenance import pairs_changed
from metricwatch.store.scores import SeriesPoint, point_of

# Image counts may differ by one skipped file or so: the Fréchet distance is biased by about 1/N.
IMAGE_COUNT_TOLERANCE = 0.02
# Mostly the first row will do. Where it does not, the partners have changed, and many may have to be passed over.
_FIRST_LOOK = 4
_NEXT_LOOK = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Extreme:
    """The two ends of a curve: best and worst are the same evaluation where there is only one, or all are alike."""

    best: SeriesPoint
    worst: SeriesPoint


class Extremes:
    """Reads the ledger. What a transaction has just recorded counts when it is asked from inside of it."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def of(self, run: str, score: Score) -> Extreme | None:
        """The best and the worst evaluation of the score's key in a run that compare with it; ties: the lowest step.

        Those compare that are of the same series, of an image count within 2% of its own, and whose images have not
        got other partners. Of a step that was rewritten the newest revision counts, and only where it has a value.
        None where nothing compares, as with a score that has no value itself.
        """
        if score.state is not ScoreState.OK:
            return None
        best = self._first(run, score, highest=score.higher_is_better)
        worst = self._first(run, score, highest=not score.higher_is_better)
        return Extreme(best=best, worst=worst) if best and worst else None

    def _first(self, run: str, score: Score, *, highest: bool) -> SeriesPoint | None:
        # Partners are the same for most: each provenance is read once, however many evaluations have it.
        known: dict[str, bool] = {}
        for number, provenance in self._ordered(run, score, highest=highest):
            if provenance not in known:
                known[provenance] = not pairs_changed(json.loads(provenance), score.provenance)
            if known[provenance]:
                row = self._db.read_one("SELECT * FROM scores WHERE id = ?", (number,))
                return point_of(row) if row else None
        return None

    def _ordered(self, run: str, score: Score, *, highest: bool) -> Iterator[tuple[int, str]]:
        """Ids and provenances of what may compare, from the end of the index that is asked for."""
        read, size = 0, _FIRST_LOOK
        while True:
            rows = self._db.read(
                f"""SELECT id, provenance FROM scores INDEXED BY scores_by_value
                    WHERE run = :run AND key = :key AND series = :series AND state = 'ok'
                      AND images BETWEEN :fewest AND :most
                      AND NOT EXISTS (SELECT 1 FROM scores AS newer INDEXED BY scores_by_series
                        WHERE newer.run = :run AND newer.key = :key AND newer.step = scores.step
                          AND newer.revision > scores.revision)
                    ORDER BY value {"DESC" if highest else "ASC"}, step LIMIT :size OFFSET :read""",  # noqa: S608 - ours
                {
                    "run": run,
                    "key": score.key,
                    "series": score.series,
                    "fewest": score.images * (1 - IMAGE_COUNT_TOLERANCE),
                    "most": score.images / (1 - IMAGE_COUNT_TOLERANCE),
                    "size": size,
                    "read": read,
                },
            )
            yield from ((row["id"], row["provenance"]) for row in rows)
            if len(rows) < size:
                return
            read, size = read + size, _NEXT_LOOK
