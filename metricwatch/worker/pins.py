"""Holding on to a checkpoint while it is read: the trainer may remove it, or write it anew, at any moment."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from metricwatch import listing
from metricwatch.errors import InputError, TemporaryError
from metricwatch.protocol import Evaluate
from metricwatch.worker.progress import Progress
from metricwatch.worker.samples import ChangedError, GoneError

# Another file system; the sysctl fs.protected_hardlinks, or a file system without links; too many links.
_NO_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# What trying again does not change. Of all else a disk may think better.
_LASTING = frozenset(
    {errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.E2BIG}
)
# What a copy must leave free: the ledger lies on the same disk.
_RESERVE = 1_000_000_000
_OURS = "job-"
_CHUNK = 64_000_000
_MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    """A checkpoint that stays. path is where to read it, name what people know it by, copied how many bytes of it.

    check() raises ChangedError when it has been written to since: a hard link does not protect from that.
    """

    path: str
    name: str
    copied: int
    check: Callable[[], None]


@contextlib.contextmanager
def pinned(request: Evaluate, progress: Progress) -> Iterator[Pinned]:
    """Link the request's files into its pin folder (copy them where links cannot be made) until the context ends.

    Raises GoneError when they are not there any more, ChangedError when they are not those of the request's digest,
    TemporaryError when there is no room for a copy now, InputError when there will never be or they cannot be read.
    """
    assert request.sampling is not None  # noqa: S101 - whoever pins has a checkpoint
    pins = request.sampling.pins
    # One at a time: what lies here is from a worker that was killed.
    clear(pins)
    folder = os.path.join(pins, f"{_OURS}{request.job}")
    whole = request.members is None
    name = os.path.basename(request.path) if whole else (request.members or ("",))[0]
    source, target = os.path.join(request.path, "" if whole else name).rstrip(os.sep), os.path.join(folder, name)
    try:
        try:
            os.makedirs(folder, exist_ok=True)
            copied = _Pinner(folder, progress).pin(source, target, whole=whole)
        except OSError as error:
            raise _explained(error, request, source) from error

        def check() -> None:
            if request.digest and _fingerprint(target, whole=whole) != request.digest:
                raise ChangedError(f"{source} was written to while it was read")

        if request.digest and _fingerprint(target, whole=whole) != request.digest:
            raise ChangedError(f"checkpoint {name} has changed since it settled")
        yield Pinned(path=target, name=name, copied=copied, check=check)
    finally:
        clear(pins)


def clear(pins: str) -> None:
    """Let go of all that is pinned. The folder stays: it may be a link to a disk with more room, and more in it."""
    with contextlib.suppress(OSError), os.scandir(pins) as found:
        for entry in found:
            if entry.name.startswith(_OURS) and entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)


class _Pinner:
    """Links files, or copies them once one cannot be linked. Raises OSError."""

    def __init__(self, folder: str, progress: Progress) -> None:
        self._folder = folder
        self._progress = progress
        self._copied = 0

    def pin(self, source: str, target: str, *, whole: bool) -> int:
        """Pin a file or a tree; returns how many bytes were copied. A symbolic link is followed."""
        if not whole:
            self._file(source, target, os.stat(source).st_size)
            return self._copied
        entries = listing.everything(source)
        left = sum(entry.size for entry in entries if listing.belongs(entry.name))
        if not any(listing.belongs(entry.name) for entry in entries):
            raise FileNotFoundError(errno.ENOENT, "removed but for its folders", source)
        for entry in entries:
            place = os.path.join(target, entry.name)
            os.makedirs(os.path.dirname(place), exist_ok=True)
            if listing.belongs(entry.name):
                self._file(os.path.join(source, entry.name), place, left)
                left -= entry.size
            else:
                # A user's own loader may want what is no part of the checkpoint for us: a list of classes, a picture.
                with contextlib.suppress(OSError):
                    os.link(os.path.realpath(os.path.join(source, entry.name)), place)
        return self._copied

    def _file(self, source: str, target: str, left: int) -> None:
        """Pin one file. left: the bytes of it and of those that follow."""
        real = os.path.realpath(source)
        if not stat.S_ISREG(os.stat(real).st_mode):
            # Opening a pipe would wait for a writer for ever.
            raise OSError(errno.EISDIR, "not a regular file", source)
        try:
            os.link(real, target)
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
            self._copy(real, target, left)

    def _copy(self, source: str, target: str, left: int) -> None:
        free = shutil.disk_usage(self._folder).free
        if free < left + _RESERVE:
            raise OSError(errno.ENOSPC, f"{left} bytes to copy and {free} free", target)
        if not self._copied:
            self._progress.phase("copying checkpoint", left // _MEGABYTE + 1)
        with open(source, "rb") as reader, open(target, "wb") as writer:
            while chunk := reader.read(_CHUNK):
                writer.write(chunk)
                self._copied += len(chunk)
                self._progress.advance(len(chunk) // _MEGABYTE)
        # With its times: they are part of the digest.
        shutil.copystat(source, target)


def _fingerprint(target: str, *, whole: bool) -> str:
    if whole:
        return listing.fingerprint(listing.tree(target)) if os.path.isdir(target) else ""
    return listing.fingerprint(listing.entries(*_split(target)))


def _split(path: str) -> tuple[str, list[str]]:
    folder, name = os.path.split(path)
    return folder, [name]


def _explained(error: OSError, request: Evaluate, source: str) -> Exception:
    reason = error.strerror or str(error)
    if isinstance(error, FileNotFoundError):
        if os.path.lexists(source) and error.filename != source:
            return ChangedError(f"{source} lost files while it was being read")
        if not os.path.isdir(os.path.dirname(source)):
            return TemporaryError(f"{source}: its folder is not there; is its file system mounted?")
        return GoneError(f"{source} was removed before it was scored")
    if error.errno in _FULL:
        told = f"no room to copy {source} into the state folder: {reason}; keep `state` on the file system of the "
        told += "checkpoints, where a link is enough"
        return TemporaryError(told) if request.patient else InputError(told)
    if error.errno in _LASTING:
        return InputError(f"cannot read {source}: {reason}")
    return TemporaryError(f"cannot read {source} now: {reason}")
