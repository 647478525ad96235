"""The daemon with many metrics: composites, options, manifests, series and states, down to MLflow's own records."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from PIL import Image

from tests.support.job import Job
from tests.support.mlflow_server import MlflowServer
from tests.support.photos import write_crops

FD = "fd_efficientnet_lite0"


@pytest.fixture
def job(tmp_path: Path, tracking_server: MlflowServer, request: pytest.FixtureRequest) -> Job:
    job = Job(
        tmp_path / "job",
        tracking_server.uri,
        f"metrics-{os.getpid()}-{request.node.name}",
        metrics=[FD, "precision_efficientnet_lite0", "ssim", "st_lpips", {"st_gram_style_loss": {"normalise": "hw"}}],
        composites={"balance": f"0.8*(1 - p)*(1 - ssim) + (0.6*p + 0.2)*{FD}/100"},
        rules=[{"name": "broken", "metric": FD, "state": ["collapsed", "non_finite"]}],
    )
    write_crops(job.folder / "style", 16, side=64, seed=7)
    entry = job.config["watch"][0]
    entry["run"]["total_steps"] = 4000
    entry["pairs"]["style"] = "style"
    job.write_config()
    return job


def run_of(job: Job):
    client = MlflowClient(job.config["tracking"]["uri"])
    experiment = client.get_experiment_by_name(job.config["tracking"]["experiment"])
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def series(job: Job) -> Callable[[str], dict[int, float]]:
    client = MlflowClient(job.config["tracking"]["uri"])
    run_id = run_of(job).info.run_id
    return lambda key: {row.step: row.value for row in client.get_metric_history(run_id, key)}


def once(job: Job) -> None:
    done = job.call("run", "--once", timeout=300)
    assert done.returncode == 0, done.stderr


def test_all_scores_arrive_and_a_composite_follows_the_training(job: Job) -> None:
    for step in (1000, 3000):
        job.write_step(step, blur=step / 2000)
    once(job)
    value = series(job)
    assert {"st_gram_style_loss", "st_gram_style_loss_relu3_1", "precision_efficientnet_lite0"} <= {
        key.removeprefix("quality/") for key in run_of(job).data.metrics
    }
    for step, p in ((1000, 0.25), (3000, 0.75)):
        ssim, distance = value("quality/ssim")[step], value(f"quality/{FD}")[step]
        expected = 0.8 * (1 - p) * (1 - ssim) + (0.6 * p + 0.2) * distance / 100
        assert value("quality/composite_balance")[step] == pytest.approx(expected, rel=1e-9)
        assert value("quality/composite_balance_stderr")[step] > 0


def test_a_changed_reference_starts_a_new_series_that_everybody_sees(job: Job) -> None:
    job.write_step(1000)
    once(job)
    before = run_of(job).data.tags[f"metricwatch.series.{FD}"]
    write_crops(job.reference, 24, side=96, seed=99)
    job.write_step(2000)
    once(job)
    after = run_of(job).data.tags[f"metricwatch.series.{FD}"]
    assert before != after
    status = json.loads(job.call("status", "--json").stdout)
    (run,) = status["runs"]
    latest = {score["key"]: score for score in run["latest"]}
    assert latest[FD]["series"]["since_step"] == 2000
    assert list(latest[FD]["series"]["changed"]) == ["reference_digest"]
    assert latest["ssim"]["series"] is None
    assert f"{FD}, " in (said := job.call("status").stdout) or FD in said
    assert "new series since step 2000: reference_digest" in said


def test_collapsed_samples_are_a_named_state_that_fires_a_rule(job: Job) -> None:
    job.write_step(1000)
    folder = job.write_step(2000, marked=False)
    for path in folder.iterdir():
        Image.new("RGB", (96, 96), (120, 60, 30)).save(path)
    (folder / ".done").touch()
    once(job)
    run, value = run_of(job), series(job)
    assert run.data.tags[f"metricwatch.state.{FD}"].startswith("collapsed: all 16 images have the same features")
    assert value("alert/broken") == {1000: 0.0, 2000: 1.0}
    assert list(value(f"quality/{FD}")) == [1000]
    assert set(value("quality/ssim")) == {1000, 2000}
    (alert,) = json.loads(job.call("status", "--json").stdout)["alerts"]
    assert (alert["rule"], alert["state"], alert["severity"]) == ("broken", "firing", "critical")
    job.write_step(3000)
    once(job)
    assert run_of(job).data.tags[f"metricwatch.state.{FD}"] == "ok"
    assert series(job)("alert/broken")[3000] == 0.0


def test_a_manifest_beside_the_samples_pairs_them(job: Job) -> None:
    """Each image is its own content by manifest, so SSIM is 1 whatever the content folder says."""
    folder = job.write_step(1000, blur=2.0, marked=False)
    lines = [json.dumps({"image": path.name, "content": path.name}) for path in sorted(folder.glob("*.png"))]
    (folder / "manifest.jsonl").write_text("\n".join(lines))
    (folder / ".done").touch()
    once(job)
    assert series(job)("quality/ssim") == {1000: pytest.approx(1.0)}
