"""Curves as a report needs them, read page by page: a run of millions of points does not fill the memory."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

from metricwatch.api import Point, Sink
from metricwatch.drawing.thin import thinned, thinned_steps
from metricwatch.records import WindowPoint
from metricwatch.replaying.curves import STDERR
from metricwatch.reporting.content import Series

# More than a screen has columns by far; with Python's own numbers some 5 MB.
_MOST_STEPS = 20_000
_MOST_GAPS = 300


class Newest:
    """The newest point of each step. Of very many steps it keeps those that tell most, and the pinned ones."""

    def __init__(self, pinned: Collection[int] = ()) -> None:
        self._pinned = frozenset(pinned)
        self._rows: dict[int, tuple[int, float]] = {}
        self._rewritten: set[int] = set()
        self._dropped = 0

    def add(self, points: Iterable[Point]) -> None:
        for point in points:
            before = self._rows.get(point.step)
            if before is not None:
                self._rewritten.add(point.step)
            if before is None or point.timestamp_ms >= before[0]:
                self._rows[point.step] = (point.timestamp_ms, point.value)
        if len(self._rows) > _MOST_STEPS:
            self._thin()

    @property
    def whole(self) -> bool:
        return not self._dropped

    @property
    def count(self) -> int:
        """How many steps there were; of those that were let go of, a rewritten one counts twice."""
        return self._dropped + len(self._rows)

    def rows(self) -> list[tuple[int, int, float]]:
        """Step, time in milliseconds and value, in the order of steps."""
        return [(step, *self._rows[step]) for step in sorted(self._rows)]

    def belongs(self, point: Point) -> bool:
        """True for what was logged together with the value that a step has now."""
        row = self._rows.get(point.step)
        return row is not None and (row[0] == point.timestamp_ms or point.step not in self._rewritten)

    def _thin(self) -> None:
        finite = [WindowPoint(step=step, value=value) for step, _, value in self.rows()]
        kept = {point.step for point in thinned(finite, _MOST_STEPS // 2)}
        others = [step for step, (_, value) in sorted(self._rows.items()) if not math.isfinite(value)]
        kept.update(thinned_steps(others, _MOST_GAPS))
        kept |= self._pinned & self._rows.keys()
        self._dropped += len(self._rows) - len(kept)
        self._rows = {step: row for step, row in self._rows.items() if step in kept}
        self._rewritten &= kept


def read_series(
    sink: Sink,
    run_id: str,
    key: str,
    *,
    name: str,
    rises: bool | None,
    with_stderr: bool,
    pinned: Collection[int] = (),
) -> Series:
    """A curve with its standard errors. Whatever its length, the pinned steps are among its points.

    Raises as Sink.read() does.
    """
    newest = Newest(pinned)
    for page in sink.read_pages(run_id, key):
        newest.add(page)
    errors: dict[int, float] = {}
    if with_stderr:
        for page in sink.read_pages(run_id, f"{key}{STDERR}"):
            errors.update(
                {
                    point.step: point.value
                    for point in page
                    if math.isfinite(point.value) and point.value >= 0 and newest.belongs(point)
                }
            )
    rows = newest.rows()
    return Series(
        key=key,
        name=name,
        rises=rises,
        points=tuple(
            WindowPoint(step=step, value=value, stderr=errors.get(step))
            for step, _, value in rows
            if math.isfinite(value)
        ),
        gaps=tuple(step for step, _, value in rows if not math.isfinite(value)),
        evaluations=newest.count,
        whole=newest.whole,
        last_ms=max((moment for _, moment, _ in rows), default=None),
    )
