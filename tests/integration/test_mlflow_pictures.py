"""Pictures in a real tracking server: under the names that its page reads, once each, whatever breaks meanwhile."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from metricwatch import catalog
from metricwatch.api import MetricwatchError, TemporaryError
from metricwatch.export.stage import Exporter
from metricwatch.faults import VARIABLE
from metricwatch.records import Picture, Point, Run
from metricwatch.store.db import Database
from metricwatch.store.deliveries import Deliveries
from metricwatch.store.ledger import Ledger
from metricwatch.store.pictures import Pictures
from metricwatch.testing import samples
from metricwatch.testing.clock import FakeClock
from tests.support.fault_proxy import Mode, Seen, fault_proxy
from tests.support.mlflow_pictures import NAME, names, read_pictures
from tests.support.mlflow_server import MlflowServer

MlflowSink = catalog.load_sink("mlflow")
MOMENT = 1_760_000_000_123
UUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def png(shade: int = 0, size: tuple[int, int] = (300, 200)) -> bytes:
    made = io.BytesIO()
    Image.linear_gradient("L").resize(size).point(lambda value: (value + shade) % 256).convert("RGB").save(made, "PNG")
    return made.getvalue()


def picture(step: int = 1000, key: str = "quality/samples/a") -> Picture:
    return Picture(key=key, step=step, timestamp_ms=MOMENT + step)


class Place:
    """An experiment of the server's whose artifacts lie in a folder of their own, or pass through the server."""

    def __init__(self, server: MlflowServer, folder: Path, *, proxied: bool) -> None:
        from mlflow import MlflowClient

        self.server = server
        self.client = MlflowClient(server.uri)
        self.experiment = f"pictures-{uuid.uuid4().hex}"
        # Where the server keeps what passes through it, as long as nobody says otherwise.
        self.folder = server.folder / "mlartifacts" / self.experiment if proxied else folder / "artifacts"
        location = f"mlflow-artifacts:/{self.experiment}" if proxied else self.folder.as_uri()
        self.client.create_experiment(self.experiment, artifact_location=location)

    def sink(self, uri: str | None = None, **options: Any) -> Any:
        return MlflowSink(MlflowSink.Options(uri=uri or self.server.uri, experiment=self.experiment, **options))

    def run_id(self) -> str:
        place = self.client.get_experiment_by_name(self.experiment)
        return self.client.search_runs([place.experiment_id])[0].info.run_id

    def tags(self, run_id: str) -> dict[str, str]:
        return self.client.get_run(run_id).data.tags


@pytest.fixture(params=["its own folder", "through the server"])
def place(request: pytest.FixtureRequest, tracking_server: MlflowServer, tmp_path: Path) -> Place:
    return Place(tracking_server, tmp_path, proxied=request.param == "through the server")


@pytest.fixture
def plain_place(tracking_server: MlflowServer, tmp_path: Path) -> Place:
    return Place(tracking_server, tmp_path, proxied=False)


# --- what is written ---------------------------------------------------------------------------------------


def test_the_files_are_those_that_the_installed_client_would_write(plain_place):
    sink = plain_place.sink()
    ours, theirs = (sink.find_run(samples.run(key=key, name=key)).id for key in ("ours", "theirs"))
    sizes = [(300, 200), (20, 30), (256, 256)]
    for step, size in enumerate(sizes):
        content = png(size=size)
        sink.write_picture(ours, picture(step), content)
        image = Image.open(io.BytesIO(content))
        plain_place.client.log_image(theirs, image, key="quality/samples/a", step=step, timestamp=MOMENT + step)
    expected, found = names(plain_place.server.uri, theirs), names(plain_place.server.uri, ours)
    assert len(found) == 2 * len(sizes)
    assert [re.sub(UUID, "", path) for path in found] == [re.sub(UUID, "", path) for path in expected]
    for our_path, their_path in zip(found, expected, strict=True):
        if our_path.endswith(".webp"):
            files = (
                Path(plain_place.client.download_artifacts(run, path))
                for run, path in ((ours, our_path), (theirs, their_path))
            )
            # Theirs has 256 pixels, whatever the picture has; ours is read at the size of the page.
            assert [Image.open(file).format for file in files] == ["WEBP", "WEBP"]
    assert plain_place.tags(ours)["mlflow.loggedImages"] == plain_place.tags(theirs)["mlflow.loggedImages"]


def test_the_listing_is_exact_after_a_replay(place):
    sink = place.sink()
    run_id = sink.find_run(samples.run()).id
    sent = [(picture(step, key), png(step)) for step in (0, 1000, 2000) for key in ("q/a", "q/b")]
    for each, content in sent:
        sink.write_picture(run_id, each, content)
    before = names(place.server.uri, run_id)
    other = place.sink()
    for each, content in sent[2:]:
        other.write_picture(run_id, each, content)
    assert names(place.server.uri, run_id) == before
    assert len(before) == 2 * len(sent)
    assert {int(NAME.fullmatch(path)["timestamp"]) for path in before} == {MOMENT, MOMENT + 1000, MOMENT + 2000}


def test_the_tag_is_written_once(plain_place):
    with fault_proxy(plain_place.server.uri) as proxy:
        sink = plain_place.sink(proxy.uri)
        run_id = sink.find_run(samples.run()).id
        for step in range(3):
            sink.write_picture(run_id, picture(step), png())
        assert sum(path.endswith("/runs/set-tag") for path in proxy.paths()) == 1


def test_a_tag_that_could_not_be_written_comes_with_the_next_try(plain_place, tmp_path):
    def choose(seen: Seen) -> Mode:
        return Mode.UNAVAILABLE if seen.path.endswith("/runs/set-tag") else Mode.PASS

    with fault_proxy(plain_place.server.uri) as proxy:
        sink = plain_place.sink(proxy.uri)
        run_id = sink.find_run(samples.run()).id
        proxy.choose = choose
        with pytest.raises(TemporaryError, match="503"):
            sink.write_picture(run_id, picture(), png())
        proxy.choose = None
        sink.write_picture(run_id, picture(), png())
    assert read_pictures(plain_place.server.uri, run_id, tmp_path) == [("quality/samples/a", 1000, png())]
    assert plain_place.tags(run_id)["mlflow.loggedImages"] == "True"


# --- what breaks -------------------------------------------------------------------------------------------


class Scene:
    """A ledger with its exporter before a real sink."""

    def __init__(self, place: Place, state: Path) -> None:
        self.clock = FakeClock()
        self.state = state
        state.mkdir()
        self.db = Database.open(state)
        self.run = Run(key="r", name="r")
        Ledger(self.db).register_run(self.run, self.clock.now())
        self.pictures, self.deliveries = Pictures(self.db), Deliveries(self.db)
        self.exporter = Exporter(self.db, {"mlflow": place.sink()}, self.clock)

    def keep(self, step: int) -> Path:
        path = self.state / "pictures" / f"job-{step}" / "a.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(png(step))
        self.pictures.enqueue(
            sink="mlflow", run="r", identity=f"a@{step}", picture=picture(step), path=str(path), now=self.clock.now()
        )
        return path

    def point(self, step: int) -> None:
        points = [Point(key="quality/fid", value=1.5, timestamp_ms=MOMENT, step=step)]
        self.deliveries.enqueue(
            sink="mlflow", run="r", identity=str(step), points=points, tags={}, now=self.clock.now()
        )

    def turn(self, wait: timedelta = timedelta()) -> None:
        self.clock.advance(wait.total_seconds())
        while self.exporter.tick():
            pass


def test_a_broken_artifact_store_delays_pictures_and_no_point(place, tmp_path):
    scene = Scene(place, tmp_path / "state")
    # Not by its permissions: they do not hold for root.
    place.folder.parent.mkdir(exist_ok=True)
    place.folder.write_text("a file where the folder belongs")
    for step in (1000, 2000):
        scene.keep(step)
        scene.point(step)
        scene.turn()
    run_id = place.run_id()
    history = place.client.get_metric_history(run_id, "quality/fid")
    # At the first try: an upload that failed must not have spoiled the connection.
    assert [point.step for point in history] == [1000, 2000]
    (waiting,) = scene.pictures.backlog()
    assert waiting.pending == 2
    assert "artifact store" in waiting.reason
    assert "mlflow.loggedImages" not in place.tags(run_id)
    place.folder.unlink()
    scene.turn(timedelta(minutes=5))
    assert read_pictures(place.server.uri, run_id, tmp_path) == [
        ("quality/samples/a", step, png(step)) for step in (1000, 2000)
    ]
    assert list((scene.state / "pictures").iterdir()) == []


EXPORT = """
import sys
from metricwatch import catalog
from metricwatch.clock import SystemClock
from metricwatch.export.stage import Exporter
from metricwatch.store.db import Database
from pathlib import Path
state, uri, experiment = sys.argv[1:]
sink = catalog.load_sink("mlflow")
exporter = Exporter(Database.open(Path(state)), {"mlflow": sink(sink.Options(uri=uri, experiment=experiment))}, SystemClock())
while exporter.tick():
    pass
"""


def test_an_exporter_killed_between_upload_and_mark_leaves_one_copy_and_no_file(plain_place, tmp_path):
    scene = Scene(plain_place, tmp_path / "state")
    paths = [scene.keep(step) for step in (1000, 2000)]
    command = [sys.executable, "-c", EXPORT, str(scene.state), plain_place.server.uri, plain_place.experiment]
    killed = subprocess.run(command, env={**os.environ, VARIABLE: "kill picture:unmarked 2"}, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(names(plain_place.server.uri, plain_place.run_id())) == 4
    assert [path.exists() for path in paths] == [False, True]
    assert scene.pictures.pending() == 1
    scene.turn()
    assert read_pictures(plain_place.server.uri, plain_place.run_id(), tmp_path) == [
        ("quality/samples/a", step, png(step)) for step in (1000, 2000)
    ]
    assert scene.pictures.pending() == 0
    assert list((scene.state / "pictures").iterdir()) == []


# --- stores that misbehave ---------------------------------------------------------------------------------


def serve_run(httpserver: HTTPServer, store: str) -> str:
    """Let a server have one run, whose artifacts lie there."""
    info = {"run_id": "f" * 32, "artifact_uri": store, "lifecycle_stage": "active", "experiment_id": "1"}
    # A run of its own each time: MLflow's client remembers where a run's artifacts are.
    info["run_id"] = info["run_uuid"] = uuid.uuid4().hex
    httpserver.expect_request("/api/2.0/mlflow/runs/get").respond_with_json({"run": {"info": info, "data": {}}})
    return info["run_id"]


def uploads(httpserver: HTTPServer) -> int:
    return sum(request.method == "PUT" for request, _ in httpserver.log)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (500, "look into the server's log: can it write mlflow-artifacts:/x"),
        (503, "HTTP 503"),
        (404, "HTTP 404"),
        (400, "HTTP 400"),
        (403, "MLFLOW_TRACKING_USERNAME"),
        (413, "raise the limit"),
    ],
)
def test_what_the_store_answers_is_told_and_tried_again_by_the_outbox(httpserver: HTTPServer, status, said):
    run_id = serve_run(httpserver, "mlflow-artifacts:/x")
    httpserver.expect_request(re.compile("/api/2.0/mlflow-artifacts/.*"), method="PUT").respond_with_data(
        "no", status=status
    )
    uri = httpserver.url_for("").replace("http://", "http://somebody:hunter2@")
    with pytest.raises(TemporaryError) as raised:
        MlflowSink(MlflowSink.Options(uri=uri, timeout=2)).write_picture(run_id, picture(), png())
    assert said in str(raised.value)
    assert "hunter2" not in str(raised.value)
    assert uploads(httpserver) == 1, "the outbox repeats, not the client"


def test_an_upload_that_hangs_is_given_up_in_time(httpserver: HTTPServer):
    def hang(_: Request) -> Response:
        time.sleep(2.5)
        return Response("late")

    run_id = serve_run(httpserver, "mlflow-artifacts:/x")
    httpserver.expect_request(re.compile("/api/2.0/mlflow-artifacts/.*"), method="PUT").respond_with_handler(hang)
    sink = MlflowSink(MlflowSink.Options(uri=httpserver.url_for(""), timeout=1))
    sink._server.client()
    start = time.monotonic()
    with pytest.raises(TemporaryError, match="no answer within 1 s"):
        sink.write_picture(run_id, picture(), png())
    assert time.monotonic() - start < 2.4
    assert uploads(httpserver) <= 1


def test_a_folder_that_only_the_server_has_is_not_mistaken_for_its_store(httpserver: HTTPServer, tmp_path):
    run_id = serve_run(httpserver, (tmp_path / "elsewhere").as_uri())
    httpserver.expect_request("/api/2.0/mlflow/artifacts/list").respond_with_json({"root_uri": "x"})
    sink = MlflowSink(MlflowSink.Options(uri=httpserver.url_for(""), timeout=2))
    for _ in range(2):
        with pytest.raises(TemporaryError, match=r"folder of the server's own machine.*--serve-artifacts"):
            sink.write_picture(run_id, picture(), png())


def test_a_store_whose_library_is_missing_is_told_and_waited_for(httpserver: HTTPServer, monkeypatch):
    run_id = serve_run(httpserver, "s3://bucket/x")
    monkeypatch.setitem(sys.modules, "boto3", None)
    sink = MlflowSink(MlflowSink.Options(uri=httpserver.url_for(""), timeout=2))
    with pytest.raises(MetricwatchError, match=r"boto3.*install") as raised:
        sink.write_picture(run_id, picture(), png())
    assert isinstance(raised.value, TemporaryError)
