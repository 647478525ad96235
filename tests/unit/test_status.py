"""`metricwatch status`: what it says of series, states and alerts, for people and as JSON."""

from __future__ import annotations

import json
import sqlite3
from datetime import timedelta

import pytest

from metricwatch.cli import status
from metricwatch.config import StateRule
from metricwatch.records import Evaluation, JobState, Run, Score, ScoreState
from metricwatch.rules.stage import Rules
from metricwatch.store.db import FILE_NAME, Database
from metricwatch.store.ledger import Ledger, Recorded
from metricwatch.store.schema import migrations
from metricwatch.store.scores import Scores
from metricwatch.testing.clock import FakeClock

CONFIG = """
tracking: {uri: "http://mlflow:5000"}
watch:
  - run: {name: night}
    samples: a/*
metrics: [fid]
rules: [{name: broken, metric: fid, state: any}]
"""
RUN = Run(key="name:Default/night", name="night")
A, B = "a1" * 20, "b2" * 20


class Scene:
    def __init__(self, folder) -> None:
        self.file = folder / "metricwatch.yaml"
        self.file.write_text(CONFIG)
        self.state = folder / "metricwatch-state"
        self.state.mkdir()
        self.clock = FakeClock()
        self.db = Database.open(self.state)
        self.ledger, self.scores = Ledger(self.db), Scores(self.db)
        self.ledger.register_run(RUN, self.clock.now())
        rule = StateRule.model_validate({"name": "broken", "metric": "fid", "state": "any"})
        self.rules = Rules(self.db, [rule], [RUN], ["mlflow"], self.clock)
        self.rules.start()
        self.revision = 0

    def score(self, step, *values):
        """One evaluation: each value is a key, a number or None, and the digest of its reference."""
        self.revision += 1
        self.ledger.add_snapshot(
            source="s",
            run=RUN.key,
            step=step,
            path="p",
            members=None,
            recorded=Recorded(revision=self.revision, digest="d", images=8, newest_ns=1, mtime_ns=1),
            now=self.clock.now(),
        )
        job = self.ledger.claim(self.clock.now(), timedelta(minutes=1), ["s"])
        scores = tuple(
            Score(
                key=key,
                value=value,
                images=8,
                higher_is_better=False,
                state=ScoreState.OK if value is not None else ScoreState.COLLAPSED,
                detail="" if value is not None else "all 8 images have the same features",
                series=digest,
                provenance={"reference_digest": digest, "device": "cpu"},
            )
            for key, value, digest in values
        )
        evaluation = Evaluation(scores=scores, skipped=(), images=8, seconds=1.0, provenance={})
        with self.db.transaction("test"):
            self.scores.record(job, evaluation, self.clock.now())
            self.ledger.finish(job.id, JobState.DONE, self.clock.now())
        self.rules.tick()


@pytest.fixture
def scene(tmp_path):
    made = Scene(tmp_path)
    yield made
    made.db.close()


@pytest.fixture
def shown(scene, capsys):
    def shown() -> str:
        capsys.readouterr()
        status.command(config=scene.file, as_json=False)
        return capsys.readouterr().out

    return shown


@pytest.fixture
def latest(scene, capsys):
    def latest() -> dict[str, dict]:
        capsys.readouterr()
        status.command(config=scene.file, as_json=True)
        document = json.loads(capsys.readouterr().out)
        return {score["key"]: score for score in document["runs"][0]["latest"]}

    return latest


def test_of_the_first_series_nothing_is_said(scene, shown, latest):
    scene.score(100, ("fid", 30.0, A))
    scene.score(200, ("fid", 31.0, A))
    assert "new series" not in shown()
    assert latest()["fid"]["series"] is None
    assert latest()["fid"]["provenance"] == {"reference_digest": A, "device": "cpu"}


def test_a_later_series_is_shown_with_its_beginning_and_what_changed(scene, shown, latest):
    scene.score(100, ("fid", 30.0, A), ("ssim", 0.5, "s"))
    scene.score(500, ("fid", 31.0, B), ("ssim", 0.5, "s"))
    scene.score(600, ("fid", 31.0, B), ("ssim", 0.5, "s"))
    assert "fid: new series since step 500: reference_digest a1a1a1a1… → b2b2b2b2…" in shown()
    assert latest()["fid"]["series"] == {"since_step": 500, "changed": {"reference_digest": {"from": A, "to": B}}}
    assert latest()["ssim"]["series"] is None


def test_keys_that_began_anew_together_share_a_line(scene, shown):
    scene.score(100, ("fid", 30.0, A), ("kid", 0.5, A))
    scene.score(500, ("fid", 31.0, B), ("kid", 0.5, B))
    assert "fid, kid: new series since step 500: reference_digest" in shown()


def test_an_evaluation_without_a_value_begins_no_series(scene, latest):
    scene.score(100, ("fid", 30.0, A))
    scene.score(200, ("fid", None, ""))
    scene.score(300, ("fid", 30.0, A))
    assert latest()["fid"]["series"] is None


def test_a_late_arrival_of_the_old_series_does_not_move_the_beginning_of_the_new_one(scene, latest):
    scene.score(100, ("fid", 30.0, A))
    scene.score(500, ("fid", 31.0, B))
    scene.score(400, ("fid", 31.0, A))
    assert latest()["fid"]["step"] == 500
    assert latest()["fid"]["series"]["since_step"] == 500


def test_a_rewritten_step_counts_as_what_it_is_now(scene, latest):
    scene.score(100, ("fid", 30.0, A))
    scene.score(500, ("fid", 31.0, B))
    scene.score(500, ("fid", 31.0, A))
    assert latest()["fid"]["series"] is None


def test_a_series_that_comes_back_is_a_new_one(scene, latest):
    for step, digest in ((100, A), (200, B), (300, A), (400, A)):
        scene.score(step, ("fid", 30.0, digest))
    assert latest()["fid"]["series"] == {"since_step": 300, "changed": {"reference_digest": {"from": B, "to": A}}}


def test_a_score_without_a_value_and_its_alert_are_shown_in_words(scene, shown):
    scene.score(100, ("fid", 30.0, A))
    scene.score(200, ("fid", None, A))
    text = shown()
    assert "collapsed" in text
    assert "fid: all 8 images have the same features" in text
    assert "rule broken: firing at step 200 (collapsed: all 8 images have the same features)" in text
    assert (
        "alert broken of night: firing (critical), fid has no value: collapsed (all 8 images have the same features), step 200"
    ) in text


def test_what_was_skipped_is_counted_with_its_steps_and_the_reason(scene, shown, capsys):
    for step in (100, 300, 200):
        scene.ledger.add_snapshot(
            source="s",
            run=RUN.key,
            step=step,
            path="p",
            members=None,
            recorded=Recorded(revision=1, digest="d", images=8, newest_ns=1, mtime_ns=1),
            now=scene.clock.now(),
        )
    for number in (1, 2, 3):
        reason = f"passed over: step {300 + number} is newer"
        scene.ledger.finish(number, JobState.SKIPPED, scene.clock.now(), reason)
    text = shown()
    assert "jobs: 3 skipped" in text
    assert "skipped of night: 3 snapshots, steps 100 to 300; the newest: passed over: step 303 is newer" in text
    status.command(config=scene.file, as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert document["jobs"]["skipped"] == 3
    assert document["skipped"] == [
        {
            "run": RUN.key,
            "count": 3,
            "first_step": 100,
            "last_step": 300,
            "reason": "passed over: step 303 is newer",
        }
    ]
    assert document["problems"] == []


def test_the_ledger_of_an_older_daemon_can_still_be_looked_at(scene, tmp_path, capsys):
    """The package may be upgraded while the daemon goes on running."""
    scene.db.close()
    (scene.state / FILE_NAME).unlink()
    version, script = migrations()[0]
    connection = sqlite3.connect(scene.state / FILE_NAME)
    connection.executescript(f"{script}\nPRAGMA user_version = {version};")
    connection.execute("INSERT INTO runs VALUES (?, 'night', NULL, NULL, NULL, 0)", (RUN.key,))
    connection.execute(
        """INSERT INTO alerts (run, rule, metric, direction, severity, state, fired_step, change, threshold, window,
             moved, reason, announce, fired_ms)
           VALUES (?, 'fid-moved', 'fid', 'worse', 'critical', 'firing', 500, 0.2, 0.1, '[]', '[]', '', 1, 0)""",
        (RUN.key,),
    )
    connection.commit()
    connection.close()
    status.command(config=scene.file, as_json=False)
    assert "alert fid-moved of night: firing (critical), fid +20.0%, step 500" in capsys.readouterr().out
    scene.db = Database.open(scene.state)
    status.command(config=scene.file, as_json=False)
    assert "fid +20.0%, step 500" in capsys.readouterr().out
