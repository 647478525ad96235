"""z_score: how far a metric lies from where it has lain of late, in robust standard deviations."""

from __future__ import annotations

import random
import statistics

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from metricwatch.rules.outliers import median
from metricwatch.rules.states import evaluate
from tests.support.judging import episodes, firing, rule, series, short

# Median 31, MAD 1.
CALM = (30, 31, 32, 29, 33, 31, 30, 32)


def chosen(**keys):
    return rule(**{"z_score": 5, "window": 8, **keys})


def test_it_is_the_distance_from_the_median_over_the_scaled_median_deviation():
    bound = 31 + 5 * 1.4826
    assert firing(evaluate(chosen(), series(*CALM, bound + 1e-9))) == [9]
    assert firing(evaluate(chosen(), series(*CALM, bound - 1e-9))) == []
    assert firing(evaluate(chosen(direction="better"), series(*CALM, 31 - 5 * 1.4826 - 1e-9))) == [9]


def test_exactly_at_the_bound_it_does_not_fire():
    # The spread is the standard error here, so that the bound is a number without rounding.
    flat = (32.0,) * 8
    assert firing(evaluate(chosen(z_score=4), series(*flat, 36.0, stderr=1.0))) == []
    assert firing(evaluate(chosen(z_score=4), series(*flat, 36.000001, stderr=1.0))) == [9]


def test_it_is_told_with_the_distance_the_median_and_the_window():
    state = evaluate(chosen(), series(*CALM, 40))[-1]
    assert state.what == "is 6.1 robust standard deviations above the median of the last 8 evaluations, 31"
    assert state.detail == "it is 40; one deviation is 1.48"
    assert state.threshold == pytest.approx(31 + 5 * 1.4826)
    assert [point.step for point in state.window] == [1000 * number for number in range(1, 10)]


def test_nothing_is_said_before_the_window_is_full():
    states = evaluate(chosen(), series(*CALM[:7], 1e6, 31))
    assert short(states) == "iiiiiiiii"
    assert [state.note for state in states[:2]] == ["window 0 of 8", "window 1 of 8"]
    assert states[-1].note == "it is within 5 robust standard deviations of the median, 31"


@pytest.mark.parametrize(("direction", "states"), [("worse", "wi"), ("better", "ib"), ("any", "wb")])
def test_steady_improvement_is_no_news_unless_asked_for(direction, states):
    """It is beyond its own past all the time, so `worse` is the default."""
    assert short(evaluate(chosen(direction=direction), series(*CALM, 50, 10)))[8:] == states
    assert chosen().direction == "worse"
    assert short(evaluate(chosen(), series(*CALM, 10)))[8:] == "i"


def test_an_outlier_for_the_other_direction_says_so():
    assert evaluate(chosen(), series(*CALM, 10))[-1].note == "it is an outlier, but for the better"


def test_which_way_is_worse_follows_from_the_metric():
    state = evaluate(chosen(), series(*CALM, 10, better=True))[-1]
    assert (state.direction, "below the median" in state.what) == ("worse", True)


def test_a_flat_history_does_not_make_everything_an_outlier():
    flat = (0.8712,) * 8
    assert firing(evaluate(chosen(), series(*flat, 0.8712 * 1.004))) == []
    assert firing(evaluate(chosen(), series(*flat, 0.8712 * 1.006))) == [9]
    assert firing(evaluate(chosen(), series(*(0.0,) * 8, 0.0))) == []
    assert firing(evaluate(chosen(), series(*(0.0,) * 8, 1.0))) == [9]


def test_the_standard_error_is_the_least_spread_where_it_is_known():
    flat = (30.0,) * 8
    assert firing(evaluate(chosen(), series(*flat, 34.9, stderr=1.0))) == []
    assert firing(evaluate(chosen(), series(*flat, 35.1, stderr=1.0))) == [9]
    assert (
        "one deviation is 1, which is its standard error" in evaluate(chosen(), series(*flat, 36, stderr=1))[-1].detail
    )
    # An evaluation that is itself uncertain is no outlier; nor does one with a small error make the others certain.
    assert firing(evaluate(chosen(), [*series(*flat, stderr=0.1), *series(34, stderr=1.0, start=9)])) == []
    assert firing(evaluate(chosen(), [*series(*flat, stderr=1.0), *series(34, stderr=0.1, start=9)])) == []
    # An error of 0 is none.
    assert firing(evaluate(chosen(), series(*flat, 30.01, stderr=0.0))) == []


def test_outliers_stay_in_the_window_until_they_are_the_rule():
    """A new level is an outlier while it is the lesser part of the window, and then where the metric lies."""
    states = short(evaluate(chosen(), series(*CALM, *(60,) * 12)))
    assert states[8:12] == "wwww"
    assert states[-1] == "i"


@pytest.mark.parametrize("break_", [{"name": "b"}, {"images": 90}])
def test_the_window_begins_anew_where_evaluations_cannot_be_compared(break_):
    history = [*series(*CALM), *series(90, *CALM[:7], 90, start=9, **break_)]
    states = evaluate(chosen(), history)
    assert firing(states) == [17]
    assert states[8].note.startswith("not comparable: ")
    assert states[8].note.endswith("; window 0 of 8")
    assert [state.note for state in states[9:16]] == [f"window {n} of 8" for n in range(1, 8)]


@pytest.mark.parametrize("failed", [{}, {"name": "b"}, {"images": 50}])
def test_an_evaluation_without_a_value_is_passed_over_and_the_window_goes_on(failed):
    history = [*series(*CALM[:7]), *series(None, start=8, **failed), *series(CALM[7], start=9)]
    states = evaluate(chosen(), [*history, *series(None, None, start=10, **failed), *series(40, start=12)])
    assert firing(states) == [12]
    assert [states[at].note for at in (7, 8, 9)] == ["no value: collapsed", "window 7 of 8", "no value: collapsed"]
    assert states[11].threshold == pytest.approx(31 + 5 * 1.4826)
    assert [point.step // 1000 for point in states[11].window] == [1, 2, 3, 4, 5, 6, 7, 9, 12]


def test_while_a_metric_has_no_value_what_fires_goes_on():
    states = evaluate(chosen(), series(*CALM, 60, None, 60, 31))
    assert short(states)[8:] == "wwwi"
    assert states[9].note == "still firing; no value: collapsed"


def test_while_the_window_fills_what_fires_goes_on():
    history = [*series(*CALM, 60), *series(60, *CALM[:7], 30, start=10, name="b")]
    (episode,) = episodes(chosen(), history)
    assert (episode.fired_step, episode.resolved_step) == (9000, 18000)


def test_normal_noise_fires_as_seldom_as_a_normal_distribution_says():
    """Beyond 5 deviations lies 1 of 3.5 million; a window of 20 gives a spread that is itself uncertain."""
    noise = random.Random(7)
    values = [30 + noise.gauss(0, 1) for _ in range(4000)]
    states = evaluate(rule(z_score=5, window=20, direction="any"), series(*values))
    assert len(firing(states)) / 4000 < 0.005
    states = evaluate(rule(z_score=2, window=200, direction="any"), series(*values))
    # 4.55% lie beyond 2 deviations.
    assert 0.035 < len(firing(states)) / 3800 < 0.065


@given(st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=30))
def test_the_median_is_the_middle(values):
    assume(abs(sum(values)) < 1e308)
    assert median(values) == pytest.approx(statistics.median(values), rel=1e-12, abs=1e-300)


@given(st.lists(st.floats(-1.7e308, 1.7e308), min_size=6, max_size=30))
@example([0.0] * 5 + [5e-324])
@example([-1.7e308] * 3 + [1.7e308] * 3)
def test_no_values_are_too_large_or_too_small_for_it(values):
    evaluate(rule(z_score=3, window=5, direction="any"), series(*values))
