"""alerts.html in a real tracking server: where its page shows it, whatever the artifact store is, and runs that end."""

from __future__ import annotations

import time
import urllib.request
import uuid
from datetime import timedelta
from typing import Any

import pytest

from metricwatch import catalog
from metricwatch.api import PermanentError, TemporaryError
from metricwatch.config.rules import MovesRule
from metricwatch.export.stage import Exporter
from metricwatch.records import Alert, AlertState, Evaluation, JobState, Run, Score, WindowPoint
from metricwatch.store.alerts import Alerts
from metricwatch.store.db import Database
from metricwatch.store.ledger import Ledger, Recorded
from metricwatch.store.pages import Pages
from metricwatch.store.scores import Scores
from metricwatch.testing import samples
from metricwatch.testing.clock import FakeClock
from tests.support.mlflow_pictures import read_artifact
from tests.support.mlflow_server import MlflowServer

MlflowSink = catalog.load_sink("mlflow")
RUN = Run(key="night", name="night")


@pytest.fixture
def client(tracking_server: MlflowServer) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_server.uri)


@pytest.fixture(params=["a folder", "through the server"])
def sink(request, tracking_server, client, tmp_path):
    name = f"pages-{uuid.uuid4().hex}"
    folder = (tmp_path / "artifacts").as_uri()
    client.create_experiment(
        name, artifact_location=folder if request.param == "a folder" else f"mlflow-artifacts:/{name}"
    )
    made = MlflowSink(MlflowSink.Options(uri=tracking_server.uri, experiment=name))
    yield made
    made.close()


def listed(client, run_id):
    return [file.path for file in client.list_artifacts(run_id)]


def test_the_daemons_page_lies_where_the_servers_own_page_lists_it(sink, client, tracking_server, tmp_path):
    clock = FakeClock()
    state = tmp_path / "state"
    state.mkdir()
    db = Database.open(state)
    ledger = Ledger(db)
    ledger.register_run(RUN, clock.now())
    for number in range(1, 6):
        recorded = Recorded(revision=1, digest=str(number), images=8, newest_ns=1, mtime_ns=1)
        ledger.add_snapshot(
            source="s", run="night", step=number, path="p", members=None, recorded=recorded, now=clock.now()
        )
        job = ledger.claim(clock.now(), timedelta(minutes=1), ["s"])
        score = Score(key="fid", value=20.0 + number, images=8, higher_is_better=False, series="s")
        with db.transaction("test"):
            evaluation = Evaluation(scores=(score,), skipped=(), images=8, seconds=1.0, provenance={})
            Scores(db).record(job, evaluation, clock.now())
            ledger.finish(job.id, JobState.DONE, clock.now())
    alert = Alert(
        id=0,
        run="night",
        rule="fid-moved",
        metric="fid",
        direction="worse",
        severity="critical",
        state=AlertState.FIRING,
        fired_step=5,
        change=0.19,
        threshold=0.1,
        window=tuple(WindowPoint(step=number, value=20.0 + number) for number in range(1, 6)),
    )
    Alerts(db).add(alert, announce=True, now=clock.now())
    rule = MovesRule.model_validate({"name": "fid-moved", "metric": "fid", "moves": 0.1, "across": 5})
    exporter = Exporter(db, {"mlflow": sink}, clock, rules=[rule], runs={"night"})
    end = time.monotonic() + 30
    while exporter.pages_pending() and time.monotonic() < end:
        exporter.tick()
        time.sleep(0.05)
    assert Pages(db).troubles() == []
    run_id = sink.find_run(RUN).id
    # The uppermost folder: what a person sees on opening the run's artifacts.
    assert listed(client, run_id) == ["alerts.html"]
    content = read_artifact(tracking_server.uri, run_id, "alerts.html", tmp_path)
    assert b"Fires when fid moves by more than 10%" in content
    assert b"data:image/svg+xml;base64," in content
    # As its own page asks for it.
    if not (tmp_path / "artifacts").exists():
        with urllib.request.urlopen(f"{tracking_server.uri}/get-artifact?path=alerts.html&run_uuid={run_id}") as answer:
            assert answer.read() == content
    assert client.get_run(run_id).info.status == "RUNNING"
    db.close()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b.html", "../alerts.html", "/tmp/alerts.html"])
def test_a_name_with_a_folder_in_it_is_refused(sink, name):
    run_id = sink.find_run(samples.run()).id
    with pytest.raises(PermanentError, match="is not the name of a file"):
        sink.write_page(run_id, name, b"page")


def test_an_artifact_store_that_takes_nothing_is_a_temporary_error(tracking_server, client, tmp_path):
    (tmp_path / "artifacts").write_text("a file where the folder should be")
    name = f"pages-{uuid.uuid4().hex}"
    client.create_experiment(name, artifact_location=(tmp_path / "artifacts").as_uri())
    sink = MlflowSink(MlflowSink.Options(uri=tracking_server.uri, experiment=name))
    run_id = sink.find_run(samples.run()).id
    with pytest.raises(TemporaryError, match=r"storing alerts\.html of run .* can be written from here"):
        sink.write_page(run_id, "alerts.html", b"page")
    sink.close()


@pytest.mark.parametrize(
    ("status", "over"),
    [("FINISHED", True), ("FAILED", False), ("KILLED", False), ("SCHEDULED", False), ("RUNNING", False)],
)
def test_only_a_run_that_finished_has_ended_well(tracking_server, client, status, over):
    run = client.create_run("0")
    client.update_run(run.info.run_id, status=status)
    sink = MlflowSink(MlflowSink.Options(uri=tracking_server.uri))
    assert sink.ended(run.info.run_id) is over
    client.update_run(run.info.run_id, status="RUNNING")
    assert sink.ended(run.info.run_id) is False
    sink.close()
