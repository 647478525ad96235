"""Who hears of which alerts, and when: routes, inhibition, quiet hours."""

from __future__ import annotations

from datetime import time, timedelta
from typing import Literal

from pydantic import Field

from metricwatch.config.context import Section
from metricwatch.config.quantities import Duration, PositiveDuration

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


class Route(Section):
    """Alerts whose labels match all of match go to receivers, instead of to those of the route around it.

    The first route that matches is the last one asked, unless it says continue. receivers (): nobody.
    """

    match: tuple[str, ...] = ()
    receivers: tuple[str, ...] | None = None
    go_on: bool = Field(default=False, alias="continue")
    repeat_interval: PositiveDuration | None = None


class Routing(Section):
    """How alerts become messages. receivers None: all of notify."""

    receivers: tuple[str, ...] | None = None
    group_by: tuple[str, ...] = ("run",)
    group_wait: Duration = timedelta(seconds=5)
    group_interval: Duration = timedelta(minutes=1)
    repeat_interval: PositiveDuration = timedelta(hours=4)
    fallback: str | None = None
    routes: tuple[Route, ...] = ()


class Inhibition(Section):
    """While an alert that matches source fires, those that match target with equal labels are not told."""

    source: tuple[str, ...] = Field(min_length=1)
    target: tuple[str, ...] = Field(min_length=1)
    equal: tuple[str, ...] = ("run",)


# A job that is dead moves no metric: what its curves still say is no news.
STALE_SILENCES_METRICS = (Inhibition(source=('kind="stale"',), target=('kind!="stale"',)),)


class QuietHours(Section):
    """Between two times of day messages are held, and told as one when the time is over. but: those that are not held.

    receivers None: everybody's.
    """

    start: time = Field(alias="from")
    end: time = Field(alias="to")
    days: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    timezone: str = "UTC"
    but: tuple[str, ...] = Field(default=(), alias="except")
    receivers: tuple[str, ...] | None = None
