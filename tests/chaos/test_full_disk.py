"""The real daemon with its state on a disk that is really full."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from mlflow import MlflowClient

from tests.support.job import METRICWATCH, QUIET, Job, wait_until
from tests.support.mlflow_server import MlflowServer, mlflow_server
from tests.support.ports import free_port

_MEGABYTE = 1_000_000


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """A file system of its own, of so many bytes. Skips where that takes a right we do not have."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    made = subprocess.run(mount, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"cannot mount a small disk: {made.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with mlflow_server(tmp_path_factory.mktemp("tracking")) as server:
        yield server


@pytest.fixture
def job(tmp_path: Path, tracking: MlflowServer) -> Iterator[Job]:
    job = Job(tmp_path / "job", tracking.uri, "full-disk", telemetry={"port": free_port()})
    with small_disk(job.folder / "state", 6 * _MEGABYTE):
        yield job


def fill_up(state: Path) -> Path:
    """Take all that is left of a disk."""
    filler = state / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (65536, 512, 1):
            while True:
                try:
                    file.write(bytes(size))
                except OSError:
                    break
    return filler


def health(job: Job) -> tuple[int, dict[str, object]]:
    try:
        with urlopen(f"http://127.0.0.1:{job.config['telemetry']['port']}/-/healthy", timeout=10) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        return error.code, json.load(error)


def history(job: Job, uri: str) -> list[int]:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(job.config["tracking"]["experiment"])
    runs = client.search_runs([experiment.experiment_id]) if experiment else []
    return sorted(row.step for run in runs for row in client.get_metric_history(run.info.run_id, "quality/ssim"))


def test_a_daemon_outlives_a_full_disk_and_loses_nothing(job: Job, tracking: MlflowServer):
    daemon = job.start()
    try:
        job.write_step(1000)
        daemon.wait_for("ledger.backed_up")
        wait_until(lambda: history(job, tracking.uri) == [1000], what="the first point")
        filler = fill_up(job.folder / "state")
        for step in (2000, 3000):
            job.write_step(step)
        daemon.wait_for("ledger.unavailable")
        status, document = health(job)
        assert status == 503
        assert "disk is full" in str(document["ledger"])
        os.unlink(filler)
        wait_until(lambda: history(job, tracking.uri) == [1000, 2000, 3000], what="the points that waited")
        daemon.wait_for("ledger.available")
        assert health(job)[0] == 200
        assert daemon.stop() == 0
    finally:
        daemon.end()
    assert daemon.log.count("ledger.unavailable") == 1
    assert "Traceback" not in daemon.log


def test_on_a_disk_that_is_full_from_the_start_it_says_so_and_leaves(job: Job, tracking: MlflowServer):
    filler = fill_up(job.folder / "state")
    job.write_step(1000)
    refused = job.call("run", "--once")
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    assert "disk is full" in refused.stderr
    os.unlink(filler)
    assert job.call("run", "--once").returncode == 0


def test_once_gives_up_on_a_disk_that_fills_up_and_goes_on_the_next_time(job: Job):
    job.write_step(1000, marked=False)
    filling = subprocess.Popen(
        [*METRICWATCH, "run", "--once"],
        cwd=job.folder,
        env={**os.environ, **QUIET, "METRICWATCH_WATCH__0__SETTLE": "20s"},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: list((job.folder / "state" / "backups").glob("*.sqlite3")), what="its turning")
    filler = fill_up(job.folder / "state")
    _, said = filling.communicate(timeout=120)
    assert filling.returncode == 1
    assert "nothing is lost: run again when it can be written" in said
    os.unlink(filler)
    assert job.call("run", "--once").returncode == 0
    assert json.loads(job.call("status", "--json").stdout)["jobs"]["done"] == 1


def test_a_daemon_whose_ledger_is_cut_short_does_not_begin_anew(job: Job):
    job.write_step(1000)
    assert job.call("run", "--once").returncode == 0
    ledger = job.folder / "state" / "ledger.sqlite3"
    ledger.write_bytes(ledger.read_bytes()[:10_000])
    refused = job.call("run", "--once")
    assert refused.returncode == 1
    assert "the ledger is damaged" in refused.stderr
    assert "metricwatch restore" in refused.stderr
    restored = job.call("restore")
    assert restored.returncode == 0, restored.stderr
    assert job.call("run", "--once").returncode == 0
