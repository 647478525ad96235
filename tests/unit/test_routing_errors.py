"""A bad route, inhibition or time of quiet is answered at its key, with what would be right."""

from __future__ import annotations

from datetime import time, timedelta

import pytest

from metricwatch.config.loader import load_config
from metricwatch.errors import ConfigError

BASE = """
tracking: {uri: "http://mlflow:5000"}
watch: [{run: {name: a}, samples: a/*}]
metrics: [fid]
rules: [{name: moved, metric: fid, moves: 10%, across: 5, labels: {team: vision}}]
notify:
  team: {use: slack, webhook_url: "http://127.0.0.1:9/x"}
  mail: {use: slack, webhook_url: "http://127.0.0.1:9/y"}
"""


@pytest.fixture
def problems(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def read(text):
        (tmp_path / "metricwatch.yaml").write_text(BASE + text)
        with pytest.raises(ConfigError) as raised:
            load_config(environ={})
        return str(raised.value).replace("metricwatch.yaml: ", "").splitlines()

    return read


@pytest.fixture
def read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def load(text):
        (tmp_path / "metricwatch.yaml").write_text(BASE + text)
        return load_config(environ={})

    return load


@pytest.mark.parametrize(
    ("route", "line"),
    [
        ("{receivers: [tema]}", "route.receivers[0]: unknown receiver 'tema'; did you mean 'team'?"),
        ("{fallback: mial}", "route.fallback: unknown receiver 'mial'; did you mean 'mail'?"),
        ("{receivers: [team], fallback: team}", "route.fallback: is the only receiver: there is nobody whose"),
        ("{group_by: [rnu]}", "route.group_by: no alert has a label 'rnu'; did you mean 'run'?"),
        ("{group_by: [run, run]}", "route.group_by: 'run' is listed twice"),
        ("{group_by: ['...', run]}", "route.group_by: '...' makes every alert a group of its own"),
        ("{repeat_interval: 10s}", "route.repeat_interval: must be at least group_interval, which is 60s"),
        ("{group_interval: 5h}", "route.repeat_interval: must be at least group_interval, which is 18000s"),
        (
            "{routes: [{repeat_interval: 10s}]}",
            "route.routes: the repeat_interval of routes[0] must be at least group_interval",
        ),
        ("{routes: [{receivers: [x]}]}", "route.routes[0].receivers[0]: unknown receiver 'x'; known: mail, team"),
        ("{routes: [{match: [severty=info]}]}", "route.routes[0].match[0]: no alert has a label 'severty'; did you"),
        ("{routes: [{match: [severity=crit]}]}", "route.routes[0].match[0]: no alert has the severity 'crit'; "),
        (
            "{routes: [{match: ['severity=~page|crit']}]}",
            "route.routes[0].match[0]: no alert has a severity that 'page|crit' matches; ",
        ),
        ("{routes: [{match: [severity==info]}]}", "route.routes[0].match[0]: at character 10: one = is enough"),
        ("{routes: [{match: ['run=~(']}]}", "route.routes[0].match[0]: at character 6: not a regular expression"),
        (
            "{routes: [{match: ['run=~(a+)+']}]}",
            "route.routes[0].match[0]: at character 6: a repeated group that holds a repeat or alternatives",
        ),
        ("{routes: [{match: [run]}]}", "route.routes[0].match[0]: at character 4: one of = != =~ !~ must follow"),
        ("{routes: [{mach: [run=a]}]}", "route.routes[0].mach: unknown key; did you mean 'match'?"),
        (
            "{routes: [{match: [run=a, run=b]}]}",
            'route.routes[0].match: run="a" and run="b" can never both hold: no alert would match',
        ),
        (
            "{routes: [{receivers: []}, {match: [run=a]}]}",
            "route.routes[1]: can never be reached: an earlier route without match takes all that this one would",
        ),
        (
            "{routes: [{match: [run=a, team=vision]}, {match: ['team=\"vision\"', run=a]}]}",
            'route.routes[1]: can never be reached: an earlier route with run="a" and team="vision" takes all',
        ),
        (
            "{routes: [{match: [run=a]}, {match: [run=a, severity=info]}]}",
            "route.routes[1]: can never be reached: an earlier route with run=",
        ),
    ],
)
def test_a_bad_route_is_answered_at_its_key(problems, route, line):
    (found,) = problems(f"route: {route}")
    assert found.startswith(line)


@pytest.mark.parametrize(
    "route",
    [
        "{routes: [{match: [run=a], continue: true}, {match: [run=a]}]}",
        "{routes: [{match: [run=a, severity=info]}, {match: [run=a]}, {}]}",
        "{routes: [{match: [team=vision], receivers: []}], fallback: mail}",
        "{group_by: ['...']}",
        "{group_by: []}",
        "{receivers: [team], fallback: mail, group_wait: 0s}",
    ],
)
def test_routes_that_can_work_are_taken(read, route):
    assert read(f"route: {route}").route


@pytest.mark.parametrize(
    ("inhibit", "line"),
    [
        ("[{source: [kind=stale], target: [kind=stale]}]", "inhibit[0]: source and target are the same"),
        ("[{source: [], target: [kind=stale]}]", "inhibit[0].source: must have at least one item"),
        ("[{source: [kind=stale]}]", "inhibit[0].target: required, but not given"),
        (
            "[{source: [kind=stale], target: [run=a], equal: [rum]}]",
            "inhibit[0].equal[0]: no alert has a label 'rum'; did you mean 'run'?",
        ),
        ("[{source: [run=a, run=b], target: [run=a]}]", "inhibit[0].source: run="),
        (
            "[{source: [kind=stael], target: [run=a]}]",
            "inhibit[0].source[0]: no alert has the kind 'stael'; did you mean",
        ),
    ],
)
def test_a_bad_inhibition_is_answered_at_its_key(problems, inhibit, line):
    (found,) = problems(f"inhibit: {inhibit}")
    assert found.startswith(line)


@pytest.mark.parametrize(
    ("hours", "line"),
    [
        ('{from: "22:00", to: "22:00"}', "quiet_hours[0].to: is the same as from: no time at all, or all of it"),
        ('{from: "22:00", to: "25:00"}', "quiet_hours[0].to: there is no such time of day"),
        ('{from: 22, to: "07:00"}', 'quiet_hours[0].from: must be a time of day such as "22:00"'),
        ('{from: "22:00"}', "quiet_hours[0].to: required, but not given"),
        ('{from: "22:00", to: "07:00", timezone: Berlin}', "quiet_hours[0].timezone: unknown timezone 'Berlin'; did"),
        (
            '{from: "22:00", to: "07:00", timezone: Europe/Berlni}',
            "quiet_hours[0].timezone: unknown timezone 'Europe/Berlni'; did you mean 'Europe/Berlin'?",
        ),
        ('{from: "22:00", to: "07:00", days: [mnd]}', "quiet_hours[0].days[0]: must be 'mon', 'tue', 'wed', 'thu'"),
        ('{from: "22:00", to: "07:00", days: []}', "quiet_hours[0].days: must have at least one item"),
        ('{from: "22:00", to: "07:00", except: [a=b]}', "quiet_hours[0].except[0]: no alert has a label 'a'; known"),
        ('{from: "22:00", to: "07:00", receivers: [x]}', "quiet_hours[0].receivers[0]: unknown receiver 'x'"),
    ],
)
def test_bad_quiet_hours_are_answered_at_their_key(problems, hours, line):
    (found,) = problems(f"quiet_hours: [{hours}]")
    assert found.startswith(line)


def test_a_time_of_day_needs_no_quotes(read):
    """YAML reads 22:30 as a number to the base of 60."""
    (hours,) = read("quiet_hours: [{from: 22:30, to: 07:00}]").quiet_hours
    assert (hours.start, hours.end) == (time(22, 30), time(7))
    assert read("quiet_hours: [{from: 12:00, to: 24:00}]").quiet_hours[0].end == time(0)


def test_without_a_word_a_dead_job_silences_its_metrics_and_reminders_come_every_four_hours(read):
    config = read("")
    assert [(i.source, i.target, i.equal) for i in config.inhibit] == [
        (('kind="stale"', 'metric=""'), ('kind!="stale"',), ("run",)),
        (('kind="stale"',), ('kind!="stale"',), ("run", "metric")),
    ]
    assert (config.route.group_by, config.route.repeat_interval) == (("run",), timedelta(hours=4))


def test_a_secret_in_the_wrong_place_is_not_repeated(problems):
    address = "https://hooks.example.org/services/T/B/secret"
    lines = problems(f"route: {{receivers: ['{address}'], routes: [{{match: ['run={address}', run=b]}}]}}")
    assert len(lines) == 2
    assert "secret" not in str(lines)
