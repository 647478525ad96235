"""The MLflow sink against servers of other versions than the installed client: `make mlflow-versions` brings them.

SERVER_PYTHONS names the interpreters of environments that have an MLflow each, with ":" between them.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator

import pytest
from PIL import Image
from pytest_httpserver import HTTPServer

from metricwatch import catalog
from metricwatch.api import Picture, Point
from metricwatch.testing import samples
from tests.support.mlflow_server import MlflowServer, mlflow_server

MlflowSink = catalog.load_sink("mlflow")
MOMENT = 1_760_000_000_123
PYTHONS = [python for python in os.environ.get("SERVER_PYTHONS", "").split(":") if python]


@pytest.fixture(params=[(python, root) for python in PYTHONS for root in (True, False)], ids=str)
def other(request: pytest.FixtureRequest, tmp_path) -> Iterator[MlflowServer]:
    python, root = request.param
    with mlflow_server(tmp_path, python=python, artifact_root=root) as server:
        yield server


@pytest.mark.skipif(not PYTHONS, reason="SERVER_PYTHONS names no other MLflow: make mlflow-versions")
def test_curves_tags_pictures_and_pages_arrive_once_and_can_be_read(other: MlflowServer):
    sink = MlflowSink(MlflowSink.Options(uri=other.uri, experiment="versions"))
    run = samples.run(key="night", name="night")
    found = sink.find_run(run)
    assert sink.find_run(run) == found
    points = [Point(key="quality/fid", value=step / 7, timestamp_ms=MOMENT + step, step=step) for step in range(2500)]
    made = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 90, 10)).save(made, "PNG")
    picture = Picture(key="quality/contact_sheet", step=1000, timestamp_ms=MOMENT)
    for _ in range(2):
        sink.write(found.id, points, {"metricwatch.long": "é" * 9000})
        sink.write_picture(found.id, picture, made.getvalue())
        sink.write_page(found.id, "report.html", b"<p>page</p>")
    assert sink.read(found.id, "quality/fid") == points
    assert sum(len(page) for page in sink.read_pages(found.id, "quality/fid")) == len(points)
    assert sink.facts(found.id).tags["metricwatch.long"].startswith("ééé")
    files = sink._artifacts.listed(sink._history.run(found.id), "images")
    assert len(files) == 2
    (stored,) = sink.pictures(found.id)
    assert sink.read_picture(found.id, stored) == made.getvalue()
    assert sink.ping().startswith("MLflow ")


def test_no_tag_is_longer_than_the_oldest_server_takes(httpserver: HTTPServer):
    # 2.10 refuses the whole request, points included, for a tag of more than 5,000 characters.
    httpserver.expect_request("/api/2.0/mlflow/runs/log-batch").respond_with_json({})
    MlflowSink(MlflowSink.Options(uri=httpserver.url_for(""))).write("f" * 32, samples.points(1), {"long": "é" * 9000})
    ((request, _),) = httpserver.log
    assert len(request.get_json()["tags"][0]["value"]) == 5000


def test_files_are_listed_by_a_server_that_knows_no_logged_models(httpserver: HTTPServer):
    info = {"run_id": "a" * 32, "run_uuid": "a" * 32, "artifact_uri": "mlflow-artifacts:/x", "experiment_id": "1"}
    info["lifecycle_stage"] = "active"
    httpserver.expect_request("/api/2.0/mlflow/runs/get").respond_with_json({"run": {"info": info, "data": {}}})
    httpserver.expect_request("/api/2.0/mlflow/logged-models/search").respond_with_data(
        "<h1>Not Found</h1>", status=404
    )
    files = [{"path": "images/a.png", "is_dir": False, "file_size": 12}, {"path": "images/b", "is_dir": True}]
    httpserver.expect_request("/api/2.0/mlflow/artifacts/list").respond_with_json({"files": files})
    httpserver.expect_request("/api/2.0/mlflow-artifacts/artifacts").respond_with_json({"files": []})
    sink = MlflowSink(MlflowSink.Options(uri=httpserver.url_for("")))
    assert sink._artifacts.listed(sink._history.run("a" * 32), "images") == [("images/a.png", 12)]
