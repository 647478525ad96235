"""`stale: 2h` fires when a run had no evaluation for a time: pure functions of times and steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

# Why it is over.
CAME = "an evaluation came"

# The steps whose distance says how often the job saves now.
_LAST = 5
_UNITS = (("d", timedelta(days=1)), ("h", timedelta(hours=1)), ("m", timedelta(minutes=1)), ("s", timedelta(seconds=1)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A stretch without evaluations. fired_step is the highest step that was there; resolved_* are None while it lasts.

    resolved_step is the highest step that is there once an evaluation came: that of the evaluation, unless it was late.
    """

    fired_step: int
    fired_at: datetime
    resolved_step: int | None = None
    resolved_at: datetime | None = None


def gaps(after: timedelta, seen: Sequence[tuple[int, datetime]], *, since: datetime, until: datetime) -> list[Gap]:
    """The stretches longer than `after` without an evaluation, from `since` to `until`, oldest first.

    seen holds step and time of the evaluations in the order of their times. A gap fires at the time of the last one
    (at since + after before any) plus after, when nothing came until then, and ends with the next one. What came
    before since only says how far the run was.
    """
    found: list[Gap] = []
    last, highest = since, 0
    for step, moment in seen:
        if moment > until:
            break
        fired_step, highest = highest, max(highest, step)
        if moment - last > after:
            fired_at = last + after
            found.append(Gap(fired_step=fired_step, fired_at=fired_at, resolved_step=highest, resolved_at=moment))
        last = max(last, moment)
    if until - last >= after:
        found.append(Gap(fired_step=highest, fired_at=last + after))
    return found


def at_its_end(steps: Iterable[int], total_steps: int) -> bool:
    """True when no further step is to be expected of a run that has these.

    A job that saves every 3,000 of 10,000 steps ends with 9,000: what is left is less than the least distance between
    the last few. One that goes beyond total_steps by as much as the largest of them goes on, whatever total_steps says.
    """
    last = sorted(set(steps))[-_LAST:]
    distances = [later - earlier for earlier, later in pairwise(last)]
    if not last or last[-1] >= total_steps:
        return bool(last) and (not distances or last[-1] - total_steps < max(distances))
    # One distance is none to go by: in between may be what was not scored.
    return len(distances) > 1 and total_steps - last[-1] < min(distances)


def happened(after: timedelta) -> str:
    """What an alert says, after the metric's name or at the beginning: "had no evaluation for 2h"."""
    return f"had no evaluation for {duration(after)}"


def duration(span: timedelta) -> str:
    """A time span as the configuration has it: 2h, 1h 30m, 90s is 1m 30s; below a second 0.5s."""
    if span < timedelta(seconds=1):
        return f"{span.total_seconds():g}s"
    parts = []
    for unit, length in _UNITS:
        count, span = divmod(span, length)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts)
