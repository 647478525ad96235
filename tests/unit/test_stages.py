"""Rules, export and alerts over a real ledger: what is written, what is sent, and how often."""

from __future__ import annotations

import itertools
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from metricwatch.alerts.stage import AlertDispatcher
from metricwatch.api import Notifier, Sink
from metricwatch.config import AboveRule, MovesRule
from metricwatch.errors import PermanentError, RunGoneError, TemporaryError
from metricwatch.export.stage import Exporter
from metricwatch.records import Evaluation, JobState, RemoteRun, Run, Score, ScoreState
from metricwatch.rules.stage import Rules
from metricwatch.store.alerts import Alerts
from metricwatch.store.db import Database
from metricwatch.store.deliveries import Deliveries
from metricwatch.store.ledger import Ledger, Recorded
from metricwatch.store.notifications import NotificationLog
from metricwatch.store.scores import Scores
from metricwatch.supervisor.exchange import points_of
from metricwatch.testing.clock import FakeClock

RUN = Run(key="name:x/night", name="night")


class MemorySink(Sink):
    """Keeps what it is given, and raises what it is told to."""

    Options = dict

    def __init__(self, options=None) -> None:
        self.points = []
        self.tags = {}
        self.found = 0
        self.errors = []
        self.poison = set()

    def find_run(self, run):
        self.found += 1
        self._fail()
        return RemoteRun(id="r1", url="http://tracking/r1")

    def write(self, run_id, points, tags):
        self._fail()
        if self.poison & {point.key for point in points}:
            raise PermanentError("invalid key")
        self.points += points
        self.tags |= tags

    def ping(self):
        return "memory"

    def _fail(self):
        if self.errors:
            raise self.errors.pop(0)


class MemoryNotifier(Notifier):
    """Keeps the messages, and raises what it is told to."""

    Options = dict

    def __init__(self, options=None) -> None:
        self.messages = []
        self.errors = []

    def send(self, notification):
        if self.errors:
            raise self.errors.pop(0)
        self.messages.append(notification)


class Scene:
    def __init__(self, folder) -> None:
        self.clock = FakeClock()
        self.db = Database.open(folder)
        self.ledger = Ledger(self.db)
        self.scores = Scores(self.db)
        self.deliveries = Deliveries(self.db)
        self.alert_log = Alerts(self.db)
        self.log = NotificationLog(self.db)
        self.ledger.register_run(RUN, self.clock.now())
        self.sink, self.team, self.mail = MemorySink(), MemoryNotifier(), MemoryNotifier()
        self.revisions = {}
        self.configure([moves()])

    def configure(self, rules, notifiers=None):
        """As a start of the daemon with this configuration."""
        chosen = {"team": self.team, "mail": self.mail} if notifiers is None else notifiers
        self.rules = Rules(self.db, rules, [RUN], ["mlflow"], self.clock)
        self.exporter = Exporter(self.db, {"mlflow": self.sink}, self.clock)
        self.alerts = AlertDispatcher(self.db, rules, chosen, "mlflow", self.clock)
        self.rules.start()
        self.alerts.start()

    def score(self, step, value, images=100, series="a", stderr=0.1):
        """One evaluation arrives, through the same tables as the daemon's."""
        revision = self.revisions[step] = self.revisions.get(step, 0) + 1
        self.ledger.add_snapshot(
            source="s",
            run=RUN.key,
            step=step,
            path="p",
            members=None,
            recorded=Recorded(revision=revision, digest=str(revision), images=images, newest_ns=1, mtime_ns=1),
            now=self.clock.now(),
        )
        job = self.ledger.claim(self.clock.now(), timedelta(minutes=1), ["s"])
        score = Score(
            key="fid",
            value=value,
            images=images,
            higher_is_better=False,
            stderr=stderr if value is not None else None,
            state=ScoreState.OK if value is not None else ScoreState.TOO_FEW_IMAGES,
            series=series,
        )
        evaluation = Evaluation(scores=(score,), skipped=(), images=images, seconds=1.0, provenance={})
        with self.db.transaction("test"):
            self.scores.record(job, evaluation, self.clock.now())
            self.ledger.finish(job.id, JobState.DONE, self.clock.now())

    def play(self, *values, start=1):
        """Evaluations arrive one after the other, everything is delivered in between."""
        for i, value in enumerate(values):
            self.score(1000 * (start + i), value)
            self.turn()

    def turn(self):
        while self.rules.tick() + self.exporter.tick() + self.alerts.tick():
            pass

    def curve(self, key):
        return [(point.step, point.value) for point in self.sink.points if point.key == key]

    def heard(self, who=None):
        return [(m.event, m.alert.severity, m.alert.fired_step) for m in (who or self.team).messages]


def moves(**options):
    defaults = {"name": "fid-moved", "metric": "fid", "moves": 0.10, "across": 5, "mode": "range", "direction": "any"}
    return MovesRule.model_construct(**{**defaults, "beyond_noise": None, "receivers": None, **options})


@pytest.fixture
def scene(tmp_path):
    made = Scene(tmp_path)
    yield made
    made.db.close()


def test_firing_and_resolved_each_notify_once_on_every_channel(scene):
    scene.play(30, 30, 30, 30, 36, 36, 36, 36, 36, 36)
    assert scene.heard() == [("firing", "critical", 5000), ("resolved", "critical", 5000)]
    assert scene.heard(scene.mail) == scene.heard()
    assert scene.team.messages[1].alert.resolved_step == 9000


def test_alerts_show_as_a_curve_of_zeros_and_ones_and_as_a_tag(scene):
    scene.play(30, 30, 30, 30, 36)
    assert scene.curve("alert/fid-moved") == [(1000, 0), (2000, 0), (3000, 0), (4000, 0), (5000, 1)]
    assert scene.sink.tags["metricwatch.alert.fid-moved"] == "firing at step 5000: fid +20.0% (worse)"


def test_all_at_once_gives_the_same_alerts_as_one_by_one(scene, tmp_path):
    values = (30, 30, 30, 30, 36, 36, 36, 36, 36, 25, 25, 25, 25, 25)
    scene.play(*values)
    (tmp_path / "other").mkdir()
    other = Scene(tmp_path / "other")
    for i, value in enumerate(values):
        other.score(1000 * (i + 1), value)
    other.turn()
    assert other.alert_log.of_rule(RUN.key, "fid-moved") == scene.alert_log.of_rule(RUN.key, "fid-moved")
    assert other.curve("alert/fid-moved") == scene.curve("alert/fid-moved")
    # What is over by the time it can be told is told once, as over.
    assert sorted(scene.heard()) == [
        ("firing", "critical", 5000),
        ("firing", "info", 10000),
        ("resolved", "critical", 5000),
        ("resolved", "info", 10000),
    ]
    assert [event for event, _, _ in other.heard()] == ["resolved"]
    assert {notice.alert.severity for notice in other.team.messages[0].notices} == {"critical", "info"}
    other.db.close()


def test_a_message_carries_the_values_and_the_link(scene):
    scene.play(30, 30, 30, 30, 36)
    message = scene.team.messages[0]
    assert message.run_url == "http://tracking/r1"
    assert [(p.step, p.value) for p in message.alert.window][-1] == (5000, 36)
    assert message.title == "[critical] night: fid rose 20.0% (fid-moved)"
    assert message.summary == (
        "fid rose 20.0%: from 30 at step 1000 to 36 at step 5000, within 5 evaluations. That is worse. "
        "The rule allows 10%."
    )


def test_a_message_names_the_evaluations_between_which_it_moved(scene):
    scene.play(40, 38, 36, 38, 41)
    assert "fid rose 12.5% of 40, the first value of the window: from 36 at step 3000 to 41 at step 5000" in (
        scene.team.messages[0].summary
    )


def test_the_end_of_an_alert_says_what_ended_and_where_the_metric_stands(scene):
    scene.play(30, 30, 30, 30, 36, 36, 36, 36, 36.5)
    message = scene.team.messages[-1]
    assert message.title == "[resolved] night: fid (fid-moved, was critical)"
    assert message.summary == (
        "The movement of fid for the worse is over at step 9000: moved no further than the bound. It is 36.5 now. "
        "It had fired at step 5000, when fid rose 20.0% to 36."
    )


def test_a_late_evaluation_is_recomputed_without_a_second_message(scene):
    scene.play(30, 30, 30, 36)
    scene.play(36, 36, start=5)
    assert scene.heard() == [("firing", "critical", 5000)]
    scene.score(3500, 30)
    scene.turn()
    assert scene.heard() == [("firing", "critical", 5000)]
    # Step 4000 is now the fifth of its window: it is recorded as the alert's true beginning.
    assert scene.alert_log.firing()[0].fired_step == 4000


def test_a_rewritten_step_that_takes_the_break_back_resolves_the_alert(scene):
    scene.play(30, 30, 30, 30, 90)
    scene.score(5000, 30)
    scene.turn()
    assert scene.heard() == [("firing", "critical", 5000), ("resolved", "critical", 5000)]
    assert "later arrivals changed the history" in scene.team.messages[-1].summary


def test_a_rule_added_later_stays_silent_about_the_past(scene):
    scene.configure([])
    for i, value in enumerate((30, 30, 30, 30, 60, 60, 60, 60, 60)):
        scene.score(1000 * (i + 1), value)
    scene.turn()
    scene.configure([moves()])
    scene.turn()
    assert scene.heard() == []
    assert [alert.fired_step for alert in scene.alert_log.recent(RUN.key)] == [5000]


def test_a_rule_added_while_its_alert_would_fire_tells_of_it(scene):
    scene.configure([])
    for i, value in enumerate((30, 30, 30, 30, 60)):
        scene.score(1000 * (i + 1), value)
    scene.configure([moves()])
    scene.turn()
    assert scene.heard() == [("firing", "critical", 5000)]


def test_whoever_heard_of_an_alert_hears_that_its_rule_was_removed(scene):
    scene.play(30, 30, 30, 30, 60)
    scene.configure([])
    scene.turn()
    assert scene.heard() == [("firing", "critical", 5000), ("resolved", "critical", 5000)]
    assert scene.heard(scene.mail) == scene.heard()
    assert "is over at step 5000: the rule was removed." in scene.team.messages[-1].summary
    assert scene.alert_log.firing() == []
    assert scene.sink.points[-1].value == 0
    assert scene.sink.tags["metricwatch.alert.fid-moved"] == "inactive at step 5000: the rule was removed"
    scene.configure([])
    scene.turn()
    assert len(scene.heard()) == 2


def test_a_rule_with_another_name_is_the_end_of_one_and_the_beginning_of_another(scene):
    scene.play(30, 30, 30, 30, 60)
    scene.configure([moves(name="fid-jumps")])
    scene.turn()
    told = [(notice.event, notice.alert.rule) for m in scene.team.messages for notice in m.notices]
    assert sorted(told) == [("firing", "fid-jumps"), ("firing", "fid-moved"), ("resolved", "fid-moved")]


def test_a_notifier_that_is_away_gets_its_message_later_and_holds_up_nobody(scene):
    scene.team.errors = [TemporaryError("HTTP 503"), TemporaryError("HTTP 429", retry_after=timedelta(seconds=30))]
    scene.play(30, 30, 30, 30, 60)
    assert (scene.heard(), len(scene.mail.messages)) == ([], 1)
    scene.clock.advance(2)
    scene.turn()
    scene.clock.advance(29)
    scene.turn()
    assert scene.heard() == []
    scene.clock.advance(1)
    scene.turn()
    assert scene.heard() == [("firing", "critical", 5000)]


# A late evaluation puts a short alert before the open one; the rewrite of step 3 then makes one stretch of both.
MERGED = [(1, 30), (4, 60), (3, 40), (2, 40), (3, 50)]


def test_there_are_never_two_open_alerts_of_one_rule(scene):
    scene.configure([moves(across=2)])
    for step, value in MERGED:
        scene.score(1000 * step, value)
        scene.turn()
    assert [(alert.id, alert.fired_step) for alert in scene.alert_log.firing()] == [(1, 2000)]
    assert [alert.id for alert in scene.alert_log.of_rule(RUN.key, "fid-moved")] == [1, 2]


@example(arrivals=MERGED)
@given(st.lists(st.tuples(st.integers(1, 8), st.sampled_from([30, 31, 45, 60, 90])), min_size=1, max_size=25))
@settings(max_examples=40, deadline=None)
def test_whatever_arrives_in_whatever_order_the_open_alert_is_the_one_of_the_curve(arrivals):
    with TemporaryDirectory() as folder:
        scene = Scene(Path(folder))
        scene.configure([moves(across=2)])
        for step, value in arrivals:
            scene.score(1000 * step, value)
            scene.turn()
        states = scene.alert_log.states(RUN.key, "fid-moved")
        last = states[max(states)]
        firing = scene.alert_log.firing()
        assert [(a.direction) for a in firing] == ([last.direction] if last.state == "firing" else [])
        scene.db.close()


def test_whoever_heard_of_an_alert_hears_that_it_is_over_when_the_changed_rule_says_so(scene):
    scene.play(30, 30, 30, 30, 36)
    scene.clock.advance(1)
    scene.configure([moves(moves=0.5)])
    assert len(scene.alert_log.firing()) == 1, "the new form has not looked yet"
    scene.turn()
    assert scene.heard() == [("firing", "critical", 5000), ("resolved", "critical", 5000)]
    assert "is over at step 5000: the rule was changed." in scene.team.messages[-1].summary
    assert scene.alert_log.firing() == []
    assert scene.sink.points[-1].value == 0
    assert scene.sink.tags["metricwatch.alert.fid-moved"] == "inactive at step 5000"


def test_a_changed_rule_that_fires_all_the_same_goes_on_without_a_word(scene):
    scene.play(30, 30, 30, 30, 36)
    scene.configure([moves(moves=0.15)])
    scene.turn()
    (alert,) = scene.alert_log.firing()
    assert (alert.id, alert.threshold) == (1, 0.15)
    assert scene.heard() == [("firing", "critical", 5000)]
    scene.play(30, 30, 30, 30, 30, 30, 30, start=6)
    told = [(notice.event, notice.alert.id) for message in scene.team.messages for notice in message.notices]
    assert told.count(("firing", 1)) == told.count(("resolved", 1)) == 1
    assert scene.alert_log.firing() == []


def test_what_the_earlier_form_of_a_rule_said_hides_nothing_that_the_new_one_finds(scene):
    scene.configure([AboveRule(name="high", metric="fid", above=60)])
    scene.play(50, 70)
    scene.play(70, start=6)
    scene.clock.advance(1)
    scene.configure([AboveRule(name="high", metric="fid", above=80)])
    scene.turn()
    scene.play(90, start=5)
    found = [(alert.fired_step, alert.resolved_step) for alert in scene.alert_log.of_rule(RUN.key, "high")]
    assert found == [(2000, 6000), (5000, 6000)]
    assert scene.team.messages[-1].notices[0].alert.fired_step == 5000


def test_a_late_calm_evaluation_within_an_alert_that_lasts_is_no_end_and_no_other_alert(scene):
    scene.configure([moves(across=2, moves=0.01)])
    scene.play(30, 60, 70)
    scene.score(4000, 80)
    scene.score(5000, 90)
    scene.turn()
    assert scene.heard() == [("firing", "critical", 2000)]
    scene.score(3500, 70)
    scene.turn()
    assert scene.heard() == [("firing", "critical", 2000)]
    (alert,) = scene.alert_log.firing()
    assert (alert.id, alert.fired_step) == (1, 4000)


def test_a_failed_score_does_not_end_an_alert(scene):
    scene.play(30, 30, 30, 30, 60, None, 60, 60, 60)
    assert scene.heard() == [("firing", "critical", 5000)]
    scene.play(60, 60, start=10)
    assert scene.heard()[-1][0] == "resolved"


# --- export ------------------------------------------------------------------------------------------------


def deliver(scene, identity, *keys, step=1000):
    scores = tuple(Score(key=key, value=1.0, images=10, higher_is_better=False, stderr=0.5) for key in keys)
    evaluation = Evaluation(scores=scores, skipped=(), images=10, seconds=1, provenance={})
    scene.deliveries.enqueue(
        sink="mlflow",
        run=RUN.key,
        identity=identity,
        points=points_of(evaluation, prefix="quality", step=step, timestamp_ms=5),
        tags={},
        now=scene.clock.now(),
    )


def test_points_are_prefixed_and_carry_their_standard_error(scene):
    deliver(scene, "e/1", "fid")
    scene.exporter.tick()
    assert [(p.key, p.value, p.timestamp_ms) for p in scene.sink.points] == [
        ("quality/fid", 1.0, 5),
        ("quality/fid_stderr", 0.5, 5),
    ]


def test_the_same_delivery_twice_is_one(scene):
    deliver(scene, "e/1", "fid")
    deliver(scene, "e/1", "fid")
    assert scene.deliveries.pending() == 1


def test_a_sink_that_is_away_keeps_the_order_and_the_timestamps(scene):
    scene.sink.errors = [TemporaryError("connection refused")] * 3
    deliver(scene, "e/1", "fid", step=1000)
    scene.exporter.tick()
    deliver(scene, "e/2", "fid", step=2000)
    assert scene.exporter.tick() == 0
    assert len(scene.sink.errors) == 2, "a later point does not cut the wait of an earlier one short"
    assert scene.deliveries.backlog()[0].reason == "connection refused"
    for _ in range(10):
        scene.clock.advance(10)
        scene.exporter.tick()
    assert scene.curve("quality/fid") == [(1000, 1.0), (2000, 1.0)]
    assert scene.deliveries.pending() == 0


def test_one_poisoned_point_is_set_aside_and_the_rest_arrives(scene):
    """Neither the other evaluations of the batch nor the other scores of its own evaluation suffer."""
    scene.sink.poison = {"quality/bad"}
    deliver(scene, "e/0", "fid")
    deliver(scene, "e/1", "bad", "kid")
    deliver(scene, "e/2", "ssim")
    scene.exporter.tick()
    arrived = {point.key for point in scene.sink.points if not point.key.endswith("_stderr")}
    assert arrived == {"quality/fid", "quality/kid", "quality/ssim"}
    assert scene.deliveries.rejected() == [(RUN.key, "e/1", "quality/bad: invalid key")]
    assert scene.deliveries.pending() == 0


def test_what_was_rejected_keeps_its_reason_when_the_rest_of_the_batch_must_wait(scene):
    deliver(scene, "e/0", "bad")
    deliver(scene, "e/1", "fid")
    batch = scene.deliveries.due("mlflow", scene.clock.now(), 10)
    scene.deliveries.reject(batch[0], "invalid key")
    scene.deliveries.postpone(batch, "connection refused", scene.clock.now())
    assert scene.deliveries.rejected() == [(RUN.key, "e/0", "invalid key")]
    assert scene.deliveries.backlog()[0].reason == "connection refused"


def test_points_of_a_run_that_was_deleted_wait_for_it_and_go_nowhere_else(scene):
    deliver(scene, "e/1", "fid")
    scene.exporter.tick()
    deliver(scene, "e/2", "fid", step=2000)
    scene.sink.errors = [RunGoneError("run r1 is deleted")]
    scene.exporter.tick()
    assert scene.deliveries.backlog()[0].reason == "run r1 is deleted"
    scene.clock.advance(61)
    scene.exporter.tick()
    assert scene.sink.found == 1
    assert scene.curve("quality/fid") == [(1000, 1.0), (2000, 1.0)]


def test_a_job_that_is_started_again_with_another_run_id_gets_its_points_there(scene, tmp_path):
    file = tmp_path / "mlflow_run_id"
    file.write_text("r1")
    scene.ledger.register_run(Run(key=RUN.key, name="night", id_file=str(file)), scene.clock.now())
    for number in range(3):
        deliver(scene, f"e/{number}", "fid")
        scene.exporter.tick()
    assert scene.sink.found == 1
    file.write_text("another")
    deliver(scene, "e/3", "fid")
    scene.exporter.tick()
    assert scene.sink.found == 2


def test_a_sink_that_breaks_its_contract_costs_no_point_and_no_daemon(scene):
    scene.sink.errors = [KeyError("oops")]
    deliver(scene, "e/1", "fid")
    scene.exporter.tick()
    assert "KeyError" in scene.deliveries.backlog()[0].reason
    scene.clock.advance(61)
    scene.exporter.tick()
    assert scene.deliveries.pending() == 0


def test_points_of_a_run_that_cannot_be_found_wait_for_it(scene):
    scene.sink.errors = [PermanentError("run r1 is deleted")]
    deliver(scene, "e/1", "fid")
    scene.exporter.tick()
    assert scene.deliveries.backlog()[0].reason == "run r1 is deleted"
    scene.clock.advance(61)
    scene.exporter.tick()
    assert scene.deliveries.pending() == 0


def test_points_of_a_run_that_left_the_configuration_still_arrive(scene):
    """The exporter knows runs from the ledger, not from the configuration."""
    scene.ledger.register_run(Run(key="id:old", name="old", id="old"), scene.clock.now())
    scene.deliveries.enqueue(
        sink="mlflow", run="id:old", identity="x", points=[], tags={"a": "b"}, now=scene.clock.now()
    )
    scene.exporter.tick()
    assert scene.sink.tags == {"a": "b"}


def test_a_run_is_looked_up_once(scene):
    for number in range(3):
        deliver(scene, f"e/{number}", "fid")
        scene.exporter.tick()
    assert scene.sink.found == 1


@settings(max_examples=80)
@given(
    arrivals=st.lists(
        st.tuples(st.integers(1, 12), st.sampled_from([None, 10.0, 10.5, 14.0, 20.0])), min_size=1, max_size=25
    ),
    together=st.lists(st.integers(1, 4), min_size=1, max_size=5),
)
# A rewrite splits an episode in two; the second ends in order.
@example(
    arrivals=[(1, 10.0), (2, 14.0), (3, 14.0), (4, 20.0), (5, 20.0), (6, 20.0), (4, 14.0), (7, 20.0)], together=[1]
)
def test_the_story_is_the_same_however_often_a_daemon_is_restarted_and_however_many_arrive_at_once(arrivals, together):
    """Late, rewritten and missing evaluations included."""
    told = [
        _story(arrivals, groups, begins_anew=anew) for groups, anew in (([1], False), ([1], True), (together, False))
    ]
    assert told[0] == told[1]
    assert told[0] == told[2]


def _story(arrivals, together, *, begins_anew):
    """What there is in the end: alerts, states, the curve, what people know."""
    with TemporaryDirectory() as folder:
        scene = Scene(Path(folder))
        scene.configure([moves(across=3)])
        groups, waiting = itertools.cycle(together), list(arrivals)
        while waiting:
            count = next(groups)
            for step, value in waiting[:count]:
                scene.score(1000 * step, value)
            del waiting[:count]
            if begins_anew:
                scene.configure([moves(across=3)])
            scene.turn()
        alerts = [
            (alert.direction, alert.state, alert.fired_step, alert.resolved_step, alert.window, alert.reason)
            for alert in scene.alert_log.of_rule(RUN.key, "fid-moved")
        ]
        states = scene.alert_log.states(RUN.key, "fid-moved")
        # How many messages it took depends on how often somebody looked.
        told = [tuple(row) for row in scene.db.read("SELECT alert, receiver, told FROM alert_receivers ORDER BY 1, 2")]
        curve = scene.curve("alert/fid-moved")
        scene.db.close()
    return alerts, states, curve, told
