"""Holding on to a checkpoint while it is read: the trainer may remove it, or write it anew, at any moment."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from metricwatch import listing
from metricwatch.errors import InputError, TemporaryError
from metricwatch.protocol import Evaluate
from metricwatch.worker.samples import ChangedError, GoneError

# Another file system; the sysctl fs.protected_hardlinks, or a file system without links; too many links.
_NO_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


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
def pinned(request: Evaluate) -> Iterator[Pinned]:
    """Link the request's files into its pin folder (copy them where links cannot be made) until the context ends.

    Raises GoneError when they are not there any more, ChangedError when they are not those of the request's digest,
    TemporaryError when there is no room for a copy.
    """
    assert request.sampling is not None  # noqa: S101 - whoever pins has a checkpoint
    pins = request.sampling.pins
    # One at a time: what lies here is from a worker that was killed.
    shutil.rmtree(pins, ignore_errors=True)
    folder = os.path.join(pins, f"job-{request.job}")
    whole = request.members is None
    name = os.path.basename(request.path) if whole else (request.members or ("",))[0]
    target = os.path.join(folder, name)
    try:
        try:
            os.makedirs(folder)
            copied = _pin_tree(request.path, target) if whole else _pin(os.path.join(request.path, name), target)
        except OSError as error:
            raise _explained(error, request, name) from error

        def check() -> None:
            if request.digest and _fingerprint(target, whole=whole) != request.digest:
                raise ChangedError(
                    f"{os.path.join(request.path, '' if whole else name)} was written to while it was read"
                )

        if request.digest and _fingerprint(target, whole=whole) != request.digest:
            raise ChangedError(f"checkpoint {name} has changed since it settled")
        yield Pinned(path=target, name=name, copied=copied, check=check)
    finally:
        shutil.rmtree(pins, ignore_errors=True)


def _pin_tree(source: str, target: str) -> int:
    copied = 0
    for entry in listing.tree(source):
        place = os.path.join(target, entry.name)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        copied += _pin(os.path.join(source, entry.name), place)
    return copied


def _pin(source: str, target: str) -> int:
    """Link or copy one file; returns how many bytes were copied. A symbolic link is followed."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
    else:
        return 0
    # With its times: they are part of the digest.
    shutil.copy2(source, target)
    return os.stat(target).st_size


def _fingerprint(target: str, *, whole: bool) -> str:
    if whole:
        return listing.fingerprint(listing.tree(target)) if os.path.isdir(target) else ""
    return listing.fingerprint(listing.entries(*_split(target)))


def _split(path: str) -> tuple[str, list[str]]:
    folder, name = os.path.split(path)
    return folder, [name]


def _explained(error: OSError, request: Evaluate, name: str) -> Exception:
    where = os.path.join(request.path, name) if request.members else request.path
    if isinstance(error, FileNotFoundError):
        if os.path.lexists(where):
            return ChangedError(f"{where} lost files while it was being read")
        if not os.path.isdir(request.path if request.members else os.path.dirname(request.path)):
            return TemporaryError(f"{where}: its folder is not there; is its file system mounted?")
        return GoneError(f"{where} was removed before it was scored")
    if error.errno in _FULL:
        return TemporaryError(
            f"no room to copy {where} into the state folder; put `state` on the file system of the checkpoints, where "
            "a link is enough"
        )
    return InputError(f"cannot read {where}: {error.strerror or error}")
