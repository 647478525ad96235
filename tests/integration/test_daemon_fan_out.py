"""One entry, many training jobs: real processes, real MLflow, a receiver of alerts, and a daemon that is killed."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from tests.support.job import Daemon, Job, wait_until
from tests.support.mlflow_server import MlflowServer
from tests.support.photos import write_crops

_numbers = itertools.count()
SSIM = "quality/ssim"


class Jobs(Job):
    """Several training jobs below one folder, each with a run of its own in an experiment that is not ours."""

    def __init__(self, folder: Path, server: MlflowServer, hook: str) -> None:
        number = f"{os.getpid()}-{next(_numbers)}"
        super().__init__(
            folder,
            server.uri,
            f"fan-out-{number}",
            watch=[
                {
                    "run": {"id_file": "runs/{run}/mlflow_run_id"},
                    "samples": "runs/{run}/samples/*",
                    "pairs": {"content": "content"},
                    "settle": "1s",
                    "rescan": "1s",
                }
            ],
            rules=[{"name": "blurred", "metric": "ssim", "below": 0.9, "runs": {"later-*": "off"}}],
            route={"group_wait": 0, "group_interval": 0},
            notify={"hook": {"use": "webhook", "url": hook}},
        )
        self.client = MlflowClient(server.uri)
        self.experiment = self.client.create_experiment(f"training-{number}")
        self.ids: dict[str, str] = {}

    def begin(self, run: str) -> None:
        """The job makes its run, as training does."""
        self.ids[run] = self.client.create_run(self.experiment, run_name=run).info.run_id

    def tell(self, run: str) -> None:
        """The job writes down which run is its own."""
        (self.folder / "runs" / run).mkdir(parents=True, exist_ok=True)
        (self.folder / "runs" / run / "mlflow_run_id").write_text(self.ids[run])

    def save(self, run: str, step: int, *, blur: float = 0.0) -> None:
        folder = write_crops(self.folder / "writing" / f"{run}-{step}", 16, side=96, seed=2, blur=blur)
        (folder / ".done").touch()
        target = self.folder / "runs" / run / "samples" / f"step_{step:06d}"
        target.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(target)

    def steps(self, run: str) -> list[int]:
        return sorted(row.step for row in self.client.get_metric_history(self.ids[run], SSIM))

    def wait_for(self, **wanted: list[int]) -> None:
        for run, steps in wanted.items():
            wait_until(lambda run=run, steps=steps: self.steps(run) == steps, what=f"steps {steps} of {run} in MLflow")


@pytest.fixture
def daemons() -> Iterator[list[Daemon]]:
    started: list[Daemon] = []
    yield started
    for daemon in started:
        daemon.end()


def test_each_of_many_jobs_lands_in_its_own_run_through_a_kill(
    tmp_path: Path, tracking_server: MlflowServer, httpserver: HTTPServer, daemons: list[Daemon]
) -> None:
    told: list[tuple[str, str]] = []

    def take(request: Request) -> Response:
        told.extend((alert["labels"]["run"], alert["generatorURL"]) for alert in request.get_json()["alerts"])
        return Response("ok")

    httpserver.expect_request("/hook", method="POST").respond_with_handler(take)
    jobs = Jobs(tmp_path / "jobs", tracking_server, httpserver.url_for("/hook"))
    for run in ("a", "b", "c"):
        jobs.begin(run)
        jobs.tell(run)
        jobs.save(run, 1000)
    daemons.append(jobs.start())
    jobs.wait_for(a=[1000], b=[1000], c=[1000])
    jobs.save("b", 2000, blur=3.0)

    # Of one that begins later nobody knows the run yet: its points wait, and nobody waits for them.
    jobs.begin("later-d")
    jobs.save("later-d", 1000, blur=3.0)
    daemons[0].wait_for("later-d/mlflow_run_id: not written yet")
    jobs.save("a", 2000)
    jobs.wait_for(a=[1000, 2000], b=[1000, 2000])
    assert jobs.steps("later-d") == []
    daemons[0].wait_for("notification.sent")

    jobs.tell("later-d")
    daemons[0].stop(signal.SIGKILL)
    jobs.begin("later-e")
    jobs.save("later-e", 1000, blur=3.0)
    jobs.save("c", 2000)
    daemons.append(jobs.start())
    daemons[1].wait_for("later-e/mlflow_run_id: not written yet")
    jobs.tell("later-e")
    jobs.wait_for(c=[1000, 2000])
    jobs.wait_for(**{"later-d": [1000], "later-e": [1000]})

    wanted = {"a": [1000, 2000], "b": [1000, 2000], "c": [1000, 2000], "later-d": [1000], "later-e": [1000]}
    assert {run: jobs.steps(run) for run in jobs.ids} == wanted
    # Nothing was made anywhere else.
    assert jobs.client.get_experiment_by_name(jobs.config["tracking"]["experiment"]) is None
    assert len(jobs.client.search_runs([jobs.experiment])) == len(jobs.ids)
    assert daemons[1].stop() == 0
    assert "Traceback" not in daemons[1].log
    url = f"{tracking_server.uri}/#/experiments/{jobs.experiment}/runs/{jobs.ids['b']}"
    assert told == [("b", url)]


def test_once_scores_all_runs_that_there_are(
    tmp_path: Path, tracking_server: MlflowServer, httpserver: HTTPServer
) -> None:
    jobs = Jobs(tmp_path / "jobs", tracking_server, httpserver.url_for("/hook"))
    for run in ("later-a", "later-b"):
        jobs.begin(run)
        jobs.tell(run)
        jobs.save(run, 1000)
    done = jobs.call("run", "--once")
    assert done.returncode == 0, done.stderr
    assert {run: jobs.steps(run) for run in jobs.ids} == {"later-a": [1000], "later-b": [1000]}
