"""Matchers as Alertmanager and amtool write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metricwatch.config.matchers import Matcher, all_match, contradiction, parse_matcher, parse_matchers


@pytest.mark.parametrize(
    ("text", "label", "operator", "value"),
    [
        ("severity=critical", "severity", "=", "critical"),
        ('severity="critical"', "severity", "=", "critical"),
        (' run =~ "debug-.*" ', "run", "=~", "debug-.*"),
        ("run=~debug-.*", "run", "=~", "debug-.*"),
        ("run!=night run", "run", "!=", "night run"),
        ("run!~a|b", "run", "!~", "a|b"),
        ("run=", "run", "=", ""),
        ('run=""', "run", "=", ""),
        ("run=a=b", "run", "=", "a=b"),
        ("run=~a{1,2}", "run", "=~", "a{1,2}"),
        (r'run="a \"b\" \\ c"', "run", "=", r'a "b" \ c'),
        (r'run=~"step\d+"', "run", "=~", r"step\d+"),
        ("run=größe ✓", "run", "=", "größe ✓"),
    ],
)
def test_it_is_read_as_amtool_reads_it(text, label, operator, value):
    assert parse_matcher(text) == Matcher(label, operator, value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "at character 1: the name of a label must stand here; write for example severity=critical"),
        ("=x", "at character 1: the name of a label"),
        ("my-label=x", "at character 3: one of = != =~ !~ must follow"),
        ("severity", "at character 9: one of = != =~ !~ must follow"),
        ("severity>x", "at character 9: one of"),
        ('run="a', "at character 5: the quote that opens here is never closed"),
        ('run="a"b', "at character 8: nothing may follow the closing quote"),
        ('run=a"b', "at character 6: a quote in the middle of a value"),
        ("run=a, severity=critical", "at character 6: a second matcher begins"),
        ("run=~(", "at character 6: not a regular expression: missing )"),
        ('run!~"["', "at character 6: not a regular expression"),
    ],
)
def test_what_cannot_be_read_is_answered_with_its_place(text, said):
    with pytest.raises(ValueError) as raised:
        parse_matcher(text)
    assert str(raised.value).startswith(said)


def test_the_error_does_not_repeat_the_value():
    with pytest.raises(ValueError) as raised:
        parse_matcher('run="https://hooks.example.org/secret')
    assert "secret" not in str(raised.value)


@given(st.text(), st.sampled_from(["=", "!="]))
def test_what_it_shows_is_read_as_the_same(value, operator):
    matcher = Matcher("run", operator, value)
    if "\n" in str(matcher) or "\\u" in str(matcher) or any(ord(c) < 32 or ord(c) == 127 for c in value):
        return
    assert parse_matcher(str(matcher)) == matcher


@pytest.mark.parametrize(
    ("text", "labels", "holds"),
    [
        ("run=a", {"run": "a"}, True),
        ("run=a", {"run": "ab"}, False),
        ("run!=a", {"run": "ab"}, True),
        # Anchored on both sides, alternatives too.
        ("run=~a", {"run": "ab"}, False),
        ("run=~a|b", {"run": "ab"}, False),
        ("run=~a.*", {"run": "ab"}, True),
        ("run!~a.*", {"run": "ab"}, False),
        # A label that is missing is empty.
        ("team=", {}, True),
        ("team!=vision", {}, True),
        ("team=~.*", {}, True),
        ("team=~.+", {}, False),
    ],
)
def test_it_holds_as_in_alertmanager(text, labels, holds):
    assert parse_matcher(text).matches(labels) is holds


def test_all_must_hold():
    matchers = parse_matchers(["run=a", "severity=critical"])
    assert all_match(matchers, {"run": "a", "severity": "critical"})
    assert not all_match(matchers, {"run": "a", "severity": "info"})
    assert all_match((), {"run": "a"})


@pytest.mark.parametrize(
    "expression",
    [
        "(a+)+",
        "(?:a*)*b",
        "(a{2,})+",
        "(a|ab)*",
        "((a?b)c){2,}",
        "(aa?)*",
        "(x(a+)y)+",
        "(?P<n>[^]+)]+)*",
        "([a-z]+-){9}",
        "(a{,3})*",
    ],
)
def test_an_expression_that_may_take_for_ever_is_refused(expression):
    with pytest.raises(ValueError, match="at character 6: a repeated group that holds a repeat or alternatives"):
        parse_matcher(f"run=~{expression}")


@pytest.mark.parametrize("expression", ["a" * 501, "(?x)(a+) +", "(a+)(?#x)+"])
def test_an_expression_that_is_long_or_hides_what_it_repeats_is_refused(expression):
    with pytest.raises(ValueError, match=r"characters; at most 500 are taken|neither comments nor the flag x"):
        parse_matcher(f"run=~{expression}")


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        (r"debug-.*-v\d+", "debug-a-v12"),
        (r"(\d{4}-)+x", "2026-2027-x"),
        ("(a|b)?c{2,3}", "bcc"),
        (r"(ab)+\(+", "abab(("),
        ("(a+)?b", "aab"),
        ("[(]+(x)*", "((xx"),
        ("(a{})+", "a{}a{}"),
        ("(?i:NIGHT)-.*", "night-1"),
    ],
)
def test_an_expression_that_ends_soon_is_taken(expression, value):
    assert parse_matcher(f"run=~{expression}").holds(value)


def test_an_expression_sees_only_the_beginning_of_a_very_long_value():
    assert parse_matcher("run=~a{300}").holds("a" * 300 + "b")


@pytest.mark.parametrize(
    ("texts", "never"),
    [
        (["run=a", "run=b"], True),
        (["run=a", "run!=a"], True),
        (["run=~b.*", "run=a"], True),
        (["run!~a.*", "run=a"], True),
        (["run=a", "run=a"], False),
        (["run=a", "run=~a.*"], False),
        (["run=a", "metric=b"], False),
        (["run=~a", "run=~b"], False),
    ],
)
def test_two_that_plainly_never_hold_together_are_found(texts, never):
    assert (contradiction(parse_matchers(texts)) is not None) is never
