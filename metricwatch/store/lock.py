"""One daemon a ledger, held by the kernel: a lock of a killed process is gone with it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from pathlib import Path
from typing import Self

from metricwatch.errors import LedgerError, LedgerUnavailableError, LockedError

FILE_NAME = "daemon.lock"


class DaemonLock:
    """The right to write a ledger. Raises LockedError, naming the owner, when another process has it."""

    def __init__(self, state: Path) -> None:
        path = self._path = state / FILE_NAME
        try:
            state.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise LedgerError(
                f"{state}: cannot use this state folder: {error.strerror}; "
                "make it writable or name another with `state:`"
            ) from error
        try:
            self._acquire()
        except OSError as error:
            owner = os.pread(self._fd, 200, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._fd)
            raise LockedError(
                f"{state}: another metricwatch daemon owns this ledger ({owner}); "
                "stop it first, or give this one its own `state:` folder"
            ) from error
        # On a full disk nobody learns who the owner is; it is the owner all the same.
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"pid {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def check(self) -> None:
        """Raise LedgerError when the state folder was removed or replaced: what we write would be lost, or doubled."""
        try:
            there = os.stat(self._path)
        except FileNotFoundError:
            there = None
        except OSError as error:
            raise LedgerUnavailableError(f"{self._path}: {error.strerror}") from error
        ours = os.fstat(self._fd)
        if there is None or (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
            raise LedgerError(
                f"{self._path.parent}: this state folder was removed or replaced while the daemon ran; it stops here"
            )

    def _acquire(self) -> None:
        # owner() below holds the lock for an instant when it looks: one more try tells a look from a daemon.
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(0.1)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def release(self) -> None:
        os.ftruncate(self._fd, 0)
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()


def owner(state: Path) -> str | None:
    """Who runs a daemon on this state folder right now, or None. Takes no lock that would disturb it."""
    try:
        fd = os.open(state / FILE_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return os.pread(fd, 200, 0).decode(errors="replace").strip() or "unknown"
    else:
        return None
    finally:
        os.close(fd)
