"""Files that nobody waits for: what a crash left between a commit and what follows from it."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from datetime import timedelta
from typing import ClassVar

import structlog

from metricwatch.clock import Clock
from metricwatch.store.db import Database
from metricwatch.store.figures import FOLDER as MATERIALS
from metricwatch.store.figures import Figures
from metricwatch.store.housekeeping import Housekeeping
from metricwatch.store.pictures import FOLDER as PICTURES
from metricwatch.store.pictures import Pictures

log = structlog.get_logger(__name__)

# Whoever writes a picture, or has just finished one, is not disturbed.
_OLD = timedelta(hours=1)
_AT_ONCE = 1000
_OF_A_JOB = re.compile(r"job-(\d+)")


class _Stray(ABC):
    """What lies in a folder of the state folder, in a folder for each job, and who still needs it."""

    folder: ClassVar[str]
    event: ClassVar[str]

    def __init__(self, db: Database, clock: Clock) -> None:
        self._store = Housekeeping(db)
        self._folder = str(db.path.parent / self.folder)
        self._clock = clock

    @abstractmethod
    def _awaited(self, path: str, job: int | None) -> bool:
        """True while somebody waits for this file, which is in that job's folder."""

    def remove(self) -> int:
        """Remove some of the old files, and empty old folders, that nobody waits for; returns how many.

        The folder of a job that is queued or at work is left alone, whatever its age.
        """
        before = (self._clock.now() - _OLD).timestamp()
        # In this order. A job that ends between the two has its pictures waiting by then.
        found = list(self._old(before))
        if not found:
            return 0
        at_work = self._store.open_jobs()
        count = 0
        for path, is_folder in found:
            if count == _AT_ONCE:
                break
            job = self._job(path)
            if job not in at_work and (is_folder or not self._awaited(path, job)):
                count += _removed(path, is_folder=is_folder)
        if count:
            log.info(self.event, folder=self._folder, count=count)
        return count

    def _old(self, before: float) -> Iterator[tuple[str, bool]]:
        """Old files, and old folders after what is in them: True for a folder."""
        for folder, folders, names in os.walk(self._folder, topdown=False):
            paths = [os.path.join(folder, name) for name in (*names, *folders)]
            # A link to a folder is not walked into; a folder has had its turn.
            for path in (path for path in paths if not os.path.isdir(path) or os.path.islink(path)):
                if _changed(path) < before:
                    yield path, False
            if folder != self._folder and _changed(folder) < before:
                yield folder, True

    def _job(self, path: str) -> int | None:
        """The job whose folder this is in."""
        of_a_job = _OF_A_JOB.fullmatch(os.path.relpath(path, self._folder).split(os.sep)[0])
        return int(of_a_job[1]) if of_a_job else None


class StrayPictures(_Stray):
    """Pictures that wait for no sink."""

    folder = PICTURES
    event = "pictures.stray_removed"

    def __init__(self, db: Database, clock: Clock) -> None:
        super().__init__(db, clock)
        self._pictures = Pictures(db)

    def _awaited(self, path: str, job: int | None) -> bool:  # noqa: ARG002 - a picture is awaited by its own name
        return bool(self._pictures.awaited([path]))


class StrayMaterials(_Stray):
    """What no figure is to be drawn from any more."""

    folder = MATERIALS
    event = "figures.stray_removed"

    def __init__(self, db: Database, clock: Clock) -> None:
        super().__init__(db, clock)
        self._figures = Figures(db)

    def _awaited(self, path: str, job: int | None) -> bool:  # noqa: ARG002 - any figure of a job may need any of it
        return job is not None and bool(self._figures.awaited([job]))


def _changed(path: str) -> float:
    try:
        return os.lstat(path).st_mtime
    except OSError:
        return float("inf")


def _removed(path: str, *, is_folder: bool) -> bool:
    try:
        (os.rmdir if is_folder else os.unlink)(path)
    except OSError:
        # A folder that is not empty, or what is gone already, or may not be removed.
        return False
    return True
