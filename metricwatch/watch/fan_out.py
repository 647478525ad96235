"""Finds the runs of entries with {run}: those on disk, and those that the ledger is not done with."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence

import structlog

from metricwatch.config.fan_out import FanOut
from metricwatch.config.watching import WatchEntry, unusable_name
from metricwatch.store.alerts import Alerts
from metricwatch.store.db import Database
from metricwatch.store.ledger import Ledger
from metricwatch.watch.tree import root_of

log = structlog.get_logger(__name__)

# A folder full of what can be no run must not fill the log.
_MOST_REPORTED = 20


class Fan:
    """One entry with {run}, and the runs that it has been seen to stand for. They stay known when their folder goes.

    root is the directory below which all of them lie; names are those of their folders, by the keys of the runs.
    """

    def __init__(self, entry: WatchEntry, taken: dict[str, str]) -> None:
        """taken: the runs of all entries by key, each with the pattern that gives it; shared, and added to."""
        self.template = FanOut(entry)
        self.entry = entry
        self.root = root_of(self.template.pattern)
        self._taken = taken
        self.names: dict[str, str] = {}
        self._known: set[str] = set()
        self._refused: set[str] = set()

    def look(self) -> list[WatchEntry]:
        """The entries of the runs that are on disk and not known yet, by name; add() makes them known.

        A folder is that of a run when something in it matches the whole pattern, or the job has written its id.
        """
        names = sorted({name for folder in self._folders() if (name := self._unseen(folder)) is not None})
        entries = (self._entry(name) for name in names)
        return [entry for entry in entries if entry is not None and _has_begun(entry)]

    def unfinished(self, db: Database) -> list[WatchEntry]:
        """The entries of unknown runs that have jobs in the ledger still to be done, or alerts that fire."""
        ledger = Ledger(db)
        firing = {alert.run for alert in Alerts(db).firing()}
        entries = []
        for run in ledger.runs():
            name = None if run.key in self._taken else self.template.name_of(run.key)
            entry = self._entry(name) if name is not None and name not in self._refused else None
            if entry is not None and (run.key in firing or ledger.unfinished([entry.source])):
                entries.append(entry)
        return entries

    def add(self, entry: WatchEntry) -> None:
        """The run of this entry is taken care of from now on."""
        name = self.template.name_of(entry.target.key)
        assert name is not None  # noqa: S101 - it is one of ours
        self.names[entry.target.key] = name
        self._known.add(name)
        self._taken[entry.target.key] = self.entry.pattern

    def _folders(self) -> Iterator[str]:
        """The names of all directories that lie where those of the runs do."""
        parents = self.template.folders
        for parent in sorted(glob.glob(parents)) if glob.has_magic(parents) else [parents]:
            try:
                with os.scandir(parent) as found:
                    yield from (item.name for item in found if self._unseen(item.name) is not None and item.is_dir())
            except OSError:
                # Not there yet, or not just now.
                continue

    def _unseen(self, folder: str) -> str | None:
        name = self.template.name_in(folder)
        return None if name is None or name in self._known or name in self._refused else name

    def _entry(self, name: str) -> WatchEntry | None:
        """The entry of a run, None where it cannot be one: that is said once."""
        if (reason := unusable_name(name)) is not None:
            self._refuse(name, f"{reason}; rename the folder")
            return None
        entry = self.entry.for_run(name)
        other = self._taken.get(entry.target.key)
        if other is not None:
            self._refuse(name, f"the entry of {other} gives the same run, and comes first")
            return None
        return entry

    def _refuse(self, name: str, reason: str) -> None:
        self._refused.add(name)
        if len(self._refused) <= _MOST_REPORTED:
            shown = name.encode("utf-8", "backslashreplace").decode()
            log.warning("watch.run_refused", run=shown, entry=self.entry.pattern, reason=reason)


class Fans:
    """All watch entries of a configuration, those with {run} as what they stand for now."""

    def __init__(self, entries: Iterable[WatchEntry]) -> None:
        entries = list(entries)
        self.plain = [entry for entry in entries if not entry.fans_out]
        # What is written out comes first: it says more than what is found.
        self._taken = {entry.target.key: entry.pattern for entry in self.plain}
        self.fans = [Fan(entry, self._taken) for entry in entries if entry.fans_out]

    def take(self, db: Database | None = None) -> list[tuple[Fan, WatchEntry]]:
        """Find what is on disk now, and in the ledger, where one is given, unfinished; from then on these are known."""
        found = []
        for fan in self.fans:
            for entry in fan.look():
                fan.add(entry)
                found.append((fan, entry))
        if db is not None:
            for fan in self.fans:
                for entry in fan.unfinished(db):
                    fan.add(entry)
                    found.append((fan, entry))
        return found


def entries_now(entries: Sequence[WatchEntry]) -> list[WatchEntry]:
    """The entries in their order, in the place of each with {run} those of the runs that are on disk now."""
    fans = Fans(entries)
    by_pattern: dict[str, list[WatchEntry]] = {}
    for fan, entry in fans.take():
        by_pattern.setdefault(fan.entry.pattern, []).append(entry)
    return [one for entry in entries for one in (by_pattern.pop(entry.pattern, []) if entry.fans_out else [entry])]


def _has_begun(entry: WatchEntry) -> bool:
    """True when the job of an entry has left something that is its own."""
    file = entry.target.id_file
    return (file is not None and os.path.isfile(file)) or next(glob.iglob(entry.pattern), None) is not None
