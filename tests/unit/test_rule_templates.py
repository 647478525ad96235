"""The templates of messages: what is refused when the file is read, and what fails when they are filled in."""

from __future__ import annotations

import pytest

from metricwatch.config.templates import MOST_CHARACTERS, VARIABLES, check_template, render
from metricwatch.errors import ConfigError
from metricwatch.testing import samples


def test_a_template_is_filled_in():
    alert = samples.alert()
    template = "{{ metric }} of {{ run }}: {{ '%.1f' | format(alert.change * 100) }}%{% if labels.team %} @x{% endif %}"
    variables = {"metric": "fid", "run": "night", "alert": alert, "labels": {"team": "x"}}
    check_template(template)
    assert render(template, variables) == "fid of night: 17.0% @x"


@pytest.mark.parametrize("name", VARIABLES)
def test_every_variable_may_be_named(name):
    check_template(f"{{{{ {name} }}}}")


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ metric", "not a template: line 1: unexpected end of template, expected 'end of print statement'"),
        ("a\n{% if x %}", "not a template: line 2: "),
        ("{{ metrc }}", "unknown variable 'metrc'; did you mean 'metric'?"),
        ("{{ zebra }}", "unknown variable 'zebra'; known: alert, change, direction, "),
        ("{{ metric | uper }}", "not a template: line 1: No filter named 'uper'"),
        ("{% include 'x' %}", "a message's template stands alone"),
        ("{{ (" * 5000, "not a template: "),
        ("{{ title | center(300000000) }}", "the filter center is not for messages: it can make a text of any length"),
        ("{{ [1] | batch(30000000, 'x') | list }}", "the filter batch "),
        ("{{ text | indent(300000000, true) }}", "the filter indent "),
        ("{{ text | replace('t', text) }}", "the filter replace "),
        ("{{ '{:>300000000}'.format(1) }}", "the method format is not for messages"),
        ("{{ title.ljust(300000000) }}", "the method ljust "),
        ("{{ title['zfill'](300000000) }}", "the method zfill "),
        ("{% set n = namespace(x='x') %}{% set n.x = n.x ~ n.x %}", "namespace is not for messages"),
        ("{% macro f(x) %}{{ f(x ~ x) }}{% endmacro %}{{ f(title) }}", "what calls itself (macro, call, recursive) "),
        ("{% for x in window recursive %}{{ loop(window) }}{% endfor %}", "what calls itself "),
    ],
)
def test_what_cannot_be_understood_is_refused(template, words):
    with pytest.raises(ValueError) as caught:
        check_template(template)
    assert str(caught.value).startswith(words)


def test_a_label_may_be_called_like_a_method_of_a_text():
    check_template("{{ labels.format }}{{ labels['replace'] }}")
    assert render("{{ labels.format }}", {"labels": {"format": "png"}}) == "png"


def test_checking_runs_nothing():
    check_template("{{ 1 / 0 }}{{ 'a' * 10 ** 9 }}")


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ 1 / 0 }}", "the template failed: division by zero"),
        ("{{ alert.colour }}", "no attribute 'colour'"),
        ("{{ value }}", "'value' is undefined"),
        ("{{ alert.__class__.__mro__ }}", "unsafe"),
        ("{{ 'a' * 10 ** 9 }}", "for two numbers of ordinary size"),
        ("{{ 10 ** (10 ** 9) }}", "for two numbers of ordinary size"),
        ("{{ '%1000000000d' % 1 }}", "for two numbers of ordinary size"),
        ("{{ (9 ** 999) ** 999 }}", "for two numbers of ordinary size"),
        ("{{ (2 ** 900) * (2 ** 900) * (2 ** 900) * (2 ** 900) * (2 ** 900) }}", "for two numbers of ordinary size"),
        ("{{ '%0300000000d' | format(1) }}", "widths and precisions of at most 2 digits"),
        ("{{ '%.*f' | format(300000000, 1.0) }}", "widths and precisions of at most 2 digits"),
        ("{{ 'x' | attr('center')(300000000) }}", "unsafe"),
        ("{{ ['x'] | map('center', 300000000) | list }}", "No filter named 'center'"),
        ("{% for i in range(100000) %}xx{% endfor %}", f"more than {MOST_CHARACTERS} characters"),
    ],
)
def test_what_fails_is_an_error_that_says_why(template, words):
    with pytest.raises(ConfigError) as caught:
        render(template, {"alert": samples.alert()})
    assert words in str(caught.value)


def test_as_long_as_allowed_is_not_too_long():
    assert len(render("{{ title }}", {"title": "x" * MOST_CHARACTERS})) == MOST_CHARACTERS


def test_no_address_is_repeated():
    with pytest.raises(ConfigError) as caught:
        render("{{ labels['https://hooks.example.org/T/secret'] }}", {"labels": {}})
    assert "secret" not in str(caught.value)
