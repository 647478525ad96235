"""What the rules stage writes: states, alerts, curves and tags, one by one as for the whole history."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from metricwatch.records import AlertState
from metricwatch.rules.definition import definition
from metricwatch.rules.states import evaluate
from metricwatch.store.alerts import Alerts
from tests.support.judging import DAY, NIGHT, Scene, episodes, rule, score, series


@pytest.fixture
def make(tmp_path):
    made = []

    def scene(*rules, **options) -> Scene:
        made.append(Scene(tmp_path, *rules, **options))
        return made[-1]

    yield scene
    for each in made:
        each.db.close()


HIGH = {"above": 60, "for": 2, "keep_firing": 1}


def test_an_alert_carries_its_kind_its_severity_and_its_labels(make):
    scene = make(rule(**HIGH, name="high", labels={"team": "x"}, severity="warning"), rule(below=50, name="low"))
    for step, value in ((1000, 63), (2000, 64), (3000, 40)):
        scene.score(step, value)
    high, low = scene.alerts.firing()
    assert (high.kind, high.severity, high.labels, high.metric) == ("above", "warning", {"team": "x"}, "fid")
    assert (high.what, high.threshold, high.fired_step) == ("has been above 60 for 2 evaluations: 64", 60, 2000)
    assert (low.kind, low.severity, low.labels, low.direction) == ("below", "info", {}, "better")


def test_states_show_as_a_curve_of_zeros_and_ones_and_each_change_of_state_as_a_tag(make):
    scene = make(rule(**HIGH))
    for step, value in enumerate((50, 63, 50, 63, 64, 65, 50, 50, 50), start=1):
        scene.score(1000 * step, value)
    assert scene.curve() == [(1000 * n, float(n in {5, 6, 7})) for n in range(1, 10)]
    assert scene.tags() == [
        "pending at step 2000: 1 of 2 in a row (worse)",
        "inactive at step 3000",
        "pending at step 4000: 1 of 2 in a row (worse)",
        "firing at step 5000: fid has been above 60 for 2 evaluations: 64 (worse)",
        "inactive at step 8000",
    ]


def test_what_is_pending_can_be_asked_for(make):
    scene = make(rule(**HIGH), rule(below=50, name="low", **{"for": 3}))
    scene.score(1000, 63)
    (pending,) = scene.alerts.pending()
    assert (pending.run, pending.rule, pending.step, pending.note) == (NIGHT.key, "r", 1000, "1 of 2 in a row")
    scene.score(2000, 64)
    assert scene.alerts.pending() == []
    scene.score(3000, 40)
    assert [each.rule for each in scene.alerts.pending()] == ["low"]
    scene.configure(rule(**HIGH))
    assert scene.alerts.pending() == []


def test_the_revision_of_a_run_changes_with_its_alerts_and_with_nothing_else(make):
    scene = make(rule(above=60), runs=(NIGHT, DAY))
    seen = [scene.alerts.revision(NIGHT.key)]
    for step, value, changes in (
        (1000, 50, False),
        (3000, 63, True),
        (4000, 63, False),
        (2000, 64, True),
        (5000, 5, True),
    ):
        scene.score(step, value)
        seen.append(scene.alerts.revision(NIGHT.key))
        assert (seen[-1] != seen[-2]) is changes
    assert scene.alerts.revision(DAY.key) == seen[0]


def test_alerts_of_one_evaluation_become_visible_together(make, monkeypatch):
    scene = make(rule(above=60, name="one"), rule(above=10, name="two"), rule(above=1, name="three"))
    begun, real = [], scene.db.transaction

    def transaction(name):
        if not scene.db._depth:
            begun.append(name)
        return real(name)

    monkeypatch.setattr(scene.db, "transaction", transaction)
    scene.score(1000, 70, turn=False)
    begun.clear()
    scene.turn()
    assert begun == ["rule"]
    assert len(scene.alerts.firing()) == 3


def test_when_the_ledger_fails_nothing_is_half_written_and_the_next_turn_makes_up_for_it(make, monkeypatch):
    scene = make(rule(above=60, name="one"), rule(above=65, name="two"), rule(stale="2h", name="dead"))
    scene.score(1000, 50)
    scene.score(2000, 70, turn=False)
    add, calls = Alerts.add, []

    def fails_once(self, alert, **options):
        calls.append(alert.rule)
        if len(calls) == 2:
            raise OSError("disk full")
        return add(self, alert, **options)

    monkeypatch.setattr(Alerts, "add", fails_once)
    before = scene.alerts.recent(NIGHT.key)
    scene.score(3000, 70, turn=False)
    with pytest.raises(OSError):
        scene.rules.tick()
    assert scene.alerts.recent(NIGHT.key) == before
    scene.turn(2)
    assert scene.told("one") == [("worse", 2000, None)]
    assert scene.alerts.latest_state(NIGHT.key, "dead").step == 3000


# --- definitions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "digest"),
    [
        ({"name": "fid-moved", "moves": "10%", "across": 5}, "a889e6a9f348f7ef"),
        (
            {"name": "m", "moves": 1e-5, "across": 7, "mode": "each", "direction": "worse", "beyond_noise": 2},
            "f7ee1b997d86edda",
        ),
        ({"name": "broken", "state": "any"}, "03bb1b8eb6a59355"),
        (
            {"name": "broken", "metric": "kid", "state": ["non_finite", "collapsed"], "for": 3, "receivers": ["a"]},
            "077aafb10645c83e",
        ),
    ],
)
def test_a_rule_that_has_not_changed_is_known_to_the_ledgers_of_earlier_versions(keys, digest):
    """What they hold: a daemon that is brought up to date must not announce anew what fires."""
    assert definition(rule(**keys)) == digest


def test_wording_makes_no_other_rule_and_everything_else_does():
    same = [
        {},
        {"message": {"title": "x"}},
        {"labels": {"a": "b"}},
        {"severity": "info"},
        {"receivers": ["a"]},
        {"warmup": 0},
    ]
    other = [
        {"for": 2},
        {"warmup": 1},
        {"keep_firing": 1},
        {"across": 6},
        {"moves": 0.2},
        {"mode": "net"},
        {"name": "s"},
    ]
    assert len({definition(rule(**{"moves": 0.1, "across": 5, **more})) for more in same}) == 1
    assert len({definition(rule(**{"moves": 0.1, "across": 5, **more})) for more in [{}, *other]}) == len(other) + 1
    assert definition(rule(above=3)) != definition(rule(below=3))
    assert definition(rule(stale="2h")) != definition(rule(stale="3h"))


def test_new_words_leave_an_alert_as_it_is(make):
    scene = make(rule(above=60))
    scene.score(1000, 63)
    (alert,) = scene.alerts.firing()
    scene.configure(rule(above=60, labels={"a": "b"}, message={"title": "x"}))
    scene.turn()
    assert scene.alerts.firing() == [alert]


def overridden(runs):
    from metricwatch.config.context import Context
    from metricwatch.config.rules import AboveRule

    keys = {"name": "r", "metric": "fid", "above": 60, "runs": runs}
    return AboveRule.model_validate(keys, context=Context(run_names=("night", "day")))


def test_each_run_has_the_rule_as_it_is_for_it(make):
    scene = make(overridden({"day": {"above": 80}}), runs=(NIGHT, DAY))
    for run in (NIGHT, DAY):
        scene.score(1000, 70, run=run)
    assert [alert.run for alert in scene.alerts.firing()] == [NIGHT.key]


def test_where_a_rule_is_off_nothing_is_said(make):
    scene = make(overridden({"night": False}), rule(stale="2h", name="dead"), runs=(NIGHT, DAY))
    scene.score(1000, 70)
    assert (scene.told(), scene.curve(), scene.tags()) == ([], [], [])
    assert scene.rules.behind() is False


# --- the daemon and replay ---------------------------------------------------------------------------------

EVERY_KIND = (
    rule(moves=0.1, across=3, name="moves"),
    rule(moves=0.1, across=3, name="steady", keep_firing=2, warmup=1, **{"for": 2}),
    rule(above=45, name="above", **{"for": 2}, keep_firing=1),
    rule(below=31, name="below", beyond_noise=1, warmup=2),
    rule(z_score=3, window=5, direction="any", name="z", keep_firing=1),
    rule(nonfinite=True, name="nan"),
    rule(state="any", name="state", **{"for": 2}),
)
arrivals = st.lists(
    st.tuples(
        st.integers(1, 12),
        st.sampled_from([None, 30.0, 30.0, 31.0, 45.0, 60.0, 90.0]),
        st.sampled_from(["a", "a", "a", "b"]),
        st.sampled_from([100, 100, 100, 90]),
    ),
    min_size=1,
    max_size=25,
)
STEADY = [(step, value, "a", 100) for step, value in enumerate((30.0,) * 6 + (60.0, 60.0, 60.0, 30.0), start=1)]


@given(arrivals, st.booleans())
@example([*STEADY, (7, 30.0, "a", 100)], False)
@example([STEADY[9], *STEADY[:9]], True)
@settings(max_examples=25, deadline=None)
def test_what_arrives_late_or_again_leads_to_what_the_final_curve_says(arrived, restarts):
    final = {}
    with TemporaryDirectory() as folder:
        scene = Scene(Path(folder), *EVERY_KIND)
        for step, value, name, images in arrived:
            scene.wait(1000 * step)
            scene.evaluate(score(value, series=name, images=images, stderr=0.1))
            if restarts:
                scene.configure(*EVERY_KIND)
            scene.turn(1)
            final[step] = (value, name, images)
        history = [
            each
            for step, (value, name, images) in sorted(final.items())
            for each in series(value, name=name, images=images, stderr=0.1, start=step)
        ]
        for chosen in EVERY_KIND:
            told = scene.alerts.states(NIGHT.key, chosen.name)
            expected = evaluate(chosen, history)
            assert [(s.step, s.state.value, s.direction, s.change, s.note) for s in expected] == [
                (s.step, s.state, s.direction, s.change, s.note) for _, s in sorted(told.items())
            ]
            # What fires in the end is what the curve says, with the words of its beginning.
            fires = [e for e in episodes(chosen, history) if e.resolved_step is None]
            assert [
                (a.direction, a.fired_step, a.what, a.window) for a in scene.alerts.firing_of(NIGHT.key, chosen.name)
            ] == [(e.direction, e.fired_step, e.what, e.window) for e in fires]
            # The last word of each step's curve is its state.
            curve = dict(scene.curve(chosen.name))
            assert curve == {s.step: float(s.state is AlertState.FIRING) for s in expected}
        scene.db.close()
