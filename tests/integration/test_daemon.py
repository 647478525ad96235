"""The whole line with real processes: files on disk, a worker, MLflow, Slack's webhook and a mail server."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.request import urlopen

import pytest
from mlflow import MlflowClient
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from tests.support.job import QUIET, Daemon, Job, wait_until
from tests.support.mlflow_server import MlflowServer, mlflow_server
from tests.support.ports import free_port
from tests.support.smtp_server import smtp_server

_numbers = itertools.count()

MakeJob = Callable[..., Job]


@pytest.fixture
def make_job(tmp_path: Path, tracking_server: MlflowServer) -> MakeJob:
    def make(**settings: object) -> Job:
        uri = settings.pop("tracking_uri", tracking_server.uri)
        return Job(tmp_path / "job", uri, f"daemon-{os.getpid()}-{next(_numbers)}", **settings)

    return make


@pytest.fixture
def start() -> Iterator[Callable[..., Daemon]]:
    """Start daemons; whatever still runs after the test is ended."""
    started: list[Daemon] = []

    def run(job: Job, *arguments: str, **environ: str) -> Daemon:
        started.append(job.start(*arguments, **environ))
        return started[-1]

    yield run
    for daemon in started:
        daemon.end()


def history(job: Job, key: str, uri: str | None = None) -> list[tuple[int, float]]:
    """Every row MLflow holds of a key, in step order, duplicates included."""
    client = MlflowClient(uri or job.config["tracking"]["uri"])
    experiment = client.get_experiment_by_name(job.config["tracking"]["experiment"])
    if experiment is None:
        return []
    runs = client.search_runs([experiment.experiment_id])
    return sorted((row.step, row.value) for run in runs for row in client.get_metric_history(run.info.run_id, key))


def steps(job: Job, key: str = "quality/ssim") -> list[int]:
    return [step for step, _ in history(job, key)]


def wait_for_steps(job: Job, wanted: list[int], key: str = "quality/ssim") -> None:
    wait_until(lambda: steps(job, key) == wanted, what=f"steps {wanted} of {key} in MLflow")


def children(pid: int) -> list[int]:
    """The processes that any thread of this one has started."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def test_a_live_daemon_turns_sample_sets_into_points_and_stops_cleanly(make_job, start):
    job = make_job()
    daemon = start(job)
    daemon.wait_for("daemon.started")
    for step in (1000, 2000):
        job.write_step(step, blur=step / 1000)
    wait_for_steps(job, [1000, 2000])
    values = [value for _, value in history(job, "quality/ssim")]
    assert 1 > values[0] > values[1] > 0
    assert [step for step, _ in history(job, "quality/ssim_stderr")] == [1000, 2000]
    workers = children(daemon.process.pid)
    assert len(workers) == 1
    assert daemon.stop() == 0
    assert not Path(f"/proc/{workers[0]}").exists()
    assert "Traceback" not in daemon.log


def test_a_break_reaches_slack_and_mail_once_and_shows_in_mlflow(make_job, start, httpserver: HTTPServer):
    payloads = []

    def take(request: Request) -> Response:
        payloads.append(request.get_json())
        return Response("ok")

    httpserver.expect_request("/services/T/B/secret", method="POST").respond_with_handler(take)
    with smtp_server() as mail:
        job = make_job(
            metrics=["fd_efficientnet_lite0", "ssim"],
            rules=[{"name": "fd-moved", "metric": "fd_efficientnet_lite0", "moves": "10%", "across": 3}],
            route={"group_wait": 0, "group_interval": 0},
            notify={
                "team": {"use": "slack", "webhook_url": httpserver.url_for("/services/T/B/secret")},
                "mail": {
                    "use": "email",
                    "host": mail.host,
                    "port": mail.port,
                    "starttls": False,
                    "from": "mw@example.org",
                    "to": ["ml@example.org"],
                },
            },
        )
        daemon = start(job)
        for number, blur in enumerate((0.5, 0.5, 0.5, 3.0, 3.0, 3.0)):
            job.write_step(1000 * (number + 1), blur=blur)
            wait_for_steps(job, [1000 * (n + 1) for n in range(number + 1)], "alert/fd-moved")
        wait_until(lambda: len(payloads) == 2 and len(mail.mails) == 2, what="firing and resolved on both channels")
        assert daemon.stop() == 0
    assert [value for _, value in history(job, "alert/fd-moved")] == [0, 0, 0, 1, 1, 0]
    firing, resolved = payloads
    assert "critical" in firing["text"]
    assert "resolved" in resolved["text"]
    blocks = json.dumps(firing["blocks"])
    assert "fd_efficientnet_lite0" in blocks
    assert "4000" in blocks
    assert "/#/experiments/" in blocks
    assert "critical" in mail.mails[0].message["Subject"]
    assert "secret" not in daemon.log
    # The same fixed values, read again, are the same rows: nothing was logged twice.
    assert steps(job, "quality/fd_efficientnet_lite0") == [1000 * n for n in range(1, 7)]


def test_run_once_scores_what_is_there_and_a_second_time_adds_nothing(make_job):
    job = make_job()
    job.write_step(1000, blur=1)
    job.write_step(2000, blur=2, marked=False)
    for _ in range(2):
        done = job.call("run", "--once", "--json")
        assert done.returncode == 0, done.stderr
        assert steps(job) == [1000, 2000]
    assert json.loads(done.stdout)["done"] == 0
    status = json.loads(job.call("status", "--json").stdout)
    assert status["jobs"]["done"] == 2
    assert status["runs"][0]["latest"][0]["key"] == "ssim"
    assert status["daemon"] is None


def test_run_once_goes_by_the_calendar_to_tell_that_a_run_is_stale(make_job):
    job = make_job(rules=[{"name": "dead", "stale": "2h"}])
    job.write_step(1000)
    assert job.call("run", "--once").returncode == 0
    with closing(sqlite3.connect(job.folder / "state" / "ledger.sqlite3")) as ledger, ledger:
        ledger.execute("UPDATE evaluations SET evaluated_ms = evaluated_ms - 3 * 3600 * 1000")
    done = job.call("run", "--once")
    assert done.returncode == 0, done.stderr
    assert [value for _, value in history(job, "alert/dead")] == [0, 1]
    (alert,) = json.loads(job.call("status", "--json").stdout)["alerts"]
    assert (alert["rule"], alert["state"]) == ("dead", "firing")


def test_a_killed_daemon_loses_nothing_and_repeats_nothing(make_job, start):
    job = make_job()
    for step in (1000, 2000, 3000, 4000):
        job.write_step(step, blur=1)
    for marker in ("daemon.started", "worker.ready", "evaluated"):
        job.folder.joinpath("daemon.log").write_text("")
        daemon = start(job)
        daemon.wait_for(marker)
        workers = children(daemon.process.pid)
        assert daemon.stop(signal.SIGKILL) == -signal.SIGKILL
        for worker in workers:
            wait_until(lambda pid=worker: not Path(f"/proc/{pid}").exists(), what="the orphaned worker's end")
    done = job.call("run", "--once")
    assert done.returncode == 0, done.stderr
    assert steps(job) == [1000, 2000, 3000, 4000]


def test_a_killed_worker_is_replaced_and_its_job_done(make_job, start):
    job = make_job()
    daemon = start(job)
    job.write_step(1000)
    daemon.wait_for("worker.ready")
    os.kill(children(daemon.process.pid)[0], signal.SIGKILL)
    daemon.wait_for("worker.died")
    job.write_step(2000)
    wait_for_steps(job, [1000, 2000])
    assert daemon.stop() == 0


def test_with_mlflow_away_scoring_goes_on_and_the_points_follow(make_job, start, tmp_path):
    port = free_port()
    job = make_job(tracking_uri=f"http://127.0.0.1:{port}")
    daemon = start(job)
    job.write_step(1000, blur=1)
    job.write_step(2000, blur=2)

    def waiting() -> bool:
        status = json.loads(job.call("status", "--json").stdout or "{}")
        backlog = status.get("backlog", [])
        return sum(item["pending"] for item in backlog) == 2 and "connection refused" in backlog[0]["reason"]

    wait_until(waiting, what="two evaluations kept back with the reason")
    (tmp_path / "late").mkdir()
    with mlflow_server(tmp_path / "late", port=port):
        wait_for_steps(job, [1000, 2000])
    assert daemon.stop() == 0


def test_run_once_says_what_could_not_be_delivered(make_job):
    job = make_job(tracking_uri=f"http://127.0.0.1:{free_port()}")
    job.write_step(1000)
    done = job.call("run", "--once", "--drain", "1s")
    assert done.returncode == 1
    assert "deliveries wait for the tracking server" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_daemon_on_the_same_ledger_is_refused(make_job, start):
    job = make_job()
    daemon = start(job)
    daemon.wait_for("daemon.started")
    second = job.call("run", "--once")
    assert second.returncode == 1
    assert "another metricwatch daemon owns this ledger (pid" in second.stderr
    assert json.loads(job.call("status", "--json").stdout)["daemon"].startswith("pid ")
    assert daemon.stop() == 0


def test_the_run_is_found_by_the_id_file_of_the_training_job(make_job, tracking_server, start):
    job = make_job()
    job.config["watch"][0]["run"] = {"id_file": "mlflow_run_id"}
    job.write_config()
    daemon = start(job)
    job.write_step(1000)
    daemon.wait_for("not written yet")
    client = MlflowClient(tracking_server.uri)
    run = client.create_run(client.create_experiment(job.config["tracking"]["experiment"]))
    (job.folder / "mlflow_run_id").write_text(run.info.run_id + "\n")
    wait_until(
        lambda: client.get_metric_history(run.info.run_id, "quality/ssim"), what="the point in the job's own run"
    )
    assert daemon.stop() == 0
    assert client.get_run(run.info.run_id).info.status == "RUNNING"


def test_the_daemons_process_never_imports_the_heavy_libraries(make_job):
    job = make_job(
        metrics=["ssim", "fd_efficientnet_lite0"],
        rules=[{"name": "r", "metric": "ssim", "moves": 0.1, "across": 2}],
        notify={"team": {"use": "slack", "webhook_url": "http://127.0.0.1:9/x"}},
    )
    for step in (1000, 2000):
        job.write_step(step, blur=step / 500)
    script = (
        "import sys\nfrom datetime import timedelta\nfrom pathlib import Path\n"
        "from metricwatch.config.loader import load_config\nfrom metricwatch.daemon import App\n"
        "with App(load_config(Path('metricwatch.yaml'))) as app:\n"
        "    result = app.run_once(drain=timedelta(seconds=5))\n"
        "heavy = [name for name in ('torch', 'torchvision', 'lpips', 'transformers', 'timm', 'matplotlib') if name in sys.modules]\n"
        "print(result.done, result.undelivered, heavy)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=job.folder,
        env={**os.environ, **QUIET},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines()[-1] == "2 0 []", done.stderr


def test_bad_sample_sets_are_named_and_do_not_stop_the_good_ones(make_job):
    job = make_job(metrics=["fd_efficientnet_lite0", "ssim"])
    good = job.write_step(1000, blur=1)
    (good / "zero.png").touch()
    (good / "text.png").write_text("not a picture")
    broken = job.write_step(2000)
    for image in broken.glob("*.png"):
        image.write_bytes(image.read_bytes()[:100])
    single = job.write_step(3000)
    for image in sorted(single.glob("*.png"))[1:]:
        image.unlink()
    (job.samples / "4000").mkdir()
    (job.samples / "4000" / ".done").touch()
    job.write_step(5000, blur=1)
    done = job.call("run", "--once")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert steps(job, "quality/fd_efficientnet_lite0") == [1000, 5000]
    assert steps(job) == [1000, 3000, 5000]
    status = json.loads(job.call("status", "--json").stdout)
    assert sorted(problem["step"] for problem in status["problems"]) == [2000, 4000]
    assert all(problem["reason"] for problem in status["problems"])
    assert {Path(item["path"]).name for item in status["runs"][0]["skipped"]} >= {"zero.png", "text.png"}
    shown = job.call("status").stdout
    assert "failed: night step 2000" in shown


def test_modules_that_lie_in_the_jobs_folder_are_not_imported(make_job):
    """Beside a training job there may well be a random.py."""
    job = make_job()
    for name in ("random", "queue", "torch", "timm"):
        (job.folder / f"{name}.py").write_text("raise RuntimeError('the training job own module')")
    job.write_step(1000)
    done = job.call("run", "--once")
    assert done.returncode == 0, done.stderr


def test_file_names_that_are_no_text_are_told_all_the_same(make_job):
    job = make_job()
    step = job.write_step(1000)
    with open(os.fsencode(step) + b"/bad\xff\x1b[31m.png", "wb") as file:
        file.write(b"no picture")
    done = job.call("run", "--once")
    assert done.returncode == 0, done.stderr
    for arguments in (("status",), ("status", "--json")):
        shown = job.call(*arguments, PYTHONIOENCODING="utf-8:strict")
        assert shown.returncode == 0, shown.stderr
        assert "bad" in shown.stdout
        assert "\x1b" not in shown.stdout


def test_removing_the_state_folder_stops_the_daemon_rather_than_doubling_points(make_job, start):
    job = make_job()
    daemon = start(job)
    daemon.wait_for("daemon.started")
    shutil.rmtree(job.folder / "state")
    assert daemon.process.wait(timeout=20) == 1
    assert "removed or replaced" in daemon.log


def test_what_the_tracking_server_rejects_is_told_by_the_exit_status(make_job):
    """A score key that MLflow does not take: the others arrive, and nobody is left believing that all did."""
    job = make_job(rules=[{"name": "x" * 250, "metric": "ssim", "moves": 0.1, "across": 2}])
    job.write_step(1000)
    done = job.call("run", "--once")
    assert done.returncode == 1
    assert "rejected by the tracking server" in done.stderr
    assert steps(job) == [1000]


def test_a_port_in_use_is_a_clear_error(make_job):
    port = free_port()
    job = make_job(telemetry={"port": port})
    with socket.create_server(("127.0.0.1", port)):
        done = job.call("run", "--once")
    assert done.returncode == 78
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr


def test_a_device_that_is_not_there_is_a_matter_of_configuration(make_job):
    """Status 78, from check as from the daemon: no service manager shall restart it for ever."""
    job = make_job(worker={"device": "cuda:77"})
    job.write_step(1000)
    for command in (["check"], ["run", "--once"], ["run"]):
        done = job.call(*command)
        assert done.returncode == 78, done.stderr
        assert "cuda:77" in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_a_metric_that_failed_is_told_by_the_exit_status(make_job):
    job = make_job(metrics=["ssim", "fd_efficientnet_lite0"])
    job.config["extractors"] = {"efficientnet-lite0": {"weights": "nowhere.pth"}}
    job.write_config()
    job.write_step(1000)
    done = job.call("run", "--once", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["failed_scores"] == 1
    assert "nowhere.pth" in done.stderr
    assert steps(job) == [1000]


def test_the_health_endpoint_shows_the_backlog(make_job, start):
    port = free_port()
    job = make_job(tracking_uri=f"http://127.0.0.1:{free_port()}", telemetry={"port": port})
    daemon = start(job)
    daemon.wait_for("daemon.started")
    job.write_step(1000)

    def document() -> dict:
        with urlopen(f"http://127.0.0.1:{port}/-/healthy", timeout=5) as answer:
            return json.load(answer)

    wait_until(lambda: document()["jobs"]["done"] == 1, what="one evaluation")
    assert document()["healthy"] is True
    assert document()["backlog"][0]["pending"] == 1
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        metrics = answer.read().decode()
    assert 'metricwatch_jobs{state="done"} 1.0' in metrics
    assert 'metricwatch_deliveries_pending{sink="mlflow"} 1.0' in metrics
    assert daemon.stop() == 0
