"""`metricwatch status`: what it says of series, states and alerts, for people and as JSON."""

from __future__ import annotations

import json
import re
import sqlite3
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from metricwatch.cli import status
from metricwatch.config import StateRule
from metricwatch.records import Evaluation, JobState, Run, Score, ScoreState
from metricwatch.rules.stage import Rules
from metricwatch.store.alerts import Alerts, RuleState
from metricwatch.store.db import FILE_NAME, Database
from metricwatch.store.ledger import Ledger, Recorded
from metricwatch.store.notifications import NotificationLog
from metricwatch.store.pages import Pages
from metricwatch.store.schema import migrations
from metricwatch.store.scores import Scores
from metricwatch.store.silences import Silences
from metricwatch.store.told import AlertReceivers, Told
from metricwatch.testing.clock import FakeClock
from metricwatch.testing.samples import alert

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


@pytest.fixture
def document(scene, capsys):
    def document() -> dict:
        capsys.readouterr()
        status.command(config=scene.file, as_json=True)
        return json.loads(capsys.readouterr().out)

    return document


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
    assert "rule broken: firing at step 200: collapsed: all 8 images have the same features" in text
    # What does not fit on one line is explained below it.
    assert re.search(
        r"alert broken of night: firing \(critical\) since step 200, for \d+ days:\n"
        r"  fid has no value: collapsed; all 8 images have the same features\n",
        text,
    )


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


def test_what_needs_attention_comes_first_and_says_since_when(scene, shown, document):
    now = datetime.now(UTC)
    alerts = Alerts(scene.db)
    scene.score(100, ("fid", 30.0, A))
    scene.file.write_text(
        CONFIG.replace(
            "rules: [",
            "rules: [{name: calm, metric: fid, above: 90}, {name: soon, metric: fid, above: 20, for: 3},"
            " {name: elsewhere, metric: fid, above: 10, runs: {night: off}}, ",
        )
    )
    for rule, state, note in (
        ("calm", "inactive", ""),
        ("soon", "pending", "1 of 3 in a row"),
        ("broken", "firing", ""),
    ):
        alerts.set_states(RUN.key, rule, [RuleState(step=100, state=state, direction="worse", change=None, note=note)])
    old = alert(alert_id=0, rule="over")
    for each, age in ((old, 7200), (alert(alert_id=0, rule="broken"), 3700)):
        number = alerts.add(replace(each, run=RUN.key), announce=True, now=now - timedelta(seconds=age))
        if each is old:
            alerts.resolve(number, step=7000, value=20.0, reason="back within 10%", now=now)
    text = shown()
    lines = text.splitlines()
    rules = [line for line in lines if line.startswith("rule ")]
    assert rules == [
        "rule broken: firing at step 100",
        "rule soon: pending at step 100: 1 of 3 in a row",
        "rule calm: inactive at step 100",
    ]
    firing, resolved = (line for line in lines if line.startswith("alert "))
    assert re.fullmatch(
        r"alert broken of night: firing \(critical\) since step 5000, for 1:0[12]:\d\d: fid \+17\.0%", firing
    )
    assert resolved == "alert over of night: resolved (critical) step 5000 to 7000: fid +17.0%; back within 10%"
    first, second = document()["alerts"]
    assert (first["rule"], first["labels"], first["kind"], first["resolved_at"]) == ("broken", {}, "moves", None)
    assert 3700 <= first["age_seconds"] < 3760
    assert second["resolved_at"] is not None
    assert document()["runs"][0]["rules"]["soon"] == {
        "state": "pending",
        "step": 100,
        "direction": "worse",
        "note": "1 of 3 in a row",
    }


def test_silences_and_what_is_held_are_shown_with_who_and_why(scene, shown, document):
    now = datetime.now(UTC)
    scene.score(100, ("fid", None, A))
    (firing,) = Alerts(scene.db).firing()
    silences = Silences(scene.db)
    for start, end in ((-60, 3600), (-60, -10), (60, 90)):
        silences.add(
            ["severity=critical", 'run=~"ni.*"'],
            author="ana",
            comment="the disk is being moved",
            starts=now + timedelta(seconds=start),
            ends=now + timedelta(seconds=end),
            now=now,
        )
    AlertReceivers(scene.db).write([Told(alert=firing.id, receiver="team", held="silence 1 of ana")])
    text = shown()
    assert re.search(
        r'silence 1: severity=critical run=~"ni\.\*", until .* UTC \(for [01]:[05][09]:\d\d\), by ana:\n  the disk is being moved',
        text,
    )
    assert "silence 2" not in text
    assert "silence 3" not in text
    assert "not told: broken of night to team: silence 1 of ana\n" in text
    found = document()
    assert [(each["id"], each["author"], each["matchers"]) for each in found["silences"]] == [
        (1, "ana", ["severity=critical", 'run=~"ni.*"'])
    ]
    assert found["held"] == [{"run": "night", "rule": "broken", "receiver": "team", "reason": "silence 1 of ana"}]


def test_receivers_that_have_messages_waiting_or_failed_are_shown_with_the_reason(scene, shown, document):
    now = datetime.now(UTC)
    scene.score(100, ("fid", None, A))
    (firing,) = Alerts(scene.db).firing()
    log = NotificationLog(scene.db)
    first, second, third, done = (
        log.add(name, "firing", [(firing.id, "firing")], group={"run": "night"}, now=now - timedelta(minutes=5))
        for name in ("team", "team", "mail", "mail")
    )
    log.postpone(first, "HTTP 503", now)
    log.fail(third, "550 no such user")
    log.sent(done, "the template of its title failed", now)
    text = shown()
    assert re.search(r"receiver team: 2 messages wait, the oldest for 0:05:\d\d: HTTP 503\n", text)
    assert "receiver mail: 1 message failed, the last: 550 no such user\n" in text
    assert "notification pending: firing of broken of night to team: HTTP 503\n" in text
    assert "notification pending: firing of broken of night to team: not tried yet\n" in text
    assert "notification failed: firing of broken of night to mail: 550 no such user\n" in text
    assert "notification sent: firing of broken of night to mail (the template of its title failed)\n" in text
    mail, team = document()["receivers"]
    assert (mail["receiver"], mail["pending"], mail["failed"], mail["last_failure"]) == (
        "mail",
        0,
        1,
        "550 no such user",
    )
    assert (team["pending"], team["failed"], team["reason"]) == (2, 0, "HTTP 503")
    assert second > first


def test_a_page_that_could_not_be_written_is_shown(scene, shown, document):
    Pages(scene.db).postpone("mlflow", RUN.key, "mlflow: connection refused", datetime.now(UTC))
    assert "page alerts.html of night at mlflow is not up to date: mlflow: connection refused\n" in shown()
    assert document()["pages"][0]["tried_again"] is True


def test_lines_are_readable_in_a_hundred_columns(scene, shown):
    scene.score(100, ("fid", None, A))
    scene.score(200, ("fid", None, A))
    # The folder's own name cannot be cut.
    assert not [line for line in shown().splitlines() if len(line) > 100 and str(scene.state) not in line]


def test_the_ledger_of_an_older_daemon_can_still_be_looked_at(scene, capsys):
    """The package may be upgraded while the daemon goes on running."""
    scene.db.close()
    older = [version for version, _ in migrations()]
    for newest in older:
        for file in scene.state.glob(f"{FILE_NAME}*"):
            file.unlink()
        connection = sqlite3.connect(scene.state / FILE_NAME)
        for version, script in migrations():
            if version <= newest:
                connection.executescript(f"{script}\nPRAGMA user_version = {version};")
            if version == 1:
                connection.execute("INSERT INTO runs VALUES (?, 'night', NULL, NULL, NULL, 0)", (RUN.key,))
                connection.execute(
                    """INSERT INTO alerts (run, rule, metric, direction, severity, state, fired_step, change, threshold,
                         window, moved, reason, announce, fired_ms)
                       VALUES (?, 'fid-moved', 'fid', 'worse', 'critical', 'firing', 500, 0.2, 0.1, '[]', '[]', '', 1, 0)""",
                    (RUN.key,),
                )
                connection.execute(
                    "INSERT INTO notifications (alert, event, notifier, state, created_ms) VALUES (1, 'firing', 'team', 'pending', 1)"
                )
                connection.commit()
        connection.close()
        status.command(config=scene.file, as_json=False)
        text = capsys.readouterr().out
        assert re.search(
            r"alert fid-moved of night: firing \(critical\) since step 500, for \d+ days: fid \+20\.0%", text
        )
        assert "receiver team: 1 message waits" in text, newest
        assert "notification pending: firing of fid-moved of night to team: not tried yet" in text, newest
    scene.db = Database.open(scene.state)
    status.command(config=scene.file, as_json=False)
    assert "days: fid +20.0%\n" in capsys.readouterr().out
