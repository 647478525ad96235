"""Fewer points for the same picture: what a screen cannot tell apart need not be drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence

from metricwatch.records import WindowPoint

# Of each column: its first and last point, its lowest and its highest.
_KEPT = 4


def thinned(points: Sequence[WindowPoint], most: int) -> list[WindowPoint]:
    """At most so many points (at least 8) of a curve in the order of steps, some of the given ones.

    The curve's columns, all of one width in steps, keep their first, last, lowest and highest point: no peak is lost.
    Points whose value is not finite are left out first.
    """
    finite = [point for point in points if math.isfinite(point.value)]
    if len(finite) <= most:
        return finite
    columns = max(2, most // _KEPT)
    first, last = finite[0].step, finite[-1].step
    width = max(last - first, 1)
    groups: list[list[WindowPoint]] = [[] for _ in range(columns)]
    for point in finite:
        groups[min(columns - 1, (point.step - first) * columns // width)].append(point)
    return [point for group in groups for point in _telling(group)]


def thinned_steps(steps: Sequence[int], most: int) -> list[int]:
    """At most so many of the steps, about evenly."""
    if len(steps) <= most:
        return list(steps)
    return [steps[index * len(steps) // most] for index in range(most)]


def _telling(group: Sequence[WindowPoint]) -> list[WindowPoint]:
    if len(group) <= _KEPT:
        return list(group)
    values = [point.value for point in group]
    kept = {0, len(group) - 1, values.index(min(values)), values.index(max(values))}
    return [group[index] for index in sorted(kept)]
