"""Why an alert is not told for now: a silence, another alert, or the hour. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from metricwatch.config.matchers import all_match, parse_matchers
from metricwatch.config.routing import DAYS, Inhibition, QuietHours
from metricwatch.store.silences import Silence
from metricwatch.store.told import Subject


def silenced_by(silences: Sequence[Silence], labels: Mapping[str, str]) -> str:
    """The silence that covers these labels, in words; "" where none does."""
    for silence in silences:
        if silence.covers(labels):
            return f"silence {silence.id} of {silence.author}: {silence.comment}"
    return ""


def inhibited_by(inhibitions: Sequence[Inhibition], subject: Subject, firing: Sequence[Subject]) -> str:
    """The alert that makes this one no news while it fires, in words; "" where none does.

    As in Alertmanager: an alert never stands behind itself, nor behind one that would stand behind it in turn.
    """
    labels = subject.labels
    for inhibition in inhibitions:
        source, target = parse_matchers(inhibition.source), parse_matchers(inhibition.target)
        if not all_match(target, labels):
            continue
        # Also true of itself, where it matches both.
        both_ways = all_match(source, labels)
        for other in firing:
            if (
                all_match(source, other.labels)
                and not (both_ways and all_match(target, other.labels))
                and all(labels.get(name, "") == other.labels.get(name, "") for name in inhibition.equal)
            ):
                return f"inhibited: {other.rule} of {other.labels['run']} fires"
    return ""


def quiet_until(
    hours: Sequence[QuietHours], receiver: str, labels: Mapping[str, str], now: datetime
) -> datetime | None:
    """When the quiet hours end in which this receiver is not told of such an alert; None outside of them."""
    ends = [
        end
        for quiet in hours
        if (quiet.receivers is None or receiver in quiet.receivers)
        and not (quiet.but and all_match(parse_matchers(quiet.but), labels))
        for begin, end in _spans(quiet, now)
        if begin <= now < end
    ]
    return max(ends, default=None)


def quiet_words(until: datetime) -> str:
    """Why it is held, for people."""
    return f"quiet hours until {until:%Y-%m-%d %H:%M %Z}"


def _spans(quiet: QuietHours, now: datetime) -> Iterator[tuple[datetime, datetime]]:
    """The quiet hours that began today or yesterday, by the clock on the wall there."""
    zone = ZoneInfo(quiet.timezone)
    today = now.astimezone(zone).date()
    for day in (today - timedelta(days=1), today):
        if DAYS[day.weekday()] in quiet.days:
            last = day if quiet.start < quiet.end else day + timedelta(days=1)
            yield datetime.combine(day, quiet.start, zone), datetime.combine(last, quiet.end, zone)
