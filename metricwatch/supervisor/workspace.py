"""The folders below the state folder that a worker uses while it has a checkpoint: links to it, and its pictures."""

from __future__ import annotations

import os
from pathlib import Path

from metricwatch.config.watching import SamplerConfig
from metricwatch.protocol import Sampling
from metricwatch.records import Job
from metricwatch.store.pictures import FOLDER


class Workspace:
    """`<state>/pins` and `<state>/pictures/job-<id>`. Made by the worker when it needs them, never by us."""

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

    def has_picture(self, path: str) -> bool:
        """True for a path in the folder of the pictures, wherever links lead. Others are nothing of ours to send."""
        try:
            real, folder = os.path.realpath(path), os.path.realpath(self._pictures)
        except ValueError:
            # A zero byte, or what cannot be a name in this locale.
            return False
        return os.path.isabs(path) and real.startswith(f"{folder}{os.sep}")
