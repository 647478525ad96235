"""`metricwatch backfill`: an old run's steps, scored as if a daemon had watched it."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from metricwatch import cli
from metricwatch.backfill import Wanted, entry_for, plan, time_of
from metricwatch.clock import to_ms
from metricwatch.config.loader import load_config
from metricwatch.errors import InputError
from metricwatch.records import JobState, RemoteRun
from metricwatch.store.db import Database
from metricwatch.store.deliveries import Deliveries
from metricwatch.store.ledger import Ledger, Recorded
from tests.support.job import Job

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
CONFIG = """
state: state
tracking: {uri: "http://127.0.0.1:9", experiment: old}
watch:
  - {run: {name: night, total_steps: 900}, samples: night/samples/*, reference: night/reference}
  - {run: {name: "{run}"}, samples: "runs/{run}/samples/*", pairs: {content: "runs/{run}/content"}, every: 2}
  - run: {id: abc}
    checkpoints: models/*.pt
    sampler: {use: torchscript, seed: 3, latent: [8]}
metrics: [fid]
rules: [{name: moved, metric: fid, moves: 10%, across: 3}]
notify: {team: {use: webhook, url: "http://127.0.0.1:9/x"}}
telemetry: {port: 0}
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("night/reference", "runs/a/content", "models"):
        Path(name).mkdir(parents=True)
    file = tmp_path / "metricwatch.yaml"
    file.write_text(CONFIG)
    return load_config(file)


def steps_in(folder: str, *steps: int) -> Path:
    for step in steps:
        place = Path(folder) / f"step_{step}"
        place.mkdir(parents=True)
        (place / "0.png").write_bytes(b"a picture")
    return Path(folder)


def entry(config, folder: str, **wanted):
    Path(folder).mkdir(parents=True, exist_ok=True)
    return entry_for(config, Wanted(folder=Path(folder), **wanted))


def test_the_entry_whose_pattern_holds_the_folder_says_how_it_is_scored(config):
    found = entry(config, "night/samples")
    assert found.target == config.watch[0].target
    assert found.reference == config.watch[0].reference
    assert found.settle == timedelta(seconds=1)


def test_of_an_entry_for_many_runs_the_folder_tells_which(config):
    found = entry(config, "runs/a/samples")
    assert found.target.name == "a"
    assert found.pairs.content == Path.cwd() / "runs/a/content"
    assert found.every == 2


def test_another_run_is_scored_as_the_named_one(config):
    found = entry(config, "old", like="night", run_id="f" * 32)
    assert (found.target.id, found.target.total_steps) == ("f" * 32, 900)
    assert found.reference == config.watch[0].reference
    assert entry(config, "old", like="night", run_name="new").target.name == "new"
    assert entry(config, "old", run_name="night").target == config.watch[0].target


def test_where_several_entries_could_be_meant_they_are_named(config):
    with pytest.raises(InputError, match="--like RUN, which is one of night"):
        entry(config, "old", run_name="new")
    with pytest.raises(InputError, match="did you mean 'night'"):
        entry(config, "old", like="nigth")


def test_checkpoints_need_a_sampler_and_get_the_entrys(config):
    found = entry(config, "old", like="abc", checkpoints=True)
    assert found.sampler == config.watch[2].sampler
    assert found.pattern == f"{Path.cwd()}/old/*"
    assert entry(config, "models").checkpoints == found.pattern.replace("/old/", "/models/")
    assert entry(config, "old", like="abc").samples == found.pattern
    with pytest.raises(InputError, match="no sampler"):
        entry(config, "old", like="night", checkpoints=True)


def test_a_folder_whose_name_looks_like_a_pattern_is_that_folder(config):
    found = plan(config, Wanted(folder=steps_in("odd[1]", 5), like="night"))
    assert [candidate.step for candidate in found.candidates] == [5]


def test_nobody_is_alerted_of_the_past_and_nothing_listens(config):
    planned = plan(config, Wanted(folder=steps_in("night/samples", 5))).config
    assert (planned.rules, planned.notify, planned.telemetry.port) == ((), {}, None)
    assert planned.state.parent == config.state / "backfill"


def test_steps_that_a_daemon_has_are_left_out_and_so_are_its_tags(config):
    folder = steps_in("night/samples", 1, 2, 3, 4, 5)
    config.state.mkdir()
    db = Database.open(config.state)
    ledger, run = Ledger(db), config.watch[0].target
    ledger.register_run(run, NOON)
    for step in (2, 4):
        recorded = Recorded(revision=1, digest="d", images=1, newest_ns=1, mtime_ns=1)
        ledger.add_snapshot(source=run.key, run=run.key, step=step, path="p", members=None, recorded=recorded, now=NOON)
    Deliveries(db).remember_remote_run("mlflow", run.key, RemoteRun(id="f" * 32))
    db.close()
    found = plan(config, Wanted(folder=folder, limit=2))
    assert [candidate.step for candidate in found.candidates] == [1, 3]
    assert (found.elsewhere, found.known_to_others) == (2, True)
    # The same run by its id, which the daemon knows by its name.
    by_id = plan(config, Wanted(folder=folder, run_id="f" * 32, every=5), remote_id="f" * 32)
    assert ([candidate.step for candidate in by_id.candidates], by_id.known_to_others) == ([5], True)
    assert not plan(config, Wanted(folder=folder, run_name="new")).known_to_others


def test_what_was_begun_and_not_asked_for_now_waits_and_what_failed_is_tried_again(config):
    folder = steps_in("night/samples", 1, 2, 3, 4)
    state = plan(config, Wanted(folder=folder)).config.state
    state.mkdir(parents=True)
    db = Database.open(state)
    ledger, run = Ledger(db), config.watch[0].target
    ledger.register_run(run, NOON)
    for step, end in ((1, JobState.DONE), (2, JobState.FAILED), (3, None), (4, None)):
        recorded = Recorded(revision=1, digest="d", images=1, newest_ns=1, mtime_ns=1)
        ledger.add_snapshot(source=run.key, run=run.key, step=step, path="p", members=None, recorded=recorded, now=NOON)
        if end is not None:
            ledger.finish(step, end, NOON)
    db.close()

    def states(limit: int | None) -> str:
        planned = plan(config, Wanted(folder=folder, limit=limit))
        assert planned.done == 1
        with planned.open() as app:
            return " ".join(row["state"] for row in app.db.read("SELECT state FROM jobs ORDER BY step"))

    assert states(2) == "done queued queued skipped"
    assert states(None) == "done queued queued queued"


@pytest.mark.parametrize(
    ("newest", "folder", "expected"),
    [
        (NOON, NOON + timedelta(hours=1), (NOON, False)),
        (NOON + timedelta(days=9), NOON, (NOON, False)),
        (datetime.fromtimestamp(0, UTC), NOON, (NOON, False)),
        (datetime.fromtimestamp(0, UTC), NOON + timedelta(days=9), (NOON + timedelta(days=2), True)),
    ],
)
def test_a_step_has_the_time_of_its_newest_file_unless_that_cannot_be(newest, folder, expected):
    newest_ns, folder_ns = (int(moment.timestamp()) * 10**9 for moment in (newest, folder))
    assert time_of(newest_ns, folder_ns, found=NOON + timedelta(days=2)) == expected


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere"], "nowhere: not a folder"),
        (["empty", "--like", "night"], "holds no sample sets with a step"),
        (["empty"], "--like RUN"),
        (["empty", "--run", "a", "--run-id", "b"], "one of --run-id and --run"),
        (["empty", "--like", "night", "--reference", "gone"], "--reference gone: does not exist"),
    ],
)
def test_what_cannot_be_done_is_told_in_plain_words(config, arguments, told):
    (Path("empty") / "notes").mkdir(parents=True)
    result = CliRunner().invoke(cli.app, ["backfill", *arguments])
    assert result.exit_code in {1, 2}
    assert told in result.stderr
    assert "Traceback" not in result.stderr


def test_a_dry_run_shows_steps_and_times_and_leaves_nothing_behind(config):
    folder = steps_in("night/samples", 10, 20)
    for step in (10, 20):
        os.utime(folder / f"step_{step}/0.png", (NOON.timestamp() + step,) * 2)
    result = CliRunner().invoke(cli.app, ["backfill", str(folder), "--dry-run", "--json"])
    assert result.exit_code == 0, result.stderr
    steps = json.loads(result.stdout)["steps"]
    assert [(item["step"], item["time"]) for item in steps] == [
        (step, (NOON + timedelta(seconds=step)).isoformat()) for step in (10, 20)
    ]
    assert not config.state.exists()


def test_killed_in_between_it_goes_on_and_nothing_is_there_twice(tmp_path, tracking_server):
    uri, experiment = tracking_server.uri, f"backfill-{os.getpid()}"
    job = Job(tmp_path / "job", uri, experiment, pictures=False)
    job.config["watch"][0]["samples"] = "elsewhere/*"
    job.config["rules"] = [{"name": "moved", "metric": "ssim", "moves": "1%", "across": 2}]
    job.write_config()
    for step in (1000, 2000, 3000):
        folder = job.write_step(step, blur=step / 1000)
        for file in folder.iterdir():
            os.utime(file, (NOON.timestamp() + step,) * 2)
    command = ("backfill", "samples", "--run", "old-run")
    killed = job.call(*command, METRICWATCH_FAULT="kill evaluation:committed 2")
    assert killed.returncode == -9, killed.stderr
    went_on = job.call(*command, "--json")
    assert went_on.returncode == 0, went_on.stderr
    document = json.loads(went_on.stdout)
    assert (document["done_before"], document["done"], document["skipped"]) == (2, 1, 0)
    again = plan(load_config(job.file), Wanted(folder=job.samples, run_name="old-run"))
    assert (again.candidates, again.done) == ((), 3)
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    history = client.get_metric_history(run.info.run_id, "quality/ssim")
    assert sorted((row.step, row.timestamp) for row in history) == [
        (step, to_ms(NOON) + step * 1000) for step in (1000, 2000, 3000)
    ]
    assert run.data.tags["metricwatch.best.ssim"].startswith("step 1,000: ")
    assert not [key for key in run.data.metrics if key.startswith("alert/")]
