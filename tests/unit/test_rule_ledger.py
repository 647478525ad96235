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
from metricwatch.testing.clock import FakeClock
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


# --- cost --------------------------------------------------------------------------------------------------


def reads(scene, monkeypatch, words):
    """The queries that hold these words, from now on."""
    asked, real = [], scene.db.read

    def read(sql, parameters=()):
        if words in sql:
            asked.append(parameters)
        return real(sql, parameters)

    monkeypatch.setattr(scene.db, "read", read)
    return asked


MANY = tuple(rule(above=60 + number, name=f"r{number}") for number in range(5))


def test_rules_on_one_metric_share_what_is_read_for_a_late_evaluation(make, monkeypatch):
    scene = make(*MANY)
    for step in (1000, 3000, 4000):
        scene.score(step, 62.5)
    scene.score(2000, 50, turn=False)
    series_read, states_read = reads(scene, monkeypatch, "GROUP BY step"), reads(scene, monkeypatch, "step >= ?")
    scene.turn()
    assert len(series_read) == 1
    # What was said of earlier steps stays as it is, and is not read.
    assert [parameters[-1] for parameters in states_read] == [2000] * len(MANY)
    assert scene.alerts.states(NIGHT.key, "r0", since_step=3000).keys() == {3000, 4000}


def test_while_nothing_arrives_the_rules_are_not_asked_one_by_one(make, monkeypatch):
    scene = make(*MANY)
    scene.score(1000, 50)
    asked = reads(scene, monkeypatch, "")
    for _ in range(10):
        assert scene.rules.tick() == 0
    assert len(asked) == 10


class BusyClock(FakeClock):
    """Each look at it takes a time."""

    cost = 0.0

    def monotonic(self):
        self.advance(self.cost)
        return super().monotonic()


def busy(scene, cost):
    scene.clock = BusyClock(scene.clock.now())
    scene.configure(*MANY)
    scene.turn()
    scene.clock.cost = cost


def test_a_turn_ends_in_time_and_the_next_ones_do_the_rest(make):
    scene = make()
    busy(scene, 0.0)
    for step in (1000, 3000, 4000):
        scene.score(step, 62.5)
    scene.score(2000, 50, turn=False)
    scene.score(2500, 50, turn=False)
    scene.clock.cost = 3.0
    turns = 0
    while scene.rules.behind():
        assert scene.rules.tick() > 0
        turns += 1
    assert turns == 2 * len(MANY)
    assert scene.told("r0") == [("worse", 3000, None), ("worse", 1000, 2000)]
    assert scene.told("r4") == []


def test_what_all_rules_say_of_one_evaluation_is_not_cut_in_two_by_the_end_of_a_turn(make):
    scene = make()
    busy(scene, 0.0)
    scene.score(1000, 50)
    # A new daemon first walks along all that was: in as many turns as it takes.
    busy(scene, 3.0)
    scene.score(2000, 99, turn=False)
    scene.score(3000, 99, turn=False)
    seen = []
    while scene.rules.behind():
        scene.rules.tick()
        seen.append(len(scene.alerts.firing()))
    assert set(seen) == {0, len(MANY)}
    assert seen.index(len(MANY)) < len(seen) - 1, "the last evaluation has a turn of its own"


def test_runs_that_had_no_time_in_one_turn_have_it_in_the_next(make):
    scene = make(runs=(NIGHT, DAY))
    busy(scene, 0.0)
    for step, value in ((1000, 50), (3000, 99)):
        for run in (NIGHT, DAY):
            scene.score(step, value, run=run, turn=value == 50)
    scene.score(2000, 99, turn=False)
    scene.clock.cost = 3.0
    for expected in ({NIGHT.key}, {NIGHT.key, DAY.key}):
        assert scene.rules.tick() > 0
        assert {alert.run for alert in scene.alerts.firing()} == expected
    scene.turn()
    assert scene.alerts.latest_state(NIGHT.key, "r0").step == 3000
    assert scene.told("r4") == [("worse", 2000, None)]


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


def announced(scene, name="r"):
    """Each alert: where it fired and ended, why, and whether it is news."""
    rows = scene.db.read("SELECT * FROM alerts WHERE rule = ? ORDER BY id", (name,))
    return [(row["fired_step"], row["resolved_step"], row["reason"], bool(row["announce"])) for row in rows]


@pytest.mark.parametrize("other", [{"above": 61}, {"moves": 0.1, "across": 2}], ids=["bound", "kind"])
def test_an_alert_goes_on_when_the_changed_rule_fires_too_and_tells_what_the_new_one_says(make, other):
    scene = make(rule(above=60))
    scene.score(1000, 50)
    scene.score(2000, 63)
    (before,) = scene.alerts.firing()
    scene.configure(rule(**other))
    scene.turn()
    (alert,) = scene.alerts.firing()
    assert (alert.id, alert.fired_step) == (before.id, before.fired_step)
    assert (alert.kind, alert.what) == (next(iter(other)), "is above 61: 63" if "above" in other else "")
    assert alert.threshold == next(iter(other.values()))
    assert announced(scene) == [(2000, None, "", True)]


def test_an_alert_is_over_when_the_changed_rule_does_not_fire(make):
    scene = make(rule(above=60))
    for step, value in ((1000, 90), (2000, 90), (3000, 63)):
        scene.score(step, value)
    scene.clock.advance(1)
    scene.configure(rule(above=80))
    # Killed before it could look: it goes on where it was.
    scene.configure(rule(above=80))
    scene.turn()
    # What the new form says of the past is history.
    assert announced(scene) == [(1000, 3000, "the rule was changed", True), (1000, 3000, "it is not above 80", False)]
    assert scene.curve() == [(1000, 1), (2000, 1), (3000, 1), (3000, 0)]
    assert scene.tags()[-1] == "inactive at step 3000"


def test_an_alert_about_another_metric_or_about_time_does_not_go_on(make):
    scene = make(rule(above=60))
    for step in (1000, 2000):
        scene.score(step, 63, 99)
    scene.configure(rule(above=60, metric="kid"))
    scene.turn()
    assert announced(scene) == [(1000, 2000, "the rule was changed", True), (1000, None, "", True)]
    scene.configure(rule(stale="2h"))
    scene.turn()
    assert [each[2] for each in announced(scene)] == ["the rule was changed"] * 2
    scene.turn(7200)
    scene.configure(rule(above=60))
    scene.turn()
    assert [each[2] for each in announced(scene)] == [*["the rule was changed"] * 3, ""]


def test_states_of_another_metric_are_forgotten(make):
    scene = make(rule(above=60))
    scene.score(1000, 63)
    scene.score(2000, 63, 99)
    scene.configure(rule(above=60, metric="kid"))
    scene.turn()
    assert list(scene.alerts.states(NIGHT.key, "r")) == [2000]


def test_what_fires_and_ends_after_a_change_is_told_though_it_came_late(make):
    scene = make(rule(above=60))
    scene.score(1000, 50)
    scene.score(2000, 70)
    scene.configure(rule(above=71))
    for step, value in ((3000, 50), (4000, 50), (6000, 50), (5000, 90)):
        scene.score(step, value)
    assert announced(scene) == [(2000, 2000, "the rule was changed", True), (5000, 6000, "it is not above 71", True)]


def test_what_an_earlier_version_ended_without_a_step_hides_nothing(make):
    scene = make(rule(above=60))
    scene.score(1000, 70)
    with scene.db.transaction("test") as tx:
        tx.execute("UPDATE alerts SET state = 'resolved', reason = 'the rule was changed', announce = 0")
        tx.execute("DELETE FROM rule_marks")
    scene.configure(rule(above=60))
    for step, value in ((2000, 50), (4000, 50), (3000, 90)):
        scene.score(step, value)
    assert [each[:2] for each in announced(scene)] == [(1000, None), (1000, 2000), (3000, 4000)]


def test_what_is_late_within_an_alert_that_lasts_divides_it_and_is_history(make):
    scene = make(rule(above=60))
    for step, value in ((1000, 50), (2000, 70), (4000, 70), (5000, 70), (3000, 50)):
        scene.score(step, value)
    assert announced(scene) == [(4000, None, "", True), (2000, 3000, "it is not above 60", False)]
    scene.score(3000, 70)
    assert announced(scene)[0] == (2000, None, "", True)


def test_a_removed_rule_ends_in_the_ledger_the_curve_and_the_tag_and_may_come_back(make):
    scene = make(rule(above=60), rule(above=60, name="waits", **{"for": 3}), runs=(NIGHT, DAY))
    scene.score(1000, 70)
    scene.score(2000, 70)
    # Of a run that nobody watches any more, too.
    scene.runs = (DAY,)
    scene.configure()
    scene.configure()
    assert announced(scene) == [(1000, 2000, "the rule was removed", True)]
    assert scene.curve() == [(1000, 1), (2000, 1), (2000, 0)]
    assert scene.tags()[-1] == "inactive at step 2000: the rule was removed"
    assert scene.tags("waits")[-1] == "inactive at step 2000: the rule was removed"
    assert {value for _, value in scene.curve("waits")} == {0}
    scene.runs = (NIGHT, DAY)
    scene.configure(rule(above=60))
    scene.turn(1)
    assert announced(scene)[1:] == [(1000, None, "", True)]
    assert scene.curve()[-1] == (2000, 1)


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


def test_a_rule_that_is_switched_off_for_a_run_ends_there(make):
    scene = make(overridden({}), runs=(NIGHT, DAY))
    for run in (NIGHT, DAY):
        scene.score(1000, 70, run=run)
    scene.configure(overridden({"night": False}))
    scene.turn()
    assert [alert.run for alert in scene.alerts.firing()] == [DAY.key]
    assert announced(scene)[0] == (1000, 1000, "the rule was switched off for this run", True)
    assert scene.alerts.latest_state(NIGHT.key, "r").state == "inactive"
    # Switched on again it is new: what fires now is news.
    scene.configure(overridden({}))
    scene.turn(1)
    assert [alert.run for alert in scene.alerts.firing()] == [DAY.key, NIGHT.key]
    assert announced(scene)[2] == (1000, None, "", True)


def test_a_rule_that_is_switched_off_says_so_in_its_curve_and_its_tag(make):
    scene = make(overridden({}))
    scene.score(1000, 70)
    scene.configure(overridden({"night": False}))
    assert scene.curve() == [(1000, 1), (1000, 0)]
    assert scene.tags()[-1] == "inactive at step 1000: the rule was switched off for this run"


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
