"""What a person sees: the curves of a scored job on the run's page in MLflow's own UI."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from mlflow import MlflowClient
from playwright.sync_api import expect

from tests.support.job import Job

ARTIFACTS = Path(os.environ.get("TEST_ARTIFACTS", "test-artifacts"))

pytestmark = pytest.mark.browser


def test_the_run_page_shows_our_curves_and_the_alert_tag(tmp_path, page, server):
    job = Job(
        tmp_path / "job",
        server.uri,
        "browser",
        rules=[{"name": "ssim-moved", "metric": "ssim", "moves": "10%", "across": 3}],
    )
    for number, blur in enumerate((0.5, 0.5, 0.5, 4.0)):
        job.write_step(1000 * (number + 1), blur=blur)
    done = job.call("run", "--once")
    assert done.returncode == 0, done.stderr
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name("browser")
    run = client.search_runs([experiment.experiment_id])[0]
    address = f"{server.uri}/#/experiments/{experiment.experiment_id}/runs/{run.info.run_id}"

    # The page draws a chart when it comes into view.
    page.set_viewport_size({"width": 1400, "height": 1800})
    page.goto(f"{address}/model-metrics")
    # A section is named after the part of the key before the slash, each of its charts after the rest.
    for chart in ("ssim", "ssim_stderr", "ssim-moved"):
        expect(page.get_by_role("heading", name=chart, exact=True)).to_be_visible(timeout=60_000)
    for curve in ("night (quality/ssim)", "night (alert/ssim-moved)"):
        expect(page.get_by_text(curve, exact=True).first).to_be_visible()
    expect(page.locator(".js-plotly-plot").first).to_be_visible(timeout=60_000)
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=ARTIFACTS / "mlflow-run.png")

    page.goto(address)
    expect(page.get_by_text("metricwatch.alert.ssim-moved").first).to_be_visible(timeout=60_000)
