"""The watch stage: turn what lies on disk into snapshots, each settled and recorded once per revision."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice

import structlog

from metricwatch.clock import Clock
from metricwatch.config.watching import WatchEntry
from metricwatch.store.db import Database
from metricwatch.store.ledger import Ledger, Recorded
from metricwatch.store.retries import Retries
from metricwatch.store.waiting import changed_steps, is_unscored
from metricwatch.watch.events import EventHints, Hints
from metricwatch.watch.fan_out import Fans
from metricwatch.watch.fanned import FannedSources
from metricwatch.watch.scan import Candidate, Contents, locate, look_into, only_gone
from metricwatch.watch.source import Settled, Source

log = structlog.get_logger(__name__)

# In-place rewrites of old steps send no event on network file systems: each rescan looks into a few in turn,
# so many that each has had its turn after this many rescans.
_FEWEST_LOOKED_INTO = 16
_RESCANS_PER_ROUND = 360
# Asking known steps whether anything moved takes no more than this share of the time between two rescans.
_ASKING_SHARE = 0.01


class Watcher:
    """The only writer of runs, snapshots and new jobs.

    A tick that raises LedgerError has lost nothing: the next one records what it could not.
    """

    def __init__(
        self,
        db: Database,
        entries: Sequence[WatchEntry],
        hints: EventHints,
        clock: Clock,
        *,
        fans: Fans | None = None,
        found: Callable[[Sequence[WatchEntry]], None] = lambda _: None,
    ) -> None:
        """Each of the entries is of a single run. found is called with more of them, which fans have found meanwhile.

        That is before any of their snapshots is recorded; where it raises, the next tick calls it again.
        """
        self._db = db
        self._ledger = Ledger(db)
        self._retries = Retries(db)
        self._entries = entries
        self._hints = hints
        self._clock = clock
        self._sources: list[Source] = []
        # Of these the sources of entries that name their run.
        self._plain: list[Source] = []
        self._fans = fans or Fans([])
        self._fanned = [FannedSources(fan) for fan in self._fans.fans]
        self._found = found
        self._settled = False
        self._next_look = math.inf
        # Take only the runs and steps that the first look finds: a job that goes on must not keep `run --once` up.
        self.only_present = False
        # With only_present: which of those steps; all where it is None.
        self.only: Callable[[str, int], bool] | None = None

    def start(self) -> None:
        """Register the runs and read what is recorded already."""
        self._register(self._entries)
        self._add(self._entries)
        for fanned in self._fanned:
            fanned.listen(self._hints)
        self._hints.listen(source.root for source in self._plain)

    def tick(self) -> int:
        """Look where something happened or is settling; returns how many snapshots were recorded."""
        hints = self._hints.take()
        # All are told before any is looked at: what the ledger refuses for one must not lose the others' events.
        self._hand_out(hints)
        if not self.only_present:
            self._find()
        self._next_look = math.inf
        recorded = self._score_again() + sum(self._tick(source) for source in self._sources)
        # Told only now: before, another thread could see a step as settled whose job is not queued yet.
        self._settled = all(source.scanned and not source.unsettled() for source in self._sources)
        return recorded

    def seconds_to_look(self) -> float:
        """How long, after a tick, until another has something to look at, infinite where it need not come of itself."""
        return self._next_look

    def rescan(self) -> None:
        """Make the next tick look at everything, whatever the events said."""
        for fanned in self._fanned:
            fanned.pace.rescan_now()
        for source in self._sources:
            source.pace.rescan_now()

    def settled(self) -> bool:
        """True when, at the last tick, everything on disk had been looked at and what was settled was queued."""
        return self._settled

    def settling(self) -> int:
        """How many steps have been seen and are not recorded yet."""
        return sum(len(source.unsettled()) for source in self._sources)

    def close(self) -> None:
        self._hints.close()

    def _hand_out(self, hints: Hints) -> None:
        if hints.touched or hints.lost:
            for source in self._plain:
                source.take(hints)
            for fanned in self._fanned:
                fanned.take(hints)

    def _find(self) -> None:
        """Take up runs that have appeared, of those entries whose turn to look it is."""
        for fanned in self._fanned:
            began = self._clock.monotonic()
            entries = fanned.look(began)
            if entries is None:
                continue
            if entries:
                with self._db.transaction("runs"):
                    self._register(entries)
                    self._found(entries)
                for entry in entries:
                    fanned.fan.add(entry)
                    log.info("run.watched", run=entry.target.name, pattern=entry.pattern)
                self._add(entries)
            fanned.listen(self._hints)
            fanned.pace.looked(began, self._clock.monotonic(), rescanned=True)

    def _register(self, entries: Sequence[WatchEntry]) -> None:
        with self._db.transaction("runs"):
            for entry in entries:
                self._ledger.register_run(entry.target, self._clock.now())

    def _add(self, entries: Sequence[WatchEntry]) -> None:
        for entry in entries:
            fanned = next((each for each in self._fanned if entry.target.key in each.fan.names), None)
            source = Source(entry, self._ledger, listens=fanned is None)
            self._sources.append(source)
            if fanned is None:
                self._plain.append(source)
            else:
                fanned.add(source)

    def _score_again(self) -> int:
        """Give steps that a person wants scored once more a new revision of the same files; returns how many."""
        jobs = self._retries.requested("revision")
        for job in jobs:
            with self._db.transaction("retry-revision"):
                recorded = self._ledger.repeat(job, self._clock.now())
                self._retries.done("revision", job)
            for source in self._sources:
                if recorded is not None and recorded.source == source.entry.source:
                    known = source.known[recorded.step]
                    source.known[recorded.step] = replace(known, revision=recorded.revision)
        return len(jobs)

    def _tick(self, source: Source) -> int:
        now = self._clock.monotonic()
        due = source.pace.rescan_is_due(now)
        settling = bool(source.settling.waiting() or source.held)
        hinted = bool(source.touched)
        if not due and not source.pace.look_is_due(now, hinted=hinted, settling=settling):
            if hinted or settling:
                self._next_look = min(
                    self._next_look, source.pace.seconds_to_look(now, hinted=hinted, settling=settling)
                )
            return 0
        if due and source.listens:
            self._hints.listen([source.root])
        # Rare, and dear: what the next rescan may cost cannot be told from these.
        everything = source.lost or not source.scanned
        for step in sorted(self._steps(source, now, due=due)):
            self._look(source, step)
        source.renamed.clear()
        delay = source.pace.looked(now, self._clock.monotonic(), rescanned=due, everything=everything)
        if delay and not everything:
            source.report_slow(delay)
        return self._record(source, source.ready(now))

    def _steps(self, source: Source, now: float, *, due: bool) -> set[int]:
        """The steps that must be looked at."""
        changed = source.tree.refresh(now)
        source.report()
        if not source.scanned:
            # What is recorded with the time that its directory still has need not be looked into at a start.
            changed = {step for step in changed if self._has_moved(source, step)}
            source.scanned = True
            if self.only_present:
                source.present = {
                    step for step in source.tree.steps if self.only is None or self.only(source.entry.source, step)
                }
        source.pending |= changed | source.touched_steps()
        if source.lost:
            # Nobody knows in which of the steps.
            source.pending |= source.tree.steps.keys()
            source.lost = False
        for gone in source.unsettled() - source.tree.steps.keys():
            source.forget(gone)
        steps = source.unsettled() | source.pending | source.ripe(now)
        if due:
            # What the worker found changed may have sent no event.
            steps |= source.unknown() | self._in_turn(source) | changed_steps(self._db, source.entry.source)
        elif changed:
            steps |= source.unknown() & changed
        return steps if source.present is None else steps & source.present

    def _in_turn(self, source: Source) -> set[int]:
        """A few known steps to look into, and of as many more as there is time for those that moved."""
        few = max(_FEWEST_LOOKED_INTO, len(source.known) // _RESCANS_PER_ROUND)
        steps = set(islice(source.look_turns.take(source.known), few))
        until = self._clock.monotonic() + source.entry.rescan.total_seconds() * _ASKING_SHARE
        for step in source.time_turns.take(source.known):
            if step in source.tree.steps and self._has_moved(source, step):
                steps.add(step)
            if self._clock.monotonic() > until:
                break
        return steps

    def _has_moved(self, source: Source, step: int) -> bool:
        """True when a step is not as it was recorded, as far as can be told without looking into a directory."""
        known = source.known.get(step)
        candidate = locate(source.tree, step) if known else None
        if known is None or candidate is None:
            return True
        if candidate.members is None:
            return candidate.mtime_ns != known.mtime_ns
        contents = look_into(candidate, source.entry.markers)
        return contents is None or contents.digest != known.digest

    def _look(self, source: Source, step: int) -> None:
        began = self._clock.monotonic()
        candidate = locate(source.tree, step)
        contents = self._contents(source, candidate) if candidate else None
        ended = self._clock.monotonic()
        if candidate is None or contents is None:
            if candidate is None:
                source.forget(step)
            source.settling.forget(step)
            source.held.pop(step, None)
            return
        source.pending.discard(step)
        if candidate.members is None:
            source.note_time(candidate, began, ended)
        held = source.held.get(step)
        if held is not None:
            if held.contents.activity == contents.activity:
                return
            del source.held[step]
        known = source.known.get(step)
        if known is not None and self._is_known(source, known, candidate, contents):
            source.settling.forget(step)
            return
        if not contents.images and (known is not None or not contents.marked):
            # Just created, or emptied: nothing to settle until something is in it.
            source.settling.forget(step)
            return
        contents = candidate.kind.judge(candidate, contents)
        ended = self._clock.monotonic()
        # See _is_known: it lost files and is waited for.
        shed = known is not None and _only_removed(known, source.files.get(step), contents)
        if shed and contents.unfinished:
            source.settling.forget(step)
            return
        # A marker says that the first write is complete. Of a rewrite it says nothing: it may be the old one.
        marked = contents.marked and known is None
        # An event may come late, when the next write into the directory has begun.
        renamed = contents.untouched and candidate.arrival in source.renamed and not shed
        settled = source.settling.look(
            step,
            contents.activity,
            began,
            ended,
            marked=marked,
            renamed=renamed,
            unfinished=contents.unfinished or shed,
            vouched=contents.vouched and known is None,
        )
        if settled:
            source.held[step] = Settled(candidate, contents, began)

    def _is_known(self, source: Source, known: Recorded, candidate: Candidate, contents: Contents) -> bool:
        """True when nothing is to be scored because of what is there now.

        Files that went, while the rest stayed as it was, are rotation or clean-up, and what was scored stays so. But a
        job that still waits could never be done, for its files are not those of the snapshot any more. So what is left
        of such a checkpoint becomes a revision of its own, if it lacks nothing that it names itself, and after the long
        quiet time, which it is given as if a writer were at it: a directory that is removed file by file is gone by
        then, and its job ends skipped. While the job is at work its files are pinned, and it may well be done.
        """
        if known.digest == contents.digest:
            source.files[candidate.step] = contents.files
        elif not _only_removed(known, source.files.get(candidate.step), contents) or (
            candidate.kind.sheds and contents.images and is_unscored(self._db, source.entry.source, candidate.step)
        ):
            return False
        if known.mtime_ns != candidate.mtime_ns:
            source.known[candidate.step] = replace(known, mtime_ns=candidate.mtime_ns)
        return True

    def _contents(self, source: Source, candidate: Candidate) -> Contents | None:
        try:
            return look_into(candidate, source.entry.markers)
        except OSError as error:
            source.report_once("watch.unreadable", candidate.path, reason=error.strerror)
            return None

    def _record(self, source: Source, ready: list[Settled]) -> int:
        if not ready:
            return 0
        added = []
        with self._db.transaction("snapshots"):
            for found in ready:
                recorded = self._recorded(source, found)
                added.append((found, recorded, self._add_snapshot(source, found, recorded)))
        for found, recorded, row in added:
            source.remember(found, recorded)
            if row is not None:
                log.info(
                    "snapshot.settled",
                    run=source.entry.target.name,
                    step=found.candidate.step,
                    images=recorded.images,
                    revision=recorded.revision,
                )
        if any(row is None for *_, row in added):
            # A commit that reported an error and was done all the same: the ledger knows better than we.
            source.known = self._ledger.newest(source.entry.source)
            source.pending |= {found.candidate.step for found, _, row in added if row is None}
        return sum(row is not None for *_, row in added)

    def _recorded(self, source: Source, found: Settled) -> Recorded:
        candidate, contents = found.candidate, found.contents
        known = source.known.get(candidate.step)
        return Recorded(
            revision=known.revision + 1 if known else 1,
            digest=contents.digest,
            images=contents.images,
            newest_ns=contents.newest_ns,
            mtime_ns=candidate.mtime_ns,
            changed_ns=contents.changed_ns,
        )

    def _add_snapshot(self, source: Source, found: Settled, recorded: Recorded) -> int | None:
        return self._ledger.add_snapshot(
            source=source.entry.source,
            run=source.entry.target.key,
            step=found.candidate.step,
            path=found.candidate.path,
            members=found.contents.members,
            recorded=recorded,
            now=self._clock.now(),
        )


def _only_removed(known: Recorded, files: bytes | None, contents: Contents) -> bool:
    """True when images have gone and none was written: rotation or clean-up, not a rewrite of the step."""
    if contents.images >= known.images:
        return False
    if files is not None:
        return only_gone(files, contents.files)
    # Not looked into since the start: only the times can tell.
    unchanged = not known.changed_ns or contents.changed_ns <= known.changed_ns
    return unchanged and contents.newest_ns <= known.newest_ns
