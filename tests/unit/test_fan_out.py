"""Entries with {run}: what they may say, which runs they stand for, and how later ones are taken up."""

from __future__ import annotations

import os
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
import structlog
import yaml

from metricwatch.cli.findings import inspect
from metricwatch.config import load_config
from metricwatch.config.fan_out import FanOut
from metricwatch.config.rules import AboveRule
from metricwatch.errors import ConfigError, LedgerError
from metricwatch.records import JobState
from metricwatch.rules.stage import Rules
from metricwatch.store.alerts import Alerts
from metricwatch.store.db import Database
from metricwatch.store.ledger import Ledger
from metricwatch.testing.clock import FakeClock
from metricwatch.watch.events import EventHints
from metricwatch.watch.fan_out import Fans, entries_now
from metricwatch.watch.fanned import _MOST_LISTENED
from metricwatch.watch.stage import Watcher
from tests.support.job import wait_until

ID_FILE = {"run": {"id_file": "runs/{run}/mlflow_run_id"}, "samples": "runs/{run}/samples/*"}
NAMED = {"run": {"name": "style-{run}"}, "samples": "runs/{run}/samples/*"}


def read(folder: Path, *entries: dict, **sections: object):
    """The configuration with these watch entries."""
    file = folder / "metricwatch.yaml"
    settings = {"tracking": {"uri": "http://127.0.0.1:1"}, "metrics": ["ssim"], "watch": list(entries), **sections}
    file.write_text(yaml.safe_dump(settings))
    return load_config(file, environ={})


def write(folder: Path, run: str, *steps: int, run_id: str = "") -> None:
    """The samples of a job, and its id where it has one by then."""
    for step in steps:
        samples = folder / "runs" / run / "samples" / f"step_{step}"
        samples.mkdir(parents=True)
        (samples / "a.png").write_bytes(b"image")
        (samples / ".done").touch()
    if run_id:
        (folder / "runs" / run).mkdir(parents=True, exist_ok=True)
        (folder / "runs" / run / "mlflow_run_id").write_text(run_id)


def names(config) -> list[str]:
    return [entry.target.name for entry in entries_now(config.watch)]


class Scene:
    """A watcher over the entries of a configuration, as the daemon wires it."""

    def __init__(self, folder: Path, config, *, events=False) -> None:
        self.clock = FakeClock()
        (folder / "state").mkdir(exist_ok=True)
        self.db = Database.open(folder / "state")
        self.ledger = Ledger(self.db)
        self.found: list[str] = []
        self.hints = EventHints(lambda: None)
        if not events:
            self.hints.listen = lambda *_, **__: None
        fans = Fans(config.watch)
        self.entries = [*fans.plain, *(entry for _, entry in fans.take(self.db))]
        self.watcher = Watcher(self.db, self.entries, self.hints, self.clock, fans=fans, found=self.take)
        self.watcher.start()

    def take(self, entries) -> None:
        self.found += [entry.target.name for entry in entries]

    def look(self, seconds=0.0) -> int:
        self.clock.advance(seconds)
        self.watcher.rescan()
        return self.watcher.tick()

    def jobs(self) -> list[tuple[str, int]]:
        """Run and step of all jobs that are queued."""
        rows = self.db.read("SELECT run, snapshots.step FROM jobs JOIN snapshots ON snapshots.id = jobs.snapshot")
        return sorted((row["run"].split("/")[-1] or row["run"], row["step"]) for row in rows)

    def close(self) -> None:
        self.watcher.close()
        self.db.close()


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"run": {"name": "night"}, "samples": "runs/{run}/samples/*"}, "samples has {run} and run has not"),
        ({"run": {"name": "{run}"}, "samples": "runs/samples/*"}, "run has {run} and samples has not"),
        ({"run": {"id": "{run}"}, "samples": "runs/{run}/*"}, "run.id: {run} cannot stand in an id"),
        ({"run": {"name": "{job}"}, "samples": "runs/{run}/*"}, "run.name: {job} stands for nothing"),
        ({"run": {"name": "{run}"}, "samples": "runs/{job}/*"}, "samples: {job} stands for nothing"),
        ({"run": {"name": "{run}"}, "samples": "runs/{run}_*.png"}, "samples: {run} is the name of a folder"),
        ({"run": {"name": "{run}"}, "samples": "runs/*-{run}/*"}, "write no *, ? or [ beside it"),
        ({"run": {"name": "a"}, "samples": "s/*", "reference": "real/{run}"}, "reference or pairs has {run}"),
        ({"run": {"name": "a"}, "samples": "s/*", "pairs": {"content": "c/{run}"}}, "reference or pairs has {run}"),
    ],
)
def test_an_entry_that_cannot_fan_out_says_why(tmp_path, entry, expected):
    with pytest.raises(ConfigError, match="watch\\[0\\]") as caught:
        read(tmp_path, entry)
    assert expected in str(caught.value)


def test_a_placeholder_outside_of_watch_entries_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"state: \{run\} stands for a run of a watch entry"):
        read(tmp_path, ID_FILE, state="{run}/state")


def test_two_entries_with_the_same_runs_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="an earlier watch entry has the same run"):
        read(tmp_path, NAMED, {**NAMED, "samples": "other/{run}/*"})


@pytest.mark.parametrize("form", [ID_FILE, NAMED], ids=["id_file", "name"])
def test_a_found_run_is_the_one_that_an_entry_of_its_own_would_give(tmp_path, form):
    write(tmp_path, "night", 1000)
    [found] = entries_now(read(tmp_path, {**form, "reference": "real/{run}", "pairs": {"style": "styles/{run}"}}).watch)
    text = yaml.safe_dump({**form, "reference": "real/{run}", "pairs": {"style": "styles/{run}"}})
    [written] = read(tmp_path, yaml.safe_load(text.replace("{run}", "night"))).watch
    assert found.target == written.target
    assert found.source == written.source
    assert found.model_dump() == written.model_dump()
    assert not found.fans_out


def test_the_same_name_stands_in_every_place(tmp_path):
    (tmp_path / "runs/a/out-a/step_1").mkdir(parents=True)
    (tmp_path / "runs/a/out-b/step_2").mkdir(parents=True)
    config = read(tmp_path, {"run": {"name": "{run}"}, "samples": "runs/{run}/out-{run}/*"})
    [found] = entries_now(config.watch)
    assert found.pattern == str(tmp_path / "runs/a/out-a/*")


def test_files_beside_the_jobs_do_not_give_all_of_them_one_name(tmp_path):
    for run in ("a", "b"):
        write(tmp_path, run, 1)
    config = read(tmp_path, {"run": {"id_file": "ids/{run}.txt"}, "samples": "runs/{run}/samples/*"})
    assert names(config) == ["a", "b"]


def test_hidden_folders_files_and_folders_without_a_job_are_no_runs(tmp_path):
    write(tmp_path, "night", 1000)
    write(tmp_path, ".trash", 1000)
    (tmp_path / "runs/notes/samples").mkdir(parents=True)
    (tmp_path / "runs/readme.txt").touch()
    assert names(read(tmp_path, ID_FILE)) == ["night"]


def test_a_job_that_has_written_only_its_id_is_a_run(tmp_path):
    write(tmp_path, "night", run_id="0" * 32)
    assert names(read(tmp_path, ID_FILE)) == ["night"]


@pytest.mark.parametrize("run", ["a b", "größe", "$HOME", "a[1]*?", "{run}", "it's", "x" * 255, "a%_b"])
def test_strange_names_are_runs_like_any_other(tmp_path, run):
    write(tmp_path, run, 1000)
    scene = Scene(tmp_path, read(tmp_path, ID_FILE))
    scene.look()
    assert scene.look(6) == 0
    assert [item.key for item in scene.ledger.runs()] == [f"id_file:{tmp_path}/runs/{run}/mlflow_run_id"]
    assert scene.db.read_one("SELECT count(*) AS n FROM jobs")["n"] == 1
    scene.close()


def test_a_name_that_cannot_be_written_down_is_refused_once(tmp_path):
    write(tmp_path, "night", 1000)
    write(tmp_path, "bell\a", 1000)
    os.makedirs(os.fsencode(tmp_path) + b"/runs/\xff/samples/step_1")
    config = read(tmp_path, ID_FILE)
    with structlog.testing.capture_logs() as logs:
        scene = Scene(tmp_path, config)
        scene.look()
        scene.look(20)
    refused = [(entry["run"], entry["reason"]) for entry in logs if entry["event"] == "watch.run_refused"]
    assert refused == [
        ("bell\a", "its name holds control characters; rename the folder"),
        ("\\udcff", "its name is not UTF-8; rename the folder"),
    ]
    assert [entry.target.name for entry in scene.entries] == ["night"]
    scene.close()


def test_a_run_that_is_written_out_comes_before_one_that_is_found(tmp_path):
    write(tmp_path, "night", 1000)
    own = {"run": {"name": "style-night"}, "samples": "elsewhere/*"}
    with structlog.testing.capture_logs() as logs:
        scene = Scene(tmp_path, read(tmp_path, NAMED, own))
        scene.look()
    assert [entry.pattern for entry in scene.entries] == [str(tmp_path / "elsewhere/*")]
    assert [entry["reason"] for entry in logs if entry["event"] == "watch.run_refused"] == [
        f"the entry of {tmp_path}/elsewhere/* gives the same run, and comes first"
    ]
    scene.close()


def test_rules_may_name_any_run_where_runs_are_still_to_be_found(tmp_path):
    rule = {"name": "high", "metric": "ssim", "above": 1, "runs": {"later-*": "off"}}
    assert read(tmp_path, ID_FILE, rules=[rule]).rules[0].for_run("later-1") is None
    with pytest.raises(ConfigError, match="matches no run"):
        read(tmp_path, {"run": {"name": "a"}, "samples": "s/*"}, rules=[rule])


def test_runs_that_start_later_are_taken_up_and_those_that_vanish_stay(tmp_path):
    write(tmp_path, "a", 1000)
    scene = Scene(tmp_path, read(tmp_path, ID_FILE))
    scene.look()
    write(tmp_path, "b", 1000, 2000)
    scene.look(20)
    scene.look(6)
    assert scene.found == ["b"]
    shutil.rmtree(tmp_path / "runs/a")
    scene.look(20)
    write(tmp_path, "a", 2000)
    scene.look(20)
    scene.look(6)
    assert scene.found == ["b"]
    rows = scene.db.read("SELECT run, step FROM snapshots ORDER BY run, step")
    assert [(Path(row["run"]).parent.name, row["step"]) for row in rows] == [
        ("a", 1000),
        ("a", 2000),
        ("b", 1000),
        ("b", 2000),
    ]
    scene.close()


def test_a_run_that_the_ledger_could_not_take_is_found_again(tmp_path):
    (tmp_path / "runs").mkdir()
    scene = Scene(tmp_path, read(tmp_path, ID_FILE))
    scene.look()
    write(tmp_path, "a", 1000)

    def refuse(_entries) -> None:
        raise LedgerError("the disk is full")

    taking, scene.watcher._found = scene.watcher._found, refuse
    with pytest.raises(LedgerError):
        scene.look(20)
    assert scene.ledger.runs() == []
    scene.watcher._found = taking
    scene.look(1)
    assert scene.found == ["a"]
    assert [run.name for run in scene.ledger.runs()] == ["a"]
    scene.close()


def test_once_takes_the_runs_that_are_there_and_no_later_ones(tmp_path):
    write(tmp_path, "a", 1000)
    scene = Scene(tmp_path, read(tmp_path, ID_FILE))
    scene.watcher.only_present = True
    write(tmp_path, "b", 1000)
    scene.look()
    scene.look(6)
    assert scene.found == []
    assert scene.watcher.settled()
    assert len(scene.jobs()) == 1
    scene.close()


def test_after_a_restart_a_run_without_a_folder_is_known_while_it_has_work(tmp_path):
    for run in ("a", "b"):
        write(tmp_path, run, 1000)
    config = read(tmp_path, ID_FILE)
    scene = Scene(tmp_path, config)
    scene.look()
    scene.look(6)
    done = scene.ledger.claim(scene.clock.now(), timedelta(minutes=2), [scene.entries[1].source])
    scene.ledger.finish(done.id, JobState.DONE, scene.clock.now())
    scene.close()
    shutil.rmtree(tmp_path / "runs")
    scene = Scene(tmp_path, config)
    assert [entry.target.name for entry in scene.entries] == ["a"]
    assert scene.ledger.unfinished([scene.entries[0].source]) == 1
    scene.close()


def test_events_reach_the_run_they_are_about_through_one_tree(tmp_path):
    write(tmp_path, "a", 1000)
    scene = Scene(tmp_path, read(tmp_path, {**ID_FILE, "rescan": "1h"}), events=True)
    scene.look()
    scene.look(6)
    assert list(scene.hints._listening) == [str(tmp_path / "runs")]
    write(tmp_path, "a", 2000)
    write(tmp_path, "b", 1000)

    def seen() -> bool:
        scene.clock.advance(1)
        scene.watcher.tick()
        return len(scene.jobs()) == 3

    wait_until(seen, what="both new sample sets to be recorded without a rescan")
    assert scene.found == ["b"]
    assert list(scene.hints._listening) == [str(tmp_path / "runs")]
    scene.close()


def test_many_runs_are_polled_and_listened_to_no_more(tmp_path):
    write(tmp_path, "a", 1)
    scene = Scene(tmp_path, read(tmp_path, ID_FILE), events=True)
    scene.look()
    assert list(scene.hints._listening) == [str(tmp_path / "runs")]
    for number in range(_MOST_LISTENED):
        write(tmp_path, f"r{number}", 1)
    scene.look(20)
    scene.look(6)
    assert list(scene.hints._listening) == []
    assert len(scene.jobs()) == _MOST_LISTENED + 1
    scene.close()


def test_rules_judge_a_run_that_is_added_and_begin_it_once(tmp_path):
    write(tmp_path, "a", 1)
    scene = Scene(tmp_path, read(tmp_path, ID_FILE))
    rule = AboveRule(name="high", metric="ssim", above=1)
    rules = Rules(scene.db, [rule], [], ("mlflow",), scene.clock)
    rules.start()
    run = scene.entries[0].target
    rules.watch([run])
    mark = Alerts(scene.db).mark(run.key, "high")
    assert mark is not None
    rules.watch([run])
    assert Alerts(scene.db).mark(run.key, "high") == mark
    assert rules._runs == [run]
    scene.close()


def test_check_lists_the_runs_that_there_are_now(tmp_path):
    write(tmp_path, "a", 1000, 2000, run_id="0" * 32)
    write(tmp_path, "b", 1000)
    config = read(tmp_path, {**ID_FILE, "pairs": {"content": "contents"}})
    told = {finding.item: finding for finding in inspect(config, {}, offline=True)}
    assert told["watch[0].run"].detail == f"{config.watch[0].pattern} stands for 2 runs now; later ones are taken up"
    assert "matches 2 steps now" in told["watch[0].run a"].detail
    assert "is not there yet" in told["watch[0].run b"].detail
    assert told["watch[0].pairs.content"].level == "error"


def test_a_path_tells_its_run_below_folders_with_wildcards_too(tmp_path):
    (tmp_path / "x/runs/a/s/step_1").mkdir(parents=True)
    config = read(tmp_path, {"run": {"name": "{run}"}, "samples": "*/runs/{run}/s/*"})
    template = FanOut(config.watch[0])
    assert template.name_at(str(tmp_path / "x/runs/a/s/step_1")) == "a"
    assert template.name_at(str(tmp_path / "x/runs")) is None
    assert names(config) == ["a"]
