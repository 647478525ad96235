"""What a person sees: the curves of a scored job on the run's page in MLflow's own UI."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from playwright.sync_api import Page, expect, sync_playwright

from tests.support.job import Job
from tests.support.mlflow_server import mlflow_server

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARTIFACTS = Path(os.environ.get("TEST_ARTIFACTS", "test-artifacts"))

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"),
]

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        # The page may ask for fonts and the like from outside; nothing here leaves the machine.
        page.route("**/*", lambda route: route.continue_() if "127.0.0.1" in route.request.url else route.abort())
        yield page
        browser.close()


def test_the_run_page_shows_our_curves_and_the_alert_tag(tmp_path, page):
    (tmp_path / "mlflow").mkdir()
    with mlflow_server(tmp_path / "mlflow") as server:
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
