"""Why an alert is not told for now: a silence, another alert, or the hour. Nothing is read or written."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from metricwatch.config.matchers import all_match
from metricwatch.config.routing import DAYS, Inhibition, QuietHours
from metricwatch.store.silences import Silence
from metricwatch.store.told import Subject

# Days of the week repeat: what is not over by then never is.
_LONGEST_QUIET = timedelta(days=8)


def silenced_by(silences: Sequence[Silence], labels: Mapping[str, str]) -> str:
    """The silence that covers these labels, in words; "" where none does."""
    for silence in silences:
        if silence.covers(labels):
            return f"silence {silence.id} of {silence.author}: {silence.comment}"
    return ""


class Inhibiting:
    """Which of the alerts that fire at one moment make others no news.

    As in Alertmanager an alert never stands behind itself, nor behind one that would stand behind it in turn; here
    also not where that goes round over several: somebody is always told.
    """

    def __init__(self, inhibitions: Sequence[Inhibition], firing: Sequence[Subject]) -> None:
        self._inhibitions = inhibitions
        self._sources: list[dict[tuple[str, ...], list[Subject]]] = []
        for inhibition in inhibitions:
            sources: dict[tuple[str, ...], list[Subject]] = defaultdict(list)
            for subject in firing:
                if all_match(inhibition.source_matchers, subject.labels):
                    sources[_shared(inhibition, subject)].append(subject)
            self._sources.append(sources)
        # By alert: itself, and all that it stands behind, over however many.
        self._chains: dict[int, list[Subject]] = {}

    def reason(self, subject: Subject) -> str:
        """The alert that this one stands behind, in words; "" where there is none."""
        for other in self._before(subject):
            if not any(self._silences(subject, each) for each in self._chain(other)):
                return f"inhibited: {other.rule} of {other.labels['run']} fires"
        return ""

    def _before(self, subject: Subject) -> Iterator[Subject]:
        for inhibition, sources in zip(self._inhibitions, self._sources, strict=True):
            if sources and all_match(inhibition.target_matchers, subject.labels):
                yield from sources.get(_shared(inhibition, subject), ())

    def _chain(self, subject: Subject) -> list[Subject]:
        chain = self._chains.get(subject.id)
        if chain is None:
            found = {subject.id: subject}
            chain = self._chains[subject.id] = [subject]
            # It grows while it is read.
            for each in chain:
                for other in self._before(each):
                    if other.id not in found:
                        found[other.id] = other
                        chain.append(other)
        return chain

    def _silences(self, subject: Subject, other: Subject) -> bool:
        """True when the one would make the other no news, were it alone."""
        return any(
            all_match(inhibition.source_matchers, subject.labels)
            and all_match(inhibition.target_matchers, other.labels)
            and _shared(inhibition, subject) == _shared(inhibition, other)
            for inhibition in self._inhibitions
        )


def _shared(inhibition: Inhibition, subject: Subject) -> tuple[str, ...]:
    """What must be equal on both sides; of the run not its name, which two jobs may have."""
    return tuple(subject.run if name == "run" else subject.labels.get(name, "") for name in inhibition.equal)


def quiet_until(
    hours: Sequence[QuietHours], receiver: str, labels: Mapping[str, str], now: datetime
) -> datetime | None:
    """When the quiet hours end in which this receiver is not told of such an alert; None outside of them.

    Spans that touch or overlap are one. Where that never ends it is some moment more than a week ahead.
    """
    mine = [
        quiet
        for quiet in hours
        if (quiet.receivers is None or receiver in quiet.receivers)
        and not (quiet.but and all_match(quiet.exceptions, labels))
    ]
    until = None
    moment = now
    while moment - now <= _LONGEST_QUIET:
        ends = [end for quiet in mine for begin, end in _spans(quiet, moment) if begin <= moment < end]
        if not ends:
            break
        until = moment = max(ends)
    return until


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
