"""Which steps a glob matches, remembered from look to look: an unchanged directory is not listed again."""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from metricwatch.watch.kinds import Kind
from metricwatch.watch.layouts import StepOf

# Two changes this close together may carry the same directory time: FAT counts in 2 s, most others far finer.
COARSEST_SECONDS = 2.0


class _Role(IntEnum):
    OTHER = 0
    DIRECTORY = 1
    FILE = 2
    MARKER = 3
    STEPLESS = 4


class _Item(NamedTuple):
    """A name in a listed directory. identity tells when the name stands for something else than before."""

    identity: int
    role: _Role
    step: int


class Place(NamedTuple):
    """Where a step lies: its own directory, or the files of a flat one. Of two the smaller is taken.

    name is that of the step's only file, where each file is a step of its own.
    """

    flat: bool
    path: str
    name: str = ""

    def __str__(self) -> str:
        return os.path.join(self.path, self.name) if self.name else self.path


class _Folder:
    """A directory that holds steps: its names as last listed."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.stamp: tuple[int, ...] = ()
        self.since = 0.0
        self.sure = False
        self.items: dict[str, _Item] = {}
        self.files: dict[int, set[str]] = {}
        self.markers: dict[int, set[str]] = {}


class Tree:
    """Names only: neither the files of a flat step nor the inside of a directory are looked at here.

    A name that stays, with the inode that it had, is taken to be what it was. What happens behind such names
    shows in a step's own files and times, which is the caller's part.
    """

    def __init__(self, pattern: str, step_of: StepOf, markers: Sequence[str], every: int | None, kind: Kind) -> None:
        self.kind = kind
        self._parents, self._last = os.path.split(pattern)
        self._depth = pattern.count(os.sep)
        self._stems = kind.stems(self._last)
        self._step_of = step_of
        self._markers = tuple(markers)
        self._every = every
        self._folders: dict[str, _Folder] = {}
        self._rivals: dict[int, set[Place]] = {}
        # Where each step lies.
        self.steps: dict[int, Place] = {}
        # New since the caller last cleared them: matches that carry no step, and steps that two places claim.
        self.ignored: list[str] = []
        self.clashes: list[tuple[int, str, str]] = []

    def refresh(self, now: float) -> set[int]:
        """List what may have changed; returns the steps whose names came, went or stand for something new."""
        changed: set[int] = set()
        parents = sorted(glob.glob(self._parents)) if glob.has_magic(self._parents) else [self._parents]
        for gone in self._folders.keys() - set(parents):
            self._drop(self._folders[gone], changed)
        for parent in parents:
            folder = self._folders.setdefault(parent, _Folder(parent))
            try:
                # The time before the names: what is added in between is then found by the next look.
                stamp = stamp_of(parent)
                if stamp != folder.stamp:
                    folder.stamp, folder.since = stamp, now
                elif folder.sure:
                    continue
                folder.sure = now - folder.since >= COARSEST_SECONDS
                self._list(folder, changed)
            except (FileNotFoundError, NotADirectoryError):
                self._drop(folder, changed)
            except OSError:
                # A server that does not answer just now: what was there is not gone.
                folder.sure = False
        return changed

    def members(self, step: int) -> tuple[str, list[str], list[str]]:
        """The directory, file names and marker names of a flat step."""
        place = self.steps[step]
        folder = self._folders[place.path]
        if place.name:
            return (
                folder.path,
                [place.name],
                self._markers_of(folder, step, place.name, os.path.splitext(place.name)[0]),
            )
        return folder.path, sorted(folder.files[step]), sorted(folder.markers.get(step, ()))

    def markers_beside(self, step: int) -> tuple[str, list[str]]:
        """The folder of a step that is a directory, and the names of the markers in it that are for this step."""
        parent, name = os.path.split(self.steps[step].path)
        folder = self._folders[parent]
        return parent, self._markers_of(folder, step, name) if self.kind.single else []

    def step_at(self, path: str) -> int | None:
        """The step that this path belongs to: its directory, a file in that, or a file of a flat step."""
        if self.kind.deep:
            path = os.sep.join(path.split(os.sep)[: self._depth + 1])
        for candidate in (path, os.path.dirname(path)):
            parent, name = os.path.split(candidate)
            folder = self._folders.get(parent)
            item = folder.items.get(name) if folder else None
            if item is not None and item.step >= 0:
                return item.step
        return None

    def _markers_of(self, folder: _Folder, step: int, *names: str) -> list[str]:
        return sorted(marker for marker in folder.markers.get(step, ()) if self._without_marker(marker) in names)

    def _list(self, folder: _Folder, changed: set[int]) -> None:
        before, items = folder.items, {}
        with os.scandir(folder.path) as found:
            for entry in found:
                identity = entry.inode() << 2 | entry.is_dir(follow_symlinks=False) << 1 | entry.is_symlink()
                known = before.get(entry.name)
                if known is not None and known.identity == identity:
                    items[entry.name] = known
                    continue
                item = self._classify(entry, identity)
                if item is None:
                    # A link to something that is not there yet: its coming will not move this directory's time.
                    folder.sure = False
                    continue
                items[entry.name] = item
        if items.keys() == before.keys() and all(items[name] is item for name, item in before.items()):
            return
        folder.items = items
        for name, item in before.items():
            if items.get(name) is not item:
                self._forget(folder, name, item, changed)
        for name in sorted(name for name, item in items.items() if before.get(name) is not item):
            self._add(folder, name, items[name], changed)

    def _classify(self, entry: os.DirEntry[str], identity: int) -> _Item | None:
        name = entry.name
        other = _Item(identity, _Role.OTHER, -1)
        is_marker = name.endswith(self._markers) and any(
            fnmatch.fnmatch(self._without_marker(name), stem) for stem in self._stems
        )
        if not is_marker and (self.kind.is_temporary(name) or not fnmatch.fnmatch(name, self._last)):
            return other
        try:
            is_directory = entry.is_dir()
            if entry.is_symlink():
                entry.stat()
        except OSError:
            return None
        if is_directory:
            role = _Role.DIRECTORY
        elif is_marker:
            role = _Role.MARKER
        elif self.kind.is_file(name):
            role = _Role.FILE
        else:
            return other
        step = self._step_of(self._without_marker(name) if role is _Role.MARKER else name, is_directory)
        if step is None or not is_text(entry.path):
            return other if role is _Role.MARKER else _Item(identity, _Role.STEPLESS, -1)
        if self._every is not None and step % self._every:
            return other
        return _Item(identity, role, step)

    def _add(self, folder: _Folder, name: str, item: _Item, changed: set[int]) -> None:
        match item.role:
            case _Role.STEPLESS:
                self.ignored.append(os.path.join(folder.path, name))
            case _Role.DIRECTORY:
                self._claim(item.step, Place(flat=False, path=os.path.join(folder.path, name)))
            case _Role.FILE:
                folder.files.setdefault(item.step, set()).add(name)
                self._claim(item.step, self._flat_place(folder, name))
            case _Role.MARKER:
                folder.markers.setdefault(item.step, set()).add(name)
        if item.step >= 0:
            changed.add(item.step)

    def _forget(self, folder: _Folder, name: str, item: _Item, changed: set[int]) -> None:
        if item.step >= 0:
            changed.add(item.step)
        if item.role is _Role.DIRECTORY:
            self._release(item.step, Place(flat=False, path=os.path.join(folder.path, name)))
        elif item.role in {_Role.FILE, _Role.MARKER}:
            names = folder.files if item.role is _Role.FILE else folder.markers
            names[item.step].discard(name)
            is_last = not names[item.step]
            if is_last:
                del names[item.step]
            if item.role is _Role.FILE and (is_last or self.kind.single):
                self._release(item.step, self._flat_place(folder, name))

    def _flat_place(self, folder: _Folder, name: str) -> Place:
        return Place(flat=True, path=folder.path, name=name if self.kind.single else "")

    def _drop(self, folder: _Folder, changed: set[int]) -> None:
        for name, item in folder.items.items():
            self._forget(folder, name, item, changed)
        del self._folders[folder.path]

    def _claim(self, step: int, place: Place) -> None:
        first = self.steps.setdefault(step, place)
        if first == place:
            return
        rivals = self._rivals.setdefault(step, set())
        if place in rivals:
            return
        rivals.add(place)
        self.steps[step], other = sorted((first, place))
        rivals.discard(self.steps[step])
        rivals.add(other)
        self.clashes.append((step, str(self.steps[step]), str(other)))

    def _release(self, step: int, place: Place) -> None:
        rivals = self._rivals.get(step, set())
        rivals.discard(place)
        if self.steps[step] == place:
            del self.steps[step]
            if rivals:
                self.steps[step] = min(rivals)
                rivals.discard(self.steps[step])
        if not rivals:
            self._rivals.pop(step, None)

    def _without_marker(self, name: str) -> str:
        for marker in self._markers:
            name = name.removesuffix(marker)
        return name


def stamp_of(directory: str) -> tuple[int, ...]:
    """What moves when a name comes to a directory or goes. Raises OSError."""
    status = os.stat(directory)
    return status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev


def is_text(path: str) -> bool:
    """True when the path can be written down: a name that is no UTF-8 can be read, but not recorded."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def root_of(pattern: str) -> str:
    """The deepest directory of a glob that has no wildcard in it: what to listen to for events."""
    root = os.path.dirname(pattern)
    while glob.has_magic(root):
        root = os.path.dirname(root)
    return root


def concerns(pattern: str, path: str, *, deep: bool = False) -> bool:
    """True when something at this path may change what the glob matches, or what lies in a match (deep: far down)."""
    parents, found = os.path.dirname(pattern).split(os.sep), path.split(os.sep)
    below = len(found) - len(parents)
    return below >= 1 and (deep or below <= 2) and all(map(fnmatch.fnmatch, found, parents))  # noqa: PLR2004
