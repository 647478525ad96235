"""The MLflow sink where people have MLflow: PostgreSQL, a login, a URL prefix, a proxy, a database without a server."""

from __future__ import annotations

import dataclasses
import io
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from metricwatch import catalog
from metricwatch.api import Picture, Point, Sink, TemporaryError
from metricwatch.testing import samples
from tests.support.fault_proxy import LOG_BATCH, fault_proxy
from tests.support.mlflow_places import PREFIX, ask, guarded_server
from tests.support.mlflow_server import ADMIN, PASSWORD, MlflowServer
from tests.support.postgres import NO_POSTGRES, installed
from tests.support.postgres import PASSWORD as DATABASE_PASSWORD
from tests.support.reverse_proxy import reverse_proxy

MlflowSink = catalog.load_sink("mlflow")
Options = MlflowSink.Options
MOMENT = 1_760_000_000_123


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[MlflowServer, str]]:
    """A server over PostgreSQL with a login and a prefix, and the address of its database."""
    if installed() is None:
        pytest.skip(NO_POSTGRES)
    with guarded_server(tmp_path_factory.mktemp("guarded")) as (server, _, database):
        # The place whose artifacts can be reached with and without the server.
        sink = MlflowSink(Options(uri=server.uri_as(), experiment="shared"))
        sink.find_run(samples.run(key="first", name="first"))
        yield server, database


def client_of(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(uri)


def rows(uri: str, run_id: str) -> list[Point]:
    client = client_of(uri)
    return [
        Point(key=key, value=row.value, timestamp_ms=row.timestamp, step=row.step)
        for key in client.get_run(run_id).data.metrics
        for row in client.get_metric_history(run_id, key)
    ]


def png() -> bytes:
    made = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 90, 10)).save(made, "PNG")
    return made.getvalue()


# --- one round through everything --------------------------------------------------------------------------


@pytest.fixture(params=["postgresql://", "a proxy that strips a prefix", "the login in the environment"])
def sink(request, guarded, tracking_server, monkeypatch) -> Iterator[Sink]:
    server, database = guarded
    experiment = f"round-{uuid.uuid4().hex}"
    if request.param == "postgresql://":
        yield MlflowSink(Options(uri=database, experiment="shared"))
    elif request.param == "the login in the environment":
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", ADMIN)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
        yield MlflowSink(Options(uri=server.uri, experiment=experiment))
    else:
        with reverse_proxy(tracking_server.uri, "/team/tracking") as uri:
            yield MlflowSink(Options(uri=uri, experiment=experiment))


def test_curves_tags_and_their_history_come_through(sink):
    run = samples.run(key=uuid.uuid4().hex, name="round")
    found = sink.find_run(run)
    assert sink.find_run(run) == found
    points = [
        Point(key=f"quality/{name}", value=step / 7, timestamp_ms=MOMENT + step, step=step)
        for name in ("fid", "fid_stderr")
        for step in range(1200)
    ]
    for _ in range(2):
        sink.write(found.id, points, {"metricwatch.state": "watching"})
    assert sink.keys(found.id) == ["quality/fid", "quality/fid_stderr"]
    assert sink.read(found.id, "quality/fid") == points[:1200]
    paged = [point for page in sink.read_pages(found.id, "quality/fid_stderr") for point in page]
    assert sorted(paged, key=lambda point: point.step) == points[1200:]
    assert sink.facts(found.id).tags["metricwatch.state"] == "watching"
    assert "MLflow 3" in sink.ping()
    assert sink.ended(found.id) is False


def test_pictures_and_pages_come_through_or_say_whose_key_is_missing(sink, request):
    found = sink.find_run(samples.run(key=uuid.uuid4().hex, name="round"))
    picture = Picture(key="quality/contact_sheet", step=1000, timestamp_ms=MOMENT)
    if "postgresql" in request.node.name:
        # Their artifacts pass through a server, of which a database knows nothing. The points have arrived.
        with pytest.raises(TemporaryError, match="mlflow-artifacts:/") as raised:
            sink.write_picture(found.id, picture, png())
        assert DATABASE_PASSWORD not in str(raised.value)
        return
    for _ in range(2):
        sink.write_picture(found.id, picture, png())
        sink.write_page(found.id, "report.html", b"<p>page</p>")
    (stored,) = sink.pictures(found.id)
    assert (stored.key, stored.step) == (picture.key, 1000)
    assert sink.read_picture(found.id, stored) == png()


# --- addresses and logins ----------------------------------------------------------------------------------


def test_the_address_of_a_run_opens_the_servers_page_below_its_prefix(guarded):
    server, _ = guarded
    found = MlflowSink(Options(uri=server.uri_as(), experiment="shared")).find_run(samples.run())
    page, _, place = found.url.partition("#")
    assert page == f"{server.uri}/"
    assert place == f"/experiments/{client_of(server.uri_as()).get_run(found.id).info.experiment_id}/runs/{found.id}"
    assert '<div id="root"' in ask(server, "/")


def test_a_prefix_that_is_left_out_is_asked_for(guarded):
    uri = guarded[0].uri_as().removesuffix(PREFIX)
    with pytest.raises(TemporaryError, match=r"404.*--static-prefix"):
        MlflowSink(Options(uri=uri)).ping()


@pytest.mark.parametrize("spelled", ["in the address", "in the environment", "none at all"])
def test_a_wrong_password_waits_for_the_right_one(guarded, monkeypatch, spelled):
    uri = guarded[0].uri
    if spelled == "in the address":
        uri = guarded[0].uri_as(password="wrong-password-1")
    elif spelled == "in the environment":
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", ADMIN)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong-password-1")
    sink = MlflowSink(Options(uri=uri, experiment="shared"))
    for call in (sink.ping, lambda: sink.find_run(samples.run()), lambda: sink.write("f" * 32, samples.points(1), {})):
        with pytest.raises(TemporaryError, match=r"401.*MLFLOW_TRACKING_USERNAME") as raised:
            call()
        assert "wrong-password-1" not in str(raised.value)


def test_a_wrong_password_of_the_database_waits_too_and_is_not_shown(guarded):
    uri = guarded[1].replace(DATABASE_PASSWORD, "wrong-password-1")
    with pytest.raises(TemporaryError) as raised:
        MlflowSink(Options(uri=uri)).ping()
    assert "wrong-password-1" not in f"{raised.value!r}"


def test_who_may_only_read_reads_and_is_told_what_is_missing(guarded):
    server, _ = guarded
    ours = MlflowSink(Options(uri=server.uri_as(), experiment="shared"))
    found = ours.find_run(samples.run())
    points = samples.points(3)
    ours.write(found.id, points, {})
    ask(server, "/api/2.0/mlflow/users/create", {"username": "reader", "password": "reader-password-1"})
    theirs = MlflowSink(Options(uri=server.uri_as("reader", "reader-password-1"), experiment="shared"))
    assert theirs.find_run(dataclasses.replace(samples.run(), id=found.id)).id == found.id
    assert {point.step for key in theirs.keys(found.id) for point in theirs.read(found.id, key)} == {
        point.step for point in points
    }
    with pytest.raises(TemporaryError, match=r"(?i)permission.*MLFLOW_TRACKING_USERNAME"):
        theirs.write(found.id, samples.points(1), {})


def test_points_whose_writing_was_not_answered_are_in_postgres_once(guarded):
    server, _ = guarded
    found = MlflowSink(Options(uri=server.uri_as(), experiment="shared")).find_run(
        samples.run(key=uuid.uuid4().hex, name="lost")
    )
    points = [Point(key="quality/fid", value=1 / 3, timestamp_ms=MOMENT, step=step) for step in range(5)]
    with fault_proxy(server.uri.removesuffix(PREFIX)) as proxy:
        proxy.lose.append(LOG_BATCH)
        address = f"{proxy.uri}{PREFIX}".replace("://", f"://{ADMIN}:{PASSWORD}@")
        sink = MlflowSink(Options(uri=address, experiment="shared"))
        with pytest.raises(TemporaryError):
            sink.write(found.id, points, {})
        sink.write(found.id, points, {})
    assert sorted(rows(server.uri_as(), found.id), key=lambda point: point.step) == points
