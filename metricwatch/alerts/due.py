"""What is to be told now: what each receiver was told of an alert, compared with what is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from metricwatch.alerts.holding import Inhibiting, quiet_until, quiet_words, silenced_by
from metricwatch.alerts.message import event_of
from metricwatch.alerts.routing import group_of, repeat_interval_of
from metricwatch.clock import from_ms, to_ms
from metricwatch.config.routing import ALONE, Inhibition, QuietHours, Routing
from metricwatch.records import AlertEvent, AlertState
from metricwatch.store.notifications import GroupState, MessageEvent, group_key
from metricwatch.store.silences import Silence
from metricwatch.store.told import Subject, Told


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What there is at one moment. group_state(receiver, group, digest=...) says how a group's last message stands."""

    now: datetime
    at_once: bool
    silences: Sequence[Silence]
    firing: Sequence[Subject]
    group_state: Callable[..., GroupState]


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """One message to make: which events of which alerts, to whom."""

    receiver: str
    event: MessageEvent
    alerts: Sequence[tuple[int, AlertEvent]]
    group: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Due:
    """Something that nothing holds back."""

    told: Told
    event: AlertEvent


class Plan:
    """Decides, as the configuration says, what is told now. Keeps nothing: it is all in what it is given."""

    def __init__(
        self,
        routing: Routing,
        inhibit: Sequence[Inhibition],
        quiet_hours: Sequence[QuietHours],
        runs: Collection[str] | None,
    ) -> None:
        self._routing = routing
        self._inhibit = inhibit
        self._quiet_hours = quiet_hours
        self._runs = runs

    def of(self, rows: Sequence[tuple[Subject, Told]], look: Look) -> tuple[list[Telling], list[Told]]:
        """The messages to make now, and every row that is another one afterwards."""
        inhibiting = Inhibiting(self._inhibit, [subject for subject in look.firing if self._watched(subject)])
        held: dict[int, str] = {}
        groups: dict[tuple[str, str], list[_Due]] = defaultdict(list)
        labels: dict[tuple[str, str], Mapping[str, str]] = {}
        digests: dict[str, list[_Due]] = defaultdict(list)
        after: dict[tuple[int, str], Told] = {}
        for subject, told in rows:
            row, event = self._look_at(subject, told, look, inhibiting, held)
            after[row.alert, row.receiver] = row
            if event is None:
                continue
            if row.quiet and event != "reminder":
                digests[row.receiver].append(_Due(told=row, event=event))
                continue
            shared = group_of(self._routing, subject.labels)
            place = row.receiver, group_key(shared)
            labels[place] = shared
            groups[place].append(_Due(told=row, event=event))
        tellings = []
        for receiver, due in digests.items():
            if not look.group_state(receiver, {}, digest=True).pending:
                tellings.append(_telling(receiver, "digest", due, {}))
        for place, together in groups.items():
            receiver, group = place[0], labels[place]
            # Two alerts of one rule have the same labels. The later one's turn comes when the first has arrived.
            due = together[:1] if ALONE in self._routing.group_by else together
            if self._ready(receiver, group, due, look):
                tellings.append(_telling(receiver, event_of([item.event for item in due]), due, group))
        for telling in tellings:
            for alert, event in telling.alerts:
                after[alert, telling.receiver] = _after(after[alert, telling.receiver], event, look.now)
        changed = [after[told.alert, told.receiver] for _, told in rows if after[told.alert, told.receiver] != told]
        return tellings, changed

    def _watched(self, subject: Subject) -> bool:
        return self._runs is None or subject.run in self._runs

    def _look_at(
        self, subject: Subject, told: Told, look: Look, inhibiting: Inhibiting, known: dict[int, str]
    ) -> tuple[Told, AlertEvent | None]:
        """The row as it is now, and what is to be told if nothing holds it back. known: why alerts are held."""
        if told.told == "resolved" or not subject.news:
            return replace(told, closed=True, held="", quiet=False), None
        if told.told == "firing" and told.told_ms is None:
            # Told by a version that knew no reminders.
            told = replace(told, told_ms=to_ms(look.now))
        event = self._wanted(subject, told, look.now)
        if event is None:
            return replace(told, held="", due_ms=None), None
        held = known.get(subject.id)
        if held is None:
            # For all its receivers at once: there may be thousands of silences.
            held = silenced_by(look.silences, subject.labels) or inhibiting.reason(subject)
            known[subject.id] = held
        if held:
            if event == "resolved" and not told.told and told.due_ms is None:
                # Held back all its life: whoever silenced it does not want to hear that it is over either.
                return replace(told, closed=True, held="", quiet=False), None
            return replace(told, held=held, quiet=False), None
        told = replace(told, due_ms=to_ms(look.now) if told.due_ms is None else told.due_ms)
        until = quiet_until(self._quiet_hours, told.receiver, subject.labels, look.now)
        if until is not None:
            return replace(told, held=quiet_words(until), quiet=event != "reminder"), None
        return replace(told, held=""), event

    def _wanted(self, subject: Subject, told: Told, now: datetime) -> AlertEvent | None:
        if subject.state is AlertState.RESOLVED:
            return "resolved"
        if not told.told:
            return "firing"
        interval = repeat_interval_of(self._routing, subject.labels, told.receiver)
        # Of a run that nobody watches any more nothing new can be said.
        lasts = told.told_ms is not None and now - from_ms(told.told_ms) >= interval
        return "reminder" if lasts and self._watched(subject) else None

    def _ready(self, receiver: str, group: Mapping[str, str], due: Sequence[_Due], look: Look) -> bool:
        """False while the group waits for more, or for its last message."""
        state = look.group_state(receiver, group, digest=False)
        if state.pending:
            # Whatever comes of it, what is due by then goes into one message.
            return False
        if look.at_once:
            return True
        # A reminder has waited long enough.
        since = min((item.told.due_ms or 0 for item in due if item.event != "reminder"), default=0)
        waited = look.now - from_ms(since) >= self._routing.group_wait
        last: timedelta | None = None if state.last_ms is None else look.now - from_ms(state.last_ms)
        return waited and (last is None or last >= self._routing.group_interval)


def _telling(receiver: str, event: MessageEvent, due: Sequence[_Due], group: Mapping[str, str]) -> Telling:
    return Telling(
        receiver=receiver, event=event, alerts=[(item.told.alert, item.event) for item in due], group=dict(group)
    )


def _after(row: Told, event: AlertEvent, now: datetime) -> Told:
    """The row when this has been told."""
    told: Literal["firing", "resolved"] = "resolved" if event == "resolved" else "firing"
    return replace(row, told=told, told_ms=to_ms(now), due_ms=None, held="", quiet=False, closed=event == "resolved")
