"""What a person sees of a checkpoint's samples: one chart a key in MLflow's own UI, with a slider over the steps."""

from __future__ import annotations

import io

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from metricwatch.catalog import load_sink
from metricwatch.records import Picture, Run

pytestmark = pytest.mark.browser

# Each picture is of one colour, so that a pixel tells which one the page shows. The steps are no even ladder: the
# slider may stop only where there is a picture. They are written out of order, as a backlog may have it.
COLOURS = {
    "quality/samples/000_cat": {1000: (230, 40, 40), 100: (40, 200, 40), 250: (40, 60, 230)},
    "quality/samples/001_roof": {1000: (240, 220, 30), 100: (30, 210, 220), 250: (210, 40, 220)},
}
# The page shows the small file, a lossy WebP.
TOLERANCE = 20

MIDDLE_PIXEL = """image => {
    const canvas = document.createElement("canvas");
    canvas.width = image.naturalWidth;
    canvas.height = image.naturalHeight;
    const pen = canvas.getContext("2d");
    pen.drawImage(image, 0, 0);
    return [...pen.getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data].slice(0, 3);
}"""


def png(colour: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (96, 96), colour).save(file, format="PNG")
    return file.getvalue()


def chart(page: Page, key: str) -> Locator:
    heading = page.get_by_role("heading", name=key, exact=True)
    return page.get_by_test_id("experiment-view-compare-runs-card").filter(has=heading)


def shown_colour(card: Locator) -> tuple[int, ...]:
    image = card.locator("img")
    expect(image).to_have_js_property("complete", value=True)
    return tuple(image.evaluate(MIDDLE_PIXEL))


def test_the_slider_of_each_key_stops_at_every_step_and_shows_that_steps_picture(page, server):
    plugin = load_sink("mlflow")
    sink = plugin(plugin.Options(uri=server.uri, experiment="slider"))
    run = sink.find_run(Run(key="night", name="night"))
    for key, steps in COLOURS.items():
        for step, colour in steps.items():
            picture = Picture(key=key, step=step, timestamp_ms=1_700_000_000_000 + step)
            sink.write_picture(run.id, picture, png(colour))
    sink.close()

    page.goto(f"{run.url}/model-metrics")
    expect(page.get_by_test_id("experiment-view-compare-runs-card")).to_have_count(len(COLOURS), timeout=60_000)
    for key, steps in COLOURS.items():
        card = chart(page, key)
        slider = card.get_by_role("slider")
        expect(slider).to_have_attribute("aria-valuemin", str(min(steps)))
        expect(slider).to_have_attribute("aria-valuemax", str(max(steps)))
        slider.focus()
        # The slider waits below the first step; each key press takes it to the next one that has a picture.
        for step in sorted(steps):
            page.keyboard.press("ArrowRight")
            expect(slider).to_have_attribute("aria-valuenow", str(step))
            expect(card.locator(f"img[src*='step%2B{step}%2B']")).to_be_visible()
            assert shown_colour(card) == pytest.approx(steps[step], abs=TOLERANCE), (key, step)
