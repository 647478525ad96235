"""Real workers that crash, hang, stall and run out of memory, under the real supervisor; caches on disks that refuse."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from structlog.testing import capture_logs

from metricwatch import listing
from metricwatch.config.watching import Backlog
from metricwatch.protocol import Configure, Evaluate, Result
from metricwatch.records import JobState, Run
from metricwatch.store.db import Database
from metricwatch.store.ledger import Ledger, Recorded
from metricwatch.store.scores import Scores
from metricwatch.supervisor.process import WorkerProcess
from metricwatch.supervisor.stage import Policy, Supervisor
from metricwatch.testing.clock import FakeClock
from tests.support.job import wait_until
from tests.support.photos import write_crops
from tests.support.worker_client import WorkerClient
from tests.unit.test_evaluate import FD, Bench, only

RUN = Run(key="name:x/night", name="night")
# What it does is written in the names of the images: "segfault-0.png". `once` beside them: only the first time.
FAULTY = """
import ctypes, os, signal, time
from pathlib import Path
from metricwatch.api import MetricSpec, PerImageMetric

class Faulty(PerImageMetric):
    spec = MetricSpec(keys=("faulty",), higher_is_better=False)

    def measure(self, batch):
        kind, _, rest = batch.names[0].partition("-")
        healed = Path(os.environ["FAULTY"], "healed").exists()
        if kind == "segfault":
            ctypes.string_at(0)
        if kind == "killed" and not healed:
            os.kill(os.getpid(), signal.SIGKILL)  # as the kernel's out-of-memory killer does
        while kind == "stall" and not healed:
            time.sleep(0.01)
        if kind == "gulp":
            bytearray(200_000_000 * len(batch.names))
        return [(float(len(batch.names)),)] * len(batch.names)
"""


@pytest.fixture
def plugin(tmp_path: Path) -> dict[str, str]:
    """A package with the metric `faulty`; gives the environment of a process that has it installed."""
    folder = tmp_path / "plugin"
    metadata = folder / "faulty-1.0.dist-info"
    metadata.mkdir(parents=True)
    (folder / "faulty_metric.py").write_text(FAULTY)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[metricwatch.metrics]\nfaulty = faulty_metric:Faulty\n")
    return {"PYTHONPATH": str(folder), "FAULTY": str(tmp_path)}


def write(folder: Path, kind: str, count: int = 2) -> Path:
    folder.mkdir()
    for number in range(count):
        Image.fromarray(np.full((16, 16, 3), 10 * number, np.uint8)).save(folder / f"{kind}-{number}.png")
    return folder


class Scene:
    """The supervisor with its ledger and real workers. The clock stands still unless a test moves it."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        self.folder = folder
        self.clock = FakeClock()
        self.db = Database.open(folder / "state")
        self.ledger = Ledger(self.db)
        self.ledger.register_run(RUN, self.clock.now())
        self.workers: list[WorkerProcess] = []
        self.environ = environ
        entry = SimpleNamespace(source="s", reference=None, pairs=None, target=RUN, backlog=Backlog(), sampler=None)
        self.supervisor = Supervisor(
            self.db,
            entries=[entry],
            metrics=["faulty"],
            prefix="quality",
            sinks=[],
            spawn=self.spawn,
            policy=Policy(
                heartbeat_timeout=timedelta(seconds=60),
                stall_timeout=timedelta(seconds=300),
                idle_exit=timedelta(hours=10),
                recycle_after=500,
            ),
            clock=self.clock,
            state=folder / "state",
            metric_options={},
        )
        self.supervisor.start()

    def spawn(self) -> WorkerProcess:
        configure = Configure(device="cpu", heartbeat_seconds=0.1)
        self.workers.append(WorkerProcess(configure, log_file=self.folder / "worker.log", environ=self.environ))
        return self.workers[-1]

    def add(self, step: int, kind: str) -> None:
        path = write(self.folder / f"step_{step}", kind)
        self.ledger.add_snapshot(
            source="s",
            run=RUN.key,
            step=step,
            path=str(path),
            members=None,
            recorded=Recorded(
                revision=1,
                digest=listing.fingerprint(listing.parts(listing.scan(str(path)))),
                images=2,
                newest_ns=1,
                mtime_ns=1,
            ),
            now=self.clock.now(),
        )

    def until(self, reached: Callable[[], object], what: str) -> None:
        """Tick until it is so. While no worker runs, its pauses pass at once."""

        def tick() -> object:
            self.supervisor.tick()
            if self.supervisor._worker is None:
                self.clock.advance(5)
            return reached()

        wait_until(tick, seconds=180, what=what)

    def scoring(self) -> bool:
        return self.supervisor.progress is not None and self.supervisor.progress.phase == "scoring"

    def count(self, state: JobState) -> int:
        return self.ledger.job_counts()[state]

    def close(self) -> None:
        self.supervisor.close()
        for worker in self.workers:
            worker.kill()
        self.db.close()


@pytest.fixture
def scene(tmp_path: Path, plugin: dict[str, str]) -> Iterator[Scene]:
    (tmp_path / "state").mkdir()
    scene = Scene(tmp_path, plugin)
    yield scene
    scene.close()


def test_a_job_that_crashes_its_worker_twice_is_set_aside_and_the_next_is_scored(scene: Scene) -> None:
    scene.add(1000, "segfault")
    scene.add(2000, "good")
    with capture_logs() as lines:
        scene.until(lambda: scene.count(JobState.DONE), "a scored step")
        scene.until(lambda: scene.count(JobState.QUARANTINED), "a job set aside")
    (line,) = (line for line in lines if line["event"] == "job.quarantined")
    assert line["step"] == 1000
    assert "took its worker down 2 times" in line["reason"]
    assert f"killed by signal {signal.SIGSEGV}" in line["reason"]
    assert Scores(scene.db).newest(RUN.key, "faulty").step == 2000
    assert 2 <= len(scene.workers) <= 3


def test_a_job_whose_worker_the_kernel_killed_once_is_scored_by_the_next(scene: Scene) -> None:
    scene.add(1000, "killed")
    with capture_logs() as lines:
        scene.until(lambda: any(line["event"] == "worker.died" for line in lines), "a killed worker")
        (scene.folder / "healed").touch()
        scene.until(lambda: scene.count(JobState.DONE), "a scored step")
    assert [line["reason"] for line in lines if line["event"] == "worker.died"] == ["the worker was killed by signal 9"]
    assert scene.count(JobState.QUARANTINED) == 0


def test_a_worker_that_hangs_without_a_sign_of_life_is_killed_and_replaced(scene: Scene) -> None:
    scene.add(1000, "stall")
    scene.until(scene.scoring, "a job at work")
    (hung,) = scene.workers
    os.kill(hung.pid, signal.SIGSTOP)
    # What it had said before is heard first.
    wait_until(lambda: stopped(hung.pid), what="a stopped worker")
    scene.supervisor.tick()
    scene.clock.advance(61)
    with capture_logs() as lines:
        scene.supervisor.tick()
    assert "no sign of life for 60 s" in next(line["reason"] for line in lines if line["event"] == "worker.died")
    with pytest.raises(ProcessLookupError):
        os.kill(hung.pid, 0)
    (scene.folder / "healed").touch()
    scene.until(lambda: scene.count(JobState.DONE), "a scored step")
    assert len(scene.workers) == 2


def test_a_worker_that_beats_without_progress_is_killed_and_replaced(scene: Scene) -> None:
    scene.add(1000, "stall")
    scene.until(scene.scoring, "a job at work")
    with capture_logs() as lines:
        for _ in range(7):
            # A real heartbeat each time: silence is not what ends it.
            heard = scene.clock.monotonic()
            wait_until(lambda: scene.supervisor.tick() or scene.supervisor._heard == heard, what="a heartbeat")  # noqa: B023
            scene.clock.advance(50)
        scene.supervisor.tick()
        scene.supervisor.tick()
    reasons = [line["reason"] for line in lines if line["event"] == "worker.died"]
    assert reasons == ["the worker made no progress for 300 s and was killed"]
    (scene.folder / "healed").touch()
    scene.until(lambda: scene.count(JobState.DONE), "a scored step")
    assert scene.count(JobState.QUARANTINED) == 0


def stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux limits the memory of a running process")
def test_a_machine_with_too_little_memory_for_a_batch_scores_it_in_parts(
    start_worker: Callable[..., WorkerClient], plugin: dict[str, str], tmp_path: Path
) -> None:
    """Eight images want 1.6 gigabytes where there is half of one left; two of them fit."""
    worker = start_worker(Configure(device="cpu", heartbeat_seconds=0.2, batch_size=8), environ=plugin)
    warm = worker.evaluate(Evaluate(job=1, path=str(write(tmp_path / "a", "good", 8)), metrics=("faulty",)))
    assert isinstance(warm, Result), warm
    assert warm.evaluation.scores[0].value == 8
    pages = int(Path(f"/proc/{worker.process.pid}/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 700_000_000
    resource.prlimit(worker.process.pid, resource.RLIMIT_AS, (limit, limit))
    reply = worker.evaluate(Evaluate(job=2, path=str(write(tmp_path / "b", "gulp", 8)), metrics=("faulty",)))
    assert isinstance(reply, Result), reply
    (score,) = reply.evaluation.scores
    assert (score.images, score.value) == (8, 2), "each was measured in a batch of two"


# --- caches --------------------------------------------------------------------------------------------------


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"cannot mount a disk: {made.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("trouble", ["read-only", "full", "tiny", "files in the way"])
def test_caches_that_cannot_be_written_cost_time_and_one_line_each(tmp_path: Path, trouble: str) -> None:
    samples = write_crops(tmp_path / "samples", 6, side=48, seed=3)
    reference = write_crops(tmp_path / "reference", 7, side=48, seed=4)
    request = {"reference": reference, "content": samples}
    expected = Bench().evaluate(samples, FD, "ssim", **request)
    cache = tmp_path / "cache"
    cache.mkdir()

    def scored_twice() -> None:
        bench = Bench(cache)
        for _ in range(2):
            found = bench.evaluate(samples, FD, "ssim", **request)
            for key in (FD, "ssim"):
                assert only(found, key).value == only(expected, key).value
        told = [event for event in bench.events() if "cannot be kept" in event]
        assert sorted(told) == [
            "features cannot be kept: what is scored again is computed again",
            "reference statistics cannot be kept: each new worker will compute them anew",
        ]

    if trouble == "files in the way":
        (cache / "references").write_text("")
        (cache / "features.sqlite3").mkdir()
        scored_twice()
        return
    with mounted(cache, {"read-only": "ro", "full": "size=1m", "tiny": "size=40k"}[trouble]):
        if trouble == "full":
            with (cache / "filler").open("wb", buffering=0) as file:
                while True:
                    try:
                        file.write(bytes(4096))
                    except OSError:
                        break
        scored_twice()
