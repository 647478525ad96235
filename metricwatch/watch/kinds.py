"""What a step consists of: the records that pass between tree, scan and stage, and the frame of each kind of step."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from metricwatch.listing import FileEntry
from metricwatch.watch.layouts import StepOf


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What may be a snapshot: a directory (members None), or the files of one step in a flat directory.

    mtime_ns is the directory's own: it changes when a file is added, removed or renamed in it, not when one is
    rewritten in place. ctime_ns also changes when the directory itself is renamed. marks are the markers beside it.
    """

    kind: Kind
    step: int
    path: str
    members: tuple[FileEntry, ...] | None = None
    marks: tuple[FileEntry, ...] = ()
    mtime_ns: int = 0
    ctime_ns: int = 0

    @property
    def arrival(self) -> str:
        """The path under which a rename would have brought it at once."""
        if self.members is not None and len(self.members) == 1:
            return os.path.join(self.path, self.members[0].name)
        return self.path


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """A candidate looked into. activity changes with its parts, also unfinished ones, and markers; digest with parts.

    images counts the images, or the files of a checkpoint. newest_ns is the modification time of the youngest part,
    changed_ns the newest time at which the file system changed one (ctime); 0 without any, and where that time says
    nothing about writing. files holds a number for each part as it is, to tell files that went from files that were
    written. untouched: nothing has been written since it got its name. unfinished: an image is there under a temporary
    name, or a checkpoint's own files show that there is more to come. vouched: the file that its format writes last is
    there. parts are the files themselves, where judge() needs them.
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
    vouched: bool = False
    parts: tuple[FileEntry, ...] = ()


class Kind(ABC):
    """What makes a step of a watch entry. One object an entry: it may remember what it has read.

    single: each matching file is a step of its own; otherwise the files of a step together. deep: what lies below the
    directories in a match counts too. sheds: what is left of a step's directory when files were removed is the step
    still. advice: what to do when two matches claim one step.
    """

    single: ClassVar[bool]
    deep: ClassVar[bool]
    sheds: ClassVar[bool]
    advice: ClassVar[str]
    step_of: StepOf

    @abstractmethod
    def is_temporary(self, name: str) -> bool:
        """True for a name directly in a watched folder that is no step yet."""

    @abstractmethod
    def is_file(self, name: str) -> bool:
        """True for the name of a file that may be of a step."""

    def clash(self, first: str, second: str) -> str:  # noqa: ARG002
        """What two paths that claim one step are told as: once for all that give the same text."""
        return second

    @abstractmethod
    def stems(self, pattern: str) -> tuple[str, ...]:
        """The globs that the name of a marker beside its files matches without the marker's own end."""

    @abstractmethod
    def look_into(self, candidate: Candidate, markers: Sequence[str]) -> Contents | None:
        """The contents by names, sizes and times alone; None when they have gone. Raises OSError when unreadable."""

    def judge(self, candidate: Candidate, contents: Contents) -> Contents:  # noqa: ARG002
        """What the files themselves say of their completeness. Asked of steps that are settling, of no other."""
        return contents


def vouched_for(parts: Sequence[FileEntry], marks: Sequence[FileEntry]) -> bool:
    """True when a marker is younger than every part: an older one is left over from an earlier write of the step.

    By both times: a copy that keeps modification times may bring the marker before the parts.
    """
    return any(mark.mtime_ns >= newest(parts) and mark.ctime_ns >= changed(parts) for mark in marks)


def newest(parts: Iterable[FileEntry]) -> int:
    """The youngest modification time, 0 without any."""
    return max((entry.mtime_ns for entry in parts), default=0)


def changed(parts: Iterable[FileEntry]) -> int:
    """The youngest time of a change by the file system, 0 without any."""
    return max((entry.ctime_ns for entry in parts), default=0)


def numbers(parts: Iterable[FileEntry]) -> bytes:
    """A number for each file as it is: 8 bytes each."""
    # A set of objects for each of 100,000 steps would be a hundred times the memory.
    return array("q", (hash((entry.name, entry.size, entry.mtime_ns)) for entry in parts)).tobytes()


def only_gone(before: bytes, now: bytes) -> bool:
    """True when all of the files that are left are as they were: some went, none was written."""
    return set(memoryview(now).cast("q")) <= set(memoryview(before).cast("q"))


def untouched_since_named(candidate: Candidate, entries: Iterable[FileEntry]) -> bool:
    """True when no file in a directory has been written since the directory got its name."""
    # Equal times tell nothing: they may be those of a directory renamed at once, or of a file just written to it.
    return candidate.ctime_ns > candidate.mtime_ns and all(entry.ctime_ns <= candidate.ctime_ns for entry in entries)
