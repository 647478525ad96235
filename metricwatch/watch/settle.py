"""When is a sample set complete? The one question that must never be answered too early."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

# A file under a temporary name asks for this much more quiet; after that its writer is taken to have died.
UNFINISHED_FACTOR = 12
# A checkpoint whose last file is there need be quiet no longer than this: what may still follow (random states of
# another process, Lightning's meta.pt) follows at once.
_VOUCHED_SECONDS = 1.0


@dataclass(slots=True)
class _Observation:
    activity: str
    since: float


class Settling:
    """Decides from repeated looks at the same step. Times are monotonic seconds.

    A step is settled when its marker is there, when it came by atomic rename, or when nothing about its files has
    changed for the quiet time over at least two looks. The second look matters: network file systems show a file
    before its last block. While something is known to be unfinished the quiet time is twelve times as long; where the
    file is there that a checkpoint's format writes last it is a second at most.
    """

    def __init__(self, quiet: timedelta) -> None:
        self._quiet = quiet.total_seconds()
        self._seen: dict[int, _Observation] = {}

    def look(
        self,
        step: int,
        activity: str,
        began: float,
        ended: float,
        *,
        marked: bool,
        renamed: bool,
        unfinished: bool = False,
        vouched: bool = False,
    ) -> bool:
        """Take note of a look that took from began to ended; True when the step is settled (it is then forgotten).

        The quiet time is that between two looks: on a slow disk the looks themselves may take longer.
        """
        before = self._seen.get(step)
        if marked or renamed:
            self._seen.pop(step, None)
            return True
        if before is None or before.activity != activity:
            self._seen[step] = _Observation(activity, ended)
            return False
        quiet = min(self._quiet, _VOUCHED_SECONDS) if vouched else self._quiet
        if began - before.since < quiet * (UNFINISHED_FACTOR if unfinished else 1):
            return False
        del self._seen[step]
        return True

    def forget(self, step: int) -> None:
        """The step has gone, or is known as it is."""
        self._seen.pop(step, None)

    def waiting(self) -> set[int]:
        """The steps that have been seen and are not settled."""
        return set(self._seen)
