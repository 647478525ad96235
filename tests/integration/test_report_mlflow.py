"""`metricwatch report` on a real tracking server: thousands of steps, pictures, hostile names, runs that are gone."""

from __future__ import annotations

import json
import math
import os
import random
import re
import resource
import subprocess
import sys
import time
import uuid
from typing import Any

import pytest
from typer.testing import CliRunner

from metricwatch import catalog, cli
from metricwatch.api import PermanentError, TemporaryError
from metricwatch.records import Picture, Point, Run, StoredPicture
from tests.support.job import Job
from tests.support.mlflow_pictures import read_artifact
from tests.support.mlflow_server import MlflowServer
from tests.unit.test_report import HOSTILE, Strict, png

MlflowSink = catalog.load_sink("mlflow")
STEPS = 3000
_MINUTE = 60_000


@pytest.fixture(scope="module")
def sink(tracking_server: MlflowServer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from mlflow import MlflowClient

    name = f"report-{uuid.uuid4().hex}"
    folder = tmp_path_factory.mktemp("artifacts").as_uri()
    MlflowClient(tracking_server.uri).create_experiment(name, artifact_location=folder)
    made = MlflowSink(MlflowSink.Options(uri=tracking_server.uri, experiment=name))
    yield made
    made.close()


@pytest.fixture(scope="module")
def long_run(sink, tracking_server) -> str:
    """Three metrics over thousands of steps, two rules, pictures at three of the steps; finished."""
    from mlflow import MlflowClient

    run_id = sink.find_run(Run(key="long", name=HOSTILE)).id
    chance = random.Random(7)
    points = []
    for place in range(1, STEPS + 1):
        values = {
            "quality/fid": 28 + 40 * math.exp(-place / 500) + chance.gauss(0, 0.3) - 9 * (place == 2222),
            "quality/kid": 0.003 + chance.random() / 1e3,
            "quality/ssim": place / STEPS,
        }
        if place % 50 == 0:
            values |= {"quality/fid_stderr": 0.3, "alert/fid-moved": float(1000 <= place < 1500)}
        points += [
            Point(key=key, value=value, timestamp_ms=1_760_000_000_000 + place * _MINUTE, step=place * 100)
            for key, value in values.items()
        ]
    sink.write(run_id, points, {"metricwatch.series.fid": f"since step 100: extractor=inception-v3, x={HOSTILE}"})
    for step in (100, 222_200, 300_000):
        for kind in ("contact_sheet", "comparison"):
            sink.write_picture(run_id, Picture(key=f"quality/{kind}", step=step, timestamp_ms=1), png(400))
    MlflowClient(tracking_server.uri).update_run(run_id, status="FINISHED")
    return run_id


@pytest.fixture
def report(tracking_server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def report(run_id, *arguments):
        command = ["report", "--run-id", run_id, "--uri", tracking_server.uri, *map(str, arguments)]
        return CliRunner().invoke(cli.app, command)

    return report


def test_thousands_of_steps_are_one_page_that_can_be_mailed(tracking_server, long_run, tmp_path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    started = time.monotonic()
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            "-m",
            "metricwatch",
            "report",
            "--run-id",
            long_run,
            "--uri",
            tracking_server.uri,
            "--json",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=120,
        check=False,
    )
    seconds = time.monotonic() - started
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    fid = document["metrics"][0]
    assert (fid["metric"], fid["evaluations"], fid["best"]["step"]) == ("fid", STEPS, 222_200)
    assert [(a["rule"], a["fired_step"], a["resolved_step"]) for a in document["alerts"]] == [
        ("fid-moved", 100_000, 150_000)
    ]
    assert document["notes"] == []
    file = tmp_path / document["file"]
    assert re.fullmatch(r"report-[\w.\-]+\.html", file.name)
    page = file.read_text()
    parsed = Strict(page)
    assert HOSTILE in parsed.text
    assert page.count("data:image/webp") == 6
    assert page.count("data:image/svg") == 3
    assert document["bytes"] == file.stat().st_size < 3_000_000
    assert seconds < 60
    # Kilobytes; of the largest child so far.
    peak = max(before, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    print(f"{document['bytes']:,} bytes, {seconds:.1f} s, {peak / 1024:.0f} MB")


def test_the_page_is_stored_beside_the_run(report, long_run, tracking_server, tmp_path):
    result = report(long_run, "--artifact", "--out", "mine.html", "--metric", "ssim")
    assert result.exit_code == 0, result.stderr
    stored = read_artifact(tracking_server.uri, long_run, "report.html", tmp_path)
    assert stored == (tmp_path / "mine.html").read_bytes()
    assert b"Best and last" in stored
    assert sorted(file.name for file in tmp_path.iterdir() if file.suffix == ".html") == ["mine.html", "report.html"]


def test_a_run_that_is_deleted_unknown_or_not_ours_is_told_in_one_line(report, sink, tracking_server, tmp_path):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_server.uri)
    for name, message in (("deleted", "is deleted"), ("foreign", "it has some under 'train'"), ("empty", "no metrics")):
        run_id = client.create_run("0", run_name=name).info.run_id
        if name != "empty":
            client.log_metric(run_id, "train/loss", 1.0)
        if name == "deleted":
            client.delete_run(run_id)
        result = report(run_id)
        assert result.exit_code == 1
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
    result = report("0" * 32)
    assert (result.exit_code, "0" * 32 in result.stderr) == (1, True)
    assert list(tmp_path.iterdir()) == []
    # Whoever logged it: with its own prefix it has a page.
    run_id = client.create_run("0", run_name="theirs").info.run_id
    client.log_metric(run_id, "train/loss", float("nan"), step=1)
    client.log_metric(run_id, "train/loss", 2.0, step=2)
    result = report(run_id, "--prefix", "train", "--lower-is-better")
    assert result.exit_code == 0, result.stderr
    assert "1 without a value" in (tmp_path / "report-theirs.html").read_text()


def test_a_page_that_cannot_be_written_leaves_nothing_behind(report, long_run, tmp_path):
    result = report(long_run, "--out", tmp_path / "missing" / "a.html")
    assert result.exit_code == 2
    (tmp_path / "folder.html").mkdir()
    result = report(long_run, "--out", "folder.html")
    assert result.exit_code == 2
    assert [file.name for file in tmp_path.iterdir()] == ["folder.html"]


def test_pictures_that_others_logged_are_found_by_their_names(sink, tracking_server):
    from mlflow import MlflowClient
    from PIL import Image

    client = MlflowClient(tracking_server.uri)
    run_id = sink.find_run(Run(key="theirs", name="theirs")).id
    client.log_image(run_id, Image.new("RGB", (8, 8)), key="train/a b", step=3, timestamp=5, synchronous=True)
    client.log_text(run_id, "x", "images/c#d%step%7%timestamp%9%1234.png")
    client.log_text(run_id, "y", "images/e%step%8%timestamp%9%1234.png")
    client.log_text(run_id, "z", "images/other.png")
    assert [(each.key, each.step, each.timestamp_ms) for each in sink.pictures(run_id)] == [
        ("train/a b", 3, 5),
        ("c/d", 7, 9),
        ("e", 8, 9),
    ]
    _, unreadable, found = sink.pictures(run_id)
    assert sink.read_picture(run_id, found) == b"y"
    # MLflow refuses to give out what has this sign in its name.
    with pytest.raises(PermanentError, match="is not there"):
        sink.read_picture(run_id, unreadable)


def test_curves_come_in_pages(sink, monkeypatch):
    from metricwatch.sinks.mlflow import history

    run_id = sink.find_run(Run(key="pages", name="pages")).id
    sink.write(run_id, [Point(key="a", value=1.0, timestamp_ms=step, step=step) for step in range(250)], {})
    monkeypatch.setattr(history, "_PAGE", 100)
    pages = list(sink.read_pages(run_id, "a"))
    assert [len(page) for page in pages] == [100, 100, 50]
    assert [point.step for page in pages for point in page] == list(range(250))


def test_a_server_that_knows_no_pages_gives_all_at_once(sink, monkeypatch):
    run_id = sink.find_run(Run(key="old", name="old")).id
    sink.write(run_id, [Point(key="a", value=1.0, timestamp_ms=step, step=step) for step in range(1, 8)], {})
    store = sink._server.client()._tracking_client.store
    asked = type(store).get_metric_history

    def old(self, run_id, metric_key, max_results=None, page_token=None):
        assert page_token is None
        return list(asked(self, run_id, metric_key))

    monkeypatch.setattr(type(store), "get_metric_history", old)
    assert [len(page) for page in sink.read_pages(run_id, "a")] == [7]


def test_a_server_that_gives_the_same_pages_again_and_again_is_not_followed(sink, monkeypatch):
    run_id = sink.find_run(Run(key="circle", name="circle")).id
    store = sink._server.client()._tracking_client.store
    following = {None: "a", "a": "b", "b": "a"}

    class Page(list):
        token = None

    def circle(self, run_id, metric_key, max_results=None, page_token=None):
        page = Page()
        page.token = following[page_token]
        return page

    monkeypatch.setattr(type(store), "get_metric_history", circle)
    with pytest.raises(TemporaryError, match="again and again"):
        list(sink.read_pages(run_id, "a"))


def test_the_login_of_an_artifact_store_is_shown_to_nobody(tmp_path):
    from mlflow import MlflowClient

    # A server takes no such address by default, a database does.
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    MlflowClient(uri).create_experiment("store", artifact_location="ftp://metric:hunter%2F2@127.0.0.1:1/runs")
    sink = MlflowSink(MlflowSink.Options(uri=uri, experiment="store"))
    run_id = sink.find_run(Run(key="store", name="store")).id
    with pytest.raises(TemporaryError) as told:
        sink.write_page(run_id, "report.html", b"<html>")
    sink.close()
    assert "127.0.0.1" in str(told.value)
    assert "hunter" not in str(told.value)


def test_a_picture_larger_than_any_is_not_fetched(sink, monkeypatch):
    from metricwatch.sinks.mlflow import gallery

    run_id = sink.find_run(Run(key="large", name="large")).id
    sink.write_picture(run_id, Picture(key="a", step=1, timestamp_ms=1), png())
    (picture,) = sink.pictures(run_id)
    monkeypatch.setattr(gallery, "_MOST_BYTES", 10)
    with pytest.raises(PermanentError, match="more than 10"):
        sink.read_picture(run_id, picture)
    assert isinstance(picture, StoredPicture)


def test_a_single_pass_over_a_finished_job_leaves_its_report_beside_the_run(tracking_server, tmp_path):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_server.uri)
    job = Job(tmp_path / "job", tracking_server.uri, f"ended-{uuid.uuid4().hex}")
    folder = (tmp_path / "artifacts").as_uri()
    experiment = client.create_experiment(job.config["tracking"]["experiment"], artifact_location=folder)
    run_id = client.create_run(experiment).info.run_id
    client.update_run(run_id, status="FINISHED")
    (job.folder / "mlflow_run_id").write_text(run_id)
    job.config["watch"][0]["run"] = {"id_file": "mlflow_run_id"}
    job.config["tracking"]["report"] = False
    job.write_config()
    job.write_step(1000, blur=1)
    assert job.call("run", "--once").returncode == 0
    assert "report.html" not in [file.path for file in client.list_artifacts(run_id)]
    job.config["tracking"]["report"] = True
    job.write_config()
    done = job.call("run", "--once")
    assert done.returncode == 0, done.stderr
    stored = read_artifact(tracking_server.uri, run_id, "report.html", tmp_path).decode()
    assert "ssim" in Strict(stored).text
