"""When a sample set counts as complete."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metricwatch.watch.pace import Pace
from metricwatch.watch.settle import Settling

QUIET = timedelta(seconds=5)


def look(settling, activity, now, *, marked=False, renamed=False, unfinished=False):
    return settling.look(1, activity, now, now, marked=marked, renamed=renamed, unfinished=unfinished)


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


def test_beside_an_unfinished_file_the_quiet_must_be_twelve_times_as_long():
    settling = Settling(QUIET)
    look(settling, "a", 0, unfinished=True)
    assert not look(settling, "a", 59, unfinished=True)
    assert look(settling, "a", 60, unfinished=True)


def test_the_time_that_a_look_takes_is_no_quiet_time():
    settling = Settling(QUIET)
    assert not settling.look(1, "a", 0, 3, marked=False, renamed=False)
    assert not settling.look(1, "a", 7, 9, marked=False, renamed=False)
    assert settling.look(1, "a", 8, 10, marked=False, renamed=False)


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


def test_looking_takes_a_twentieth_of_the_time_at_rest_and_a_fifth_while_something_is_written():
    pace = Pace(rescan=10, settle=5)
    assert pace.rescan_is_due(0)
    assert pace.looked(0, 2, rescanned=True) == pytest.approx(30)
    assert not pace.rescan_is_due(39.9)
    assert pace.rescan_is_due(40)
    assert not pace.look_is_due(9.9, hinted=True, settling=True)
    assert pace.look_is_due(10, hinted=True, settling=False)
    assert pace.look_is_due(10, hinted=False, settling=True)
    assert not pace.look_is_due(10, hinted=False, settling=False)


def test_a_quick_look_puts_nothing_off():
    pace = Pace(rescan=10, settle=5)
    assert pace.looked(0, 0.001, rescanned=True) == 0
    assert pace.rescan_is_due(10)


def test_a_look_at_everything_does_not_put_the_next_rescan_off_for_long():
    pace = Pace(rescan=10, settle=5)
    pace.looked(0, 20, rescanned=True, everything=True)
    assert pace.rescan_is_due(100)


def test_lost_events_bring_a_rescan_but_not_one_after_the_other():
    """Events that are lost every second must not have everything looked at every second."""
    pace = Pace(rescan=1000, settle=5)
    pace.looked(0, 10, rescanned=True)
    pace.rescan_soon()
    assert not pace.rescan_is_due(49)
    assert pace.rescan_is_due(50)
