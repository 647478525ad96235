"""The watch stage: turn what lies on disk into snapshots, each settled and recorded once per revision."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import structlog

from metricwatch.clock import Clock
from metricwatch.config.watching import WatchEntry
from metricwatch.store.db import Database
from metricwatch.store.ledger import Ledger, Recorded
from metricwatch.watch.events import EventHints, Hints
from metricwatch.watch.layouts import step_by
from metricwatch.watch.scan import Candidate, Contents, look_into, root_of, scan
from metricwatch.watch.settle import Settling

log = structlog.get_logger(__name__)

# While something settles it is looked at this often, so that it is found done soon after it is.
_LOOK_SECONDS = 0.5
# A settled step waits this long, and twice the quiet time, for earlier steps that are still settling.
_HELD_SECONDS = 2.0
# A burst of events is answered by one listing, not by one an event.
_HINTED_SECONDS = 0.1
# In-place rewrites of old steps send no event on network file systems: each rescan looks into a few in turn.
_RECHECKED_PER_RESCAN = 16


@dataclass(frozen=True, slots=True)
class _Settled:
    """A step that is complete and not recorded yet."""

    candidate: Candidate
    contents: Contents
    since: float


class _Source:
    """One watch entry: what of it is recorded, and what is settling."""

    def __init__(self, entry: WatchEntry, ledger: Ledger) -> None:
        self.entry = entry
        self.root = root_of(entry.samples)
        self.step_of = step_by(entry.step_pattern)
        self.settling = Settling(entry.settle)
        self.known = ledger.newest(entry.source)
        self.candidates: dict[int, Candidate] = {}
        self.recheck: deque[int] = deque()
        self.next_rescan = 0.0
        self.next_look = 0.0
        self.next_hinted = 0.0
        self.touched: set[str] = set()
        self.renamed: set[str] = set()
        self.reported: set[str] = set()
        self.scanned = False
        # Settled, and waiting for earlier steps that are not.
        self.held: dict[int, _Settled] = {}
        # The steps that count when only what is there at first shall be taken; None: all.
        self.present: set[int] | None = None

    def unsettled(self) -> set[int]:
        """The steps that have been seen and are not recorded as they are."""
        return self.settling.waiting() | self.held.keys()

    def report_once(self, event: str, path: str, **fields: object) -> None:
        if path not in self.reported:
            self.reported.add(path)
            log.warning(event, path=path, **fields)


class Watcher:
    """The only writer of runs, snapshots and new jobs."""

    def __init__(self, db: Database, entries: Sequence[WatchEntry], hints: EventHints, clock: Clock) -> None:
        self._db = db
        self._ledger = Ledger(db)
        self._entries = entries
        self._hints = hints
        self._clock = clock
        self._sources: list[_Source] = []
        self._settled = False
        # Take only the steps that the first look finds: a job that goes on writing must not keep `run --once` up.
        self.only_present = False

    def start(self) -> None:
        """Register the runs and read what is recorded already."""
        for entry in self._entries:
            self._ledger.register_run(entry.target, self._clock.now())
            self._sources.append(_Source(entry, self._ledger))
        self._hints.listen(source.root for source in self._sources)

    def tick(self) -> int:
        """Look where something happened or is settling; returns how many snapshots were recorded."""
        hints = self._hints.take()
        recorded = sum(self._tick(source, hints) for source in self._sources)
        # Told only now: before, another thread could see a step as settled whose job is not queued yet.
        self._settled = all(source.scanned and not source.unsettled() for source in self._sources)
        return recorded

    def rescan(self) -> None:
        """Make the next tick look at everything, whatever the events said."""
        for source in self._sources:
            source.next_rescan = 0.0

    def settled(self) -> bool:
        """True when, at the last tick, everything on disk had been looked at and what was settled was queued."""
        return self._settled

    def settling(self) -> int:
        """How many steps have been seen and are not recorded yet."""
        return sum(len(source.unsettled()) for source in self._sources)

    def close(self) -> None:
        self._hints.close()

    def _tick(self, source: _Source, hints: Hints) -> int:
        now = self._clock.monotonic()
        inside = source.root + os.sep
        source.touched.update(path for path in hints.touched if path.startswith(inside))
        source.renamed.update(path for path in hints.renamed if path.startswith(inside))
        due = now >= source.next_rescan
        if due or (source.touched and now >= source.next_hinted):
            steps = self._rescan(source, recheck=due)
            source.next_hinted = now + _HINTED_SECONDS
            if due:
                source.next_rescan = now + source.entry.rescan.total_seconds()
                self._hints.listen([source.root])
        elif (source.settling.waiting() or source.held) and now >= source.next_look:
            steps = self._refresh(source)
        else:
            return 0
        source.next_look = now + min(_LOOK_SECONDS, source.entry.settle.total_seconds() or _LOOK_SECONDS)
        looked = [self._look(source, step, now) for step in sorted(steps)]
        source.renamed.clear()
        source.held.update((found.candidate.step, found) for found in looked if found)
        ready = self._in_order(source, now)
        with self._db.transaction("snapshots"):
            return sum(self._record(source, found) for found in ready)

    def _in_order(self, source: _Source, now: float) -> list[_Settled]:
        """Take what may be recorded out of the held steps, in order.

        A set with a marker settles before an earlier one without: scored in that order, a rule would judge a curve
        with holes. So a step waits for earlier new ones, but no longer than those may reasonably take.
        """
        earliest = min(source.settling.waiting() - source.known.keys(), default=None)
        patience = _HELD_SECONDS + 2 * source.entry.settle.total_seconds()
        steps = [
            step
            for step, found in sorted(source.held.items())
            if earliest is None or step < earliest or now - found.since > patience
        ]
        return [source.held.pop(step) for step in steps]

    def _rescan(self, source: _Source, *, recheck: bool) -> set[int]:
        """List the entry anew; returns the steps that must be looked into."""
        entry = source.entry
        found = scan(entry.samples, source.step_of, entry.markers, entry.every)
        for path in found.ignored:
            source.report_once("watch.ignored", path, reason="its name carries no step; set `step_pattern`")
        for step, first, second in found.clashes:
            source.report_once("watch.clash", second, step=step, reason=f"{first} has the same step and is used")
        if self.only_present:
            if source.present is None:
                source.present = set(found.candidates)
            found.candidates = {step: item for step, item in found.candidates.items() if step in source.present}
        for gone in source.candidates.keys() - found.candidates.keys():
            source.settling.forget(gone)
            source.held.pop(gone, None)
        source.candidates = found.candidates
        source.scanned = True
        touched, source.touched = source.touched, set()
        parents = {os.path.dirname(path) for path in touched}
        steps = source.settling.waiting()
        for step, candidate in found.candidates.items():
            known = source.known.get(step)
            changed = known is None or candidate.members is not None or candidate.mtime_ns != known.mtime_ns
            if changed or candidate.path in touched or candidate.path in parents:
                steps.add(step)
        if recheck:
            steps.update(self._some_known(source))
        return steps & found.candidates.keys()

    def _some_known(self, source: _Source) -> list[int]:
        if not source.recheck:
            source.recheck.extend(sorted(source.known, reverse=True))
        return [source.recheck.popleft() for _ in range(min(_RECHECKED_PER_RESCAN, len(source.recheck)))]

    def _refresh(self, source: _Source) -> set[int]:
        """The settling steps; flat ones are listed again, for their files are known from the listing only."""
        waiting = source.settling.waiting()
        if any(source.candidates[step].members is not None for step in waiting if step in source.candidates):
            return self._rescan(source, recheck=False)
        return waiting

    def _look(self, source: _Source, step: int, now: float) -> _Settled | None:
        candidate = source.candidates.get(step)
        contents = self._contents(source, candidate) if candidate else None
        if candidate is None or contents is None:
            source.settling.forget(step)
            return None
        held = source.held.get(step)
        if held is not None and held.contents.activity == contents.activity:
            return None
        known = source.known.get(step)
        if known is not None and (known.digest == contents.digest or _only_removed(known, contents)):
            source.known[step] = replace(known, mtime_ns=candidate.mtime_ns)
            source.settling.forget(step)
            return None
        if not contents.images and (known is not None or not contents.marked):
            # Just created, or emptied: nothing to settle until something is in it.
            source.settling.forget(step)
            return None
        # A marker says that the first write is complete. Of a rewrite it says nothing: it may be the old one.
        marked = contents.marked and known is None
        renamed = candidate.members is None and candidate.path in source.renamed
        if not source.settling.look(step, contents.activity, now, marked=marked, renamed=renamed):
            return None
        return _Settled(candidate, contents, now)

    def _contents(self, source: _Source, candidate: Candidate) -> Contents | None:
        try:
            return look_into(candidate, source.entry.markers)
        except OSError as error:
            source.report_once("watch.unreadable", candidate.path, reason=error.strerror)
            return None

    def _record(self, source: _Source, found: _Settled) -> int:
        candidate, contents = found.candidate, found.contents
        known = source.known.get(candidate.step)
        recorded = Recorded(
            revision=known.revision + 1 if known else 1,
            digest=contents.digest,
            images=contents.images,
            newest_ns=contents.newest_ns,
            mtime_ns=candidate.mtime_ns,
        )
        row = self._ledger.add_snapshot(
            source=source.entry.source,
            run=source.entry.target.key,
            step=candidate.step,
            path=candidate.path,
            members=contents.members,
            recorded=recorded,
            now=self._clock.now(),
        )
        source.known[candidate.step] = recorded
        if row is None:
            return 0
        log.info(
            "snapshot.settled",
            run=source.entry.target.name,
            step=candidate.step,
            images=contents.images,
            revision=recorded.revision,
        )
        return 1


def _only_removed(known: Recorded, contents: Contents) -> bool:
    """True when images have gone and none was written: rotation or clean-up, not a rewrite of the step."""
    return contents.images < known.images and contents.newest_ns <= known.newest_ns
