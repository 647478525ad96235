"""The review of a run in MLflow's own UI: grouped charts, figures by step, and the report, wherever MLflow is kept."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from metricwatch.catalog import load_sink
from metricwatch.drawing.figures import Comparison, ContactSheet, Lookalikes, Radar, Spoke
from metricwatch.drawing.process import draw
from metricwatch.records import Compared, KeptSample, Lookalike, Neighbour, Picture, Point, Run
from tests.support.job import Job
from tests.support.mlflow_places import guarded_server
from tests.support.mlflow_server import ADMIN, PASSWORD, MlflowServer
from tests.support.photos import write_crops
from tests.support.postgres import NO_POSTGRES, installed

ARTIFACTS = Path(os.environ.get("TEST_ARTIFACTS", "test-artifacts"))
MOMENT = 1_760_000_000_000
STEPS = (1000, 2000, 5000)
KEYS = ("contact_sheet", "comparison", "radar", "lookalikes")

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    if installed() is None:
        pytest.skip(NO_POSTGRES)
    with guarded_server(tmp_path_factory.mktemp("guarded")) as (server, _, _):
        yield server


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], bytes]:
    """Every figure at every step, of real photographs that get clearer."""
    folder = tmp_path_factory.mktemp("looks")
    wanted, keys = [], []
    reference = sorted(write_crops(folder / "reference", 6, side=96, seed=4).glob("*.png"))
    for number, step in enumerate(STEPS):
        files = sorted(write_crops(folder / str(step), 16, side=128, seed=2, blur=4.0 - 1.5 * number).glob("*.png"))
        title = f"night · step {step:,}"
        samples = tuple(KeptSample(name=file.stem, path=str(file)) for file in files)
        rows = tuple(
            Compared(name=file.stem, image=str(file), content=str(reference[row]), style=str(reference[-1]))
            for row, file in enumerate(files[:3])
        )
        near = tuple(
            Lookalike(
                name=file.stem,
                image=str(file),
                nearest=tuple(
                    Neighbour(name=each.name, image=str(each), distance=0.3 + 0.1 * place)
                    for place, each in enumerate(reference[:3])
                ),
            )
            for file in files[:3]
        )
        spokes = tuple(
            Spoke(key=key, value=20.0 - number, best=10.0, worst=30.0, higher_is_better=False, at_best_step=18.0)
            for key in ("fid", "kid", "lpips", "gram_style_loss", "content_loss")
        )
        wanted += [
            ContactSheet(title=title, samples=samples),
            Comparison(title=title, rows=rows),
            Radar(title=title, step=step, spokes=spokes, best_step=STEPS[-1], best_by="fid"),
            Lookalikes(title=title, rows=near, space="inception-v3", searched=6, usual_distance=0.35),
        ]
        keys += [(key, step) for key in KEYS]
    return dict(zip(keys, draw(wanted), strict=True))


def log_in(page: Page, server: MlflowServer) -> None:
    if server.uri.count("/") > 2:
        token = base64.b64encode(f"{ADMIN}:{PASSWORD}".encode()).decode()
        page.set_extra_http_headers({"Authorization": f"Basic {token}"})


@pytest.mark.parametrize("place", ["SQLite", "PostgreSQL with a login below a prefix"])
def test_charts_figures_and_the_report_are_all_there(request, page, tmp_path, figures, place):
    server = request.getfixturevalue("server" if place == "SQLite" else "guarded")
    uri = server.uri if place == "SQLite" else server.uri_as()
    log_in(page, server)
    plugin = load_sink("mlflow")
    sink = plugin(plugin.Options(uri=uri, experiment="review"))
    run = sink.find_run(Run(key="night", name="night"))
    curves = ("quality/fid", "quality/fid_stderr", "quality/evaluation_seconds", "quality/images", "alert/fid-moved")
    points = [
        Point(key=key, value=float(key.startswith("quality")) * step / 100, timestamp_ms=MOMENT + step, step=step)
        for key in curves
        for step in STEPS
    ]
    sink.write(run.id, points, {})
    for (key, step), png in figures.items():
        sink.write_picture(run.id, Picture(key=f"quality/{key}", step=step, timestamp_ms=MOMENT + step), png)
    job = Job(tmp_path / "job", uri, "review", metrics=["ssim"])
    done = job.call("report", "--run-id", run.id, "--out", "report.html", "--artifact", "--lower-is-better")
    assert done.returncode == 0, done.stderr
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    name = place.split()[0].lower()

    # The page draws a chart when it comes into view.
    page.set_viewport_size({"width": 1400, "height": 3200})
    page.goto(f"{run.url}/model-metrics")
    for section in ("quality", "alert"):
        expect(page.get_by_text(section, exact=False).first).to_be_visible(timeout=20_000)
    for chart in ("fid", "fid_stderr", "evaluation_seconds", "images", "fid-moved"):
        expect(page.get_by_role("heading", name=chart, exact=True)).to_be_visible(timeout=20_000)
    page.screenshot(path=ARTIFACTS / f"run-page-{name}.png")

    for key in KEYS:
        heading = page.get_by_role("heading", name=f"quality/{key}", exact=True)
        card = page.get_by_test_id("experiment-view-compare-runs-card").filter(has=heading)
        slider = card.get_by_role("slider")
        slider.focus()
        for step in STEPS:
            page.keyboard.press("ArrowRight")
            expect(slider).to_have_attribute("aria-valuenow", str(step))
            image = card.locator(f"img[src*='step%2B{step}%2B']")
            expect(image).to_be_visible()
            expect(image).to_have_js_property("complete", value=True)
        # What words in figures need to be read.
        assert image.evaluate("image => image.naturalWidth") > 400
    card.scroll_into_view_if_needed()
    page.screenshot(path=ARTIFACTS / f"slider-{name}.png")

    page.goto(f"{run.url}/artifacts/report.html")
    frame = page.frame_locator("iframe")
    expect(frame.locator("img, svg").first).to_be_visible(timeout=20_000)
    page.screenshot(path=ARTIFACTS / f"report-{name}.png")
    if place == "SQLite":
        opens_by_itself(page, job.folder / "report.html")
    sink.close()


def opens_by_itself(page: Page, report: Path) -> None:
    """As a person opens what came by mail: everything is drawn, nothing is asked of anybody, nothing is complained."""
    alone = page.context.browser.new_page()
    asked: list[str] = []
    complaints: list[str] = []
    alone.on("request", lambda request: asked.append(request.url))
    alone.on("console", lambda message: complaints.append(message.text))
    alone.on("pageerror", lambda error: complaints.append(str(error)))
    alone.goto(report.as_uri())
    sizes = alone.locator("img, svg").evaluate_all(
        "all => all.map(each => [each.getBoundingClientRect().width, each.naturalWidth ?? 1])"
    )
    assert sizes
    assert all(width > 0 and natural > 0 for width, natural in sizes), sizes
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert complaints == []
    alone.screenshot(path=ARTIFACTS / "report-file.png")
    alone.close()
