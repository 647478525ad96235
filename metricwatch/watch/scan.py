"""What lies on disk for one watch entry, right now."""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from metricwatch import listing
from metricwatch.listing import FileEntry
from metricwatch.watch.layouts import StepOf


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What may be a sample set: a directory (members None), or the files of one step in a flat directory.

    mtime_ns is the directory's own: it changes when a file is added, removed or renamed in it, not when one is
    rewritten in place.
    """

    step: int
    path: str
    members: tuple[FileEntry, ...] | None = None
    marked: bool = False
    mtime_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """A candidate looked into. activity changes with images, also unfinished ones, and markers; digest with images.

    newest_ns is the modification time of the youngest image, 0 without any.
    """

    activity: str
    digest: str
    images: int
    newest_ns: int
    members: tuple[str, ...] | None
    marked: bool


@dataclass(slots=True)
class Found:
    """A scan's result. ignored names what carries no step, clashes the steps claimed by two places."""

    candidates: dict[int, Candidate] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    clashes: list[tuple[int, str, str]] = field(default_factory=list)


def scan(pattern: str, step_of: StepOf, markers: Sequence[str], every: int | None) -> Found:
    """Everything the glob matches, by step. Looks at names and directory times only, not inside directories."""
    found = Found()
    flat: dict[tuple[str, int], list[FileEntry]] = {}
    marked: dict[tuple[str, int], int] = {}
    for item in _matches(pattern, markers):
        is_directory = _is_directory(item)
        is_marker = not is_directory and item.name.endswith(tuple(markers))
        if not (is_directory or is_marker or listing.is_image(item.name)):
            continue
        step = step_of(_without(item.name, markers) if is_marker else item.name, is_directory)
        if step is None or not _is_text(item.path):
            if not is_marker:
                found.ignored.append(item.path)
            continue
        if every is not None and step % every:
            continue
        parent = os.path.dirname(item.path)
        try:
            status = item.stat()
        except OSError:
            continue
        if is_directory:
            _add(found, Candidate(step=step, path=item.path, mtime_ns=status.st_mtime_ns))
        elif is_marker:
            marked[parent, step] = max(status.st_mtime_ns, marked.get((parent, step), 0))
        else:
            entry = FileEntry.of(item.name, status)
            flat.setdefault((parent, step), []).append(entry)
    for (parent, step), members in sorted(flat.items()):
        members.sort(key=lambda entry: entry.name)
        # As for directories: a marker older than a picture is left over from an earlier write.
        is_marked = marked.get((parent, step), -1) >= _newest(members)
        _add(found, Candidate(step=step, path=parent, members=tuple(members), marked=is_marked))
    return found


def look_into(candidate: Candidate, markers: Sequence[str]) -> Contents | None:
    """Read a candidate's directory; None when it has gone. A flat candidate is known from the scan already.

    Raises OSError when the directory is there and cannot be read.
    """
    if candidate.members is not None:
        digest = listing.fingerprint(candidate.members)
        return Contents(
            activity=digest,
            digest=digest,
            images=len(candidate.members),
            newest_ns=_newest(candidate.members),
            members=tuple(entry.name for entry in candidate.members),
            marked=candidate.marked,
        )
    try:
        entries = listing.scan(candidate.path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    images = listing.images(entries)
    parts = listing.parts(entries)
    return Contents(
        activity=listing.fingerprint(entry for entry in entries if _matters(entry.name, markers)),
        digest=listing.fingerprint(parts),
        images=len(images),
        newest_ns=_newest(parts),
        members=None,
        marked=_is_marked(entries, parts, markers),
    )


def concerns(pattern: str, path: str) -> bool:
    """True when something at this path may change what the glob matches, or what lies in a match."""
    parents, found = os.path.dirname(pattern).split(os.sep), path.split(os.sep)
    return 1 <= len(found) - len(parents) <= 2 and all(map(fnmatch.fnmatch, found, parents))  # noqa: PLR2004


def root_of(pattern: str) -> str:
    """The deepest directory of a glob that has no wildcard in it: what to listen to for events."""
    root = os.path.dirname(pattern)
    while glob.has_magic(root):
        root = os.path.dirname(root)
    return root


def _is_marked(entries: Sequence[FileEntry], parts: Sequence[FileEntry], markers: Sequence[str]) -> bool:
    # A marker older than a picture is left over from an earlier write of the same step.
    return any(entry.name in markers and entry.mtime_ns >= _newest(parts) for entry in entries)


def _matters(name: str, markers: Sequence[str]) -> bool:
    # A log that grows beside the images must not keep them from settling; an unfinished image must.
    return listing.is_image(name) or name == listing.MANIFEST or listing.is_temporary(name) or name in markers


def _newest(parts: Sequence[FileEntry]) -> int:
    return max((entry.mtime_ns for entry in parts), default=0)


def _is_text(path: str) -> bool:
    """True when the path can be written down: a name that is no UTF-8 can be read, but not recorded."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _matches(pattern: str, markers: Sequence[str]) -> Iterator[os.DirEntry[str]]:
    """The glob's matches as directory entries, which know their kind without another system call."""
    parents, last = os.path.split(pattern)
    for parent in sorted(glob.glob(parents)) if glob.has_magic(parents) else [parents]:
        try:
            with os.scandir(parent) as items:
                found = sorted(items, key=lambda item: item.name)
        except OSError:
            continue
        for item in found:
            marker = item.name.endswith(tuple(markers)) and fnmatch.fnmatch(_without(item.name, markers), _stem(last))
            if marker or (not listing.is_temporary(item.name) and fnmatch.fnmatch(item.name, last)):
                yield item


def _is_directory(item: os.DirEntry[str]) -> bool:
    try:
        return item.is_dir()
    except OSError:  # a symbolic link that leads in circles
        return False


def _stem(pattern: str) -> str:
    stem, suffix = os.path.splitext(pattern)
    return stem if suffix.lower() in listing.IMAGE_SUFFIXES else pattern


def _without(name: str, markers: Sequence[str]) -> str:
    for marker in markers:
        name = name.removesuffix(marker)
    return name


def _add(found: Found, candidate: Candidate) -> None:
    first = found.candidates.setdefault(candidate.step, candidate)
    if first is not candidate:
        found.clashes.append((candidate.step, first.path, candidate.path))
