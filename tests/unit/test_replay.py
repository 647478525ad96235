"""Replay: what is made of a sink's points, and what rules say of it."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter

from metricwatch.api import Point, RemoteRun, Sink
from metricwatch.clock import from_ms
from metricwatch.config.rules import Rule
from metricwatch.records import ScoreState
from metricwatch.replaying.curves import Curves
from metricwatch.replaying.directions import Directions, Rise
from metricwatch.replaying.replay import Recorded, replay
from metricwatch.replaying.rules_file import read_rules

START = 1_700_000_000_000
HOUR = 3_600_000


class RecordedSink(Sink):
    """Holds curves, each a list of (step, value) or (step, value, minutes since the start)."""

    Options = dict

    def __init__(self, curves) -> None:
        self._curves = curves
        self.asked = []

    def find_run(self, run):
        return RemoteRun(id="r")

    def write(self, run_id, points, tags):
        raise AssertionError("a replay writes nothing")

    def ping(self):
        return "memory"

    def keys(self, run_id):
        return sorted(self._curves)

    def read(self, run_id, key):
        self.asked.append(key)
        points = [
            Point(
                key=key,
                step=item[0],
                value=item[1],
                timestamp_ms=START + 60_000 * (item[2] if len(item) > 2 else item[0]),
            )
            for item in self._curves[key]
        ]
        return sorted(points, key=lambda point: (point.timestamp_ms, point.step))


def curves(**by_key):
    return Curves(RecordedSink({key.replace("__", "/"): value for key, value in by_key.items()}), "r", prefix="quality")


def observed(recorded, key, **options):
    series, _ = recorded.observations(key, higher_is_better=False, **options)
    return [(item.step, item.value, item.stderr, item.state.value) for item in series]


def rules(*given):
    return TypeAdapter(list[Rule]).validate_python(list(given))


def look(recorded, *given, name="night", hours=1000, **options):
    run = Recorded(name=name, **{key: options.pop(key) for key in ("total_steps", "ended") if key in options})
    now = from_ms(START + HOUR * hours)
    return replay(rules(*given), run, recorded, Directions(), now=now, **options)


def alerts(looks):
    return [(alert.fired_step, alert.resolved_step, alert.direction) for each in looks for alert in each.alerts]


MOVED = {"name": "fid-moved", "metric": "fid", "moves": "10%", "across": 3}
JUMP = [(1, 30), (2, 30), (3, 36), (4, 36), (5, 36)]


# --- from points to observations ---------------------------------------------------------------------------


def test_a_step_that_was_written_twice_counts_as_it_was_written_last():
    recorded = curves(quality__fid=[(1, 30), (2, 99), (3, 30), (2, 31, 50)], alert__x=[(1, 0)])
    assert observed(recorded, "quality/fid") == [(1, 30, None, "ok"), (2, 31, None, "ok"), (3, 30, None, "ok")]
    series, moments = recorded.observations("quality/fid", higher_is_better=True)
    assert [item.id for item in series] == [1, 3, 2]
    assert moments[2] == from_ms(START + 50 * 60_000)
    assert all(item.higher_is_better for item in series)


def test_standard_errors_are_joined_by_step_and_of_a_rewritten_step_by_time():
    recorded = curves(
        quality__fid=[(1, 30), (2, 40), (2, 41, 50), (3, 30), (4, 30), (4, 32, 60), (5, 3)],
        quality__fid_stderr=[(1, 0.1, 7), (2, 0.2), (2, 0.3, 50), (3, float("nan")), (4, 0.4), (5, -1)],
    )
    assert [item[2] for item in observed(recorded, "quality/fid")] == [0.1, 0.3, None, None, None]


def test_what_is_not_finite_is_an_evaluation_without_value():
    recorded = curves(loss=[(1, float("nan")), (2, float("-inf")), (3, 1.0)], loss_stderr=[(1, 0.5)])
    assert observed(recorded, "loss") == [
        (1, None, None, "non_finite"),
        (2, None, None, "non_finite"),
        (3, 1.0, None, "ok"),
    ]


def test_an_evaluation_that_logged_other_scores_only_had_no_value():
    recorded = curves(
        quality__fid=[(2, 30), (4, 30)],
        quality__fid_stderr=[(2, 0.1), (4, 0.1)],
        quality__kid=[(1, 3), (2, 3), (3, 3), (4, 3), (5, 3)],
        # The training job's own, under our prefix by chance: it has times of its own.
        quality__psnr=[(step, 20, step + 0.5) for step in (2, 2.5, 3.5, 4)],
    )
    assert observed(recorded, "quality/fid") == [(2, 30, 0.1, "ok"), (3, None, None, "failed"), (4, 30, 0.1, "ok")]


def test_where_a_rule_looked_at_a_score_there_was_an_evaluation():
    recorded = curves(
        quality__fid=[(2, 30), (3, 30)], alert__mine=[(1, 0), (2, 0), (3, 0), (4, 1)], alert__other=[(9, 0)]
    )
    assert [item[0] for item in observed(recorded, "quality/fid")] == [2, 3]
    assert [(item[0], item[3]) for item in observed(recorded, "quality/fid", rules=["mine"])] == [
        (1, "failed"),
        (2, "ok"),
        (3, "ok"),
        (4, "failed"),
    ]


def test_other_peoples_curves_have_no_evaluations_but_their_points():
    recorded = curves(quality__fid=[(2, 30), (4, 30)], quality__kid=[(1, 3), (2, 3), (3, 3), (4, 3)])
    assert not recorded.ours()
    assert [item[0] for item in observed(recorded, "quality/fid")] == [2, 4]


# --- directions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "rise"),
    [
        ("fid", Rise(better=False)),
        ("quality/ssim", Rise(better=True)),
        ("eval/ssim", Rise(better=True)),
        ("gram_style_loss_relu1_1", Rise(better=False)),
        ("composite_balance", Rise(better=True)),
        ("composite_other", Rise(better=False, assumed=True)),
        ("val_loss", Rise(better=False, assumed=True)),
        ("fid_of_mine", Rise(better=False, assumed=True)),
    ],
)
def test_which_way_is_better_is_what_metrics_and_composites_say_else_assumed(key, rise):
    assert Directions(composites={"balance": True}).of(key) == rise


def test_what_is_assumed_can_be_turned():
    assert Directions(otherwise=True).of("accuracy") == Rise(better=True, assumed=True)
    assert Directions(otherwise=True).of("fid") == Rise(better=False)


# --- rules over a run --------------------------------------------------------------------------------------


def test_a_metric_is_the_key_with_the_prefix_or_the_key_itself():
    both = curves(quality__fid=JUMP, fid=[(1, 1)])
    plain = curves(fid=JUMP)
    assert [(each.key, each.evaluations) for each in look(both, MOVED)] == [("quality/fid", 5)]
    (found,) = look(plain, MOVED)
    assert (found.key, found.evaluations, found.firing) == ("fid", 5, 2)
    assert alerts([found]) == [(3, 5, "worse")]
    (alert,) = found.alerts
    assert (alert.fired_at, alert.resolved_at) == (from_ms(START + 3 * 60_000), from_ms(START + 5 * 60_000))
    assert (alert.kind, alert.severity, found.critical) == ("moves", "critical", 1)


def test_a_key_that_is_not_there_is_named_and_the_nearest_one_too():
    recorded = curves(quality__fid=JUMP, quality__fid_stderr=[(1, 1)], alert__x=[(1, 0)])
    (found,) = look(recorded, {**MOVED, "metric": "fdi"})
    assert (found.key, found.reason) == (None, "no such key; did you mean 'fid'?")
    (found,) = look(recorded, {**MOVED, "metric": "zzzzz"})
    assert found.reason == "no such key; known: fid"


def test_rules_can_be_tried_on_other_keys():
    recorded = curves(val_loss=JUMP, train__loss=[(1, 5)])
    found = look(recorded, MOVED, metrics=["val_loss", "train/loss"])
    assert [(each.metric, each.evaluations, len(each.alerts)) for each in found] == [
        ("val_loss", 5, 1),
        ("train/loss", 1, 0),
    ]
    assert found[0].alerts[0].metric == "val_loss"
    assert found[0].rise == Rise(better=False, assumed=True)


def test_the_runs_name_decides_what_a_rule_is():
    rule = {**MOVED, "runs": {"debug-*": "off", "small": {"moves": "30%"}}}
    recorded = curves(fid=JUMP)
    assert alerts(look(recorded, rule)) == [(3, 5, "worse")]
    assert alerts(look(recorded, rule, name="small")) == []
    (found,) = look(recorded, rule, name="debug-3")
    assert (found.evaluations, found.reason) == (0, "the rule is off for debug-3")


def test_each_curve_is_read_once_and_only_what_is_needed():
    recorded = curves(fid=JUMP, fid_stderr=JUMP, other=JUMP)
    shown = []
    look(recorded, MOVED, {**MOVED, "name": "second"}, show=lambda *told: shown.append(told))
    assert recorded._sink.asked == ["fid", "fid_stderr"]
    assert shown[0] == ("reading curves", 0, 2)
    assert shown[-1] == ("reading curves", 2, 2)


def test_a_state_without_value_fires_and_is_passed_over_where_a_movement_is_looked_for():
    recorded = curves(
        quality__fid=[(1, 30), (2, 30), (4, 36), (5, 36), (6, 36)],
        quality__kid=[(n, 1) for n in range(1, 7)],
        alert__x=[(1, 0)],
    )
    found = look(recorded, MOVED, {"name": "broken", "metric": "fid", "state": "any"})
    assert [alerts([each]) for each in found] == [[(4, 6, "worse")], [(3, 4, "worse")]]
    assert [point.step for point in found[0].alerts[0].window] == [1, 2, 4]
    assert [item.state for item in found[1].series][2] is ScoreState.FAILED


# --- time --------------------------------------------------------------------------------------------------

DEAD = {"name": "dead", "stale": "2h"}


def hourly(*hours):
    return [(place, 30, 60 * hour) for place, hour in enumerate(hours, 1)]


def test_a_gap_fires_and_ends_by_the_times_of_the_points():
    recorded = curves(quality__fid=hourly(0, 1, 5, 6), alert__x=[(1, 0, 0)])
    (found,) = look(recorded, DEAD, hours=7)
    (alert,) = found.alerts
    assert (alert.fired_step, alert.resolved_step, alert.severity) == (2, 3, "critical")
    assert (alert.fired_at, alert.resolved_at) == (from_ms(START + 3 * HOUR), from_ms(START + 5 * HOUR))
    assert (found.evaluations, found.firing) == (4, None)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [(2, None, "worse")]),
        ({"hours": 2.9}, []),
        ({"ended": True}, []),
        ({"total_steps": 2}, []),
        ({"total_steps": 3}, [(2, None, "worse")]),
    ],
)
def test_a_run_that_is_silent_fires_until_now_unless_it_is_over(options, expected):
    assert alerts(look(curves(quality__fid=hourly(0, 1), alert__x=[]), DEAD, **options)) == expected


@pytest.mark.parametrize(("total_steps", "expected"), [(11, []), (12, [(9, None, "worse")])])
def test_a_run_is_over_when_no_further_step_fits_before_its_last(total_steps, expected):
    recorded = curves(quality__fid=[(3, 30, 0), (6, 30, 60), (9, 30, 120)], alert__x=[])
    assert alerts(look(recorded, DEAD, total_steps=total_steps)) == expected


def test_any_score_keeps_a_run_alive_also_one_without_value_and_what_rules_about_time_said_does_not():
    kept = curves(
        quality__fid=hourly(0, 1),
        quality__kid=[(3, 1, 150)],
        # An evaluation of which nothing had a value; then the rule itself fires, at the step that was there last.
        alert__fid_moved=[(1, 0, 0), (2, 0, 60), (4, 0, 260)],
        alert__dead=[(2, 1, 400), (0, 1, 300)],
    )
    assert alerts(look(kept, DEAD, hours=10)) == [(4, None, "worse")]
    assert [step for step, _ in kept.moments("")] == [1, 2, 3, 4]


def test_a_rule_about_time_may_look_at_one_metric():
    recorded = curves(quality__fid=hourly(0, 1, 9), quality__kid=[(n, 1, 60 * n) for n in range(9)], alert__x=[])
    assert alerts(look(recorded, {**DEAD, "metric": "fid"}, hours=10)) == [(2, 3, "worse")]
    assert alerts(look(recorded, DEAD, hours=10)) == []


def test_of_other_peoples_runs_nobody_knows_what_an_evaluation_is_until_a_key_is_named():
    recorded = curves(loss=hourly(0, 1, 5))
    (found,) = look(recorded, DEAD, hours=6)
    assert "--metric looks at one curve" in found.reason
    assert alerts(look(recorded, DEAD, hours=6, metrics=["loss"])) == [(2, 3, "worse")]


# --- files of rules ----------------------------------------------------------------------------------------


def test_variables_in_rules_are_replaced_and_missing_ones_named(tmp_path):
    file = tmp_path / "rules.yaml"
    file.write_text("rules: [{name: a, metric: fid, above: '${BOUND}'}]\nother: ${NOT_READ}\n")
    (rule,) = read_rules(file, environ={"BOUND": "40"}).rules
    assert rule.above == 40
    with pytest.raises(Exception, match=r"rules.yaml: rules\[0\].above: the environment variable BOUND is not set"):
        read_rules(file, environ={})
