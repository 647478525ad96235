"""Time that never goes back."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from metricwatch.clock import SteadyClock
from metricwatch.testing.clock import FakeClock

HOUR = timedelta(hours=1)


def test_it_is_the_wall_clock_while_that_behaves():
    wall = FakeClock()
    steady = SteadyClock(wall)
    wall.advance(10)
    assert steady.now() == wall.now()
    wall.jump(3600)
    assert steady.now() == wall.now()
    assert steady.monotonic() == wall.monotonic()


def test_a_wall_clock_set_back_does_not_stop_time():
    """What waits ten seconds waits ten seconds, not an hour and ten seconds."""
    wall = FakeClock()
    steady = SteadyClock(wall)
    before = steady.now()
    wall.jump(-3600)
    wall.advance(10)
    assert steady.now() - before == timedelta(seconds=10)
    wall.advance(2 * 3600)
    assert steady.now() - before == timedelta(seconds=10 + 2 * 3600)


def test_the_wall_clock_counts_again_once_it_has_caught_up():
    wall = FakeClock()
    steady = SteadyClock(wall)
    wall.jump(-10)
    steady.now()
    wall.jump(60)
    assert steady.now() == wall.now()


def test_it_goes_on_from_what_was_recorded_under_a_clock_that_was_ahead():
    wall = FakeClock()
    recorded = wall.now() + HOUR
    steady = SteadyClock(wall, not_before=recorded)
    assert steady.now() == recorded
    wall.advance(5)
    assert steady.now() == recorded + timedelta(seconds=5)


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(-10_000, 10_000)), max_size=30))
def test_it_never_goes_back_nor_slower_than_the_monotonic_clock(moves):
    wall = FakeClock()
    steady = SteadyClock(wall)
    last = steady.now()
    for seconds, jump in moves:
        wall.jump(jump)
        wall.advance(seconds)
        now = steady.now()
        assert now - last >= timedelta(seconds=seconds)
        assert now >= wall.now()
        last = now
