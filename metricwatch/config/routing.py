"""Who hears of which alerts, and when: routes, inhibition, quiet hours."""

from __future__ import annotations

import re
from datetime import time, timedelta
from functools import cached_property
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from metricwatch import catalog
from metricwatch.config.context import Section, context_of
from metricwatch.config.matchers import Matcher, MatcherText, contradiction, known_label, parse_matchers
from metricwatch.config.quantities import Duration, PositiveDuration
from metricwatch.config.secrets import may_hold_secret, quoted

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

# Instead of labels in group_by: every alert is a group of its own.
ALONE = "..."

_TIME = re.compile(r"(\d{1,2}):(\d{2})", re.ASCII)
_HOUR, _DAY = 60, 24 * 60


def _consistent(matchers: tuple[str, ...]) -> tuple[str, ...]:
    pair = contradiction(parse_matchers(matchers))
    if pair is not None:
        raise ValueError(f"{_shown(pair[0])} and {_shown(pair[1])} can never both hold: no alert would match")
    return matchers


def _shown(matcher: Matcher) -> str:
    return "(an address, not shown)" if may_hold_secret(matcher.value) else str(matcher)


def _known_receiver(name: str, info: ValidationInfo[Any]) -> str:
    known = context_of(info).receivers
    if known is not None and name not in known:
        shown = [other for other in known if not may_hold_secret(other)]
        hint = catalog.did_you_mean(name, shown) if shown else "notify names nobody yet"
        raise ValueError(f"unknown receiver {quoted(name)}; {hint}")
    return name


def _time_of_day(value: Any) -> time:
    if isinstance(value, time):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and _HOUR <= value <= _DAY:
        # What YAML 1.1 makes of 22:30 without quotes: a number to the base of 60.
        value = f"{value // _HOUR:02}:{value % _HOUR:02}"
    found = _TIME.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise ValueError('must be a time of day such as "22:00"')
    hour, minute = int(found[1]), int(found[2])
    if (hour, minute) == (24, 0):
        return time(0)
    if hour > 23 or minute > 59:  # noqa: PLR2004 - the clock's own
        raise ValueError('there is no such time of day; the last one is "23:59"')
    return time(hour, minute)


Matchers = Annotated[tuple[MatcherText, ...], AfterValidator(_consistent)]
Receiver = Annotated[str, AfterValidator(_known_receiver)]
Label = Annotated[str, AfterValidator(known_label)]
TimeOfDay = Annotated[time, BeforeValidator(_time_of_day)]


class Route(Section):
    """Alerts whose labels match all of match go to receivers, instead of to those of the routing around it.

    The first route that matches is the last one asked, unless it says continue. receivers (): nobody; None: those of
    the routing. repeat_interval None: that of the routing.
    """

    match: Matchers = ()
    receivers: tuple[Receiver, ...] | None = None
    go_on: bool = Field(default=False, alias="continue")
    repeat_interval: PositiveDuration | None = None

    @cached_property
    def matchers(self) -> tuple[Matcher, ...]:
        """What match means. Read once."""
        return parse_matchers(self.match)

    @model_validator(mode="after")
    def _reachable(self, info: ValidationInfo[Any]) -> Self:
        earlier = context_of(info).routes
        mine = set(self.matchers)
        for route in earlier:
            theirs = route.matchers
            if route.go_on or not mine.issuperset(theirs):
                continue
            how = f"with {' and '.join(map(_shown, theirs))} takes" if theirs else "without match takes"
            raise ValueError(
                f"can never be reached: an earlier route {how} all that this one would, and does not say "
                "`continue: true`; put this route before it"
            )
        earlier.append(self)
        return self


class Routing(Section):
    """How alerts become messages. receivers None: all of notify.

    Alerts of one receiver with equal values of the labels in group_by share their messages; group_by "...": none do.
    The first message waits group_wait, so that what belongs together comes together, the next one until group_interval
    after the one before. What still fires is told again after repeat_interval. fallback is who gets what another
    receiver has refused.
    """

    receivers: tuple[Receiver, ...] | None = None
    group_by: tuple[str, ...] = ("run",)
    group_wait: Duration = timedelta(seconds=5)
    group_interval: Duration = timedelta(minutes=1)
    repeat_interval: PositiveDuration = timedelta(hours=4)
    fallback: Receiver | None = None
    routes: tuple[Route, ...] = ()

    @field_validator("group_by")
    @classmethod
    def _known_labels(cls, labels: tuple[str, ...], info: ValidationInfo[Any]) -> tuple[str, ...]:
        if ALONE in labels:
            if len(labels) > 1:
                raise ValueError("'...' makes every alert a group of its own: no label can stand beside it")
            return labels
        for position, label in enumerate(labels):
            known_label(label, info)
            if label in labels[:position]:
                raise ValueError(f"{label!r} is listed twice")
        return labels

    @field_validator("repeat_interval")
    @classmethod
    def _no_shorter_than_a_groups(cls, repeat: timedelta, info: ValidationInfo[Any]) -> timedelta:
        interval = info.data.get("group_interval")
        if interval is not None and repeat < interval:
            raise ValueError(f"must be at least group_interval, which is {interval.total_seconds():g}s")
        return repeat

    @field_validator("fallback")
    @classmethod
    def _stands_in_for_somebody(cls, fallback: str | None, info: ValidationInfo[Any]) -> str | None:
        receivers = info.data.get("receivers") or context_of(info).receivers
        if fallback is not None and receivers is not None and set(receivers) == {fallback}:
            raise ValueError("is the only receiver: there is nobody whose messages it could take instead")
        return fallback

    @field_validator("routes")
    @classmethod
    def _reminders_fit(cls, routes: tuple[Route, ...], info: ValidationInfo[Any]) -> tuple[Route, ...]:
        interval = info.data.get("group_interval")
        for number, route in enumerate(routes):
            if interval is not None and route.repeat_interval is not None and route.repeat_interval < interval:
                raise ValueError(
                    f"the repeat_interval of routes[{number}] must be at least group_interval, "
                    f"which is {interval.total_seconds():g}s"
                )
        return routes


class Inhibition(Section):
    """While an alert that matches source fires, those that match target with equal labels are not told.

    An equal run is the run itself: two jobs may have one name.
    """

    source: Annotated[Matchers, Field(min_length=1)]
    target: Annotated[Matchers, Field(min_length=1)]
    equal: tuple[Label, ...] = ("run",)

    @cached_property
    def source_matchers(self) -> tuple[Matcher, ...]:
        """What source means. Read once."""
        return parse_matchers(self.source)

    @cached_property
    def target_matchers(self) -> tuple[Matcher, ...]:
        """What target means. Read once."""
        return parse_matchers(self.target)

    @model_validator(mode="after")
    def _two_kinds(self) -> Self:
        if set(self.source_matchers) == set(self.target_matchers):
            raise ValueError("source and target are the same: alerts of one kind would silence each other")
        return self


# A job that is dead moves no metric: what its curves still say is no news. A metric that is not scored any more says
# nothing of the others.
STALE_SILENCES_METRICS = (
    Inhibition(source=('kind="stale"', 'metric=""'), target=('kind!="stale"',)),
    Inhibition(source=('kind="stale"',), target=('kind!="stale"',), equal=("run", "metric")),
)


class QuietHours(Section):
    """Between two times of day messages are held, and told as one when the time is over. but: those that are not held.

    A time that ends before it begins ends on the day after; days are those on which it begins. receivers None:
    everybody's.
    """

    start: TimeOfDay = Field(alias="from")
    end: TimeOfDay = Field(alias="to")
    days: tuple[Day, ...] = Field(default=DAYS, min_length=1)
    timezone: str = "UTC"
    but: Matchers = Field(default=(), alias="except")
    receivers: tuple[Receiver, ...] | None = None

    @cached_property
    def exceptions(self) -> tuple[Matcher, ...]:
        """What except means. Read once."""
        return parse_matchers(self.but)

    @field_validator("end")
    @classmethod
    def _not_a_moment(cls, end: time, info: ValidationInfo[Any]) -> time:
        if end == info.data.get("start"):
            raise ValueError(
                "is the same as from: no time at all, or all of it; "
                "to tell a receiver nothing, leave it out of the route's receivers"
            )
        return end

    @field_validator("timezone")
    @classmethod
    def _known_timezone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            near = _nearest_timezone(name)
            hint = f"did you mean {near!r}?" if near else "write one such as UTC or Europe/Berlin"
            raise ValueError(f"unknown timezone {quoted(name)}; {hint}") from None
        return name


def _nearest_timezone(name: str) -> str | None:
    """By the whole name, else by the city: who writes Berlin means Europe/Berlin."""
    import difflib

    zones = sorted(available_timezones())
    wanted = name.strip().lower().replace(" ", "_")
    cities = {zone.rpartition("/")[2].lower(): zone for zone in reversed(zones)}
    whole = {zone.lower(): zone for zone in zones}
    for index in (whole, cities):
        if near := difflib.get_close_matches(wanted, index, n=1, cutoff=0.75):
            return index[near[0]]
    return None
