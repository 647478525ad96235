"""stale: how long a run may go without an evaluation, as a pure function and in a daemon that comes and goes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from metricwatch.records import Run
from metricwatch.rules.stale import Gap, at_its_end, duration, gaps, happened
from metricwatch.rules.states import evaluate
from tests.support.judging import DAY, NIGHT, Scene, rule

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def at(hours: float) -> datetime:
    return START + hours * HOUR


def found(*seen, until, since=0.0, after=2):
    """Gaps as (fired_step, fired, resolved_step, resolved), times in hours."""
    every = gaps(after * HOUR, [(step, at(hour)) for step, hour in seen], since=at(since), until=at(until))

    def hours(moment):
        return None if moment is None else (moment - START) / HOUR

    return [(gap.fired_step, hours(gap.fired_at), gap.resolved_step, hours(gap.resolved_at)) for gap in every]


def test_it_fires_when_the_time_is_over_and_ends_with_the_next_evaluation():
    assert found((1, 1), (2, 6), until=7) == [(1, 3, 2, 6)]
    assert found((1, 1), until=4) == [(1, 3, None, None)]


def test_exactly_at_the_end_of_the_time_it_fires_unless_an_evaluation_comes_then():
    assert found((1, 1), until=3) == [(1, 3, None, None)]
    assert found((1, 1), until=2.999) == []
    assert found((1, 1), (2, 3), until=3) == []
    assert found((1, 1), (2, 3.001), until=3.001) == [(1, 3, 2, 3.001)]


def test_before_the_first_evaluation_the_time_counts_from_the_beginning():
    assert found(until=2) == [(0, 2, None, None)]
    assert found((5, 3), until=4) == [(0, 2, 5, 3)]
    assert found((5, 1), until=4, since=3) == []
    assert found((5, 1), until=5, since=3) == [(5, 5, None, None)]


def test_what_comes_after_the_end_is_not_known_yet():
    assert found((1, 1), (2, 9), until=4) == [(1, 3, None, None)]


def test_a_late_evaluation_ends_it_and_the_run_is_as_far_as_it_was():
    assert found((1, 0), (3, 1), (2, 6), until=7) == [(3, 3, 3, 6)]


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (timedelta(hours=2), "2h"),
        (timedelta(minutes=90), "1h 30m"),
        (timedelta(days=1, seconds=5), "1d 5s"),
        (timedelta(seconds=90), "1m 30s"),
        (timedelta(milliseconds=500), "0.5s"),
    ],
)
def test_the_time_is_told_as_people_write_it(span, text):
    assert duration(span) == text
    assert happened(span) == f"had no evaluation for {text}"


@given(st.lists(st.floats(0, 20), max_size=12).map(sorted), st.floats(0.1, 5), st.floats(20, 30))
def test_gaps_are_the_stretches_longer_than_that_and_do_not_overlap(hours, after, until):
    every = gaps(after * HOUR, [(i, at(hour)) for i, hour in enumerate(hours)], since=START, until=at(until))
    edges = [START, *(at(hour) for hour in hours)]
    long = [b - a for a, b in zip(edges, [*edges[1:], at(until)], strict=True)]
    wanted = sum(span > after * HOUR for span in long[:-1]) + (long[-1] >= after * HOUR)
    assert len(every) == wanted
    assert all(isinstance(gap, Gap) and gap.resolved_at is not None for gap in every[:-1])
    assert all(a.resolved_at < b.fired_at for a, b in pairwise(every))


@pytest.mark.parametrize(
    ("steps", "total", "over"),
    [
        ([3000, 6000, 9000], 10000, True),
        ([3000, 6000, 9000], 11999, True),
        # One more fits.
        ([3000, 6000, 9000], 12000, False),
        ([3000, 6000], 10000, False),
        # In which order they came is no matter, nor how often.
        ([9000, 3000, 6000, 9000], 10000, True),
        # It saves more often now.
        ([3000, 6000, 9000, 9500], 10000, False),
        ([3000, 6000, 9000, 9500], 9999, True),
        # It no longer saves as often as it did in the beginning.
        ([100, 200, 3000, 6000, 9000, 12000, 15000], 17999, True),
        # Of one step alone nobody knows what comes next.
        ([9999], 10000, False),
        # Nor of two: between them others may not have been scored.
        ([1000, 6000], 10000, False),
        ([10000], 10000, True),
        # It goes on beyond what was said to be its end.
        ([3000, 6000, 9000, 12000], 9000, False),
        ([9000, 12000], 9000, False),
        ([3000, 6000, 9000, 12000], 10000, True),
        # Its last files have a step of their own.
        ([8000, 9000, 10000, 10050], 10000, True),
        ([10050], 10000, True),
        ([], 0, False),
    ],
)
def test_a_run_is_at_its_end_when_no_further_step_fits(steps, total, over):
    assert at_its_end(steps, total) is over


def test_it_is_no_rule_for_a_walk():
    with pytest.raises(ValueError, match="looks at time"):
        evaluate(rule(stale="2h"), [])


# --- in the daemon -----------------------------------------------------------------------------------------

STALE = rule(stale="2h")


@pytest.fixture
def make(tmp_path):
    made = []

    def scene(*rules, **options) -> Scene:
        made.append(Scene(tmp_path, *(rules or (STALE,)), **options))
        return made[-1]

    yield scene
    for each in made:
        each.db.close()


def test_a_run_without_an_evaluation_for_so_long_fires_and_ends_with_the_next_one(make):
    scene = make()
    scene.score(1000, 30)
    scene.turn(7199)
    assert scene.alerts.firing() == []
    scene.turn(1)
    (alert,) = scene.alerts.firing()
    assert (alert.kind, alert.metric, alert.direction, alert.severity) == ("stale", "", "worse", "critical")
    assert (alert.what, alert.fired_step, alert.window, alert.change) == ("had no evaluation for 2h", 1000, (), 0)
    scene.turn(3600)
    scene.score(2000, 30)
    (alert,) = scene.alerts.of_rule(NIGHT.key, "r")
    assert (alert.resolved_step, alert.reason) == (2000, "an evaluation came")
    assert scene.curve() == [(1000, 0), (1000, 1), (2000, 0)]
    assert scene.tags() == ["firing at step 1000: had no evaluation for 2h (worse)", "inactive at step 2000"]


def test_it_fires_once_for_a_gap_however_often_the_daemon_is_restarted(make):
    scene = make()
    scene.score(1000, 30)
    scene.turn(7200)
    for _ in range(3):
        scene.clock.advance(36000)
        scene.configure(STALE)
        scene.turn(7200)
    assert scene.told() == [("worse", 1000, None)]
    scene.configure(STALE)
    scene.score(2000, 30)
    scene.configure(STALE)
    scene.turn()
    assert scene.told() == [("worse", 1000, 2000)]


def test_a_daemon_that_was_off_did_not_watch(make):
    scene = make()
    scene.score(1000, 30)
    scene.clock.advance(36000)
    scene.configure(STALE)
    scene.turn(7199)
    assert scene.told() == []
    scene.turn(1)
    assert scene.told() == [("worse", 1000, None)]


def test_a_daemon_that_is_restarted_each_hour_adds_its_hours_up(make):
    scene = make()
    scene.score(1000, 30)
    for _ in range(60):
        scene.turn(60)
    scene.configure(STALE)
    for _ in range(59):
        scene.turn(60)
    assert scene.told() == []
    scene.turn(60)
    assert scene.told() == [("worse", 1000, None)]
    # What fires is not watched anew.
    scene.configure(STALE)
    scene.turn(7200)
    scene.score(2000, 30)
    assert scene.told() == [("worse", 1000, 2000)]
    scene.configure(STALE)
    scene.turn(7199)
    assert len(scene.told()) == 1


def test_a_night_off_does_not_count_and_the_hour_before_it_does(make):
    scene = make()
    scene.score(1000, 30)
    scene.turn(3600)
    for _ in range(2):
        scene.clock.advance(36000)
        scene.configure(STALE)
        scene.turn()
        assert scene.told() == []
    scene.turn(3599)
    assert scene.told() == []
    scene.turn(1)
    assert scene.told() == [("worse", 1000, None)]


def test_a_run_that_has_not_begun_has_been_watched_all_the_same(make):
    scene = make()
    for _ in range(2):
        scene.turn(3600)
        scene.configure(STALE)
    scene.turn()
    assert scene.told() == [("worse", 0, None)]


def test_time_before_the_last_evaluation_does_not_count(make):
    scene = make()
    scene.score(1000, 30)
    scene.turn(7000)
    scene.score(2000, 30)
    scene.configure(STALE)
    scene.turn(7199)
    assert scene.told() == []
    scene.turn(1)
    assert scene.told() == [("worse", 2000, None)]


def test_how_long_runs_are_watched_is_noted_once_a_minute(make, monkeypatch):
    scene = make(rule(stale="2h"), rule(stale="3h", name="other"), rule(stale="2h", name="kid", metric="kid"))
    scene.score(1000, 30)
    noted, real = [], scene.db.transaction
    monkeypatch.setattr(scene.db, "transaction", lambda name: noted.append(name) or real(name))
    for _ in range(600):
        scene.turn(1)
    assert noted == ["watched"] * 10
    rows = [tuple(row) for row in scene.db.read("SELECT metric, evaluation, seconds FROM watched_time ORDER BY 1")]
    assert rows == [("", 1, 600), ("kid", 0, 600)]


def test_a_run_that_leaves_the_ledger_takes_its_time_with_it(make):
    scene = make(runs=(NIGHT, DAY))
    scene.turn(60)
    with scene.db.transaction("test") as tx:
        tx.execute("DELETE FROM rule_marks")
        tx.execute("DELETE FROM runs WHERE key = ?", (DAY.key,))
    assert [row["run"] for row in scene.db.read("SELECT run FROM watched_time")] == [NIGHT.key]


def once(scene, *steps):
    """As `run --once`: what is on disk is scored, then the rules look at the calendar."""
    scene.configure(STALE)
    scene.turn(3)
    for step in steps:
        scene.score(step, 30)
    assert not scene.rules.behind()
    scene.rules.all_scored = True
    assert scene.rules.behind()
    scene.turn()
    assert not scene.rules.behind()
    scene.clock.advance(3600)


def test_run_once_each_hour_goes_by_the_calendar(make):
    scene = make()
    once(scene, 1000)
    once(scene)
    assert scene.told() == []
    once(scene)
    assert scene.told() == [("worse", 1000, None)]
    once(scene)
    once(scene, 2000)
    assert scene.told() == [("worse", 1000, 2000)]


def test_run_once_scores_what_is_there_before_it_looks(make):
    scene = make()
    once(scene, 1000)
    scene.clock.advance(36000)
    once(scene, 2000)
    assert scene.told() == []


def test_run_once_for_a_run_that_has_not_begun_counts_from_when_it_was_configured(make):
    scene = make()
    once(scene)
    assert scene.told() == []
    once(scene)
    once(scene)
    assert scene.told() == [("worse", 0, None)]


def test_a_machine_that_slept_or_whose_clock_was_set_has_not_watched_either(make):
    scene = make()
    scene.score(1000, 30)
    scene.turn(1)
    scene.clock.jump(36000)
    scene.turn(1)
    assert scene.told() == []
    scene.turn(7198)
    assert scene.told() == [("worse", 1000, None)]


def test_an_evaluation_that_came_when_the_daemon_was_killed_ends_it_at_the_next_start(make):
    scene = make()
    scene.score(1000, 30)
    scene.turn(7200)
    scene.score(2000, 30, turn=False)
    scene.configure(STALE)
    scene.turn()
    assert scene.told() == [("worse", 1000, 2000)]


def test_a_late_evaluation_is_one_and_so_is_a_rewritten_one(make):
    scene = make()
    scene.score(3000, 30)
    scene.turn(7200)
    scene.score(2000, 30)
    assert scene.told() == [("worse", 3000, 3000)]
    assert scene.alerts.latest_state(NIGHT.key, "r").state == "inactive"
    assert scene.curve()[-1] == (3000, 0)
    scene.turn(7200)
    scene.score(3000, 31)
    assert scene.told() == [("worse", 3000, 3000), ("worse", 3000, 3000)]


def test_a_run_that_has_not_begun_fires_at_step_0(make):
    scene = make()
    scene.turn(7200)
    (alert,) = scene.alerts.firing()
    assert alert.fired_step == 0
    assert alert.detail == "there was none before; nothing has come to disk yet: the job may not have started"
    scene.score(1000, 30)
    assert scene.told() == [("worse", 0, 1000)]


def test_a_run_that_has_taken_all_its_steps_is_over(make):
    scene = make(runs=(DAY,))
    scene.score(9000, 30, run=DAY)
    scene.turn(36000)
    assert scene.told(run=DAY) == []
    scene.score(8000, 30, run=DAY)
    scene.turn(36000)
    assert scene.told(run=DAY) == []


def test_a_run_is_over_when_no_further_step_fits_before_its_last(make):
    run = Run(key="k/day", name="day", total_steps=10000)
    scene = make(runs=(run,))
    for step in (3000, 6000):
        scene.score(step, 30, run=run)
    scene.turn(7200)
    assert scene.told(run=run) == [("worse", 6000, None)]
    scene.score(9000, 30, run=run)
    scene.turn(36000)
    assert scene.told(run=run) == [("worse", 6000, 9000)]


def test_a_run_that_ended_at_the_tracking_server_is_over(make):
    scene = make()
    scene.score(1000, 30)
    scene.turn(7200)
    ended = "INSERT OR REPLACE INTO remote_runs (sink, run, id, ended_ms) VALUES ('mlflow', ?, 'x', ?)"
    with scene.db.transaction("test") as tx:
        tx.execute(ended, (NIGHT.key, int(scene.clock.now().timestamp() * 1000)))
    scene.turn(1)
    assert [alert.reason for alert in scene.alerts.of_rule(NIGHT.key, "r")] == ["the run has ended"]
    scene.turn(36000)
    assert len(scene.told()) == 1
    # Somebody goes on with it: the time begins anew.
    with scene.db.transaction("test") as tx:
        tx.execute(ended, (NIGHT.key, None))
    scene.turn(1)
    assert len(scene.told()) == 1
    scene.turn(7200)
    assert len(scene.told()) == 2


def test_it_says_that_nothing_new_came_to_disk(make):
    scene = make()
    scene.score(1000, 30)
    scene.turn(7200)
    assert scene.alerts.firing()[0].detail == (
        "the last one was of step 1000, 2026-01-01 00:00 UTC; "
        "nothing new on disk since 2026-01-01 00:00 UTC: the job may be dead"
    )


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([2000], "1 snapshot waits to be scored, step 2000: the scorer is behind or failing"),
        ([2000, 5000, 3000], "3 snapshots wait to be scored, the newest step 5000: the scorer is behind or failing"),
    ],
)
def test_it_says_that_snapshots_wait_for_the_scorer(make, steps, words):
    scene = make()
    scene.score(1000, 30)
    for step in steps:
        scene.wait(step)
    scene.turn(7200)
    assert scene.alerts.firing()[0].detail == f"the last one was of step 1000, 2026-01-01 00:00 UTC; {words}"


def test_it_says_that_snapshots_could_not_be_scored(make):
    scene = make()
    scene.score(1000, 30)
    scene.wait(2000)
    scene.clock.advance(60)
    with scene.db.transaction("test") as tx:
        now = int(scene.clock.now().timestamp() * 1000)
        tx.execute("UPDATE jobs SET state = 'failed', finished_ms = ? WHERE step = 2000", (now,))
    scene.turn(7200)
    assert scene.alerts.firing()[0].detail.endswith("; 1 snapshot could not be scored, the newest step 2000")


def test_with_a_metric_only_its_own_scores_count(make):
    scene = make(rule(stale="2h", metric="kid"), rule(stale="2h", name="any"))
    scene.score(1000, 30, 0.1)
    for step in range(2000, 6000, 1000):
        scene.clock.advance(3600)
        scene.score(step, 30)
    assert scene.told("any") == []
    (alert,) = scene.alerts.firing()
    assert (alert.rule, alert.metric, alert.fired_step) == ("r", "kid", 1000)
    assert alert.detail.endswith("; evaluations without kid go on, the last of step 3000")
    scene.score(6000, 30, 0.1)
    assert scene.told() == [("worse", 1000, 6000)]


def test_another_run_is_no_sign_of_life(make):
    scene = make(runs=(NIGHT, DAY))
    scene.score(1000, 30)
    for step in range(1000, 5000, 1000):
        scene.clock.advance(3600)
        scene.score(step, 30, run=DAY)
    assert [alert.run for alert in scene.alerts.firing()] == [NIGHT.key]


def test_while_nothing_arrives_it_asks_the_ledger_once_a_second_and_little(make, monkeypatch):
    scene = make(runs=(NIGHT, DAY))
    scene.score(1000, 30)
    scene.score(1000, 30, run=DAY)
    scene.turn(10)
    asked, real = [], scene.db.read
    monkeypatch.setattr(scene.db, "read", lambda sql, parameters=(): asked.append(sql) or real(sql, parameters))
    for _ in range(100):
        scene.clock.advance(0.1)
        scene.rules.tick()
    # The newest evaluation of all, each time; nothing of the runs.
    assert len(asked) == 100


def test_an_alert_is_over_when_the_changed_rule_gives_more_time_which_then_runs_on(make):
    scene = make()
    scene.score(1000, 30)
    scene.turn(7200)
    scene.configure(rule(stale="3h"))
    scene.turn(3599)
    assert [alert.reason for alert in scene.alerts.of_rule(NIGHT.key, "r")] == ["the rule was changed"]
    announce = scene.db.read("SELECT announce FROM alerts")
    assert announce[0]["announce"] == 1
    assert scene.curve() == [(1000, 0), (1000, 1), (1000, 0)]
    scene.turn(1)
    assert [alert.what for alert in scene.alerts.firing()] == ["had no evaluation for 3h"]


def test_an_alert_goes_on_when_the_changed_rule_gives_less_time(make):
    scene = make()
    scene.score(1000, 30)
    scene.turn(7200)
    scene.configure(rule(stale="1h"))
    scene.turn(10)
    (alert,) = scene.alerts.of_rule(NIGHT.key, "r")
    assert (alert.id, alert.what, alert.resolved_step) == (1, "had no evaluation for 1h", None)
    assert scene.tags()[-1] == "firing at step 1000: had no evaluation for 1h (worse)"
    tags = len(scene.tags())
    scene.turn(3600)
    assert len(scene.tags()) == tags


def test_an_evaluation_that_came_while_the_rule_was_changed_ends_it(make):
    scene = make()
    scene.score(1000, 30)
    scene.turn(7200)
    scene.score(2000, 30, turn=False)
    scene.configure(rule(stale="1h"))
    scene.turn()
    assert [alert.reason for alert in scene.alerts.of_rule(NIGHT.key, "r")] == ["an evaluation came"]


def test_a_finished_run_that_somebody_went_on_with_can_die(make):
    scene = make()
    scene.score(1000, 30)
    ended = "INSERT INTO remote_runs (sink, run, id, ended_ms) VALUES ('mlflow', ?, 'x', ?)"
    with scene.db.transaction("test") as tx:
        tx.execute(ended, (NIGHT.key, int(scene.clock.now().timestamp() * 1000)))
    # Its last files.
    scene.turn(599)
    scene.score(2000, 30)
    scene.turn(36000)
    assert scene.told() == []
    # The tracking server may not know.
    scene.score(3000, 30)
    scene.turn(7200)
    assert scene.told() == [("worse", 3000, None)]


def test_a_run_that_goes_beyond_its_last_step_can_die(make):
    scene = make(runs=(DAY,))
    for step in (3000, 6000, 9000, 12000):
        scene.score(step, 30, run=DAY)
    scene.turn(7200)
    assert scene.told(run=DAY) == [("worse", 12000, None)]


stories = st.lists(
    st.one_of(
        st.tuples(st.just("score"), st.integers(1, 20)),
        st.tuples(st.just("half hours"), st.integers(1, 7)),
    ),
    max_size=10,
)


@given(stories)
@example([("score", 3), ("half hours", 5), ("score", 2), ("half hours", 3), ("half hours", 1)])
@settings(max_examples=20, deadline=None)
def test_the_daemon_says_what_the_function_says(tmp_path_factory, story):
    """With late and rewritten steps."""
    scene = Scene(tmp_path_factory.mktemp("ledger"), STALE)
    seen = []
    for what, number in story:
        if what == "score":
            scene.clock.advance(1)
            scene.score(number, 30)
            seen.append((number, scene.clock.now()))
        else:
            for _ in range(number):
                scene.turn(1800)
    expected = gaps(2 * HOUR, seen, since=START, until=scene.clock.now())
    told = [(a.fired_step, a.fired_at, a.resolved_step, a.resolved_at) for a in scene.alerts.of_rule(NIGHT.key, "r")]
    assert told == [(g.fired_step, g.fired_at, g.resolved_step, g.resolved_at) for g in expected]
    scene.db.close()
