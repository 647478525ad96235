"""What lies on disk for one step, right now."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from metricwatch import listing
from metricwatch.listing import FileEntry
from metricwatch.watch.layouts import StepOf
from metricwatch.watch.tree import Tree, concerns, root_of

__all__ = ["Candidate", "Contents", "Found", "concerns", "locate", "look_into", "root_of", "scan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What may be a sample set: a directory (members None), or the files of one step in a flat directory.

    mtime_ns is the directory's own: it changes when a file is added, removed or renamed in it, not when one is
    rewritten in place. ctime_ns also changes when the directory itself is renamed.
    """

    step: int
    path: str
    members: tuple[FileEntry, ...] | None = None
    marked: bool = False
    mtime_ns: int = 0
    ctime_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """A candidate looked into. activity changes with images, also unfinished ones, and markers; digest with images.

    newest_ns is the modification time of the youngest image, changed_ns the newest time at which the file system
    changed one; 0 without any. files holds a number for each image as it is, to tell files that went from files that
    were written. untouched: nothing in the directory has been written since it got its name. unfinished: an image is
    there under a temporary name.
    """

    activity: str
    digest: str
    images: int
    newest_ns: int
    changed_ns: int
    members: tuple[str, ...] | None
    files: bytes
    marked: bool
    untouched: bool = False
    unfinished: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A scan's result. ignored names what carries no step, clashes the steps claimed by two places."""

    candidates: dict[int, Candidate]
    ignored: list[str]
    clashes: list[tuple[int, str, str]]


def scan(pattern: str, step_of: StepOf, markers: Sequence[str], every: int | None) -> Found:
    """Everything the glob matches, by step, at one moment. Does not look inside directories."""
    tree = Tree(pattern, step_of, markers, every)
    tree.refresh(0.0)
    located = (locate(tree, step) for step in sorted(tree.steps))
    candidates = {candidate.step: candidate for candidate in located if candidate}
    return Found(candidates=candidates, ignored=tree.ignored, clashes=tree.clashes)


def locate(tree: Tree, step: int) -> Candidate | None:
    """The step as it is now: its directory's times, or its files with theirs. None when it has gone."""
    place = tree.steps.get(step)
    if place is None:
        return None
    if not place.flat:
        try:
            status = os.stat(place.path)
        except OSError:
            return None
        return Candidate(step=step, path=place.path, mtime_ns=status.st_mtime_ns, ctime_ns=status.st_ctime_ns)
    directory, images, markers = tree.members(step)
    # The marker before the images, so that it cannot vouch for an image that came after it was looked at.
    marks = listing.entries(directory, markers)
    members = listing.entries(directory, images)
    if not members:
        return None
    return Candidate(step=step, path=directory, members=members, marked=_vouched_for(members, marks))


def look_into(candidate: Candidate, markers: Sequence[str]) -> Contents | None:
    """Read a candidate's directory; None when it has gone. A flat candidate is known from locate() already.

    Raises OSError when the directory is there and cannot be read.
    """
    if candidate.members is not None:
        digest = listing.fingerprint(candidate.members)
        return Contents(
            activity=digest,
            digest=digest,
            images=len(candidate.members),
            newest_ns=_newest(candidate.members),
            changed_ns=_changed(candidate.members),
            members=tuple(entry.name for entry in candidate.members),
            files=_numbers(candidate.members),
            marked=candidate.marked,
        )
    try:
        entries = listing.scan(candidate.path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    parts = listing.parts(entries)
    unfinished = any(listing.is_unfinished(entry.name) for entry in entries)
    # Equal times tell nothing: they may be those of a directory renamed at once, or of a file just written to it.
    untouched = candidate.ctime_ns > candidate.mtime_ns and all(
        entry.ctime_ns <= candidate.ctime_ns for entry in entries
    )
    return Contents(
        activity=listing.fingerprint(entry for entry in entries if _matters(entry.name, markers)),
        digest=listing.fingerprint(parts),
        images=len(listing.images(entries)),
        newest_ns=_newest(parts),
        changed_ns=_changed(parts),
        members=None,
        files=_numbers(parts),
        marked=not unfinished and _vouched_for(parts, [entry for entry in entries if entry.name in markers]),
        untouched=untouched and not unfinished,
        unfinished=unfinished,
    )


def _vouched_for(parts: Sequence[FileEntry], marks: Sequence[FileEntry]) -> bool:
    """True when a marker is younger than every image: an older one is left over from an earlier write of the step.

    By both times: a copy that keeps modification times may bring the marker before the images.
    """
    return any(mark.mtime_ns >= _newest(parts) and mark.ctime_ns >= _changed(parts) for mark in marks)


def _matters(name: str, markers: Sequence[str]) -> bool:
    # A log that grows beside the images must not keep them from settling; an unfinished image must.
    return listing.is_image(name) or name == listing.MANIFEST or listing.is_temporary(name) or name in markers


def _newest(parts: Iterable[FileEntry]) -> int:
    return max((entry.mtime_ns for entry in parts), default=0)


def _changed(parts: Iterable[FileEntry]) -> int:
    return max((entry.ctime_ns for entry in parts), default=0)


def _numbers(parts: Iterable[FileEntry]) -> bytes:
    # A set of objects for each of 100,000 steps would be a hundred times the memory.
    return array("q", (hash((entry.name, entry.size, entry.mtime_ns)) for entry in parts)).tobytes()


def only_gone(before: bytes, now: bytes) -> bool:
    """True when all of the files that are left are as they were: some went, none was written."""
    return set(memoryview(now).cast("q")) <= set(memoryview(before).cast("q"))
