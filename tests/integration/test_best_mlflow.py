"""`metricwatch best` with a real tracking server: what it says, and what it registers."""

from __future__ import annotations

import csv
import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner, Result

from metricwatch import cli
from metricwatch.records import RemoteRun, Run
from metricwatch.store.db import Database
from metricwatch.store.deliveries import Deliveries
from metricwatch.store.ledger import Ledger, Recorded
from metricwatch.testing.clock import FakeClock
from tests.support.mlflow_server import MlflowServer

_numbers = itertools.count()
KEY = Run(key="name:best/night", name="night")
CONFIG = """
state: state
tracking: {uri: "%s", experiment: best}
watch: [{run: {name: night}, samples: "a/*"}]
metrics: [fid, ssim]
"""


class Scene:
    """A run with a curve, and a ledger that knows its checkpoints."""

    def __init__(self, folder: Path, server: MlflowServer) -> None:
        self.folder = folder
        (folder / "metricwatch.yaml").write_text(CONFIG % server.uri)
        (folder / "state").mkdir()
        self.client = MlflowClient(server.uri)
        experiment = self.client.get_experiment_by_name("best")
        self.run_id = self.client.create_run(
            experiment.experiment_id if experiment else self.client.create_experiment("best"), run_name="night"
        ).info.run_id
        self.clock, self.db = FakeClock(), Database.open(folder / "state")
        self.ledger = Ledger(self.db)
        self.ledger.register_run(KEY, self.clock.now())
        Deliveries(self.db).remember_remote_run("mlflow", KEY.key, RemoteRun(id=self.run_id))

    def log(self, key: str, values: dict[int, float], timestamp: int = 1000) -> None:
        for step, value in values.items():
            self.client.log_metric(self.run_id, f"quality/{key}", value, timestamp=timestamp, step=step)

    def checkpoint(self, step: int, *names: str) -> Path:
        """A checkpoint as the watcher records it: one file of a folder, or a folder of files."""
        place = self.folder / "checkpoints"
        path = place if len(names) == 1 else place / f"step_{step}"
        for name in names:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(f"weights of {step} in {name}".encode())
        self.ledger.add_snapshot(
            source=f"{KEY.key} checkpoints",
            run=KEY.key,
            step=step,
            path=str(path),
            members=names if len(names) == 1 else None,
            recorded=Recorded(revision=1, digest="d", images=len(names), newest_ns=1, mtime_ns=1),
            now=self.clock.now(),
        )
        return path / names[0]

    def best(self, *arguments: str) -> Result:
        return CliRunner().invoke(cli.app, ["best", *arguments])

    def said(self, *arguments: str) -> dict:
        result = self.best(*arguments, "--json")
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)


@pytest.fixture
def scene(tmp_path, monkeypatch, tracking_server):
    monkeypatch.chdir(tmp_path)
    made = Scene(tmp_path, tracking_server)
    yield made
    made.db.close()


@pytest.fixture
def model(scene) -> Callable[[], str]:
    name = f"painter-{os.getpid()}-{next(_numbers)}"
    return lambda: name


def test_the_best_step_is_told_with_its_error_and_its_neighbours(scene):
    scene.log("fid", {100: 30.0, 200: 20.0, 300: 25.0, 400: 20.0})
    scene.log("fid_stderr", {100: 0.3, 200: 0.2, 300: 0.25, 400: 0.1})
    said = scene.said("--metric", "fid")
    assert said["best"] == {"step": 200, "value": 20.0, "stderr": 0.2}
    assert (said["worst"]["step"], said["last"]["step"]) == (100, 400)
    assert said["higher_is_better"] is False
    assert said["run_id"] == scene.run_id


def test_a_metric_knows_its_direction_and_an_unknown_one_asks(scene):
    scene.log("ssim", {100: 0.5, 200: 0.7})
    scene.log("charm", {100: 0.5, 200: 0.7})
    assert scene.said("--metric", "ssim")["best"]["step"] == 200
    assert scene.said("--metric", "charm")["best"]["step"] == 100
    assert scene.said("--metric", "charm")["direction_assumed"]
    assert scene.said("--metric", "charm", "--higher-is-better")["best"]["step"] == 200


def test_of_a_rewritten_step_the_newest_value_counts(scene):
    scene.log("fid", {100: 10.0, 200: 20.0})
    scene.log("fid", {100: 30.0}, timestamp=2000)
    assert scene.said("--metric", "fid")["best"]["step"] == 200


def test_only_values_of_the_newest_series_compare(scene):
    scene.log("fid", {100: 1.0, 200: 2.0, 300: 25.0, 400: 24.0})
    scene.client.set_tag(scene.run_id, "metricwatch.series.fid", "since step 300: protocol=clean")
    result = scene.best("--metric", "fid")
    assert "2 steps before 300 are left out" in result.stderr
    said = scene.said("--metric", "fid")
    assert (said["best"]["step"], said["steps"], said["left_out"]) == (400, 2, 2)


def test_a_key_and_a_run_that_are_not_there_are_told_in_one_line(scene):
    scene.log("fid", {100: 1.0})
    wrong = scene.best("--metric", "fdi")
    assert wrong.exit_code == 1
    assert "did you mean 'fid'" in wrong.stderr
    assert "there is no such run" in scene.best("--metric", "fid", "--run", "day").stderr
    assert scene.best("--metric", "fid", "--run-id", "0" * 32).exit_code == 1


def test_a_checkpoint_becomes_a_model_version_once(scene, model):
    scene.log("fid", {100: 30.0, 200: 20.0})
    path = scene.checkpoint(200, "step_200.pt")
    first = scene.said("--metric", "fid", "--register", model(), "--alias", "champion")
    assert first["checkpoint"] == {"path": str(path), "there": True}
    assert (first["version"]["version"], first["version"]["created"]) == ("1", True)
    version = scene.client.get_model_version_by_alias(model(), "champion")
    assert version.run_id == scene.run_id
    assert version.tags["metricwatch.step"] == "200"
    assert version.tags["metricwatch.metric"] == "quality/fid"
    assert "best of 2" in version.description
    local = scene.client.download_artifacts(scene.run_id, "checkpoints/step-200/step_200.pt", str(scene.folder))
    assert Path(local).read_bytes() == path.read_bytes()
    again = scene.best("--metric", "fid", "--register", model())
    assert f"step 200 is already version 1 of {model()}" in again.stdout
    path.write_bytes(b"trained on")
    assert scene.said("--metric", "fid", "--register", model())["version"]["version"] == "2"


def test_a_checkpoint_of_many_files_keeps_its_folders(scene, model):
    scene.log("fid", {200: 20.0})
    scene.checkpoint(200, "model.safetensors", "unet/config.json")
    scene.said("--metric", "fid", "--register", model())
    files = scene.client.list_artifacts(scene.run_id, "checkpoints/step-200")
    assert {file.path for file in files} == {
        "checkpoints/step-200/model.safetensors",
        "checkpoints/step-200/unet",
    }


def test_a_checkpoint_that_was_rotated_away_is_told_and_the_next_best_can_be_had(scene, model):
    scene.log("fid", {100: 30.0, 200: 20.0, 300: 25.0})
    for step in (100, 200, 300):
        path = scene.checkpoint(step, f"step_{step}.pt")
        if step == 200:
            path.unlink()
    result = scene.best("--metric", "fid", "--register", model())
    assert result.exit_code == 1
    assert "the checkpoint of step 200 is gone" in result.stderr
    assert "nearest step that still has one is 100" in result.stderr
    said = scene.said("--metric", "fid", "--register", model(), "--available")
    assert (said["best"]["step"], said["version"]["version"]) == (300, "1")


def test_where_no_ledger_knows_the_checkpoint_the_runs_tags_do(scene, model):
    scene.log("fid", {100: 30.0, 200: 20.0})
    (scene.folder / "best.pt").write_bytes(b"weights")
    scene.client.set_tag(scene.run_id, "metricwatch.best_checkpoint.fid", str(scene.folder / "best.pt"))
    scene.client.set_tag(scene.run_id, "metricwatch.best.fid", "step 100: 20")
    assert scene.said("--metric", "fid")["checkpoint"] is None
    scene.client.set_tag(scene.run_id, "metricwatch.best.fid", "step 200: 20")
    said = scene.said("--metric", "fid", "--register", model())
    assert said["checkpoint"] == {"path": str(scene.folder / "best.pt"), "there": True}
    assert said["version"]["version"] == "1"


def test_a_run_without_checkpoints_can_only_be_linked(scene, model):
    scene.log("fid", {200: 20.0})
    refused = scene.best("--metric", "fid", "--register", model())
    assert refused.exit_code == 1
    assert "--link URI" in refused.stderr
    said = scene.said("--metric", "fid", "--register", model(), "--link", "s3://bucket/night/200")
    assert said["version"]["source"] == "s3://bucket/night/200"
    again = scene.said("--metric", "fid", "--register", model(), "--link", "s3://bucket/night/200")
    assert again["version"] == {**said["version"], "created": False}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--link", "file:///models/200"], "paths of one machine"),
        (["--link", "/models/200"], "paths of one machine"),
        (["--link", "s3://user:hidden@bucket/200"], "leave them out"),
        (["--link", "s3://bucket/../200"], "Invalid model version source"),
        (["--link", "s3://bucket/200", "--alias", "v3"], "cannot be an alias"),
    ],
)
def test_what_mlflow_does_not_take_is_refused_in_plain_words(scene, model, arguments, told):
    scene.log("fid", {200: 20.0})
    result = scene.best("--metric", "fid", "--register", model(), *arguments)
    assert result.exit_code == 1
    assert told in result.stderr
    assert "hidden" not in result.stderr
    assert "Traceback" not in result.stderr


def test_a_name_that_cannot_be_a_models_is_refused(scene):
    scene.log("fid", {200: 20.0})
    result = scene.best("--metric", "fid", "--register", "a/b", "--link", "s3://bucket/200")
    assert result.exit_code == 1
    assert "cannot be a model's name" in result.stderr


def test_the_curves_of_a_run_are_exported_with_every_point(scene):
    scene.log("fid", {100: 30.0, 200: 20.0})
    scene.log("fid", {200: 21.0}, timestamp=2000)
    result = CliRunner().invoke(cli.app, ["export", "--run-id", scene.run_id, "--csv", "-"])
    assert result.exit_code == 0, result.stderr
    rows = list(csv.DictReader(result.stdout.splitlines()))
    assert sorted((row["key"], row["step"], row["value"], row["time"]) for row in rows) == [
        ("quality/fid", "100", "30.0", "1970-01-01T00:00:01+00:00"),
        ("quality/fid", "200", "20.0", "1970-01-01T00:00:01+00:00"),
        ("quality/fid", "200", "21.0", "1970-01-01T00:00:02+00:00"),
    ]
