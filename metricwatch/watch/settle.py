"""When is a sample set complete? The one question that must never be answered too early."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(slots=True)
class _Observation:
    activity: str
    since: float


class Settling:
    """Decides from repeated looks at the same step. Times are monotonic seconds.

    A step is settled when its marker is there, when it came by atomic rename, or when nothing about its files has
    changed for the quiet time over at least two looks. The second look matters: network file systems show a file
    before its last block.
    """

    def __init__(self, quiet: timedelta) -> None:
        self._quiet = quiet.total_seconds()
        self._seen: dict[int, _Observation] = {}

    def look(self, step: int, activity: str, now: float, *, marked: bool, renamed: bool) -> bool:
        """Take note of a look; True when the step is settled now (it is then forgotten)."""
        before = self._seen.get(step)
        if marked or renamed:
            self._seen.pop(step, None)
            return True
        if before is None or before.activity != activity:
            self._seen[step] = _Observation(activity, now)
            return False
        if now - before.since < self._quiet:
            return False
        del self._seen[step]
        return True

    def forget(self, step: int) -> None:
        """The step has gone, or is known as it is."""
        self._seen.pop(step, None)

    def waiting(self) -> set[int]:
        """The steps that have been seen and are not settled."""
        return set(self._seen)
