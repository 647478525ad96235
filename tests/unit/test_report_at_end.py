"""When the daemon has a report made: once a training job has ended and nothing waits, by a process of its own."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import time
from datetime import timedelta

import pytest

from metricwatch.api import Sink
from metricwatch.export import reports
from metricwatch.export.stage import Exporter
from metricwatch.records import Evaluation, JobState, Picture, RemoteRun, Run, Score
from metricwatch.store.db import Database
from metricwatch.store.deliveries import Deliveries
from metricwatch.store.ledger import Ledger, Recorded
from metricwatch.store.pages import Pages
from metricwatch.store.reports import REPORT_PAGE, ended_runs
from metricwatch.store.scores import Scores
from metricwatch.testing.clock import FakeClock


class Tracking(Sink):
    Options = dict

    def __init__(self) -> None:
        self.over = False

    def find_run(self, run):
        return RemoteRun(id="r1")

    def write(self, run_id, points, tags):
        pass

    def ended(self, run_id):
        return self.over

    def ping(self):
        return ""


class Scene:
    """A run with one evaluation; a report is a line in a file."""

    def __init__(self, folder) -> None:
        state = folder / "state"
        state.mkdir()
        self.made = folder / "made"
        self.db, self.clock, self.sink = Database.open(state), FakeClock(), Tracking()
        self.ledger = Ledger(self.db)
        self.ledger.register_run(Run(key="night", name="night"), self.clock.now())
        Deliveries(self.db).remember_remote_run("mlflow", "night", RemoteRun(id="r1"))
        self.steps = 0
        self.score()
        self.start("open(sys.argv[1], 'a').write(sys.argv[2] + ' ')")

    def start(self, script, runs=None):
        command = [sys.executable, "-S", "-c", f"import sys, time, os; {script}", str(self.made)]
        self.exporter = Exporter(self.db, {"mlflow": self.sink}, self.clock, runs=runs, reports={"mlflow": command})

    def score(self, *, done=True):
        self.steps += 1
        recorded = Recorded(revision=1, digest="d", images=8, newest_ns=1, mtime_ns=1)
        self.ledger.add_snapshot(
            source="s", run="night", step=self.steps, path="p", members=None, recorded=recorded, now=self.clock.now()
        )
        return self.finish() if done else None

    def finish(self):
        job = self.ledger.claim(self.clock.now(), timedelta(minutes=1), ["s"])
        score = Score(key="fid", value=20.0, images=8, higher_is_better=False, series="a")
        with self.db.transaction("test"):
            evaluation = Evaluation(scores=(score,), skipped=(), images=8, seconds=1.0, provenance={})
            Scores(self.db).record(job, evaluation, self.clock.now())
            self.ledger.finish(job.id, JobState.DONE, self.clock.now())

    def turn(self, seconds=2.0):
        """Let time pass, and wait for whatever was begun."""
        end = self.clock.monotonic() + seconds
        while self.clock.monotonic() < end:
            self.exporter.tick()
            self.clock.advance(1.0)
            self.wait()
        self.exporter.tick()

    def wait(self):
        works = self.exporter._reports._works
        if works:
            next(iter(works.values())).process.wait(10)

    @property
    def reports(self):
        return self.made.read_text().split() if self.made.exists() else []

    @property
    def mark(self):
        return Pages(self.db, REPORT_PAGE).marks("mlflow").get("night")


@pytest.fixture
def scene(tmp_path):
    made = Scene(tmp_path)
    yield made
    made.exporter.close()
    made.db.close()


def test_a_report_is_made_once_for_each_end(scene):
    scene.turn()
    assert scene.reports == []
    scene.sink.over = True
    scene.turn(310)
    assert scene.reports == ["r1"]
    assert scene.mark.reason == ""
    assert scene.mark.sent_at is not None
    scene.turn(700)
    assert scene.reports == ["r1"]
    # It goes on, and ends again.
    scene.sink.over = False
    scene.turn(310)
    scene.sink.over = True
    scene.turn(310)
    assert scene.reports == ["r1", "r1"]


def test_what_arrives_after_the_end_is_shown_after_a_while(scene):
    scene.sink.over = True
    scene.turn(10)
    assert len(scene.reports) == 1
    for _ in range(3):
        scene.score()
        scene.turn(60)
    assert len(scene.reports) == 1
    scene.turn(500)
    assert len(scene.reports) == 2


def test_nothing_is_made_while_points_pictures_or_evaluations_are_on_their_way(scene):
    from metricwatch.store.pictures import Pictures

    scene.sink.over = True
    scene.score(done=False)
    scene.turn(5)
    assert scene.reports == []
    scene.finish()
    with scene.db.transaction("test"):
        Pictures(scene.db).enqueue(
            sink="mlflow",
            run="night",
            identity="x",
            picture=Picture(key="a", step=1, timestamp_ms=1),
            path=str(scene.db.path.parent / "pictures" / "x.png"),
            now=scene.clock.now(),
        )
    scene.turn(5)
    assert scene.reports == []


def test_what_fails_is_tried_again_later_and_given_up_in_the_end(scene):
    scene.sink.over = True
    scene.start(
        "open(sys.argv[1], 'a').write('x '); sys.stderr.write('bar\\nmetricwatch: the store is full\\n'); sys.exit(1)"
    )
    scene.turn(10)
    assert scene.reports == ["x"]
    assert scene.mark.reason == "the store is full"
    assert [page.name for page in Pages(scene.db).troubles()] == ["report.html"]
    scene.turn(70)
    assert scene.reports == ["x", "x"]
    for _ in range(8):
        scene.clock.advance(3600)
        scene.turn(3)
    assert len(scene.reports) == 8
    assert scene.exporter.reports_pending() == 0
    # What is new is worth another try.
    scene.score()
    scene.start("open(sys.argv[1], 'a').write('done ')")
    scene.turn(10)
    assert scene.reports[-1] == "done"
    assert scene.mark.reason == ""


def test_one_that_hangs_is_killed_and_holds_nobody_up(scene, monkeypatch):
    monkeypatch.setattr(reports, "_PATIENCE_SECONDS", 30.0)
    scene.sink.over = True
    scene.start("time.sleep(60)")
    started = time.monotonic()
    for _ in range(5):
        scene.exporter.tick()
        scene.clock.advance(1.0)
    (work,) = scene.exporter._reports._works.values()
    assert scene.exporter.reports_pending() == 1
    scene.clock.advance(40)
    scene.exporter.tick()
    assert scene.mark.reason == "not made within 30 s"
    assert work.process.poll() == -9
    assert time.monotonic() - started < 10


def test_the_daemons_end_ends_the_process(scene):
    scene.sink.over = True
    scene.start("time.sleep(60)")
    for _ in range(5):
        scene.exporter.tick()
        scene.clock.advance(1.0)
    (work,) = scene.exporter._reports._works.values()
    scene.exporter.close()
    with pytest.raises(ProcessLookupError):
        os.kill(work.process.pid, 0)
    assert scene.mark is None


def test_a_run_that_is_not_configured_or_was_never_scored_gets_none(scene):
    scene.sink.over = True
    scene.start("open(sys.argv[1], 'a').write('x')", runs={"another"})
    scene.turn(10)
    assert scene.reports == []


def test_until_it_was_asked_whether_a_run_is_over_there_may_be_a_report_to_wait_for(scene):
    assert scene.exporter.reports_pending() == 1
    scene.turn(3)
    assert scene.exporter.reports_pending() == 0


def test_no_folder_for_temporary_files_is_needed(scene, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    scene.sink.over = True

    scene.turn()

    assert scene.reports == ["r1"]


def test_a_disk_without_room_for_the_errors_of_a_report_puts_it_off(scene, monkeypatch):
    def full(**_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(reports.tempfile, "TemporaryFile", full)
    scene.sink.over = True

    scene.turn()

    assert "No space left" in scene.mark.reason
    assert scene.reports == []


def test_runs_that_have_ended_are_found_without_reading_all_their_scores(scene):
    scene.sink.over = True
    scene.turn()
    read = []
    scene.db._connection.set_trace_callback(read.append)
    ended_runs(scene.db, "mlflow")
    scene.db._connection.set_trace_callback(None)
    plan = scene.db.read(f"EXPLAIN QUERY PLAN {read[0]}")

    # Up to its first one: whether there is any.
    assert sum("scores_by" in row["detail"] for row in plan) <= 1


def test_many_runs_are_asked_at_one_turn_whether_they_are_over(scene):
    for number in range(100):
        key = f"run-{number}"
        scene.ledger.register_run(Run(key=key, name=key), scene.clock.now())
        Deliveries(scene.db).remember_remote_run("mlflow", key, RemoteRun(id=key))

    scene.exporter.tick()

    assert scene.exporter.reports_pending() == 0
