"""When a sample set counts as complete."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from metricwatch.watch.settle import Settling

QUIET = timedelta(seconds=5)


def look(settling, activity, now, *, marked=False, renamed=False):
    return settling.look(1, activity, now, marked=marked, renamed=renamed)


def test_quiet_for_long_enough_over_two_looks_is_settled():
    settling = Settling(QUIET)
    assert not look(settling, "a", 0)
    assert not look(settling, "a", 4.9)
    assert look(settling, "a", 5.0)


def test_one_look_is_never_enough_without_a_marker():
    settling = Settling(timedelta(0))
    assert not look(settling, "a", 1000)
    assert look(settling, "a", 1000)


def test_any_change_starts_the_wait_anew():
    settling = Settling(QUIET)
    look(settling, "a", 0)
    look(settling, "b", 4)
    assert not look(settling, "b", 8)
    assert look(settling, "b", 9)


def test_a_marker_or_an_atomic_rename_settles_at_once():
    assert look(Settling(QUIET), "a", 0, marked=True)
    assert look(Settling(QUIET), "a", 0, renamed=True)


def test_what_is_settled_is_forgotten():
    settling = Settling(QUIET)
    look(settling, "a", 0)
    assert settling.waiting() == {1}
    look(settling, "a", 6)
    assert settling.waiting() == set()


@given(st.lists(st.tuples(st.floats(0, 3), st.sampled_from("abc")), min_size=1, max_size=40))
def test_nothing_settles_while_it_was_different_within_the_quiet_time(looks):
    settling = Settling(QUIET)
    now, history = 0.0, []
    for pause, activity in looks:
        now += pause
        settled = look(settling, activity, now)
        if settled:
            since = [seen for moment, seen in history if moment > now - QUIET.total_seconds()]
            assert set(since) <= {activity}
            assert history, "settled at the first look"
            history = []
        else:
            history.append((now, activity))
