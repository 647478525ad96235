"""The folders below the state folder that a worker uses: links to its checkpoint, pictures, materials of figures."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import structlog

from metricwatch.config.watching import SamplerConfig
from metricwatch.protocol import Sampling
from metricwatch.records import Job
from metricwatch.store import figures, pictures

log = structlog.get_logger(__name__)

_OF_A_JOB = re.compile(r"job-\d+")


class Workspace:
    """A folder `job-<id>` in each of `<state>/pins`, `pictures` and `looks`; the worker makes it when it needs it."""

    def __init__(self, state: Path) -> None:
        self._pins = state / "pins"
        self._pictures = state / pictures.FOLDER
        self._looks = state / figures.FOLDER

    def sampling(self, job: Job, sampler: SamplerConfig, *, wanted: bool) -> Sampling:
        """How the worker makes images of a job's checkpoint. wanted: whether anybody wants to look at some."""
        return Sampling(
            use=sampler.use,
            options=sampler.options,
            samples=sampler.samples,
            seed=sampler.seed,
            keep=sampler.keep if wanted else 0,
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
        return _lies_in(path, self._pictures)

    def look_folder(self, job: int) -> str:
        """Where the worker leaves what figures of a job are drawn from."""
        return str(self._looks / f"job-{job}")

    def has_look(self, path: str, job: int) -> bool:
        """True for a path in that folder, wherever links lead."""
        return _lies_in(path, self._looks / f"job-{job}")


def _lies_in(path: str, folder: Path) -> bool:
    try:
        real, within = os.path.realpath(path), os.path.realpath(folder)
    except ValueError:
        # A zero byte, or what cannot be a name in this locale.
        return False
    return os.path.isabs(path) and real.startswith(f"{within}{os.sep}")


def _told(path: str, error: OSError) -> None:
    log.warning("pins.not_removed", path=path, reason=error.strerror or str(error), consequence="they keep their space")
