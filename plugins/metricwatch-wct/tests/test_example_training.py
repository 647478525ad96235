"""The example job, into a real MLflow store."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from metricwatch.api import Checkpoint
from mlflow import MlflowClient
from PIL import Image

from metricwatch_wct import example_training
from metricwatch_wct.sampler import WctOptions, WctSampler


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> str:
    """One store for all: making its tables is what takes long."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def job(tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Runs a job with these arguments in this process; its files are below tmp_path."""
    chance = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for name, size in (("a.png", (80, 96, 3)), ("small.jpg", (40, 50, 3))):
        Image.fromarray(chance.integers(256, size=size, dtype=np.uint8)).save(tmp_path / "pictures" / name)
    (tmp_path / "pictures" / "notes.txt").write_text("no picture")

    def run(*more: str) -> None:
        arguments = (
            *("example", "--tracking-uri", store, "--experiment", "night", "--run-name", "wct"),
            *("--run-id-file", str(tmp_path / "run" / "id"), "--checkpoints", str(tmp_path / "run" / "checkpoints")),
            *("--pictures", str(tmp_path / "pictures"), "--encoder", "st-vgg16", "--save-every", "2", *more),
        )
        monkeypatch.setattr(sys, "argv", list(arguments))
        with torch.random.fork_rng():
            example_training.main()

    before = signal.getsignal(signal.SIGTERM)
    yield run
    signal.signal(signal.SIGTERM, before)


def test_a_job_logs_its_curves_saves_checkpoints_and_ends_its_run(job, store, tmp_path, monkeypatch):
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    job("--steps", "4", "--accident-at", "3", "--accident", "50", "--seconds-per-step", "2000")
    assert [1900 < seconds < 2000 for seconds in slept if seconds > 100] == [True] * 4
    client = MlflowClient(tracking_uri=store)
    run = client.get_run((tmp_path / "run" / "id").read_text().strip())
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "wct"
    rates = client.get_metric_history(run.info.run_id, "train/learning_rate")
    assert [point.step for point in rates] == [1, 2, 3, 4]
    assert [point.value for point in rates] == pytest.approx([1e-3, 1e-3, 5e-2, 5e-2])
    assert len(client.get_metric_history(run.info.run_id, "train/pixels")) == 4
    checkpoints = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert checkpoints == ["step_000002.pt", "step_000004.pt"]
    opened(tmp_path / "run" / "checkpoints" / "step_000004.pt")


def test_a_job_that_is_told_to_stop_ends_its_run_as_failed(job, store, tmp_path, monkeypatch):
    save = example_training.save_atomically

    def save_and_be_stopped(file, checkpoint):
        save(file, checkpoint)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(example_training, "save_atomically", save_and_be_stopped)
    with pytest.raises(SystemExit) as raised:
        job("--steps", "100")
    assert raised.value.code == 143
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step_000002.pt"]
    opened(tmp_path / "run" / "checkpoints" / "step_000002.pt")
    identity = (tmp_path / "run" / "id").read_text().strip()
    assert MlflowClient(tracking_uri=store).get_run(identity).info.status == "FAILED"


def test_without_pictures_it_says_so_and_starts_no_run(job, tmp_path):
    for path in (tmp_path / "pictures").iterdir():
        path.unlink()
    with pytest.raises(SystemExit, match="no PNG or JPEG picture"):
        job()
    assert not (tmp_path / "run" / "id").exists()


def opened(path: Path) -> None:
    sampler = WctSampler(WctOptions(encoder="st-vgg16"))
    sampler.open(Checkpoint(path=str(path), name=path.name), "cpu")
    sampler.close()
