"""Who hears of an alert, how often, and together with which others. Pure functions of the configuration."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import timedelta

from metricwatch.config.matchers import all_match
from metricwatch.config.routing import ALONE, Route, Routing
from metricwatch.config.rules import Rule
from metricwatch.records import Alert


def labels_of(alert: Alert, run_name: str) -> dict[str, str]:
    """What routes and silences go by: the rule's own labels, and those that every alert has."""
    return {
        **alert.labels,
        "alertname": alert.rule,
        "run": run_name,
        "metric": alert.metric,
        "severity": alert.severity,
        "direction": alert.direction,
        "kind": alert.kind,
    }


def receivers_of(
    routing: Routing, rule: Rule | None, labels: Mapping[str, str], everybody: Collection[str]
) -> tuple[str, ...]:
    """Those who hear of an alert with these labels, each once. rule is the one for its run, None where it is gone.

    The receivers that a rule names come before every route. everybody is all of notify.
    """
    if rule is not None and rule.receivers is not None:
        return tuple(dict.fromkeys(rule.receivers))
    outside = tuple(everybody) if routing.receivers is None else routing.receivers
    routes = list(_matching(routing, labels))
    if not routes:
        return tuple(dict.fromkeys(outside))
    return tuple(
        dict.fromkeys(name for route in routes for name in (outside if route.receivers is None else route.receivers))
    )


def repeat_interval_of(routing: Routing, labels: Mapping[str, str], receiver: str) -> timedelta:
    """After how long a receiver is reminded of an alert with these labels: as the first route to it says."""
    routes = list(_matching(routing, labels))
    naming = [route for route in routes if receiver in (route.receivers or ())]
    unnamed = [route for route in routes if route.receivers is None]
    # A receiver that only the rule names goes by the routes that the alert takes all the same.
    for route in (*naming, *unnamed, *routes):
        if route.repeat_interval is not None:
            return route.repeat_interval
    return routing.repeat_interval


def group_of(routing: Routing, labels: Mapping[str, str]) -> dict[str, str]:
    """The labels that an alert shares with all others of its messages."""
    if ALONE in routing.group_by:
        return dict(labels)
    return {label: labels.get(label, "") for label in routing.group_by}


def _matching(routing: Routing, labels: Mapping[str, str]) -> Iterator[Route]:
    for route in routing.routes:
        if all_match(route.matchers, labels):
            yield route
            if not route.go_on:
                return
