"""Directories that appear whole: written under a hidden name beside their place, made durable, then renamed."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import secrets
import shutil
import socket
import time

from metricwatch.errors import InputError

_SUFFIX = ".tmp"
# Of a writer on another machine nobody can tell from here whether it lives.
_STALE_SECONDS = 3600.0
_OCCUPIED = frozenset({errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR})
# From linux/fcntl.h and linux/fs.h.
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
# What this process is writing now.
_open: set[str] = set()


def stage(place: str) -> str:
    """Make a hidden directory beside the place, on the same file system; returns its path. Raises OSError.

    What dead writers of the same place left behind is removed first.
    """
    parent, name = os.path.split(place)
    os.makedirs(parent, exist_ok=True)
    _clear(parent, name)
    staged = _hidden(place)
    # With the rights that the user's umask gives, unlike tempfile: the daemon may be another user.
    os.mkdir(staged)
    _open.add(staged)
    return staged


def publish(staged: str, place: str, *, replace: bool) -> None:
    """Make a staged directory durable and give it its name. Raises OSError.

    What has the name already is replaced, or without `replace` left alone, with InputError. Where the file system can
    exchange two names (ext4, XFS, Btrfs, tmpfs and most of Linux' own) the name always stands for something whole. On
    others (NFS) there is a moment between two renames in which nothing has the name; whoever dies in it leaves
    both directories hidden.
    """
    _sync_tree(staged)
    try:
        os.rename(staged, place)
    except OSError as error:
        if error.errno not in _OCCUPIED:
            raise
        if not replace:
            raise InputError(f"{place} exists already; give exist_ok=True to replace it") from error
        if not exchange(staged, place):
            _replace(staged, place)
    _sync(os.path.dirname(place))
    # After an exchange the old directory is here.
    discard(staged)


def discard(staged: str) -> None:
    """Remove a staged directory as far as that is possible. The next one for the same place removes the rest."""
    _open.discard(staged)
    if os.path.islink(staged):
        with contextlib.suppress(OSError):
            os.unlink(staged)
    else:
        shutil.rmtree(staged, ignore_errors=True)


def write_file(path: str, content: bytes) -> None:
    """Write a file that must not be there yet; where that fails, nothing is left of it. Raises OSError."""
    with open(path, "xb") as file:
        try:
            file.write(content)
            file.flush()
        except BaseException:
            os.unlink(path)
            raise


def replace_text(path: str, text: str) -> None:
    """Put a line of text into a file, so that a reader sees the old or the new text and never half. Raises OSError."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    hidden = _hidden(os.path.abspath(path))
    try:
        write_file(hidden, f"{text}\n".encode())
        _sync(hidden)
        os.replace(hidden, path)
    except OSError:
        if os.path.exists(hidden):
            os.unlink(hidden)
        raise


def exchange(first: str, second: str) -> bool:
    """Let two paths swap what they stand for, in one step; False where the system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    result = renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), ctypes.c_uint(_RENAME_EXCHANGE))
    return bool(result == 0)


def _replace(staged: str, place: str) -> None:
    aside = _hidden(place)
    os.rename(place, aside)
    try:
        os.rename(staged, place)
    except OSError:
        os.rename(aside, place)
        raise
    discard(aside)


def _hidden(place: str) -> str:
    """A name that the watcher passes over, and that tells who writes there."""
    parent, name = os.path.split(place)
    return os.path.join(parent, f".{name}.{_host()}-{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}")


def _clear(parent: str, name: str) -> None:
    left = re.compile(rf"\.{re.escape(name)}\.(?P<host>\w+)-(?P<pid>\d+)-[0-9a-f]{{8}}{re.escape(_SUFFIX)}", re.ASCII)
    with os.scandir(parent) as entries:
        found = [(entry.path, match) for entry in entries if (match := left.fullmatch(entry.name))]
    for path, match in found:
        if path not in _open and ((match["host"] == _host() and not _lives(int(match["pid"]))) or _is_old(path)):
            discard(path)


def _host() -> str:
    return re.sub(r"[^0-9A-Za-z]", "_", socket.gethostname())[:32] or "host"


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    # What this process has open is known. A restarted container gives the same number to the same program.
    return pid != os.getpid()


def _is_old(path: str) -> bool:
    try:
        return time.time() - os.stat(path).st_mtime > _STALE_SECONDS
    except OSError:
        return False


def _sync_tree(directory: str) -> None:
    for folder, _, names in os.walk(directory, topdown=False):
        for name in names:
            _sync(os.path.join(folder, name))
        _sync(folder)


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot do it for directories, and write them through anyway.
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(descriptor)
