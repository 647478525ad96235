"""How much the rules read and do in one turn, and what they leave to the next."""

from __future__ import annotations

import pytest

from metricwatch.testing.clock import FakeClock
from tests.support.judging import DAY, NIGHT, Scene, rule


@pytest.fixture
def make(tmp_path):
    made = []

    def scene(*rules, **options) -> Scene:
        made.append(Scene(tmp_path, *rules, **options))
        return made[-1]

    yield scene
    for each in made:
        each.db.close()


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


def test_a_turn_that_has_taken_its_time_with_one_run_leaves_the_others_to_the_next(make):
    scene = make(runs=(NIGHT, DAY))
    busy(scene, 0.0)
    for step, value in ((1000, 50), (2000, 99)):
        for run in (NIGHT, DAY):
            scene.score(step, value, run=run, turn=value == 50)
    scene.clock.cost = 3.0
    for expected in ({NIGHT.key}, {NIGHT.key, DAY.key}):
        scene.rules.tick()
        assert {alert.run for alert in scene.alerts.firing()} == expected
    assert not scene.rules.behind()


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
