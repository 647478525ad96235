"""What a rule says otherwise for some runs."""

from __future__ import annotations

import pytest

from metricwatch.config import load_config
from metricwatch.errors import ConfigError

GOOD = """
tracking: {uri: "http://mlflow:5000"}
watch:
  - {run: {name: night-1}, samples: a/*}
  - {run: {name: night-2}, samples: b/*}
  - {run: {id_file: runs/tuned/mlflow_run_id}, samples: c/*}
  - {run: {id: 0a1b2c3d}, samples: d/*}
metrics: [fid]
"""
MOVES = "name: a, metric: fid, moves: 10%, across: 5, for: 2, labels: {team: x}"


@pytest.fixture
def read(tmp_path, monkeypatch):
    """The one rule of a file."""
    monkeypatch.chdir(tmp_path)

    def read(rule, text=GOOD, **environ):
        (tmp_path / "metricwatch.yaml").write_text(f"{text}rules: [{{{rule}}}]\n")
        return load_config(environ=environ).rules[0]

    return read


@pytest.fixture
def refused(read):
    def refused(rule, text=GOOD):
        with pytest.raises(ConfigError) as caught:
            read(rule, text)
        return [line.removeprefix("metricwatch.yaml: rules[0]") for line in str(caught.value).splitlines()]

    return refused


def test_a_run_that_no_pattern_matches_has_the_rule_as_it_is(read):
    rule = read(f"{MOVES}, runs: {{night-1: off}}")
    assert rule.for_run("night-2") is rule
    assert read(MOVES).for_run("anything") is not None


def test_an_override_replaces_the_keys_it_says_and_no_others(read):
    rule = read(f"{MOVES}, runs: {{night-*: {{moves: 20%, for: 3, labels: {{shift: late}}, severity: warning}}}}")
    other = rule.for_run("night-2")
    assert (other.name, other.metric, other.across) == ("a", "fid", 5)
    assert (other.moves, other.in_a_row, other.labels, other.severity) == (0.2, 3, {"shift": "late"}, "warning")
    assert (rule.moves, rule.in_a_row, rule.labels) == (0.1, 2, {"team": "x"})
    assert other.for_run("night-2") is other


def test_the_first_pattern_that_matches_counts(read):
    rule = read(f"{MOVES}, runs: {{night-1: {{across: 3}}, 'night-*': off, '*': {{across: 9}}}}")
    assert [rule.for_run(name) and rule.for_run(name).across for name in ("night-1", "night-2", "tuned")] == [
        3,
        None,
        9,
    ]


def test_off_may_be_written_in_quotes(read):
    assert read(f"{MOVES}, runs: {{night-1: 'off'}}").for_run("night-1") is None


def test_runs_are_named_as_everywhere_else(read):
    """By the folder of their id file, by their id, and by the job's own variable."""
    rule = read(f"{MOVES}, runs: {{tuned: off, 0a1b*: off}}")
    assert rule.for_run("tuned") is None
    assert rule.for_run("0a1b2c3d") is None
    text = GOOD + ""
    exported = text.replace("  - {run: {id: 0a1b2c3d}, samples: d/*}\n", "  - {samples: d/*}\n")
    assert read(f"{MOVES}, runs: {{ff00: off}}", exported, MLFLOW_RUN_ID="ff00").for_run("ff00") is None


def test_every_kind_has_them(read):
    for keys in ("metric: fid, above: 3", "metric: fid, z_score: 5", "stale: 2h", "metric: fid, nonfinite: true"):
        rule = read(f"name: a, {keys}, runs: {{night-1: off, tuned: {{severity: info}}}}")
        assert rule.for_run("night-1") is None
        assert (rule.for_run("tuned").severity, rule.for_run("tuned").kind) == ("info", rule.kind)


@pytest.mark.parametrize(
    ("runs", "lines"),
    [
        ("{nihgt-1: off}", [".runs.nihgt-1: matches no run: did you mean 'night-1'?"]),
        ("{zebra: off}", [".runs.zebra: matches no run: known: 0a1b2c3d, night-1, night-2, tuned"]),
        (
            "{night-*: off, night-1: {across: 3}}",
            [".runs.night-1: never counts: 'night-*' before it matches the same runs, and the first match wins"],
        ),
        ("{night-1: {across: 1}}", [".runs.night-1.across: must be at least 2"]),
        (
            "{night-1: {across: five, moves: -1}}",
            [".runs.night-1.moves: must be greater than 0", ".runs.night-1.across: must be a whole number"],
        ),
        ("{night-1: {acros: 3}}", [".runs.night-1.acros: unknown key; did you mean 'across'?"]),
        (
            "{night-1: {name: b}}",
            [".runs.night-1.name: is the same for all runs; write a rule of its own for what differs in it"],
        ),
        (
            "{night-1: {metric: kid, runs: {}}}",
            [
                ".runs.night-1.metric: is the same for all runs; write a rule of its own for what differs in it",
                ".runs.night-1.runs: is the same for all runs; write a rule of its own for what differs in it",
            ],
        ),
        (
            "{night-1: {above: 3}}",
            [".runs.night-1.above: would make it a rule of another kind; write a rule of its own"],
        ),
        (
            "{night-1: {message: {title: '{{ metrc }}'}}}",
            [".runs.night-1.message.title: unknown variable 'metrc'; did you mean 'metric'?"],
        ),
        (
            "{night-1: {labels: {team: 3}}}",
            [
                ".runs.night-1.labels.team: must be text; put quotes around it if it looks like a number, a date or yes/no"
            ],
        ),
        ("{night-1: 3}", [".runs.night-1: must be off, or a mapping of the keys that differ"]),
        ("{night-1: }", [".runs.night-1: must be off, or a mapping of the keys that differ"]),
        ("[night-1]", [".runs: must be a mapping of keys to values"]),
    ],
)
def test_a_bad_override_is_answered_at_its_key(refused, runs, lines):
    assert refused(f"{MOVES}, runs: {runs}") == lines


def test_a_pattern_is_not_blamed_for_a_run_that_cannot_be_told(refused):
    lines = refused(f"{MOVES}, runs: {{zebra: off}}", GOOD.replace("{name: night-1}", "{nme: night-1}"))
    assert not [line for line in lines if "zebra" in line]


def test_whatever_else_is_wrong_with_an_entry_rules_may_name_its_run(refused):
    lines = refused(f"{MOVES}, runs: {{night-1: off}}", GOOD.replace("samples: a/*", "samples: a/*, every: 0"))
    assert lines == ["metricwatch.yaml: watch[0].every: must be at least 1"]
