"""What the daemon tells of its health: alerts, receivers and pages, as JSON and for Prometheus."""

from __future__ import annotations

import json
import urllib.request
from dataclasses import replace
from datetime import timedelta

import pytest

from metricwatch.records import Run
from metricwatch.store.alerts import Alerts, RuleMark, RuleState
from metricwatch.store.db import Database
from metricwatch.store.ledger import Ledger
from metricwatch.store.notifications import NotificationLog
from metricwatch.store.pages import Pages
from metricwatch.telemetry import Health, HealthServer
from metricwatch.testing.clock import FakeClock
from metricwatch.testing.samples import alert


class Scene:
    def __init__(self, folder) -> None:
        self.clock = FakeClock()
        self.db = Database.open(folder)
        Ledger(self.db).register_run(Run(key="r", name="night"), self.clock.now())
        self.alerts, self.log = Alerts(self.db), NotificationLog(self.db)
        self.health = Health(self.db, sinks=["mlflow"], receivers=["team"], clock=self.clock)

    def fire(self, **fields):
        return self.alerts.add(replace(alert(), run="r", **fields), announce=True, now=self.clock.now())

    def say(self, rule, *states, configured=True):
        for step, state in enumerate(states, 1):
            said = RuleState(step=step, state=state, direction="worse", change=None, note=f"note {step}")
            self.alerts.set_states("r", rule, [said])
        if configured:
            self.alerts.set_mark("r", rule, RuleMark(definition="d", since_score=0, up_to_score=0))

    def samples(self):
        """Every sample of Prometheus: its name, and its labels, with its value."""
        return {
            (sample.name, *(f"{key}={value}" for key, value in sorted(sample.labels.items()))): sample.value
            for family in self.health.collect()
            for sample in family.samples
        }


@pytest.fixture
def scene(tmp_path):
    made = Scene(tmp_path)
    yield made
    made.db.close()


def test_what_fires_and_what_may_fire_soon_is_listed(scene):
    scene.fire()
    scene.fire(rule="silent", metric="", severity="warning", what="had no evaluation for 2h", fired_step=7000)
    over = scene.fire(rule="over")
    scene.alerts.resolve(over, step=1, value=1.0, reason="", now=scene.clock.now())
    scene.say("soon", "inactive", "pending")
    scene.say("not-any-more", "pending", "inactive")
    scene.say("not-configured", "pending", configured=False)
    scene.clock.advance(90)
    document = scene.health.document()
    first = {
        "run": "night",
        "rule": "fid-moved",
        "metric": "fid",
        "severity": "critical",
        "since_step": 5000,
        "seconds": 90.0,
        "what": "moved by +17.0%",
    }
    second = {**first, "rule": "silent", "metric": "", "severity": "warning", "since_step": 7000}
    assert document["alerts"] == {
        "firing": [first, second | {"what": "had no evaluation for 2h"}],
        "pending": [{"run": "night", "rule": "soon", "step": 2, "note": "note 2"}],
    }
    assert document["alerts_firing"] == 2
    found = scene.samples()
    assert found["metricwatch_alerts_firing",] == 2
    assert found["metricwatch_alerts", "severity=critical", "state=firing"] == 1
    assert found["metricwatch_alerts", "severity=warning", "state=firing"] == 1
    assert found["metricwatch_alerts", "severity=info", "state=firing"] == 0
    assert found["metricwatch_alerts", "severity=", "state=pending"] == 1


def test_of_very_many_alerts_the_newest_are_listed_and_all_are_counted(scene):
    for number in range(130):
        scene.fire(rule=f"r{number}")
    document = scene.health.document()
    assert len(document["alerts"]["firing"]) == 100
    assert document["alerts"]["firing"][-1]["rule"] == "r129"
    assert document["alerts_firing"] == 130
    assert scene.samples()["metricwatch_alerts", "severity=critical", "state=firing"] == 130


def test_messages_are_told_by_receiver_with_ages_and_reasons(scene):
    number = scene.fire()
    assert scene.health.document()["notifications"] == {
        "team": {"pending": 0, "oldest_pending_seconds": 0.0, "reason": "", "failed": 0, "last_failure": ""}
    }
    group = {"run": "night"}
    waiting, *failing = (
        scene.log.add(receiver, "firing", [(number, "firing")], group=group, now=scene.clock.now())
        for receiver in ("team", "mail", "mail")
    )
    scene.log.postpone(waiting, "HTTP 503", scene.clock.now() + timedelta(seconds=9))
    scene.log.fail(failing[0], "first")
    scene.log.fail(failing[1], "550 no such user")
    scene.clock.advance(60)
    document = scene.health.document()
    assert document["notifications"]["team"] == {
        "pending": 1,
        "oldest_pending_seconds": 60.0,
        "reason": "HTTP 503",
        "failed": 0,
        "last_failure": "",
    }
    assert document["notifications"]["mail"]["failed"] == 2
    assert document["notifications"]["mail"]["last_failure"] == "550 no such user"
    assert document["notifications_pending"] == 1
    found = scene.samples()
    assert found["metricwatch_notifications_pending", "receiver=team"] == 1
    assert found["metricwatch_notification_oldest_pending_seconds", "receiver=team"] == 60
    assert found["metricwatch_notifications_failed", "receiver=mail"] == 2
    scene.log.sent(waiting, "", scene.clock.now())
    assert scene.samples()["metricwatch_notifications_pending", "receiver=team"] == 0


def test_a_page_that_could_not_be_written_is_told(scene):
    assert scene.samples()["metricwatch_pages_failing",] == 0
    Pages(scene.db).postpone("mlflow", "r", "mlflow: away", scene.clock.now())
    assert scene.health.document()["pages"] == [
        {"sink": "mlflow", "run": "night", "page": "alerts.html", "reason": "mlflow: away"}
    ]
    assert scene.samples()["metricwatch_pages_failing",] == 1


def test_a_server_gives_both_forms(scene):
    scene.fire()
    server = HealthServer("127.0.0.1", 0, scene.health)
    try:
        base = f"http://127.0.0.1:{server.port}"
        with urllib.request.urlopen(f"{base}/-/healthy", timeout=10) as answer:
            assert json.load(answer)["alerts"]["firing"][0]["rule"] == "fid-moved"
        with urllib.request.urlopen(f"{base}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        assert 'metricwatch_alerts{severity="critical",state="firing"} 1.0' in text
        assert 'metricwatch_notifications_pending{receiver="team"} 0.0' in text
    finally:
        server.close()
