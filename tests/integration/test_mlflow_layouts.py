"""Where curves land: in the training job's run, in a child of it, or in a run of our own; with a real server."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
from mlflow import MlflowClient

from metricwatch import catalog
from metricwatch.api import PermanentError, Point, Run, RunGoneError, TemporaryError
from metricwatch.assembly import load_sink
from metricwatch.config import load_config
from metricwatch.errors import ConfigError
from tests.support.fault_proxy import fault_proxy
from tests.support.mlflow_server import MlflowServer

MlflowSink = catalog.load_sink("mlflow")
POINT = Point(key="quality/ssim", value=0.5, timestamp_ms=1_700_000_000_000, step=1000)
_numbers = itertools.count()

MakeSink = Callable[..., Any]


@pytest.fixture
def client(tracking_server: MlflowServer) -> MlflowClient:
    return MlflowClient(tracking_server.uri)


@pytest.fixture
def names() -> tuple[str, str]:
    """The experiment of the configuration, and another one that the training job logs to."""
    number = f"{os.getpid()}-{next(_numbers)}"
    return f"ours-{number}", f"theirs-{number}"


@pytest.fixture
def make_sink(tracking_server: MlflowServer, names: tuple[str, str]) -> MakeSink:
    def make(layout: str, uri: str = "") -> Any:
        options = MlflowSink.Options(uri=uri or tracking_server.uri, experiment=names[0], layout=layout)
        return MlflowSink(options)

    return make


@pytest.fixture
def training(client: MlflowClient, names: tuple[str, str]) -> Any:
    """A training job's run, RUNNING, in an experiment of its own."""
    return client.create_run(client.create_experiment(names[1]), run_name="night")


def by_id(run_id: str) -> Run:
    return Run(key=f"id:{run_id}", name=run_id, id=run_id)


def test_the_training_jobs_own_run_is_the_default(make_sink, training):
    assert make_sink("training").find_run(by_id(training.info.run_id)).id == training.info.run_id


def test_a_child_lies_in_the_experiment_of_its_training_run(client, make_sink, training, tracking_server):
    sink = make_sink("child")
    found = sink.find_run(by_id(training.info.run_id))
    sink.write(found.id, [POINT], {})
    child = client.get_run(found.id)
    assert child.info.experiment_id == training.info.experiment_id
    assert child.info.run_name == "metricwatch"
    assert child.data.tags["mlflow.parentRunId"] == training.info.run_id
    assert child.data.metrics == {"quality/ssim": 0.5}
    assert found.url == f"{tracking_server.uri}/#/experiments/{child.info.experiment_id}/runs/{found.id}"
    assert client.get_run(training.info.run_id).data.metrics == {}
    # Another daemon, or the same one after a crash before it noted the id.
    assert make_sink("child").find_run(by_id(training.info.run_id)).id == found.id


def test_a_run_of_our_own_lies_in_the_configured_experiment(client, make_sink, training, names):
    found = make_sink("own").find_run(by_id(training.info.run_id))
    own = client.get_run(found.id)
    assert client.get_experiment(own.info.experiment_id).name == names[0]
    assert own.info.run_name == "night quality"
    assert own.data.tags["metricwatch.training_run"] == training.info.run_id
    assert "mlflow.parentRunId" not in own.data.tags
    assert make_sink("own").find_run(by_id(training.info.run_id)).id == found.id


def test_child_and_own_run_of_one_job_are_two_even_in_one_experiment(client, make_sink, names):
    training = client.create_run(client.create_experiment(names[0]), run_name="night")
    named = Run(key=f"name:{names[0]}/night", name="night")
    child, own = make_sink("child").find_run(named), make_sink("own").find_run(named)
    assert len({training.info.run_id, child.id, own.id}) == 3
    # And none of ours is taken for the training job's.
    again = Run(key="name:other", name="night quality")
    assert make_sink("training").find_run(again).id not in {child.id, own.id}


@pytest.mark.parametrize("layout", ["child", "own"])
def test_without_a_training_run_of_that_name_one_is_made_and_that_is_said(client, make_sink, training, names, layout):
    named = Run(key=f"name:{names[0]}/night", name="night")
    with structlog.testing.capture_logs() as logs:
        found = make_sink(layout).find_run(named)
    made = client.get_run(found.id)
    assert (made.info.run_name, "metricwatch.training_run" in made.data.tags) == ("night", False)
    assert found.id != training.info.run_id
    [said] = [entry for entry in logs if entry["event"] == "mlflow.run_created"]
    assert said["experiment"] == names[0]
    assert "no run of that name" in said["reason"]
    assert make_sink(layout).find_run(named).id == found.id


def test_of_two_creates_of_which_one_answer_was_lost_the_oldest_run_counts(
    client, make_sink, training, tracking_server
):
    run = by_id(training.info.run_id)
    with fault_proxy(tracking_server.uri) as proxy:
        proxy.lose.append("/runs/create")
        with pytest.raises(TemporaryError):
            make_sink("child", proxy.uri).find_run(run)
    found = make_sink("child").find_run(run)
    assert make_sink("child").find_run(run).id == found.id
    runs = client.search_runs([training.info.experiment_id])
    assert [each.info.run_id for each in runs if each.info.run_name == "metricwatch"] == [found.id]


@pytest.mark.parametrize(("status", "well"), [("FINISHED", True), ("FAILED", False), ("KILLED", False)])
def test_our_run_ends_with_the_training_job_and_never_ends_it(client, make_sink, training, status, well):
    sink = make_sink("child")
    found = sink.find_run(by_id(training.info.run_id))
    assert sink.ended(found.id) is False
    assert client.get_run(found.id).info.status == "RUNNING"
    assert client.get_run(training.info.run_id).info.status == "RUNNING"
    client.set_terminated(training.info.run_id, status)
    assert sink.ended(found.id) is well
    ours = client.get_run(found.id)
    assert (ours.info.status, ours.info.end_time is not None) == ("FINISHED", True)
    assert client.get_run(training.info.run_id).info.status == status
    sink.write(found.id, [POINT], {})
    client.update_run(training.info.run_id, "RUNNING")
    assert sink.ended(found.id) is False
    assert client.get_run(found.id).info.status == "RUNNING"


@pytest.mark.parametrize("layout", ["training", "child", "own"])
def test_with_a_deleted_training_run_points_wait_until_it_is_restored(client, make_sink, training, layout):
    run_id = training.info.run_id
    client.delete_run(run_id)
    sink = make_sink(layout)
    with pytest.raises(PermanentError, match="mlflow runs restore"):
        sink.find_run(by_id(run_id))
    client.restore_run(run_id)
    found = sink.find_run(by_id(run_id))
    sink.write(found.id, [POINT], {})
    assert client.get_run(found.id).data.metrics == {"quality/ssim": 0.5}


@pytest.mark.parametrize("layout", ["child", "own"])
def test_a_deleted_run_of_ours_is_not_replaced_and_takes_points_when_restored(client, make_sink, training, layout):
    run = by_id(training.info.run_id)
    sink = make_sink(layout)
    found = sink.find_run(run)
    client.delete_run(found.id)
    with pytest.raises(RunGoneError):
        sink.write(found.id, [POINT], {})
    with pytest.raises(PermanentError, match=f"mlflow runs restore --run-id {found.id}"):
        make_sink(layout).find_run(run)
    assert sink.ended(found.id) is False
    client.restore_run(found.id)
    assert make_sink(layout).find_run(run).id == found.id
    sink.write(found.id, [POINT], {})
    assert client.get_run(found.id).data.metrics == {"quality/ssim": 0.5}


def test_the_configuration_hands_the_layout_to_a_sink_that_has_it(tmp_path: Path):
    file = tmp_path / "metricwatch.yaml"
    text = (
        "tracking: {{uri: 'http://127.0.0.1:1', layout: {layout}}}\nmetrics: [ssim]\n"
        "watch: [{{run: {{name: a}}, samples: s/*}}]\n"
    )
    file.write_text(text.format(layout="child"))
    config = load_config(file, environ={})
    assert load_sink(config)._runs._layout == "child"
    with pytest.raises(ConfigError, match=r"tracking\.layout: sink mlflow has one layout only"):
        config.tracking.options_for(["uri", "experiment", "prefix"])
    file.write_text(text.format(layout="nested"))
    with pytest.raises(ConfigError, match=r"tracking\.layout: must be"):
        load_config(file, environ={})
