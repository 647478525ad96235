"""What lies on disk for one step, right now."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from metricwatch import listing
from metricwatch.config.watching import WatchEntry
from metricwatch.watch.checkpoints import Checkpoints
from metricwatch.watch.kinds import Candidate, Contents, Kind, only_gone
from metricwatch.watch.layouts import step_by
from metricwatch.watch.sample_sets import SampleSets
from metricwatch.watch.tree import Tree, concerns, root_of

__all__ = [
    "Candidate",
    "Contents",
    "Found",
    "concerns",
    "kind_of",
    "locate",
    "look_into",
    "only_gone",
    "root_of",
    "scan",
    "tree_of",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A scan's result. ignored names what carries no step, clashes the steps claimed by two places."""

    candidates: dict[int, Candidate]
    ignored: list[str]
    clashes: list[tuple[int, str, str]]


def kind_of(entry: WatchEntry) -> Kind:
    """What makes a step of this entry."""
    return Checkpoints() if entry.checkpoints else SampleSets()


def tree_of(entry: WatchEntry) -> Tree:
    """The names that this entry matches, not looked at yet."""
    kind = kind_of(entry)
    return Tree(entry.pattern, step_by(entry.step_pattern, kind.step_of), entry.markers, entry.every, kind)


def scan(entry: WatchEntry) -> Found:
    """Everything that this entry matches, by step, at one moment. Does not look inside directories."""
    tree = tree_of(entry)
    tree.refresh(0.0)
    located = (locate(tree, step) for step in sorted(tree.steps))
    candidates = {candidate.step: candidate for candidate in located if candidate}
    return Found(candidates=candidates, ignored=tree.ignored, clashes=tree.clashes)


def locate(tree: Tree, step: int) -> Candidate | None:
    """The step as it is now: its directory's times, or its files with theirs. None when it has gone."""
    place = tree.steps.get(step)
    if place is None:
        return None
    # The marker before the files, so that it cannot vouch for a file that came after it was looked at.
    if not place.flat:
        marks = listing.entries(*tree.markers_beside(step))
        try:
            status = os.stat(place.path)
        except OSError:
            return None
        return Candidate(
            kind=tree.kind,
            step=step,
            path=place.path,
            marks=marks,
            mtime_ns=status.st_mtime_ns,
            ctime_ns=status.st_ctime_ns,
        )
    directory, names, markers = tree.members(step)
    marks = listing.entries(directory, markers)
    members = listing.entries(directory, names)
    if not members:
        return None
    return Candidate(kind=tree.kind, step=step, path=directory, members=members, marks=marks)


def look_into(candidate: Candidate, markers: Sequence[str]) -> Contents | None:
    """Read a candidate's directory; None when it has gone. A flat candidate is known from locate() already.

    Raises OSError when the directory is there and cannot be read.
    """
    return candidate.kind.look_into(candidate, markers)
