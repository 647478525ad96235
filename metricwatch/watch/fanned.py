"""The sources of one entry with {run}: who of many gets which event, and when to look for more of them."""

from __future__ import annotations

import os

import structlog

from metricwatch.config.watching import WatchEntry
from metricwatch.watch.events import EventHints, Hints
from metricwatch.watch.fan_out import Fan
from metricwatch.watch.pace import Pace
from metricwatch.watch.source import Source

log = structlog.get_logger(__name__)

# Below the common folder each directory costs the kernel a watch, of which other programs need some, too.
_MOST_LISTENED = 100


class FannedSources:
    """One tree is listened to for all runs of an entry, while they are few; many are found by looking alone."""

    def __init__(self, fan: Fan) -> None:
        self.fan = fan
        self._sources: dict[str, Source] = {}
        self.pace = Pace(rescan=fan.entry.rescan.total_seconds(), settle=fan.entry.settle.total_seconds())
        self._touched = False
        self._told = False

    def add(self, source: Source) -> None:
        """Give it what happens in its folder from now on."""
        self._sources[self.fan.names[source.entry.target.key]] = source

    def take(self, hints: Hints) -> None:
        """Hand the hints on, each to the source of its run; a folder of no known run may be that of a new one."""
        if hints.lost:
            self.pace.rescan_soon()
            for source in self._sources.values():
                source.take(hints)
            return
        inside = self.fan.root.rstrip(os.sep) + os.sep
        by_run: dict[str, Hints] = {}
        for path in hints.touched:
            name = self.fan.template.name_at(path) if path.startswith(inside) else None
            if name is not None:
                by_run.setdefault(name, Hints()).touched.add(path)
        for path in hints.renamed:
            name = self.fan.template.name_at(path) if path.startswith(inside) else None
            if name is not None:
                by_run.setdefault(name, Hints()).renamed.add(path)
        for name, its in by_run.items():
            if (known := self._sources.get(name)) is not None:
                known.take(its)
            else:
                self._touched = True

    def look(self, now: float) -> list[WatchEntry] | None:
        """The entries of runs that are new, None where it is not time to look."""
        if not self.pace.rescan_is_due(now) and not self.pace.look_is_due(now, hinted=self._touched, settling=False):
            return None
        self._touched = False
        return self.fan.look()

    def listen(self, hints: EventHints) -> None:
        """Listen to the tree of all runs, unless they are too many."""
        if len(self._sources) <= _MOST_LISTENED:
            hints.listen([self.fan.root], whole_files=True)
            return
        hints.ignore(self.fan.root)
        if not self._told:
            self._told = True
            log.info(
                "watch.events_off",
                root=self.fan.root,
                reason=f"it holds more than {_MOST_LISTENED} runs",
                consequence="polling only",
            )
