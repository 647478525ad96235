"""A folder as a daemon meets it: training jobs with files on disk, a configuration, and a ledger that knows them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from metricwatch.config.loader import load_config
from metricwatch.config.schema import Config
from metricwatch.records import Evaluation, Job, Score
from metricwatch.store.db import Database
from metricwatch.store.ledger import Ledger
from metricwatch.supervisor.recording import Recorder
from metricwatch.supervisor.workspace import Workspace
from metricwatch.watch.events import EventHints
from metricwatch.watch.fan_out import Fans
from metricwatch.watch.stage import Watcher
from tests.support.photos import write_crops
from tests.support.ports import free_port

_RESCAN_SECONDS = 10.0
_LEASE = timedelta(hours=1)
# Of the pictures that are really scored.
_SIDE = 96


class SkippingClock:
    """The machine's clock with the waiting left out."""

    def __init__(self) -> None:
        self._skipped = 0.0

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self._skipped)

    def monotonic(self) -> float:
        return time.monotonic() + self._skipped

    def skip(self, seconds: float) -> None:
        self._skipped += seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """So many runs, each with so many steps of so many files. Further keys of the configuration are in settings.

    Until prepare() has recorded and scored them the files are news to a daemon; queued of the steps (of all runs) are
    left unscored then, and are due in an hour.
    """

    folder: Path
    tracking: str
    runs: int = 1
    steps: int = 10
    files: int = 10
    queued: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    port: int = field(default_factory=free_port)

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def samples(self, run: int = 0) -> Path:
        """Where the sample sets of a run arrive."""
        return self.folder / "runs" / f"run-{run:05d}" / "samples"

    def config(self) -> Config:
        return load_config(self.folder / "metricwatch.yaml", environ={})

    def write(self) -> None:
        """The configuration, and the files of every step: small ones, that nobody will read."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_crops(self.folder / "content", 4, side=_SIDE, seed=2)
        config = {
            "state": "state",
            "tracking": {"uri": self.tracking, "experiment": "bench"},
            "watch": [
                {
                    "run": {"name": "{run}"},
                    "samples": "runs/{run}/samples/*",
                    "pairs": {"content": "content"},
                    "settle": "1s",
                }
            ],
            "metrics": ["ssim"],
            "rules": [
                {"name": "worse", "metric": "ssim", "moves": "10%", "across": 5},
                {"name": "silent", "stale": "1d"},
            ],
            "pictures": False,
            "telemetry": {"port": self.port},
            **self.settings,
            "worker": {"engine": "eager", "device": "cpu", "idle_exit": "2s", **self.settings.get("worker", {})},
        }
        (self.folder / "metricwatch.yaml").write_text(yaml.safe_dump(config))
        for run in range(self.runs):
            for step in range(self.steps):
                folder = self.samples(run) / f"step_{step:06d}"
                folder.mkdir(parents=True)
                for image in range(self.files):
                    (folder / f"{image:04d}.png").write_bytes(b"image")
            self.samples(run).mkdir(parents=True, exist_ok=True)

    def prepare(self) -> None:
        """Have the watcher record all there is, and score it by a word of ours."""
        config, clock = self.config(), SkippingClock()
        self.state.mkdir(exist_ok=True)
        db = Database.open(self.state)
        try:
            self._record(db, config, clock)
            self._score(db, config, clock)
        finally:
            db.close()

    def new_step(self, writing: Path, *, step: int) -> Path:
        """A sample set of four real pictures, not yet where anybody watches."""
        return write_crops(writing / f"step_{step:06d}", 4, side=_SIDE, seed=2, blur=step % 7 / 10)

    def _record(self, db: Database, config: Config, clock: SkippingClock) -> None:
        fans = Fans(config.watch)
        entries = [*fans.plain, *(entry for _, entry in fans.take(db))]
        hints = EventHints(lambda: None)
        hints.listen = lambda *_, **__: None  # type: ignore[method-assign]
        watcher = Watcher(db, entries, hints, clock, fans=fans)
        watcher.start()
        with db.transaction("bench"):
            recorded = 0
            while recorded < self.runs * self.steps:
                recorded += watcher.tick()
                clock.skip(_RESCAN_SECONDS)
        watcher.close()

    def _score(self, db: Database, config: Config, clock: SkippingClock) -> None:
        sources = {row["source"] for row in db.read("SELECT DISTINCT source FROM snapshots")}
        recorder = recorder_of(db, config, self.state)
        with db.transaction("bench") as tx:
            for _ in range(self.runs * self.steps - self.queued):
                score_next(db, recorder, clock.now(), sources)
            later = int(time.time() * 1000) + 3_600_000
            tx.execute("UPDATE jobs SET not_before_ms = ?, attempt = 1 WHERE state = 'queued'", (later,))
            tx.execute("UPDATE deliveries SET state = 'sent', sent_ms = created_ms WHERE state = 'pending'")


def recorder_of(db: Database, config: Config, state: Path) -> Recorder:
    """What the supervisor writes evaluations down with."""
    return Recorder(
        db,
        prefix=config.tracking.prefix,
        sinks=(config.tracking.sink,),
        picture_sinks=(),
        composites={},
        workspace=Workspace(state),
    )


def score_next(db: Database, recorder: Recorder, now: datetime, sources: Sequence[str] | set[str]) -> Job:
    """Claim the job that is next and end it with a score."""
    job = Ledger(db).claim(now, _LEASE, sources)
    if job is None:
        raise RuntimeError("no job is left to score")
    value = 0.8 + (job.snapshot.step * 7919 % 100) / 10_000
    score = Score(key="ssim", value=value, images=job.snapshot.images, higher_is_better=True, series="bench")
    evaluation = Evaluation(scores=(score,), skipped=(), images=job.snapshot.images, seconds=0.1, provenance={})
    recorder.record(job, evaluation, now, total_steps=None)
    return job


def wait_for_delivery(site: Site, *, seconds: float = 400.0) -> None:
    """Until nothing waits for the tracking server. Raises RuntimeError when time is up."""
    end = time.monotonic() + seconds
    ledger = Database.open_readonly(site.state)
    try:
        while ledger.read("SELECT 1 FROM deliveries WHERE state = 'pending' LIMIT 1"):
            if time.monotonic() > end:
                raise RuntimeError("what the daemon has to say does not reach the tracking server")
            time.sleep(0.2)
    finally:
        ledger.close()
