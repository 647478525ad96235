"""`metricwatch rules test`: the notation of series, what is compared, and what is said of files that are wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from metricwatch import cli
from metricwatch.config import MovesRule
from metricwatch.replaying.checks import run_cases
from metricwatch.replaying.notation import parse_series
from metricwatch.rules.observations import Observation
from metricwatch.rules.states import Walk

EXAMPLE = Path(__file__).parents[2] / "deploy" / "rules-test.yaml"
MOVED = {"name": "fid-moved", "metric": "fid", "moves": "10%", "across": 5}
HIGH = {"name": "fid-high", "metric": "fid", "above": 40, "for": 2, "labels": {"team": "vision"}}
DEAD = {"name": "dead", "stale": "2h"}


def said(*arguments: object):
    return CliRunner().invoke(cli.app, ["rules", "test", *map(str, arguments)])


@pytest.fixture
def check(tmp_path):
    """Run a file with these rules and one test, or with more of the file's keys."""

    def check(rules, case=None, *arguments, **others):
        file = tmp_path / "tests.yaml"
        tests = [{"name": "a test", **case}] if case is not None else others.pop("tests")
        file.write_text(yaml.safe_dump({"rules": rules, "tests": tests, **others}))
        return said(file, *arguments)

    return check


def series(values, **others):
    return [{"metric": "fid", "values": values, **others}]


# --- the notation ------------------------------------------------------------------------------------------


def shown(text):
    return [
        item if item is None else item.state.value if item.value is None else item.value for item in parse_series(text)
    ]


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("30", [30]),
        ("-1.5 .5 2e1 1e-3", [-1.5, 0.5, 20, 0.001]),
        ("30x2", [30, 30, 30]),
        ("36+0.5x2", [36, 36.5, 37]),
        ("36-.5x2 1e1-1e0x1", [36, 35.5, 35, 10, 9]),
        ("-3-1x1", [-3, -4]),
        ("_ 1 _x2", [None, 1, None, None]),
        ("_x0 1", [1]),
        ("nan inf -infx1", ["non_finite"] * 4),
        ("collapsed too_few_imagesx1", ["collapsed", "too_few_images", "too_few_images"]),
        ("1e308+1e308x2", [1e308, "non_finite", "non_finite"]),
    ],
)
def test_a_series_is_written_as_in_prometheus_rule_tests(text, items):
    assert shown(text) == items


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "holds no evaluation"),
        ("30+1", "is neither a value"),
        ("x3", "is neither a value"),
        ("30 colapsed", "unknown state 'colapsed'; did you mean 'collapsed'?"),
        ("ok", "unknown state 'ok'"),
        ("1x99999 1", "more than 100,000"),
        ("1x" + "9" * 5000, "more than 100,000"),
        ("https://user:pw@host/x", "an address, not shown"),
    ],
)
def test_what_is_no_series_is_named(text, wrong):
    with pytest.raises(ValueError, match=r"evaluation|state|value") as error:
        parse_series(text)
    assert wrong in str(error.value)


# --- what is compared --------------------------------------------------------------------------------------


def test_the_annotated_example_passes():
    result = said(EXAMPLE)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.endswith("rules-test.yaml: 7 passed\n")


def test_every_test_of_the_example_can_fail(tmp_path):
    document = yaml.safe_load(EXAMPLE.read_text())
    for case in document["tests"]:
        if case["expect"]:
            case["expect"][0]["direction"] = "better"
        else:
            case["series"][0] |= {"values": "30x3 90x9", "images": 1000, "changed_at": []}
            case.pop("states", None)
    file = tmp_path / "tests.yaml"
    file.write_text(yaml.safe_dump(document))
    result = said(file, "--json")
    assert result.exit_code == 1
    assert [test["ok"] for test in json.loads(result.stdout)["files"][0]["tests"]] == [False] * 7


def test_a_failure_says_what_was_expected_what_came_and_what_the_series_was(check):
    expected = {
        "rule": "fid-moved",
        "fired": 6000,
        "resolved": "never",
        "severity": "info",
        "labels": {"a": "b"},
        "what": "x",
    }
    result = check([MOVED], {"run": "night", "series": series("30x3 36x5"), "expect": [expected]})
    assert result.exit_code == 1
    name = result.stdout.partition(": ")[0]
    assert result.stdout.splitlines() == [
        f"{name}: a test: FAILED (run night)",
        "  fid-moved: expected fired at 6000, never resolved, info, a=b: …x…",
        "             got      fired at 5000, resolved at 9000, worse, critical: fid rose 20.0%, more than 10%",
        "    fid: … 2000 30 · 3000 30 · 4000 30 · 5000 36 · 6000 36 · 7000 36 · 8000 36 …",
        f"{name}: 0 passed, 1 failed",
    ]


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ({"resolved": "never"}, {"resolved": 9000}),
        ({"resolved": 8000}, {"resolved": 9000}),
        ({"direction": "better"}, {"direction": "worse"}),
        ({"severity": "warning"}, {"severity": "critical"}),
        ({"labels": {"team": "x"}}, {"labels": {"team": "y"}}),
        ({"what": "fell"}, {"what": "fid rose 20.0%"}),
    ],
)
def test_what_an_expectation_says_is_compared_and_nothing_else(check, wrong, right):
    rule = {**MOVED, "labels": {"team": "y", "site": "z"}}
    case = {"series": series("30x3 36x4")}
    for more, code in (({}, 0), (right, 0), (wrong, 1)):
        expected = [{"rule": "fid-moved", "fired": 5000, **more}]
        assert check([rule], {**case, "expect": expected}).exit_code == code


def test_alerts_that_nobody_expects_fail_and_so_do_those_that_do_not_come(check):
    jump = {"series": series("30x3 36x5")}
    expected = {"rule": "fid-moved", "fired": 5000}
    result = check([MOVED], {**jump, "expect": []})
    assert result.exit_code == 1
    assert "expected no alert" in result.stdout
    result = check([MOVED], {"series": series("30x8"), "expect": [expected]})
    assert result.exit_code == 1
    assert "got      no alert" in result.stdout
    # One alert meets one expectation.
    assert check([MOVED], {**jump, "expect": [expected, expected]}).exit_code == 1
    # Of another rule on the same metric, too.
    assert check([MOVED, HIGH], {"series": series("30x3 50x5"), "expect": [expected]}).exit_code == 1


def test_rules_of_metrics_without_a_series_are_not_under_test(check):
    kid = {"name": "kid-gone", "metric": "kid", "state": "any"}
    assert check([MOVED, kid], {"series": series("30x8"), "expect": []}).exit_code == 0


def test_states_are_compared_at_a_step(check):
    case = {"series": series("39 41 41 39"), "states": [{"rule": "fid-high", "step": 2000, "state": "pending"}]}
    assert check([HIGH], case).exit_code == 0
    case["states"] = [{"rule": "fid-high", "step": 3000, "state": "pending"}]
    result = check([HIGH], case)
    assert result.exit_code == 1
    assert "expected pending at step 3000" in result.stdout
    assert "got      firing" in result.stdout


def test_steps_are_as_far_apart_as_the_test_says_and_missing_evaluations_count_as_steps(check):
    case = {"step": 50, "series": series("30x2 _x2 36 _"), "expect": [{"rule": "m", "fired": 300, "resolved": "never"}]}
    assert check([{**MOVED, "name": "m", "across": 4}], case).exit_code == 0


def test_the_run_decides_which_rules_there_are_and_what_they_say(check):
    rule = {"name": "high", "metric": "fid", "above": 40, "runs": {"debug-*": "off", "small-*": {"above": 80}}}
    fires = [{"rule": "high", "fired": 1000}]
    for run, values, expect in (
        ("night", "50", fires),
        ("debug-1", "50", []),
        ("small-1", "50", []),
        ("small-1", "90", fires),
    ):
        assert check([rule], {"run": run, "series": series(values), "expect": expect}).exit_code == 0
    result = check([rule], {"run": "debug-1", "series": series("50"), "expect": fires})
    assert "no alert: the rule is off for debug-1" in result.stdout


def test_standard_errors_image_counts_and_changes_of_series_are_heeded(check):
    fires = [{"rule": "fid-moved", "fired": 5000}]
    careful = {**MOVED, "beyond_noise": 3}
    for rule, others, expect in (
        (careful, {"stderr": 0.1}, fires),
        (careful, {"stderr": 5}, []),
        (careful, {}, []),
        (careful, {"stderr": "0.1x3 _"}, []),
        (MOVED, {"images": "1000x3 990"}, fires),
        (MOVED, {"images": "1000x3 500"}, []),
        (MOVED, {"changed_at": [5000]}, []),
        (MOVED, {"changed_at": [1000]}, fires),
    ):
        result = check([rule], {"series": series("30x3 36", **others), "expect": expect})
        assert result.exit_code == 0, result.stdout


def test_the_direction_is_the_metrics_own_unless_the_series_says_another(check):
    for metric, others, direction in (
        ("fid", {}, "worse"),
        ("ssim", {}, "better"),
        ("my_loss", {}, "worse"),
        ("my_accuracy", {"higher_is_better": True}, "better"),
    ):
        rule = {"name": "r", "metric": metric, "above": 1}
        case = {"series": [{"metric": metric, "values": 2, **others}]}
        case["expect"] = [{"rule": "r", "fired": 1000, "direction": direction}]
        assert check([rule], case).exit_code == 0


def test_a_stale_run_fires_by_the_interval_of_evaluations_until_the_run_is_over(check):
    silent = {"series": series("30x3 _x12")}
    fires = [{"rule": "dead", "fired": 4000, "resolved": "never", "what": "no evaluation for 2h"}]
    assert check([DEAD], {**silent, "expect": fires}).exit_code == 0
    assert check([DEAD], {**silent, "expect": []}, evaluation_interval="9m").exit_code == 0
    assert check([DEAD], {**silent, "expect": [], "total_steps": 4000}).exit_code == 0
    # The next would be step 5000.
    assert check([DEAD], {**silent, "expect": [], "total_steps": 4999}).exit_code == 0
    assert check([DEAD], {**silent, "expect": fires, "total_steps": 5000}).exit_code == 0
    # Of several metrics any one keeps the run alive.
    more = [*series("30x3 _x12"), {"metric": "kid", "values": "1x15"}]
    assert check([DEAD], {"series": more, "expect": []}).exit_code == 0


@settings(max_examples=30)
@given(st.lists(st.integers(20, 40), min_size=1, max_size=25))
def test_what_is_compared_is_what_the_daemon_walks(values):
    from datetime import timedelta

    from metricwatch.replaying.cases import Case, Cases, Expected
    from metricwatch.replaying.rules_file import RulesFile

    rule = MovesRule.model_validate(MOVED)
    walk = Walk(rule)
    for place, value in enumerate(values, 1):
        walk.go(Observation(id=place, step=1000 * place, value=value, images=1000, higher_is_better=False))
    expect = tuple(
        Expected(
            rule=rule.name,
            fired=episode.fired_step,
            resolved="never" if episode.resolved_step is None else episode.resolved_step,
            direction=episode.direction,
        )
        for episode in walk.episodes()
    )
    case = Case.model_validate({"name": "x", "series": series(" ".join(map(str, values))), "expect": expect})
    cases = Cases(name="x", rules=RulesFile(rules=(rule,)), interval=timedelta(minutes=1), tests=(case,))
    (outcome,) = run_cases(cases)
    assert outcome.failures == ()


# --- files -------------------------------------------------------------------------------------------------


def test_rules_may_stand_in_a_configuration_whose_secrets_are_not_here(tmp_path):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "metricwatch.yaml").write_text(
        """
tracking: {uri: "${NOWHERE_SET}"}
watch: []
metrics: [fid, {gram_style_loss: {normalise: hw}}]
composites: {quality: {expression: "1 - fid/100", higher_is_better: true}}
rules:
  - {name: q, metric: composite_quality, above: 0.5, receivers: [team]}
notify: {team: {use: slack, webhook_url: "${NOR_THIS}"}}
"""
    )
    file = tmp_path / "tests.yaml"
    expect = "[{rule: q, fired: 1000, direction: better, severity: info}]"
    file.write_text(
        "rules: conf/metricwatch.yaml\n"
        f"tests: [{{name: a, series: [{{metric: composite_quality, values: 0.7}}], expect: {expect}}}]\n"
    )
    result = said(file)
    assert (result.exit_code, result.stderr) == (0, "")


def test_several_files_are_told_one_by_one_and_together_as_json(check, tmp_path):
    assert check([MOVED], {"series": series("30x3 36"), "expect": []}).exit_code == 1
    result = said(tmp_path / "tests.yaml", EXAMPLE)
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-2:] == [f"{tmp_path / 'tests.yaml'}: 0 passed, 1 failed", f"{EXAMPLE}: 7 passed"]
    document = json.loads(said(tmp_path / "tests.yaml", EXAMPLE, "--json").stdout)
    assert (document["ok"], document["passed"], document["failed"]) == (False, 7, 1)
    (failure,) = document["files"][0]["tests"][0]["failures"]
    assert (failure["rule"], failure["expected"]) == ("fid-moved", "no alert")


FINE = {"name": "a", "series": series("30x4"), "expect": []}


@pytest.mark.parametrize(
    ("rules", "tests", "lines"),
    [
        (None, [FINE], ["rules: required, but not given"]),
        ([], [FINE], ["rules: must have at least one item"]),
        ([{**MOVED, "acros": 3}], [FINE], ["rules[0].acros: unknown key; did you mean 'across'?"]),
        ([MOVED], [], ["tests: must have at least one item"]),
        ([MOVED], [{**FINE, "exect": []}], ["tests[0].exect: unknown key; did you mean 'expect'?"]),
        ([MOVED], [FINE, FINE], ["tests[1].name: another test is already named 'a'"]),
        (
            [MOVED],
            [{"name": "a", "series": series("3")}],
            ["tests[0]: expects nothing: write expect: [] where nothing may fire"],
        ),
        ([MOVED], [{**FINE, "series": series("30 x")}], ["tests[0].series[0].values: unknown state 'x'; known: "]),
        (
            [MOVED],
            [{**FINE, "series": series("30x3", stderr="1x4")}],
            ["tests[0].series[0].stderr: has 5 items, and values only 4: a x N stands for 1 + N of them"],
        ),
        ([MOVED], [{**FINE, "series": series("30", stderr=-1)}], ["tests[0].series[0].stderr: a standard error is"]),
        ([MOVED], [{**FINE, "series": series("30", images=1.5)}], ["tests[0].series[0].images: a count of images is"]),
        (
            [MOVED],
            [{**FINE, "series": [{"metric": "fidd", "values": 3}]}],
            ["tests[0].series[0].metric: no rule looks at 'fidd'; did you mean 'fid'?"],
        ),
        ([MOVED], [{**FINE, "series": series(3) * 2}], ["tests[0].series[1].metric: 'fid' has a series already"]),
        (
            [MOVED],
            [{**FINE, "series": series("30x4", changed_at=[2500])}],
            ["tests[0].series[0].changed_at: there is no evaluation at step 2500; the nearest is at 2000"],
        ),
        (
            [MOVED],
            [{**FINE, "expect": [{"rule": "fid-move", "fired": 1000}]}],
            ["tests[0].expect[0].rule: unknown rule 'fid-move'; did you mean 'fid-moved'?"],
        ),
        (
            [MOVED, {**MOVED, "name": "k", "metric": "kid"}],
            [{**FINE, "expect": [{"rule": "k", "fired": 1000}]}],
            ["tests[0].expect[0].rule: k looks at kid, of which this test has no series"],
        ),
        (
            [MOVED],
            [{**FINE, "expect": [{"rule": "fid-moved", "fired": 1500, "resolved": "nevr"}]}],
            ["tests[0].expect[0].resolved: must be a step, or never"],
        ),
        (
            [MOVED],
            [{**FINE, "expect": [{"rule": "fid-moved", "fired": 9000}]}],
            ["tests[0].expect[0].fired: there is no evaluation at step 9000; the nearest is at 5000"],
        ),
        (
            [DEAD],
            [{**FINE, "states": [{"rule": "dead", "step": 1000, "state": "firing"}]}],
            ["tests[0].states[0].rule: dead looks at time and has no state at a step; use expect"],
        ),
    ],
)
def test_a_file_that_is_wrong_says_where_and_what(tmp_path, monkeypatch, rules, tests, lines):
    monkeypatch.chdir(tmp_path)
    document = {"tests": tests} if rules is None else {"rules": rules, "tests": tests}
    Path("tests.yaml").write_text(yaml.safe_dump(document))
    result = said("tests.yaml")
    assert (result.exit_code, result.stdout) == (78, "")
    found = result.stderr.splitlines()
    assert len(found) == len(lines), found
    for line, start in zip(found, lines, strict=True):
        assert line.startswith(f"metricwatch: tests.yaml: {start}")


def test_files_that_are_not_there_or_hold_something_else_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("list.yaml").write_text("[1]")
    Path("latin.yaml").write_bytes(b"a: \xff")
    Path("norules.yaml").write_text("rule: []")
    Path("ref.yaml").write_text("rules: norules.yaml\ntests: []")
    Path("gone.yaml").write_text("rules: nowhere.yaml\ntests: []")
    os.mkdir("folder.yaml")
    result = said("list.yaml", "latin.yaml", "ref.yaml", "gone.yaml", "folder.yaml", "none.yaml")
    assert result.exit_code == 78
    assert result.stderr.splitlines() == [
        "metricwatch: list.yaml: must be a mapping with rules: and tests:",
        "metricwatch: latin.yaml: not UTF-8 text; save the file as UTF-8",
        "metricwatch: ref.yaml: rules: norules.yaml: holds no rules; did you mean rules: instead of rule: ?",
        "metricwatch: gone.yaml: rules: nowhere.yaml: no such file",
        "metricwatch: folder.yaml: cannot be read: Is a directory",
        "metricwatch: none.yaml: no such file",
    ]
