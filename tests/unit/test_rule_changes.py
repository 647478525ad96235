"""Rules that are changed, renamed, removed or switched off while they fire: what becomes of their alerts."""

from __future__ import annotations

import pytest

from metricwatch.records import ScoreState
from tests.support.judging import DAY, NIGHT, Scene, rule, score


@pytest.fixture
def make(tmp_path):
    made = []

    def scene(*rules, **options) -> Scene:
        made.append(Scene(tmp_path, *rules, **options))
        return made[-1]

    yield scene
    for each in made:
        each.db.close()


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


def test_an_alert_that_goes_on_in_the_very_same_words_is_of_the_new_kind(make):
    scene = make(rule(state="non_finite"))
    scene.wait(1000)
    scene.evaluate(score(None, state=ScoreState.NON_FINITE))
    scene.turn()
    scene.configure(rule(nonfinite=True))
    scene.turn()
    assert [(alert.id, alert.kind) for alert in scene.alerts.firing()] == [(1, "nonfinite")]


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
