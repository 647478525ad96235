"""A training job that writes samples as jobs do: slowly, under temporary names, over old ones; and what it meant.

Every writer is a generator that yields the seconds until it goes on. It pauses longer than the quiet time only where
it protects what it writes: under a temporary name, or in a directory that has not got its name yet.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

IN_PLACE = ("slow", "truncate", "marked", "copied", "restarted")
DIRECTORY_ONLY = ("file by file", "directory", "elsewhere")
KINDS = (*IN_PLACE, *DIRECTORY_ONLY)


@dataclass(frozen=True, slots=True)
class Write:
    """One complete version of a step, or what else a job does to it."""

    kind: str
    step: int
    files: int
    chunks: int
    pauses: tuple[float, ...]
    protected: float
    rest: float
    late_directory_time: bool = False


@dataclass(slots=True)
class Model:
    """What is complete: all versions of each step, and the last one where it is still there."""

    versions: dict[int, list[dict[str, bytes]]] = field(default_factory=dict)
    current: dict[int, dict[str, bytes]] = field(default_factory=dict)


class Writer:
    """Writes below root. tell(path, renamed) is called for each thing that the kernel would tell of."""

    def __init__(self, root: Path, wall_ns: Callable[[], int], tell: Callable[[str, bool], None]) -> None:
        self.root = root
        self.staging = root.parent / "staging"
        self.staging.mkdir()
        self.model = Model()
        self._wall_ns = wall_ns
        self._tell = tell
        self._count = 0
        self._names: dict[int, set[str]] = {}

    def directory(self, step: int) -> Path:
        return self.root / f"step_{step:06d}"

    def perform(self, write: Write, form: str) -> Iterator[float]:
        """Write a version as `write` says, into a step of this form: directory, flat, or link."""
        pauses = _Pauses(write.pauses)
        kind = write.kind if form == "directory" or write.kind in IN_PLACE else "slow"
        version = self._version(write.step, write.files, form)
        if write.step in self._names:
            # No job is so quick that a new write has the time of the last one.
            _await_tick(self.staging)
        if write.kind == "removed":
            yield from self._remove(write.step, form, pauses)
            return
        self.model.current.pop(write.step, None)
        match kind:
            case "directory" | "elsewhere":
                yield from self._move_in(write, version)
            case "file by file":
                yield from self._file_by_file(write, version, pauses)
            case _:
                yield from self._in_place(kind, write, version, form, pauses)
        self._names[write.step] = set(version)
        self.model.versions.setdefault(write.step, []).append(version)
        self.model.current[write.step] = version

    def _version(self, step: int, files: int, form: str) -> dict[str, bytes]:
        prefix = f"{step:06d}_" if form == "flat" else ""
        version = {}
        for n in range(files):
            self._count += 1
            # Each is longer than any before it: a rewrite that keeps size and time cannot be told by anybody.
            version[f"{prefix}{n}.png"] = f"step {step} file {n} ".encode().ljust(40 + self._count, b"%d" % (n % 10))
        return version

    def _folder(self, step: int, form: str) -> Path:
        if form == "flat":
            return self.root
        if form == "directory":
            self.directory(step).mkdir(exist_ok=True)
            return self.directory(step)
        # A link to a directory elsewhere; it may be there before what it leads to.
        target = self.staging / f"linked_{step}"
        if not self.directory(step).is_symlink():
            self.directory(step).symlink_to(target)
            self._tell(str(self.directory(step)), False)
        target.mkdir(exist_ok=True)
        return target

    def _in_place(
        self, kind: str, write: Write, version: dict[str, bytes], form: str, pauses: _Pauses
    ) -> Iterator[float]:
        if kind == "restarted":
            yield from self._remove(write.step, form, pauses)
        folder = self._folder(write.step, form)
        self._tell(str(folder), False)
        yield pauses.next()
        marker = folder / (f"{write.step:06d}.done" if form == "flat" else ".done")
        if folder != self.root or marker.exists():
            # No job is so quick that a new write has the time of the last one's marker or rename.
            _await_tick(self.staging)
        if kind == "copied":
            # As rsync does: the marker first, all with the times of the original.
            self._write(marker, b"", age=1)
            _await_tick(self.staging)
        for n, (name, content) in enumerate(version.items()):
            path = folder / name
            if kind == "copied":
                hidden = path.with_name(f".{path.name}.Xy12")
                self._write(hidden, content, age=1000 - n)
                hidden.rename(path)
                self._tell(str(path), False)
            else:
                yield from self._grow(path, content, write.chunks, pauses)
            yield pauses.next()
        for name in self._names.get(write.step, set()) - version.keys():
            (folder / name).unlink(missing_ok=True)
            self._tell(str(folder / name), False)
            yield pauses.next()
        if kind == "marked":
            self._write(marker, b"")

    def _grow(self, path: Path, content: bytes, chunks: int, pauses: _Pauses) -> Iterator[float]:
        size = -(-len(content) // chunks)
        self._write(path, b"")
        for end in range(size, len(content) + size, size):
            yield pauses.next()
            self._write(path, content[:end])

    def _file_by_file(self, write: Write, version: dict[str, bytes], pauses: _Pauses) -> Iterator[float]:
        folder = self._folder(write.step, "directory")
        _await_tick(self.staging)
        extra = self._names.get(write.step, set()) - version.keys()
        for name, content in version.items():
            unfinished = folder / f"{name}.part"
            self._write(unfinished, content[: len(content) // 2])
            for gone in extra:
                (folder / gone).unlink(missing_ok=True)
                self._tell(str(folder / gone), False)
            extra = set()
            yield write.protected
            self._write(unfinished, content)
            yield pauses.next()
            unfinished.rename(folder / name)
            self._tell(str(folder / name), False)
            yield pauses.next()

    def _move_in(self, write: Write, version: dict[str, bytes]) -> Iterator[float]:
        inside = write.kind == "directory"
        source = self.root / f".step_{write.step}" if inside else self.staging / f"step_{write.step}"
        source.mkdir()
        for name, content in version.items():
            self._write(source / name, content[: len(content) // 2])
            yield write.protected
            self._write(source / name, content)
        target = self.directory(write.step)
        if target.exists():
            target.rename(self.staging / f"old_{self._count}")
            self._tell(str(target), False)
        if write.late_directory_time:
            _await_tick(self.staging)
        source.rename(target)
        self._tell(str(target), inside)

    def _remove(self, step: int, form: str, pauses: _Pauses) -> Iterator[float]:
        self.model.current.pop(step, None)
        folder = self.root if form == "flat" else self.directory(step)
        marker = folder / (f"{step:06d}.done" if form == "flat" else ".done")
        # The marker goes first, as a careful job does; `rm -r` goes by any order.
        for path in [marker, *(folder / name for name in sorted(self._names.get(step, ())))]:
            if path.exists():
                path.unlink()
                self._tell(str(path), False)
                yield pauses.next()
        self._names.pop(step, None)
        if form == "directory" and folder.exists():
            shutil.rmtree(folder)
            self._tell(str(folder), False)

    def _write(self, path: Path, content: bytes, age: float = 0.0) -> None:
        self._count += 1
        path.write_bytes(content)
        moment = self._wall_ns() - round(age * 1e9) + self._count
        os.utime(path, ns=(moment, moment))
        self._tell(str(path), False)


class _Pauses:
    def __init__(self, pauses: tuple[float, ...]) -> None:
        self._pauses = pauses
        self._n = 0

    def next(self) -> float:
        self._n += 1
        return self._pauses[self._n % len(self._pauses)]


def _await_tick(folder: Path) -> None:
    """Return when a file written now has a later time than any written before: the kernel counts in milliseconds."""
    probe = folder / ".clock"
    probe.touch()
    before = probe.stat().st_ctime_ns
    # The kernel counts finely only for a file that somebody looked at, so a fresh one tells of the coarse clock.
    while True:
        probe.unlink()
        probe.touch()
        if probe.stat().st_ctime_ns > before:
            break
        time.sleep(0.0005)
