"""The folders below the state folder that a worker uses while it has a checkpoint: links to it, and its pictures."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import structlog

from metricwatch.config.watching import SamplerConfig
from metricwatch.protocol import Sampling
from metricwatch.records import Job
from metricwatch.store.pictures import FOLDER

log = structlog.get_logger(__name__)

_OF_A_JOB = re.compile(r"job-\d+")


class Workspace:
    """`<state>/pins/job-<id>` and `<state>/pictures/job-<id>`. Made by the worker when it needs them, never by us."""

    def __init__(self, state: Path) -> None:
        self._pins = state / "pins"
        self._pictures = state / FOLDER

    def sampling(self, job: Job, sampler: SamplerConfig, *, pictures: bool) -> Sampling:
        """How the worker makes images of a job's checkpoint. pictures: whether anybody wants to look at some."""
        return Sampling(
            use=sampler.use,
            options=sampler.options,
            samples=sampler.samples,
            seed=sampler.seed,
            keep=sampler.keep if pictures else 0,
            kept=str(self._pictures / f"job-{job.id}"),
            batch_size=sampler.batch_size,
            pins=str(self._pins),
        )

    def unpin(self) -> None:
        """Remove what a worker that is no more had pinned: it keeps the disk space of checkpoints that are gone.

        The folder itself stays, for it may be a link to another disk, and what is there beside jobs is not ours.
        Trouble is logged.
        """
        try:
            with os.scandir(self._pins) as found:
                pinned = [item for item in found if _OF_A_JOB.fullmatch(item.name)]
        except FileNotFoundError:
            return
        except OSError as error:
            _told(str(self._pins), error)
            return
        for item in pinned:
            try:
                if item.is_dir(follow_symlinks=False):
                    shutil.rmtree(item.path)
                else:
                    os.unlink(item.path)
            except FileNotFoundError:
                continue
            except OSError as error:
                _told(item.path, error)

    def has_picture(self, path: str) -> bool:
        """True for a path in the folder of the pictures, wherever links lead. Others are nothing of ours to send."""
        try:
            real, folder = os.path.realpath(path), os.path.realpath(self._pictures)
        except ValueError:
            # A zero byte, or what cannot be a name in this locale.
            return False
        return os.path.isabs(path) and real.startswith(f"{folder}{os.sep}")


def _told(path: str, error: OSError) -> None:
    log.warning("pins.not_removed", path=path, reason=error.strerror or str(error), consequence="they keep their space")
