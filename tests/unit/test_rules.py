"""The moves/across rule, exactly as documented, and its states over a series."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metricwatch.config import MovesRule
from metricwatch.records import AlertState, ScoreState
from metricwatch.rules.moves import movement
from metricwatch.rules.observations import Observation
from metricwatch.rules.states import Walk, evaluate


def rule(**options) -> MovesRule:
    defaults = {"name": "fid-moved", "metric": "fid", "moves": 0.10, "across": 5, "mode": "range", "direction": "any"}
    return MovesRule.model_construct(**{**defaults, "beyond_noise": None, "receivers": None, **options})


def series(*values, images=100, stderr=None, higher_is_better=False, name="a", start=1) -> list[Observation]:
    return [
        Observation(
            id=i,
            step=1000 * i,
            value=value,
            images=images,
            higher_is_better=higher_is_better,
            stderr=stderr,
            series=name,
            state=ScoreState.OK if value is not None else ScoreState.TOO_FEW_IMAGES,
        )
        for i, value in enumerate(values, start=start)
    ]


def firing(states) -> list[int]:
    return [state.step for state in states if state.state is AlertState.FIRING]


def episodes(chosen, history):
    """What the rule makes of a whole series."""
    walk = Walk(chosen)
    for item in history:
        walk.go(item)
    return walk.episodes()


def test_a_break_fires_at_the_evaluation_that_shows_it():
    states = evaluate(rule(), series(30, 30.1, 29.9, 30, 30.2, 34))
    assert firing(states) == [6000]
    assert states[-1].direction == "worse"
    assert states[-1].change == pytest.approx((34 - 29.9) / 30.1)
    assert [point.step for point in states[-1].window] == [2000, 3000, 4000, 5000, 6000]


def test_nothing_fires_before_the_window_is_full():
    states = evaluate(rule(), series(30, 60, 90, 120))
    assert firing(states) == []
    assert [state.note for state in states] == [f"window {n} of 5" for n in (1, 2, 3, 4)]


def test_exactly_the_bound_does_not_fire():
    assert firing(evaluate(rule(moves=0.5), series(100, 100, 100, 100, 150))) == []
    assert firing(evaluate(rule(moves=0.5), series(100, 100, 100, 100, 150.01))) == [5000]


def test_range_sees_a_spike_that_net_does_not():
    spike = series(100, 100, 130, 100, 100)
    assert firing(evaluate(rule(mode="range"), spike)) == [5000]
    assert firing(evaluate(rule(mode="net"), spike)) == []


def test_each_wants_every_step_above_the_bound():
    assert firing(evaluate(rule(mode="each"), series(100, 111, 123, 136, 150))) == [5000]
    assert firing(evaluate(rule(mode="each"), series(100, 111, 112, 136, 150))) == []


def test_each_with_any_direction_counts_steps_either_way_and_calls_a_draw_worse():
    swinging = evaluate(rule(mode="each"), series(100, 120, 100, 120, 100))
    assert firing(swinging) == [5000]
    assert swinging[-1].direction == "worse"
    assert firing(evaluate(rule(mode="each", direction="worse"), series(100, 120, 100, 120, 140))) == []


def test_improvement_is_better_and_a_break_after_it_is_worse():
    improving = evaluate(rule(), series(100, 90, 80, 70, 60))
    assert improving[-1].direction == "better"
    assert improving[-1].change == pytest.approx(-0.4)
    broken = evaluate(rule(), series(100, 80, 60, 61, 75))
    assert broken[-1].direction == "worse"
    assert broken[-1].change == pytest.approx(0.15)


@pytest.mark.parametrize(("direction", "fires"), [("any", True), ("worse", False), ("better", True)])
def test_direction_filters_movements(direction, fires):
    assert bool(firing(evaluate(rule(direction=direction), series(100, 90, 80, 70, 60)))) is fires


def test_for_a_metric_that_should_rise_falling_is_worse():
    states = evaluate(rule(), series(0.9, 0.9, 0.9, 0.9, 0.7, higher_is_better=True))
    assert states[-1].direction == "worse"
    assert states[-1].change < 0


def test_beyond_noise_demands_more_than_so_many_standard_errors():
    moved = (100, 100, 100, 100, 115)
    assert firing(evaluate(rule(beyond_noise=2), series(*moved, stderr=4))) == [5000]
    assert firing(evaluate(rule(beyond_noise=2), series(*moved, stderr=6))) == []
    assert firing(evaluate(rule(beyond_noise=2), series(*moved, stderr=None))) == []


@pytest.mark.parametrize("mode", ["range", "net", "each"])
def test_without_a_standard_error_a_movement_past_the_bound_can_neither_be_said_to_be_there_nor_to_be_over(mode):
    chosen = rule(mode=mode, across=2, beyond_noise=2)
    history = [*series(100, 120, stderr=1), *series(150, 150, start=3)]
    states = evaluate(chosen, history)
    assert firing(states) == [2000, 3000]
    assert states[2].note == "still firing; moved past the bound, but no standard error is known"
    assert states[3].note == "moved no further than the bound"
    assert firing(evaluate(chosen, series(100, 120))) == []


def test_a_movement_within_the_noise_is_none_whatever_is_known_of_the_other_evaluations():
    history = [*series(100, stderr=None), *series(100, 90, 120, stderr=30, start=2)]
    assert evaluate(rule(across=4, beyond_noise=2), history)[-1].note == "moved no further than the bound"


def test_a_window_that_starts_at_zero_is_measured_against_its_largest_value():
    states = evaluate(rule(), series(0.0, 0.0, 0.0, 0.0, 5.0))
    assert states[-1].direction == "worse"
    assert states[-1].change == pytest.approx(1.0)
    assert firing(evaluate(rule(), series(0.0, 0.0, 0.0, 0.0, 0.0))) == []


def test_an_evaluation_without_a_value_is_passed_over_and_the_window_goes_on():
    states = evaluate(rule(), series(30, 30, 30, None, 30, 34, 30))
    assert firing(states) == [6000, 7000]
    assert [state.note for state in states[3:5]] == ["no value: too_few_images", "window 4 of 5"]
    assert [point.step for point in states[5].window] == [1000, 2000, 3000, 5000, 6000]
    assert [point.step for point in states[6].window] == [2000, 3000, 5000, 6000, 7000]


def test_however_many_have_no_value_what_was_before_them_is_compared_with_what_follows():
    states = evaluate(rule(), series(30, 30, 30, 30, *[None] * 9, 34))
    assert firing(states) == [14000]
    assert [point.step for point in states[-1].window] == [1000, 2000, 3000, 4000, 14000]


@pytest.mark.parametrize("failed", [{"name": "b"}, {"images": 50}])
def test_one_without_a_value_ends_no_window_whatever_it_was_scored_against(failed):
    history = [*series(30, 30, 30, 30), *series(None, start=5, **failed), *series(34, start=6)]
    assert firing(evaluate(rule(), history)) == [6000]


def test_one_without_a_value_hides_no_change_of_series():
    history = [*series(30, 30, 30, 30, None), *series(60, start=6, name="b")]
    states = evaluate(rule(), history)
    assert firing(states) == []
    assert states[-1].note == "not comparable: what the score depends on has changed; window 1 of 5"


def test_a_change_of_series_starts_the_window_anew_and_says_so():
    history = [
        *series(30, 30, 30, 30),
        Observation(id=9, step=5000, value=60, images=100, higher_is_better=False, series="b"),
    ]
    states = evaluate(rule(), history)
    assert firing(states) == []
    assert states[-1].note == "not comparable: what the score depends on has changed; window 1 of 5"


@pytest.mark.parametrize(("images", "fires"), [(98, True), (97, False)])
def test_image_counts_may_differ_by_two_per_cent(images, fires):
    history = [
        *series(30, 30, 30, 30),
        Observation(id=9, step=5000, value=60, images=images, higher_is_better=False, series="a"),
    ]
    assert bool(firing(evaluate(rule(), history))) is fires


def test_an_evaluation_that_left_the_window_no_longer_counts_against_newer_ones():
    """Counts that drift slowly stay comparable as long as those in the window are."""
    counts = [100, 99, 99, 99, 98, 98, 98, 98, 97]
    history = [
        Observation(id=i, step=i, value=30.0, images=n, higher_is_better=False, series="a")
        for i, n in enumerate(counts)
    ]
    assert all("not comparable" not in state.note for state in evaluate(rule(), history))


def test_an_alert_goes_on_while_nobody_can_tell_and_ends_when_it_is_seen_to_be_over():
    history = series(30, 30, 30, 30, 60, None, 60, 60, 60, 60, 60)
    states = evaluate(rule(), history)
    assert firing(states) == [5000, 6000, 7000, 8000, 9000]
    assert states[5].note == "still firing; no value: too_few_images"
    assert [(e.fired_step, e.resolved_step) for e in episodes(rule(), history)] == [(5000, 10000)]


def test_an_alert_goes_on_while_a_new_window_fills():
    history = [*series(30, 30, 30, 30, 60), *series(30, 30, 30, 30, 30, start=6, name="b")]
    states = evaluate(rule(), history)
    assert firing(states) == [5000, 6000, 7000, 8000, 9000]
    assert states[5].note == "still firing; not comparable: what the score depends on has changed; window 1 of 5"
    assert states[6].note == "still firing; window 2 of 5"
    assert [(e.fired_step, e.resolved_step) for e in episodes(rule(), history)] == [(5000, 10000)]


def read(**options) -> MovesRule:
    """As a configuration has it."""
    return MovesRule.model_validate({"name": "r", "metric": "fid", "moves": 0.1, **options})


@pytest.mark.parametrize("mode", ["range", "net"])
@pytest.mark.parametrize("across", [2, 5])
def test_with_for_just_below_across_a_jump_fires_and_with_more_the_rule_is_refused(mode, across):
    """A jump is inside a window for one evaluation less than it has: no more of them in a row can show it."""
    jump = series(*[30] * across, *[60] * across)
    longest = read(mode=mode, across=across, **{"for": across - 1})
    assert firing(evaluate(longest, jump)) == [1000 * (2 * across - 1)]
    for too_long in (across, across + 1):
        with pytest.raises(ValueError, match=f"for: {too_long} must be below across: {across}: no more"):
            read(mode=mode, across=across, **{"for": too_long})


def test_a_failed_score_does_not_cost_for_its_jump():
    jump = [*series(30, 30, 30, 30, 30, 36), *series(None, start=7), *series(36, 36, 36, start=8)]
    assert firing(evaluate(read(across=5, **{"for": 4}), jump)) == [10000]


def test_each_may_ask_for_more_evaluations_than_its_window_has():
    steady = series(10, 12, 15, 18, 22)
    assert firing(evaluate(read(mode="each", across=2, **{"for": 3}), steady)) == [4000, 5000]


def test_an_episode_runs_from_firing_to_calm_and_turns_with_the_direction():
    found = episodes(rule(), series(100, 90, 80, 70, 60, 60, 75, 75, 75, 75, 75))
    assert [(e.direction, e.fired_step, e.resolved_step) for e in found] == [
        ("better", 5000, 7000),
        ("worse", 7000, 11000),
    ]
    assert found[0].reason == "the movement is now for the worse"
    assert found[1].reason == "moved no further than the bound"


values = st.lists(st.floats(min_value=0.1, max_value=1e4), min_size=0, max_size=30)


@given(values, st.sampled_from(["range", "net", "each"]), st.sampled_from(["any", "worse", "better"]))
def test_a_state_depends_on_earlier_evaluations_alone(history, mode, direction):
    """What was said of a step is not unsaid by later ones: replay and a live daemon agree."""
    chosen = rule(mode=mode, direction=direction)
    whole = evaluate(chosen, series(*history))
    for length in range(len(history)):
        assert evaluate(chosen, series(*history[:length])) == whole[:length]


@given(st.lists(st.floats(min_value=0.1, max_value=1e4), min_size=5, max_size=5))
def test_range_is_the_documented_formula(window):
    moved = (max(window) - min(window)) / abs(window[0])
    if math.isclose(moved, 0.10, rel_tol=1e-9):
        return
    assert (movement(rule(), series(*window)) is not None) is (moved > 0.10)


@given(st.lists(st.floats(min_value=0.1, max_value=1e4), min_size=5, max_size=5))
def test_net_is_the_documented_formula(window):
    moved = abs(window[-1] - window[0]) / abs(window[0])
    if math.isclose(moved, 0.10, rel_tol=1e-9):
        return
    assert (movement(rule(mode="net"), series(*window)) is not None) is (moved > 0.10)


@pytest.mark.parametrize("values", [(1e-320, 1.0), (5e-324, 1e308), (1e-300, 1e300), (-1e308, 1e308)])
def test_a_window_that_begins_next_to_nothing_moves_by_a_finite_share(values):
    found = movement(rule(across=2), series(*values))
    assert found is not None
    assert found.direction == "worse"
    assert 0.1 < found.change < math.inf
    if values[0] == 1e-320:
        assert found.change == 1.0


def test_a_small_first_value_is_still_what_the_movement_is_measured_against():
    assert movement(rule(across=2), series(1e-9, 3e-9)).change == pytest.approx(2.0)
