"""One watch entry: what of it is recorded, what is settling, and what must be looked at next."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import structlog

from metricwatch.config.watching import WatchEntry
from metricwatch.store.ledger import Ledger, Recorded
from metricwatch.watch.events import Hints
from metricwatch.watch.pace import Pace
from metricwatch.watch.scan import Candidate, Contents, tree_of
from metricwatch.watch.settle import Settling
from metricwatch.watch.tree import COARSEST_SECONDS, is_text, root_of

log = structlog.get_logger(__name__)

# A settled step waits this long, and twice the quiet time, for earlier steps that are still settling.
_HELD_SECONDS = 2.0
# A job that writes thousands of files without a step must not fill the log with their names.
_MOST_REPORTED = 20


@dataclass(frozen=True, slots=True)
class Settled:
    """A step that is complete and not recorded yet."""

    candidate: Candidate
    contents: Contents
    since: float


class Turns:
    """The known steps in turn, newest first; who is known by then takes part in the next round."""

    def __init__(self) -> None:
        self._round: deque[int] = deque()

    def take(self, known: Mapping[int, object]) -> Iterator[int]:
        """Go on where the last call was left; ends with the round."""
        if not self._round:
            self._round.extend(sorted(known, reverse=True))
        while self._round:
            yield self._round.popleft()


class Source:
    """The memory of the watcher for one entry. Nothing of it is needed to be right, all of it to be quick."""

    def __init__(self, entry: WatchEntry, ledger: Ledger, *, listens: bool = True) -> None:
        """listens: the tree below root is listened to for this entry alone."""
        self.entry = entry
        self.listens = listens
        self.root = root_of(entry.pattern)
        self.tree = tree_of(entry)
        self.settling = Settling(entry.settle)
        self.pace = Pace(rescan=entry.rescan.total_seconds(), settle=entry.settle.total_seconds())
        self.known = ledger.newest(entry.source)
        # The files of known steps, for those that were looked into since the start.
        self.files: dict[int, bytes] = {}
        # Settled, and waiting for earlier steps that are not.
        self.held: dict[int, Settled] = {}
        # Something happened to these; each stays until it has been looked into.
        self.pending: set[int] = set()
        self.touched: set[str] = set()
        self.renamed: set[str] = set()
        # Events are known to be missing since the last look.
        self.lost = False
        self.scanned = False
        # The steps that count when only what is there at first shall be taken; None: all.
        self.present: set[int] | None = None
        self.time_turns = Turns()
        self.look_turns = Turns()
        self._young: dict[int, tuple[int, float]] = {}
        self._reported: set[str] = set()
        self._clashes: set[str] = set()
        self._slow = False

    def take(self, hints: Hints) -> None:
        """Keep the hints that are about this entry until it is looked at."""
        inside = self.root.rstrip(os.sep) + os.sep
        self.touched.update(path for path in hints.touched if path.startswith(inside))
        self.renamed.update(path for path in hints.renamed if path.startswith(inside))
        if hints.lost:
            self.lost = True
            self.pace.rescan_soon()

    def unsettled(self) -> set[int]:
        """The steps that have been seen and are not recorded as they are."""
        return self.settling.waiting() | self.held.keys()

    def unknown(self) -> set[int]:
        """The steps that are there and of which nothing is recorded."""
        return self.tree.steps.keys() - self.known.keys()

    def ready(self, now: float) -> list[Settled]:
        """The held steps that may be recorded, in order.

        A set with a marker settles before an earlier one without: scored in that order, a rule would judge a curve
        with holes. So a step waits for earlier new ones, but no longer than those may reasonably take.
        """
        earliest = min(self.settling.waiting() - self.known.keys(), default=None)
        patience = _HELD_SECONDS + 2 * self.entry.settle.total_seconds()
        return [
            found
            for step, found in sorted(self.held.items())
            if earliest is None or step < earliest or now - found.since > patience
        ]

    def remember(self, found: Settled, recorded: Recorded) -> None:
        """Note what the ledger holds now. After the commit only: what a full disk took back is still to be done."""
        step = found.candidate.step
        del self.held[step]
        self.known[step] = recorded
        self.files[step] = found.contents.files
        seen = self._young.get(step)
        if seen is not None and seen[0] == recorded.mtime_ns and found.since - seen[1] >= COARSEST_SECONDS:
            del self._young[step]

    def forget(self, step: int) -> None:
        """The step has gone. What is recorded of it stays known."""
        self.settling.forget(step)
        self.held.pop(step, None)
        self.pending.discard(step)
        self._young.pop(step, None)

    def note_time(self, candidate: Candidate, began: float, ended: float) -> None:
        """Take note of a directory's time. One first seen just now may hide a change that is still to come."""
        known, seen = self.known.get(candidate.step), self._young.get(candidate.step)
        is_known = known is not None and known.mtime_ns == candidate.mtime_ns
        is_old = seen is not None and seen[0] == candidate.mtime_ns and began - seen[1] >= COARSEST_SECONDS
        if is_known and (is_old or seen is None or seen[0] != candidate.mtime_ns):
            self._young.pop(candidate.step, None)
        elif seen is None or seen[0] != candidate.mtime_ns:
            self._young[candidate.step] = (candidate.mtime_ns, ended)

    def ripe(self, now: float) -> set[int]:
        """The steps whose directory time can be told from a later one by now."""
        return {step for step, (_, since) in self._young.items() if now - since >= COARSEST_SECONDS}

    def report(self) -> None:
        """Log what the tree could not place, each once."""
        for path in self.tree.ignored:
            reason = "its name carries no step; set `step_pattern`" if is_text(path) else "its name is not UTF-8"
            self.report_once("watch.ignored", path, reason=reason)
        for step, first, second in self.tree.clashes:
            told_as = self.tree.kind.clash(first, second)
            if told_as in self._clashes or len(self._clashes) > _MOST_REPORTED:
                continue
            reason = f"{first} has the same step and is used{self.tree.kind.advice}"
            self.report_once("watch.clash", second, step=step, reason=reason)
            self._clashes.add(told_as)
        self.tree.ignored.clear()
        self.tree.clashes.clear()

    def report_slow(self, delay: float) -> None:
        """Say once that the file system is too slow for the configured rescan."""
        if not self._slow:
            self._slow = True
            log.warning("watch.rescan_slowed", root=self.root, reason="a look takes long", later_by_s=round(delay, 1))

    def report_once(self, event: str, path: str, **fields: object) -> None:
        """Log a warning about a path, the first time; after many, no more of them."""
        if path in self._reported or len(self._reported) > _MOST_REPORTED:
            return
        self._reported.add(path)
        if len(self._reported) > _MOST_REPORTED:
            log.warning("watch.no_more_reports", root=self.root, reason=f"{_MOST_REPORTED} paths have been named")
            return
        log.warning(event, path=path, **fields)

    def touched_steps(self) -> set[int]:
        """The steps that events named since the last call."""
        touched, self.touched = self.touched, set()
        return _known(self.tree.step_at(path) for path in touched)


def _known(steps: Iterable[int | None]) -> set[int]:
    return {step for step in steps if step is not None}
