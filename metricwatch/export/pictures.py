"""The second queue of a sink: pictures, which never hold up a point."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import structlog

from metricwatch import faults
from metricwatch.api import Sink
from metricwatch.clock import LONGEST_WAIT, Clock, backoff
from metricwatch.errors import InputError, LedgerError, PermanentError, RunGoneError, TemporaryError
from metricwatch.export.remote import RemoteRuns
from metricwatch.store.db import Database
from metricwatch.store.pictures import FOLDER, PictureDelivery, Pictures

log = structlog.get_logger(__name__)

# Slower than points: what keeps a picture away is an artifact store that is broken or full, until somebody mends it.
_FIRST_RETRY = timedelta(seconds=2)
_MOST_RETRY = timedelta(minutes=5)
_AT_ONCE = 100
# Short: points that arrive meanwhile wait for the end of it.
_TURN_SECONDS = 2.0
# A backlog that nobody takes must not fill the disk.
_MOST_WAITING = 10_000
_CAP_SECONDS = 60.0
_MOST_BYTES = 256_000_000
# The file will not be there, or readable, later either. Anything else is a disk that has trouble.
_FOR_EVER = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO}
)


class PictureExporter:
    """The only writer of the states of pictures, and the one that removes their files.

    A file goes after the commit by which nothing waits for it any more; what a crash leaves in between is removed by
    upkeep.
    """

    def __init__(self, db: Database, runs: RemoteRuns, clock: Clock) -> None:
        self._pictures = Pictures(db)
        self._folder = db.path.parent / FOLDER
        self._runs = runs
        self._clock = clock
        self._next_cap = 0.0
        # The run that each sink served last.
        self._served: dict[str, str] = {}

    def drain(self, name: str, sink: Sink) -> int:
        """Give the pictures of one run a short turn; returns how many were sent or rejected.

        Raises LedgerError when the outcome cannot be noted: the picture goes again, which is harmless.
        """
        if not sink.takes_pictures:
            return 0
        due = self._pictures.due(name, self._clock.now(), _AT_ONCE, after=self._served.get(name, ""))
        end = self._clock.monotonic() + _TURN_SECONDS
        settled = 0
        for delivery in due:
            self._served[name] = delivery.run
            if not self._attempt(name, sink, delivery):
                break
            settled += 1
            if self._clock.monotonic() >= end:
                break
        return settled

    def cap(self) -> int:
        """Now and then: reject the oldest of a backlog that has grown too long; returns how many."""
        if self._clock.monotonic() < self._next_cap:
            return 0
        self._next_cap = self._clock.monotonic() + _CAP_SECONDS
        rejected = 0
        for (sink, run), paths in self._pictures.cap(_MOST_WAITING).items():
            reason = f"more than {_MOST_WAITING:,} wait: the oldest are given up"
            log.error("pictures.rejected", sink=sink, run=self._runs.name(run), count=len(paths), reason=reason)
            self._remove(paths)
            rejected += len(paths)
        return rejected

    def _attempt(self, name: str, sink: Sink, delivery: PictureDelivery) -> bool:
        """Send a picture; True when it is settled: sent or rejected."""
        try:
            png = _read(delivery.path)
            run_id = self._runs.id_of(name, sink, delivery.run)
            self._write(sink, run_id, delivery, png)
        except LedgerError:
            raise
        except InputError as error:
            self._reject(delivery, str(error))
        except TemporaryError as error:
            self._postpone(delivery, str(error), error.retry_after)
            return False
        except PermanentError as error:
            # The picture is good, the run is not: it waits until somebody restores it or mends the configuration.
            self._postpone(delivery, str(error), _MOST_RETRY)
            return False
        except Exception as error:
            # A plugin that breaks its contract must not stop the daemon.
            log.exception("picture.failed", sink=name)
            self._postpone(delivery, f"{type(error).__name__}: the sink failed in a way it should not")
            return False
        return True

    def _write(self, sink: Sink, run_id: str, delivery: PictureDelivery, png: bytes) -> None:
        try:
            faults.reached("picture:unsent")
            sink.write_picture(run_id, delivery.picture, png)
            faults.reached("picture:unmarked")
        except RunGoneError:
            raise
        except PermanentError as error:
            self._reject(delivery, str(error))
            return
        self._pictures.sent(delivery, self._clock.now())
        self._remove([delivery.path])

    def _reject(self, delivery: PictureDelivery, reason: str) -> None:
        self._pictures.reject(delivery, reason)
        run = self._runs.name(delivery.run)
        log.error("picture.rejected", sink=delivery.sink, run=run, picture=delivery.identity, reason=reason)
        self._remove([delivery.path])

    def _postpone(self, delivery: PictureDelivery, reason: str, retry_after: timedelta | None = None) -> None:
        wait = min(retry_after or backoff(delivery.attempts + 1, first=_FIRST_RETRY, most=_MOST_RETRY), LONGEST_WAIT)
        self._pictures.postpone(delivery, reason, self._clock.now() + wait)
        run = self._runs.name(delivery.run)
        log.warning("picture.postponed", sink=delivery.sink, run=run, reason=reason, seconds=wait.total_seconds())

    def _remove(self, paths: Iterable[str]) -> None:
        """Remove the files that nobody waits for, with their folders where these are empty then."""
        gone = set(paths)
        for path in map(Path, gone - self._pictures.awaited(gone)):
            # A row may name a file that is not ours to remove.
            if ".." in path.parts or self._folder not in path.parents:
                continue
            # What cannot be removed now is left to upkeep.
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            if path.parent != self._folder:
                with contextlib.suppress(OSError):
                    path.parent.rmdir()


def _read(path: str) -> bytes:
    """The file's content. Raises InputError where it is not there or cannot be read, TemporaryError on disk trouble."""
    try:
        # A pipe nobody writes to would block for ever.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK | os.O_NOFOLLOW)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"{path}: is no regular file")
            if status.st_size > _MOST_BYTES:
                raise InputError(f"{path}: has {status.st_size:,} bytes, more than {_MOST_BYTES:,}")
            return file.read(_MOST_BYTES)
    except OSError as error:
        kind = InputError if error.errno in _FOR_EVER else TemporaryError
        raise kind(f"{path}: {error.strerror}") from error
