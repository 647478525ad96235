"""Retention: what leaves the ledger, what stays, and the copies beside it."""

from __future__ import annotations

from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from metricwatch.config.schema import Retention
from metricwatch.records import Evaluation, JobState, Point, Run, Score
from metricwatch.store import backups
from metricwatch.store.alerts import Alerts, RuleMark
from metricwatch.store.db import Database
from metricwatch.store.deliveries import Deliveries
from metricwatch.store.ledger import Ledger, Recorded
from metricwatch.store.scores import Scores
from metricwatch.testing.clock import FakeClock
from metricwatch.upkeep.stage import Upkeep

DAY = 86_400


class Scene:
    def __init__(self, state, **retention) -> None:
        self.state = state
        self.clock = FakeClock()
        self.db = Database.open(state)
        self.ledger = Ledger(self.db)
        self.deliveries = Deliveries(self.db)
        self.upkeep = Upkeep(self.db, Retention(**retention), {"watched"}, self.clock)

    def evaluate(self, run, step, *, send=True, queued=0.0):
        """One evaluation with its points, which arrive, of a snapshot that was queued for so many days."""
        now = self.clock.now()
        self.ledger.register_run(Run(key=run, name=run), now)
        recorded = Recorded(revision=1, digest="d", images=8, newest_ns=1, mtime_ns=1)
        self.ledger.add_snapshot(source=run, run=run, step=step, path="/p", members=None, recorded=recorded, now=now)
        self.clock.advance(queued * DAY)
        now = self.clock.now()
        job = self.ledger.claim(now, timedelta(minutes=1), [run])
        score = Score(key="fid", value=1.0, images=8, higher_is_better=False)
        evaluation = Evaluation(scores=(score,), skipped=(), images=8, seconds=1.0, provenance={})
        number = Scores(self.db).record(job, evaluation, now)
        self.ledger.finish(job.id, JobState.DONE, now)
        points = [Point(key="k" * 500, value=1.0, timestamp_ms=1, step=step)]
        self.deliveries.enqueue(sink="s", run=run, identity=f"evaluation/{number}", points=points, tags={}, now=now)
        if send:
            self.deliveries.sent(self.deliveries.due("s", now, 10), now)

    def count(self, table):
        return self.db.read(f"SELECT count(*) FROM {table}")[0][0]

    def turn(self, days=0.0):
        self.clock.advance(days * DAY)
        while self.upkeep.tick():
            pass


@pytest.fixture
def make(tmp_path):
    scenes = []

    def scene(**retention) -> Scene:
        scenes.append(Scene(tmp_path, **retention))
        return scenes[-1]

    yield scene
    for each in scenes:
        each.db.close()


def test_points_that_arrived_leave_after_their_time_and_waiting_ones_never(make):
    scene = make()
    scene.evaluate("watched", 1)
    scene.evaluate("watched", 2, send=False)
    scene.turn(days=13)
    assert scene.count("deliveries") == 2
    scene.turn(days=2)
    assert scene.count("deliveries") == scene.deliveries.pending() == 1
    assert scene.count("scores") == 2


def test_a_run_that_nobody_watches_leaves_whole_after_its_time(make):
    scene = make()
    scene.evaluate("old", 1)
    alerts = Alerts(scene.db)
    alerts.set_mark("old", "r", RuleMark(definition="d", since_score=0, up_to_score=1))
    scene.evaluate("watched", 1)
    scene.turn(days=60)
    scene.evaluate("old", 2)
    scene.turn(days=60)
    assert {run.key for run in scene.ledger.runs()} == {"old", "watched"}
    scene.turn(days=31)
    assert [run.key for run in scene.ledger.runs()] == ["watched"]
    for table in ("snapshots", "jobs", "evaluations", "scores"):
        assert scene.count(table) == 1
    assert scene.db.read("PRAGMA foreign_key_check") == []


def test_a_run_counts_as_idle_from_its_last_evaluation_on(make):
    scene = make()
    scene.evaluate("old", 1, queued=100)
    scene.turn(days=80)
    assert [run.key for run in scene.ledger.runs()] == ["old"]
    scene.turn(days=11)
    assert scene.ledger.runs() == []


def test_a_run_with_points_that_wait_stays(make):
    scene = make()
    scene.evaluate("old", 1, send=False)
    scene.turn(days=400)
    assert [run.key for run in scene.ledger.runs()] == ["old"]


def test_room_is_given_back_to_the_disk(make):
    scene = make(runs="30d")
    with scene.db.transaction("test"):
        for step in range(12_000):
            points = [Point(key="k" * 500, value=1.0, timestamp_ms=1, step=step)]
            scene.ledger.register_run(Run(key="old", name="old"), scene.clock.now())
            scene.deliveries.enqueue(
                sink="s", run="old", identity=str(step), points=points, tags={}, now=scene.clock.now()
            )
    scene.db.compact()
    full = scene.db.path.stat().st_size
    while due := scene.deliveries.due("s", scene.clock.now(), 1000):
        scene.deliveries.sent(due, scene.clock.now())
    scene.turn(days=31)
    assert scene.db.path.stat().st_size < full / 10


def test_a_backup_is_made_each_day_and_the_newest_are_kept(make):
    scene = make(backups=2)
    made = []
    for _ in range(4):
        scene.turn(days=0.5)
        made.append([path.name for path in backups.all_of(scene.state)])
    assert [len(names) for names in made] == [1, 1, 2, 2]
    assert made[3] == made[2]
    scene.turn(days=1)
    assert len(backups.all_of(scene.state)) == 2
    assert [path.name for path in backups.all_of(scene.state)] > made[3]


def test_a_restarted_daemon_does_not_make_another_backup(make):
    scene = make()
    scene.turn()
    scene.upkeep = Upkeep(scene.db, Retention(), {"watched"}, scene.clock)
    scene.turn(days=0.1)
    assert len(backups.all_of(scene.state)) == 1


def test_without_backups_none_are_made_and_old_ones_go(make):
    scene = make(backups=0)
    backups.make(scene.db.path, scene.clock.now())
    scene.turn(days=2)
    assert backups.all_of(scene.state) == []


def test_a_backup_that_cannot_be_made_is_told_and_tried_again(make):
    scene = make()
    (scene.state / "backups").write_text("a file where the folder belongs")
    with capture_logs() as logs:
        scene.turn()
    assert [entry["event"] for entry in logs] == ["ledger.not_backed_up"]
    assert "backups" in logs[0]["reason"]
    (scene.state / "backups").unlink()
    scene.turn(days=0.1)
    assert len(backups.all_of(scene.state)) == 1
