"""Who hears of an alert, how often and with what: functions of the configuration alone."""

from __future__ import annotations

from datetime import timedelta

import pytest

from metricwatch.alerts.routing import group_of, labels_of, receivers_of, repeat_interval_of
from metricwatch.config.routing import Route, Routing
from metricwatch.config.rules import MovesRule
from metricwatch.testing import samples

EVERYBODY = ("team", "mail", "pager")


def route(*match, **settings):
    return Route.model_validate({"match": list(match), **settings})


def heard(routing, rule=None, **labels):
    return receivers_of(routing, rule, labels, EVERYBODY)


@pytest.mark.parametrize(
    ("routes", "labels", "receivers"),
    [
        ((), {}, EVERYBODY),
        ((route("severity=critical", receivers=["pager"]),), {"severity": "critical"}, ("pager",)),
        ((route("severity=critical", receivers=["pager"]),), {"severity": "info"}, EVERYBODY),
        ((route(receivers=[]),), {}, ()),
        ((route("run=a"),), {"run": "a"}, EVERYBODY),
        # The first that matches is the last.
        ((route("run=a", receivers=["mail"]), route("run=~.*", receivers=["team"])), {"run": "a"}, ("mail",)),
        (
            (route("run=a", receivers=["mail"], **{"continue": True}), route(receivers=["team", "mail"])),
            {"run": "a"},
            ("mail", "team"),
        ),
        ((route("run=a", receivers=["mail"], **{"continue": True}),), {"run": "a"}, ("mail",)),
    ],
)
def test_the_first_route_that_matches_says_who_hears(routes, labels, receivers):
    assert heard(Routing(routes=routes), **labels) == receivers


def test_outside_of_routes_are_the_receivers_of_the_routing():
    routing = Routing(receivers=("mail",), routes=(route("run=a"),))
    assert heard(routing, run="b") == ("mail",)
    assert heard(routing, run="a") == ("mail",)


def test_the_receivers_of_a_rule_come_before_every_route():
    routing = Routing(routes=(route(receivers=["mail"]),))
    rule = MovesRule(name="r", metric="fid", moves=0.1, across=5, receivers=("pager", "pager"))
    assert heard(routing, rule) == ("pager",)
    assert heard(routing, rule.model_copy(update={"receivers": ()})) == ()


def test_a_receiver_is_reminded_as_the_route_to_it_says():
    routes = (
        route("run=a", receivers=["mail"], repeat_interval="1d", **{"continue": True}),
        route("run=a", receivers=["team"], repeat_interval="1h"),
    )
    routing = Routing(routes=routes)
    asked = {name: repeat_interval_of(routing, {"run": "a"}, name) for name in ("mail", "team")}
    assert asked == {"mail": timedelta(days=1), "team": timedelta(hours=1)}
    assert repeat_interval_of(routing, {"run": "b"}, "mail") == timedelta(hours=4)


def test_a_group_is_the_labels_that_its_alerts_share():
    labels = {"run": "a", "severity": "info", "alertname": "x"}
    assert group_of(Routing(), labels) == {"run": "a"}
    assert group_of(Routing(group_by=("run", "team")), labels) == {"run": "a", "team": ""}
    assert group_of(Routing(group_by=()), labels) == {}
    assert group_of(Routing(group_by=("...",)), labels) == labels


def test_the_labels_of_an_alert_are_its_facts_and_its_rules_own():
    from dataclasses import replace

    alert = replace(samples.alert(), labels={"team": "vision", "run": "hidden"})
    assert labels_of(alert, "night") == {
        "alertname": "fid-moved",
        "run": "night",
        "metric": "fid",
        "severity": "critical",
        "direction": "worse",
        "kind": "moves",
        "team": "vision",
    }
