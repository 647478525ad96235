"""The rule on scores without a value: when it fires and resolves, and the words it is told in."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metricwatch.alerts.message import compose
from metricwatch.alerts.stage import AlertDispatcher
from metricwatch.api import Notifier
from metricwatch.config import MovesRule, StateRule
from metricwatch.notifiers.email.message import compose as compose_mail
from metricwatch.notifiers.slack.blocks import blocks_of
from metricwatch.records import AlertState, Evaluation, JobState, Run, Score, ScoreState
from metricwatch.rules.observations import Observation
from metricwatch.rules.stage import Rules
from metricwatch.rules.states import Walk, evaluate
from metricwatch.store.alerts import Alerts
from metricwatch.store.db import Database
from metricwatch.store.deliveries import Deliveries
from metricwatch.store.ledger import Ledger, Recorded
from metricwatch.store.scores import Scores
from metricwatch.testing.clock import FakeClock

RUN = Run(key="name:x/night", name="night")
OK, COLLAPSED, NON_FINITE, NO_PAIRS = ScoreState.OK, ScoreState.COLLAPSED, ScoreState.NON_FINITE, ScoreState.NO_PAIRS
DETAIL = "all 64 images have the same features on 'inception-v3'"


def rule(state="any", count=1) -> StateRule:
    return StateRule.model_validate({"name": "broken", "metric": "fid", "state": state, "for": count})


def series(*states: ScoreState) -> list[Observation]:
    return [
        Observation(
            id=position,
            step=1000 * position,
            value=30.0 if state is OK else None,
            images=64,
            higher_is_better=False,
            state=state,
            detail="" if state is OK else DETAIL,
        )
        for position, state in enumerate(states, start=1)
    ]


def firing(states) -> list[int]:
    return [state.step for state in states if state.state is AlertState.FIRING]


def episodes(chosen, history):
    """What the rule makes of a whole series."""
    walk = Walk(chosen)
    for item in history:
        walk.go(item)
    return walk.episodes()


# --- the judgement -----------------------------------------------------------------------------------------


def test_it_fires_when_there_is_no_value_and_ends_with_the_next_one():
    history = series(OK, COLLAPSED, COLLAPSED, OK)
    states = evaluate(rule(), history)
    assert firing(states) == [2000, 3000]
    assert (states[1].direction, states[1].what, states[1].detail) == ("worse", "has no value: collapsed", DETAIL)
    (episode,) = episodes(rule(), history)
    assert (episode.fired_step, episode.resolved_step, episode.resolved_value) == (2000, 4000, 30.0)
    assert episode.reason == "it has a value"


def test_it_fires_at_the_very_first_evaluation():
    assert firing(evaluate(rule(), series(NON_FINITE))) == [1000]


@pytest.mark.parametrize("state", [state for state in ScoreState if state is not OK])
def test_any_stands_for_every_state_without_a_value(state):
    assert firing(evaluate(rule("any"), series(OK, state))) == [2000]
    assert firing(evaluate(rule(state.value), series(OK, state))) == [2000]


def test_states_that_are_not_named_do_not_count_and_end_it():
    chosen = rule(["collapsed", "non_finite"])
    history = series(NO_PAIRS, COLLAPSED, NON_FINITE, NO_PAIRS, COLLAPSED)
    assert firing(evaluate(chosen, history)) == [2000, 3000, 5000]
    first, second = episodes(chosen, history)
    assert (first.fired_step, first.resolved_step, first.reason) == (
        2000,
        4000,
        "it is no_pairs, which the rule does not name",
    )
    assert (second.fired_step, second.resolved_step) == (5000, None)


def test_for_wants_so_many_in_a_row():
    states = evaluate(rule(count=3), series(COLLAPSED, COLLAPSED, OK, COLLAPSED, NON_FINITE, COLLAPSED, COLLAPSED, OK))
    assert firing(states) == [6000, 7000]
    assert [state.state for state in states[:3]] == [AlertState.PENDING, AlertState.PENDING, AlertState.INACTIVE]
    assert states[1].note == f"2 of 3 in a row: collapsed: {DETAIL}"
    assert states[5].what == "has no value for 3 evaluations: collapsed"


@given(st.lists(st.sampled_from([OK, COLLAPSED, NON_FINITE, NO_PAIRS]), max_size=20), st.integers(1, 4))
def test_it_is_said_of_the_newest_evaluations_and_of_no_later_ones(history, count):
    chosen = rule(["collapsed", "non_finite"], count)
    whole = evaluate(chosen, series(*history))
    for length in range(1, len(history) + 1):
        assert evaluate(chosen, series(*history[:length])) == whole[:length]
        newest = history[max(0, length - count) : length]
        fires = len(newest) == count and set(newest) <= {COLLAPSED, NON_FINITE}
        assert (whole[length - 1].state is AlertState.FIRING) is fires


# --- the ledger and the messages ---------------------------------------------------------------------------


class MemoryNotifier(Notifier):
    Options = dict

    def __init__(self, options=None) -> None:
        self.messages = []

    def send(self, notification):
        self.messages.append(notification)


class Scene:
    def __init__(self, folder, *rules) -> None:
        self.clock = FakeClock()
        self.db = Database.open(folder)
        self.ledger, self.scores, self.alert_log = Ledger(self.db), Scores(self.db), Alerts(self.db)
        self.ledger.register_run(RUN, self.clock.now())
        self.team = MemoryNotifier()
        self.rules = Rules(self.db, rules, [RUN], ["mlflow"], self.clock)
        self.alerts = AlertDispatcher(self.db, rules, {"team": self.team}, "mlflow", self.clock)
        self.rules.start()
        self.revision = 0

    def score(self, step, state=OK, detail=DETAIL, value=30.0):
        self.revision += 1
        self.ledger.add_snapshot(
            source="s",
            run=RUN.key,
            step=step,
            path="p",
            members=None,
            recorded=Recorded(revision=self.revision, digest="d", images=64, newest_ns=1, mtime_ns=1),
            now=self.clock.now(),
        )
        job = self.ledger.claim(self.clock.now(), timedelta(minutes=1), ["s"])
        score = Score(
            key="fid",
            value=value if state is OK else None,
            images=64,
            higher_is_better=False,
            state=state,
            detail="" if state is OK else detail,
            series="a",
        )
        evaluation = Evaluation(scores=(score,), skipped=(), images=64, seconds=1.0, provenance={})
        with self.db.transaction("test"):
            self.scores.record(job, evaluation, self.clock.now())
            self.ledger.finish(job.id, JobState.DONE, self.clock.now())
        while self.rules.tick() + self.alerts.tick():
            pass

    def sent(self):
        """Points and tags on their way to the sink."""
        due = Deliveries(self.db).due("mlflow", self.clock.now(), 100)
        points = [(point.key, point.step, point.value) for delivery in due for point in delivery.points]
        return points, {key: value for delivery in due for key, value in delivery.tags.items()}


@pytest.fixture
def make(tmp_path):
    made = []

    def scene(*rules) -> Scene:
        made.append(Scene(tmp_path, *rules))
        return made[-1]

    yield scene
    for each in made:
        each.db.close()


def test_people_are_told_in_words_when_it_breaks_and_when_it_is_over(make):
    scene = make(rule())
    for step, state in ((1000, OK), (2000, COLLAPSED), (3000, COLLAPSED), (4000, OK)):
        scene.score(step, state)
    fired, resolved = scene.team.messages
    assert (fired.event, fired.alert.severity, fired.alert.direction) == ("firing", "critical", "worse")
    assert fired.title == "[critical] night: fid has no value: collapsed (broken)"
    assert fired.summary == (
        "fid has no value: collapsed — all 64 images have the same features on 'inception-v3'. "
        "The alert fired at step 2000."
    )
    assert resolved.title == "[resolved] night: fid (broken, was critical)"
    assert resolved.summary == (
        "The alert about fid is over at step 4000: it has a value. It is 30 now. It had fired at step 2000: "
        "fid has no value: collapsed — all 64 images have the same features on 'inception-v3'."
    )


def test_it_shows_as_a_curve_of_zeros_and_ones_and_as_a_tag(make):
    scene = make(rule(count=2))
    for step, state in ((1000, COLLAPSED), (2000, COLLAPSED), (3000, OK)):
        scene.score(step, state)
    points, tags = scene.sent()
    assert points == [("alert/broken", 1000, 0.0), ("alert/broken", 2000, 1.0), ("alert/broken", 3000, 0.0)]
    assert tags["metricwatch.alert.broken"] == "inactive at step 3000"


def test_the_tag_of_a_firing_alert_says_what_happened(make):
    scene = make(rule())
    scene.score(1000, COLLAPSED)
    expected = "firing at step 1000: fid has no value: collapsed (worse)"
    assert scene.sent()[1]["metricwatch.alert.broken"] == expected


def test_a_late_arrival_moves_the_beginning_without_a_second_message(make):
    scene = make(rule())
    scene.score(1000, OK)
    scene.score(3000, COLLAPSED)
    scene.score(2000, NON_FINITE, detail="features are not finite for a.png")
    (alert,) = scene.alert_log.firing()
    assert (alert.fired_step, alert.what, alert.detail) == (
        2000,
        "has no value: non_finite",
        "features are not finite for a.png",
    )
    assert len(scene.team.messages) == 1


def test_a_rewrite_that_brings_the_value_back_ends_it(make):
    scene = make(rule())
    scene.score(1000, COLLAPSED)
    scene.score(1000, OK)
    assert [message.event for message in scene.team.messages] == ["firing", "resolved"]
    assert "later arrivals changed the history" in scene.team.messages[1].summary


def test_both_kinds_of_rule_watch_one_metric_side_by_side(make):
    moves = MovesRule.model_validate({"name": "moved", "metric": "fid", "moves": 0.1, "across": 2})
    scene = make(moves, rule())
    for step, (state, value) in enumerate(((OK, 30.0), (COLLAPSED, 0.0), (OK, 30.0), (OK, 60.0)), start=1):
        scene.score(1000 * step, state, value=value)
    assert [(m.event, m.alert.rule, m.alert.fired_step) for m in scene.team.messages] == [
        ("firing", "broken", 2000),
        ("resolved", "broken", 2000),
        ("firing", "moved", 4000),
    ]


@pytest.mark.parametrize("event", ["firing", "resolved", "test"])
def test_slack_and_mail_say_it_without_a_movement(make, event):
    scene = make(rule())
    scene.score(1000, COLLAPSED)
    alert = scene.team.messages[0].alert
    message = compose(number=1, event=event, alert=alert, run_name="night", run_url=None, created_at=scene.clock.now())
    blocks = str(blocks_of(message))
    mail = compose_mail(message, sender="a@example.org", to=("b@example.org",)).get_body(("plain",)).get_content()
    for shown in (blocks, mail):
        assert "has no value: collapsed" in shown
        assert "all 64 images" in shown
        assert "%" not in shown
        assert "threshold" not in shown
