"""The MLflow sink against a real tracking server, and against servers that misbehave."""

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from metricwatch import catalog
from metricwatch.api import (
    ConfigError,
    MetricwatchError,
    PermanentError,
    Point,
    RunGoneError,
    Sink,
    TemporaryError,
)
from metricwatch.config import Tracking
from metricwatch.testing import samples
from metricwatch.testing.sink import SinkContract
from tests.support.fault_proxy import Mode, Seen, fault_proxy
from tests.support.mlflow_pictures import read_artifact, read_pictures
from tests.support.mlflow_server import MlflowServer
from tests.support.rude_server import rude_server

MlflowSink = catalog.load_sink("mlflow")
Options = MlflowSink.Options
TAG = "metricwatch.run"


class TestMlflowSinkOverHttp(SinkContract):
    sink = MlflowSink
    secrets = ("hunter2",)

    @pytest.fixture
    def options(self, tracking_server: MlflowServer) -> Any:
        return Options(uri=tracking_server.uri, experiment="contract over http")

    @pytest.fixture
    def unreachable_options(self) -> Any:
        return Options(uri="http://somebody:hunter2@127.0.0.1:1", timeout=2)

    @pytest.fixture
    def stored(self, tracking_server: MlflowServer) -> Callable[[str], Sequence[Point]]:
        return lambda run_id: history(client_of(tracking_server), run_id)

    @pytest.fixture
    def stored_tags(self, tracking_server: MlflowServer) -> Callable[[str], Mapping[str, str]]:
        return lambda run_id: client_of(tracking_server).get_run(run_id).data.tags

    @pytest.fixture
    def stored_pictures(
        self, tracking_server: MlflowServer, tmp_path: Path
    ) -> Callable[[str], Sequence[tuple[str, int, bytes]]]:
        return lambda run_id: read_pictures(tracking_server.uri, run_id, tmp_path)

    @pytest.fixture
    def stored_page(self, tracking_server: MlflowServer, tmp_path: Path) -> Callable[[str, str], bytes]:
        return lambda run_id, name: read_artifact(tracking_server.uri, run_id, name, tmp_path)

    @pytest.fixture
    def delete_run(self, tracking_server: MlflowServer) -> Callable[[str], None]:
        return lambda run_id: client_of(tracking_server).delete_run(run_id)


def client_of(server: MlflowServer) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(server.uri)


def history(client: Any, run_id: str) -> list[Point]:
    return [
        Point(key=key, value=row.value, timestamp_ms=row.timestamp, step=row.step)
        for key in client.get_run(run_id).data.metrics
        for row in client.get_metric_history(run_id, key)
    ]


@pytest.fixture
def experiment() -> str:
    return f"experiment-{uuid.uuid4().hex}"


@pytest.fixture
def sink(tracking_server: MlflowServer, experiment: str) -> Sink:
    return MlflowSink(Options(uri=tracking_server.uri, experiment=experiment))


@pytest.fixture
def client(tracking_server: MlflowServer) -> Any:
    return client_of(tracking_server)


# --- which run ---------------------------------------------------------------------------------------------


def test_a_new_run_carries_its_name_and_the_tag_it_is_found_by(sink, client, experiment, tracking_server):
    found = sink.find_run(samples.run(key="k1", name="night-run"))
    run = client.get_run(found.id)
    place = client.get_experiment_by_name(experiment).experiment_id
    assert run.info.run_name == "night-run"
    assert run.data.tags[TAG] == "k1"
    assert found.url == f"{tracking_server.uri}/#/experiments/{place}/runs/{found.id}"


def test_the_address_of_a_run_shows_no_password(tracking_server, experiment):
    uri = tracking_server.uri.replace("http://", "http://somebody:hunter2@") + "/"
    sink = MlflowSink(Options(uri=uri, experiment=experiment))
    found = sink.find_run(samples.run())
    assert found.url is not None
    assert found.url.startswith(f"{tracking_server.uri}/#/experiments/")
    assert sink.ping().endswith(f"at {tracking_server.uri}")


def test_the_training_jobs_own_run_is_used_and_left_as_it_was(sink, client, experiment):
    place = client.create_experiment(experiment)
    training = client.create_run(place, run_name="night-run")
    before = client.get_run(training.info.run_id)
    found = sink.find_run(samples.run(name="night-run"))
    assert found.id == training.info.run_id
    sink.write(found.id, samples.points(3), {"metricwatch.step": "3000"})
    after = client.get_run(found.id)
    assert (after.info.status, after.info.end_time) == ("RUNNING", None)
    assert dict(after.data.tags) == {**before.data.tags, "metricwatch.step": "3000"}


def test_of_several_runs_of_that_name_the_newest_running_one_is_used(sink, client, experiment):
    place = client.create_experiment(experiment)
    oldest, running, finished, deleted = (
        client.create_run(place, run_name="night-run", start_time=1_700_000_000_000 + index).info.run_id
        for index in range(4)
    )
    client.set_terminated(finished)
    client.delete_run(deleted)
    assert sink.find_run(samples.run(name="night-run")).id == running
    client.set_terminated(running)
    client.set_terminated(oldest)
    assert sink.find_run(samples.run(name="night-run")).id == finished


def test_a_run_made_for_another_job_of_the_same_name_is_not_used(sink):
    first = sink.find_run(samples.run(key="a", name="night-run"))
    second = sink.find_run(samples.run(key="b", name="night-run"))
    assert first.id != second.id


def test_a_deleted_run_is_named_as_such(sink, client):
    found = sink.find_run(samples.run())
    client.delete_run(found.id)
    with pytest.raises(PermanentError, match=f"{found.id}.*deleted.*mlflow runs restore"):
        sink.find_run(samples.run(id=found.id))


def test_a_deleted_experiment_is_named_as_such(sink, client, experiment):
    client.delete_experiment(client.create_experiment(experiment))
    with pytest.raises(PermanentError, match=f"{experiment}.*deleted.*mlflow experiments restore"):
        sink.find_run(samples.run())


def test_sinks_that_start_together_share_one_experiment_and_one_run(tracking_server, experiment, client):
    sinks = [MlflowSink(Options(uri=tracking_server.uri, experiment=experiment)) for _ in range(4)]
    together = threading.Barrier(len(sinks))

    def find(sink: Sink) -> None:
        together.wait()
        sink.find_run(samples.run())

    threads = [threading.Thread(target=find, args=(sink,)) for sink in sinks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(client.search_experiments(filter_string=f"name = '{experiment}'")) == 1
    assert len({sink.find_run(samples.run()).id for sink in sinks}) == 1


# --- answers that get lost ---------------------------------------------------------------------------------


def test_a_run_whose_creation_was_not_answered_is_found_not_made_again(tracking_server, experiment, client):
    place = client.create_experiment(experiment)
    with fault_proxy(tracking_server.uri) as proxy:
        sink = MlflowSink(Options(uri=proxy.uri, experiment=experiment))
        proxy.lose.append("/runs/create")
        with pytest.raises(TemporaryError):
            sink.find_run(samples.run())
        found = sink.find_run(samples.run())
        assert proxy.paths().count("/api/2.0/mlflow/runs/create") == 1
    assert [run.info.run_id for run in client.search_runs([place])] == [found.id]


def test_points_whose_writing_was_not_answered_are_there_once(tracking_server, experiment, client):
    sent = samples.points(1500)
    with fault_proxy(tracking_server.uri) as proxy:
        sink = MlflowSink(Options(uri=proxy.uri, experiment=experiment))
        found = sink.find_run(samples.run())
        for _ in range(2):
            proxy.lose.append("/runs/log-batch")
            with pytest.raises(TemporaryError):
                sink.write(found.id, sent, {})
        sink.write(found.id, sent, {})
        assert proxy.paths().count("/api/2.0/mlflow/runs/log-batch") == 4  # lost, lost, then both halves
    rows = history(client, found.id)
    assert len(rows) == 1500
    assert set(rows) == set(sent)


# --- the server's limits -----------------------------------------------------------------------------------


def test_hundreds_of_long_tags_and_points_fit_into_several_requests(sink, client):
    found = sink.find_run(samples.run())
    tags = {f"metricwatch.{index}": "画" * 9000 for index in range(120)}
    sink.write(found.id, samples.points(1200, key="quality/" + "k" * 240), tags)
    kept = client.get_run(found.id).data.tags
    assert {len(kept[name]) for name in tags} == {5000}
    assert len(history(client, found.id)) == 1200


def test_a_key_that_mlflow_refuses_is_a_permanent_error(sink):
    found = sink.find_run(samples.run())
    with pytest.raises(PermanentError, match="Invalid value"):
        sink.write(found.id, samples.points(1, key="a/../b"), {})


def test_a_finished_run_still_takes_points(sink, client):
    found = sink.find_run(samples.run())
    client.set_terminated(found.id)
    sink.write(found.id, samples.points(2), {})
    assert len(history(client, found.id)) == 2
    assert client.get_run(found.id).info.status == "FINISHED"


def test_the_sign_of_life_names_version_and_address(sink, tracking_server):
    from mlflow.version import VERSION

    assert sink.ping() == f"MLflow {VERSION} at {tracking_server.uri}"


# --- servers that misbehave --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "expected", "said"),
    [
        (429, "slow down", TemporaryError, "HTTP 429"),
        (500, "oops", TemporaryError, "HTTP 500"),
        (502, "<html>bad gateway</html>", TemporaryError, "HTTP 502"),
        (503, "", TemporaryError, "HTTP 503"),
        (408, "", TemporaryError, "HTTP 408"),
        (400, {"error_code": "INVALID_PARAMETER_VALUE", "message": "no such column"}, PermanentError, "no such column"),
        (404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "gone"}, RunGoneError, "gone"),
        (400, "<html>bad request</html>", TemporaryError, "400"),
        (404, "<html>not an MLflow server</html>", TemporaryError, "404"),
        (413, "<html>too large</html>", TemporaryError, "raise the limit"),
        (404, {"message": "no Route matched with those values"}, TemporaryError, "no Route matched"),
        (404, {"error_code": 404, "message": "default backend"}, TemporaryError, "default backend"),
        # What MLflow says when its pool has no free connection, or its database hung up.
        (400, {"error_code": "BAD_REQUEST", "message": "QueuePool limit of size 5"}, TemporaryError, "QueuePool"),
        (501, {"error_code": "NOT_IMPLEMENTED", "message": "not here"}, TemporaryError, "not here"),
        (401, "who are you", TemporaryError, "MLFLOW_TRACKING_USERNAME"),
        (403, {"error_code": "PERMISSION_DENIED", "message": "not yours"}, TemporaryError, "MLFLOW_TRACKING_TOKEN"),
        (200, "<html>please log in</html>", TemporaryError, "please log in"),
    ],
)
def test_the_servers_answer_decides_whether_a_repeat_may_help(httpserver: HTTPServer, status, body, expected, said):
    text = json.dumps(body) if isinstance(body, dict) else body
    httpserver.expect_request("/api/2.0/mlflow/runs/log-batch").respond_with_data(text, status=status)
    uri = httpserver.url_for("").replace("http://", "http://somebody:hunter2@")
    sink = MlflowSink(Options(uri=uri, timeout=2))
    with pytest.raises((TemporaryError, PermanentError)) as raised:
        sink.write(uuid.uuid4().hex, samples.points(1), {})
    assert type(raised.value) is expected
    message = str(raised.value)
    assert said in message
    assert httpserver.url_for("").rstrip("/") in message
    assert "hunter2" not in message
    assert len(message) < 600
    assert len(httpserver.log) == 1, "the outbox repeats, not the client"


def test_a_server_that_does_not_answer_is_given_up_in_time(httpserver: HTTPServer):
    with rude_server(silent_for=30) as port:
        sink = MlflowSink(Options(uri=f"http://127.0.0.1:{port}", timeout=1))
        start = time.monotonic()
        with pytest.raises(TemporaryError, match="no answer within 1 s"):
            sink.ping()
        assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    "mode",
    [
        *(Mode.REFUSE, Mode.TOO_SLOW, Mode.HANG, Mode.LOSE, Mode.RESET, Mode.UNAVAILABLE, Mode.RETRY_AFTER),
        *(Mode.BAD_GATEWAY, Mode.BAD_REQUEST, Mode.NOT_FOUND, Mode.TOO_LARGE),
    ],
)
def test_whatever_stands_before_the_server_costs_no_point_and_no_patience(tracking_server, experiment, client, mode):
    sent = samples.points(20)
    with fault_proxy(tracking_server.uri) as proxy:
        sink = MlflowSink(Options(uri=proxy.uri, experiment=experiment, timeout=1))
        found = sink.find_run(samples.run())
        proxy.mode = mode
        start = time.monotonic()
        with pytest.raises(TemporaryError):
            sink.write(found.id, sent, {})
        assert time.monotonic() - start < 5, "a Retry-After of an hour is not slept through inside the client"
        proxy.mode = Mode.PASS
        sink.write(found.id, sent, {})
    assert sorted(history(client, found.id), key=str) == sorted(sent, key=str)


@pytest.mark.parametrize("mode", [Mode.SLOW, Mode.TRICKLE])
def test_a_slow_answer_within_the_timeout_is_an_answer(tracking_server, experiment, client, mode):
    with fault_proxy(tracking_server.uri) as proxy:
        sink = MlflowSink(Options(uri=proxy.uri, experiment=experiment, timeout=2))
        found = sink.find_run(samples.run())
        proxy.mode = mode
        sink.write(found.id, samples.points(3), {})
    assert len(history(client, found.id)) == 3


def test_a_gateway_that_takes_small_requests_only_gets_small_ones(tracking_server, experiment, client):
    def choose(seen: Seen) -> Mode:
        return Mode.TOO_LARGE if len(seen.body.get("metrics", [])) + len(seen.body.get("tags", [])) > 30 else Mode.PASS

    sent = samples.points(100)
    tags = {f"metricwatch.{index}": "x" for index in range(70)}
    with fault_proxy(tracking_server.uri) as proxy:
        sink = MlflowSink(Options(uri=proxy.uri, experiment=experiment))
        found = sink.find_run(samples.run())
        proxy.choose = choose
        sink.write(found.id, sent, tags)
    assert sorted(history(client, found.id), key=str) == sorted(sent, key=str)
    assert tags.items() <= client.get_run(found.id).data.tags.items()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"])
@pytest.mark.parametrize("reset", [False, True])
def test_a_connection_that_breaks_is_a_temporary_error(answer: bytes, reset: bool):
    with rude_server(answer, reset=reset) as port:
        sink = MlflowSink(Options(uri=f"http://127.0.0.1:{port}", timeout=2))
        with pytest.raises(TemporaryError, match="connection lost"):
            sink.write(uuid.uuid4().hex, samples.points(1), {})


@pytest.mark.parametrize("uri", ["htp://127.0.0.1", "http://127.0.0.1:port"])
def test_an_address_that_cannot_be_one_is_a_permanent_error(uri: str):
    with pytest.raises(PermanentError, match="not an address"):
        MlflowSink(Options(uri=uri)).ping()


@pytest.mark.parametrize(
    "uri",
    [
        "http://u:SEKRET/x@host",
        "http://u:a/SEKRET@host",
        "http://u:12/SEKRET@127.0.0.1:1",
        "http://u:SEKRET?x#y@z@127.0.0.1:1",
        "http://SEKRET@127.0.0.1:1",
        "htp:/u:SEKRET@x",
        "htp://u:SEKRET@x",
        "u:SEKRET@x",
        "/u:SEKRET@x",
        "file:///u:SEKRET@x",
        "postgresql://u:SEKRET/x@127.0.0.1:1/ml",
    ],
)
def test_no_spelling_of_credentials_is_shown(uri: str):
    assert "SEKRET" not in Tracking(uri=uri).redacted_uri
    with pytest.raises(MetricwatchError) as raised:
        MlflowSink(Options(uri=uri, timeout=1)).ping()
    assert "SEKRET" not in str(raised.value)


@pytest.mark.parametrize(
    "uri", ["https://host/@me", "sqlite:////data/me@work/x.db", "http://host:5000/x", "databricks"]
)
def test_what_is_no_credential_is_shown_by_both(uri: str):
    assert Tracking(uri=uri).redacted_uri == uri
    assert MlflowSink(Options(uri=uri))._where == uri


def test_a_password_that_cuts_the_address_short_is_a_configuration_error():
    with pytest.raises(ConfigError, match="write %2F"):
        MlflowSink(Options(uri="http://u:SEKRET/x@host"))


def test_an_id_file_that_is_a_pipe_is_refused_instead_of_waited_for(sink, tmp_path):
    os.mkfifo(tmp_path / "id")
    with pytest.raises(PermanentError, match="is a pipe or a device"):
        sink.find_run(samples.run(id_file=str(tmp_path / "id")))


# --- what it costs -----------------------------------------------------------------------------------------


def test_importing_the_built_in_plugins_is_cheap():
    code = (
        "import sys; from metricwatch import catalog; catalog.load_sink('mlflow');"
        " [catalog.load_notifier(n) for n in ('slack', 'email')];"
        " print([m for m in ('mlflow', 'requests', 'slack_sdk', 'pandas', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_writing_leaves_no_thread_behind(sink):
    before = threading.active_count()
    found = sink.find_run(samples.run())
    sink.write(found.id, samples.points(3), {})
    assert threading.active_count() == before
