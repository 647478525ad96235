"""above and below: a metric beyond a bound, and the words for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metricwatch.records import ScoreState
from metricwatch.rules.states import evaluate
from tests.support.judging import episodes, firing, rule, series, short


def test_exactly_at_the_bound_it_does_not_fire():
    assert firing(evaluate(rule(above=60), series(59.9, 60.0, 60.0000001, 61))) == [3, 4]
    assert firing(evaluate(rule(below=0.4), series(0.5, 0.4, 0.3999999, 0.3))) == [3, 4]


def test_a_bound_may_be_zero_or_negative():
    assert firing(evaluate(rule(above=0), series(-1, 0, 1e-300))) == [3]
    assert firing(evaluate(rule(below=-2.5), series(-2, -2.5, -3))) == [3]


@pytest.mark.parametrize(
    ("kind", "better", "direction"),
    [("above", False, "worse"), ("above", True, "better"), ("below", False, "better"), ("below", True, "worse")],
)
def test_whether_it_is_worse_follows_from_the_metric(kind, better, direction):
    value = 70 if kind == "above" else 50
    (state,) = evaluate(rule(**{kind: 60}), series(value, better=better))
    assert state.direction == direction


def test_it_is_told_with_the_bound_the_value_and_its_standard_error():
    (state,) = evaluate(rule(above=60), series(63.24, stderr=0.31))
    assert (state.what, state.detail, state.threshold) == ("is above 60: 63.24 ± 0.31", "", 60)
    assert [(point.step, point.value, point.stderr) for point in state.window] == [(1000, 63.24, 0.31)]
    assert (state.change, state.moved) == (None, ())


def test_digits_are_added_until_the_value_differs_from_the_bound():
    (state,) = evaluate(rule(above=60), series(60.000012))
    assert state.what == "is above 60: 60.00001"


def test_with_for_the_alert_shows_as_many_evaluations():
    states = evaluate(rule(below=0.4, **{"for": 3}), series(0.3, 0.5, 0.3, 0.2, 0.1, 0.05, better=True))
    assert short(states) == "pippww"
    assert states[4].what == "has been below 0.4 for 3 evaluations: 0.1"
    assert [point.value for point in states[4].window] == [0.3, 0.2, 0.1]
    assert [point.value for point in states[5].window] == [0.2, 0.1, 0.05]


def test_beyond_noise_demands_so_many_standard_errors():
    chosen = rule(above=60, beyond_noise=2)
    assert firing(evaluate(chosen, series(62, 62.000001, stderr=1.0))) == [2]
    (state,) = evaluate(chosen, series(63, stderr=1.0))
    assert state.detail == "beyond the bound by 3.0 standard errors"
    (within,) = evaluate(chosen, series(61, stderr=1.0))
    assert within.note == "it is not above 60 by more than 2 standard errors"
    # A standard error of 0 is one.
    assert firing(evaluate(chosen, series(60.1, stderr=0.0))) == [1]


def test_without_a_standard_error_nothing_can_be_said_of_what_is_beyond_the_bound():
    chosen = rule(above=60, beyond_noise=2)
    history = [*series(70, stderr=1.0), *series(70, 50, start=2)]
    states = evaluate(chosen, history)
    assert short(states) == "wwi"
    assert states[1].note == "still firing; above 60, but no standard error is known"
    assert short(evaluate(chosen, series(70, 70))) == "ii"


def test_without_a_value_it_goes_on_as_it_was():
    states = evaluate(rule(above=60), series(70, None, 50, None))
    assert short(states) == "wwii"
    assert states[1].note == "still firing; no value: collapsed"
    assert states[3].note == "no value: collapsed"


def test_the_end_says_that_it_is_within_the_bound_again():
    (episode,) = episodes(rule(above=60), series(70, 71, 60))
    assert (episode.reason, episode.resolved_step, episode.resolved_value) == ("it is not above 60", 3000, 60)


@pytest.mark.parametrize("kind", ["above", "below"])
@pytest.mark.parametrize("change", [{"name": "b"}, {"images": 50}])
def test_a_bound_is_the_same_whatever_a_value_can_be_compared_with(kind, change):
    value = 70 if kind == "above" else 50
    history = [*series(value), *series(value, start=2, **change), *series(value, start=3)]
    states = evaluate(rule(**{kind: 60, "for": 3}), history)
    assert short(states) == ("ppw" if kind == "above" else "ppb")
    assert [point.step for point in states[2].window] == [1000, 2000, 3000]


@pytest.mark.parametrize(
    "between",
    [
        pytest.param({"value": 50, "stderr": 1.0}, id="calm"),
        pytest.param({"value": 61, "stderr": 1.0}, id="within the noise"),
        pytest.param({"value": 70}, id="no standard error"),
    ],
)
def test_evaluations_in_a_row_are_interrupted_and_only_the_new_row_is_shown(between):
    chosen = rule(above=60, beyond_noise=2, **{"for": 2})
    interruption = series(between["value"], stderr=between.get("stderr"), start=2)
    states = evaluate(chosen, [*series(70, stderr=1.0), *interruption, *series(71, 72, stderr=1.0, start=3)])
    assert short(states) == "pipw"
    assert [[point.step for point in states[at].window] for at in (2, 3)] == [[3000], [3000, 4000]]


def test_an_evaluation_without_a_value_interrupts_nothing():
    states = evaluate(rule(above=60, **{"for": 2}), [*series(70), *series(None, start=2), *series(71, start=3)])
    assert short(states) == "ppw"
    assert states[1].note == "still 1 of 2 in a row; no value: collapsed"
    assert [point.step for point in states[2].window] == [1000, 3000]


def test_nonfinite_is_the_rule_on_that_state():
    history = [*series(None, state=ScoreState.NON_FINITE), *series(1.0, None, start=2)]
    assert evaluate(rule(nonfinite=True), history) == evaluate(rule(state="non_finite"), history)
    assert short(evaluate(rule(nonfinite=True), history)) == "wii"


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=20), st.floats(-1e9, 1e9))
def test_above_and_below_are_each_others_mirror(values, bound):
    up = evaluate(rule(above=bound), series(*values))
    down = evaluate(rule(below=-bound), series(*(-value for value in values), better=True))
    assert short(up) == short(down)
    assert firing(up) == [number for number, value in enumerate(values, start=1) if value > bound]
