"""Figures from a real worker's evaluations to MLflow's own files: drawn by the drawing process, each once."""

from __future__ import annotations

import io
import os
import shutil
import signal
from collections import Counter
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image

from tests.support.job import Job
from tests.support.mlflow_pictures import read_pictures
from tests.support.mlflow_server import MlflowServer

FD = "fd_efficientnet_lite0"
KINDS = ("contact_sheet", "comparison", "radar", "lookalikes")


@pytest.fixture
def job(tmp_path: Path, tracking_server: MlflowServer, request: pytest.FixtureRequest) -> Job:
    name = f"figures-{os.getpid()}-{request.node.name}"
    return Job(tmp_path / "job", tracking_server.uri, name, metrics=[FD, "ssim"], pictures={"samples": 6})


def run_of(job: Job) -> Run:
    client = MlflowClient(job.config["tracking"]["uri"])
    experiment = client.get_experiment_by_name(job.config["tracking"]["experiment"])
    return client.search_runs([experiment.experiment_id])[0] if experiment else None


def pictures(job: Job, folder: Path) -> list[tuple[str, int, bytes]]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    run = run_of(job)
    return read_pictures(job.config["tracking"]["uri"], run.info.run_id, folder) if run else []


def test_an_evaluation_becomes_four_pictures_at_its_step_and_says_which_step_is_best(job, tmp_path):
    job.write_step(1000, blur=3)
    job.write_step(2000)
    done = job.call("run", "--once")
    assert done.returncode == 0, done.stderr
    found = pictures(job, tmp_path / "downloads")
    assert sorted((key, step) for key, step, _ in found) == sorted(
        (f"quality/{kind}", step) for kind in KINDS for step in (1000, 2000)
    )
    for key, _, content in found:
        image = Image.open(io.BytesIO(content))
        assert image.width > 200, key
        assert len(image.convert("L").getcolors(256)) > 10, key
    data = run_of(job).data
    assert data.tags["metricwatch.best.ssim"].startswith("step 2,000: ")
    assert data.tags[f"metricwatch.best.{FD}"].startswith("step 2,000: ")
    assert " ± " in data.tags["metricwatch.best.ssim"]
    assert "metricwatch.best_checkpoint.ssim" not in data.tags
    assert data.metrics["quality/images"] == 16
    assert 0 < data.metrics["quality/evaluation_seconds"] < 120
    # What they were drawn from is gone, and so are their files.
    left = [path for name in ("looks", "pictures") for path in (job.folder / "state" / name).rglob("*")]
    assert left == []
    assert "figure" not in job.call("status").stdout


def test_a_daemon_killed_at_the_worst_moments_of_drawing_logs_each_picture_once(job, tmp_path):
    job.write_step(1000)
    for point in ("figure:unrecorded", "figure:uncleared"):
        killed = job.call("run", "--once", METRICWATCH_FAULT=f"kill {point} 1")
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert job.call("run", "--once").returncode == 0
    found = pictures(job, tmp_path / "downloads")
    assert Counter((key, step) for key, step, _ in found) == {(f"quality/{kind}", 1000): 1 for kind in KINDS}
