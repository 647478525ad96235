"""How often to look, so that looking stays cheap whatever the file system makes it cost."""

from __future__ import annotations

import math

# While something settles it is looked at this often, so that it is found done soon after it is.
_LOOK_SECONDS = 0.5
# A burst of events is answered by one look, not by one an event.
_HINTED_SECONDS = 0.1
# The share of the time that may go into looking: at rest, and while something is being written.
_IDLE_SHARE = 0.05
_BUSY_SHARE = 0.2


class Pace:
    """When the next look may come. Times are monotonic seconds."""

    def __init__(self, *, rescan: float, settle: float) -> None:
        self._rescan = rescan
        self._look = min(_LOOK_SECONDS, settle or _LOOK_SECONDS)
        self._next_rescan = 0.0
        self._next_look = 0.0
        self._next_hinted = 0.0

    def rescan_now(self) -> None:
        """The next look may come at once, and is a rescan."""
        self._next_rescan = 0.0

    def rescan_soon(self) -> None:
        """The next look is a rescan; it comes when a look at what is being written may."""
        self._next_rescan = min(self._next_rescan, self._next_look)

    def rescan_is_due(self, now: float) -> bool:
        return now >= self._next_rescan

    def look_is_due(self, now: float, *, hinted: bool, settling: bool) -> bool:
        """True when what happened, or what is settling, may be looked at now."""
        return (hinted and now >= self._next_hinted) or (settling and now >= self._next_look)

    def seconds_to_look(self, now: float, *, hinted: bool, settling: bool) -> float:
        """How long until a look is due for what happened, or for what is settling; infinite where there is neither."""
        due = [self._next_hinted] if hinted else []
        return max(0.0, min(due + ([self._next_look] if settling else []), default=math.inf) - now)

    def looked(self, began: float, ended: float, *, rescanned: bool, everything: bool = False) -> float:
        """Take note of a look. Returns the seconds by which a rescan that took long puts off the next one.

        After a look at everything, which is no ordinary rescan, the next one comes as soon as a busy look may.
        """
        took = ended - began
        earliest = ended + took * (1 / _BUSY_SHARE - 1)
        self._next_hinted = max(began + _HINTED_SECONDS, earliest)
        self._next_look = max(began + self._look, earliest)
        if not rescanned:
            return 0.0
        planned = began + self._rescan
        self._next_rescan = max(planned, ended + took * (1 / (_BUSY_SHARE if everything else _IDLE_SHARE) - 1))
        return self._next_rescan - planned
