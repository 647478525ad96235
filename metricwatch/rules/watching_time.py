"""The rules about time, in the daemon: which run has had no evaluation for too long, and what is known of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from metricwatch.clock import Clock
from metricwatch.config.rules import StaleRule
from metricwatch.records import Alert, AlertState, Run
from metricwatch.rules.definition import severity
from metricwatch.rules.judgements import StepState
from metricwatch.rules.stale import CAME, at_its_end, happened
from metricwatch.rules.writing import CHANGED, Pen
from metricwatch.store.alerts import Alerts, RuleMark
from metricwatch.store.arrivals import Arrival, Arrivals, OnDisk
from metricwatch.store.db import Database

# Between two looks at the clock; what arrives is seen at once.
_PAUSE_SECONDS = 1.0
# How often the ledger learns how long runs have been watched: so much may be lost when a daemon ends.
_NOTE_SECONDS = 60.0

Event = Literal["fired", "amended", "came", "ended", "changed"]
# Why it is over.
_REASONS: Mapping[Event, str] = {"came": CAME, "ended": "the run has ended", "changed": CHANGED}


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What has become of a run for one rule: it has been silent for too long, has evaluations again, or has ended.

    Or the rule was changed while it fired: amended where it fires in its new form, too, changed where not.
    """

    rule: StaleRule
    event: Event
    arrival: Arrival | None
    open: Alert | None
    mark: RuleMark | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Watched:
    """What the ledger holds for a rule on a run. since: when its time began, on the monotonic clock.

    as_of is the id of the newest evaluation of all when the arrival was looked up.
    """

    metric: str
    arrival: Arrival | None
    as_of: int
    mark: RuleMark | None
    open: Alert | None
    since: float
    shown: bool


class TimeWatch:
    """Finds what is new, and writes it when it is told to.

    The time of a run begins with its last evaluation. While no daemon runs it stands still, and while the machine
    sleeps: nobody has watched then. The next daemon goes on from what the last one noted. What fires goes on through
    restarts, until an evaluation comes or the run has ended: no further step fits before total_steps, or a sink has
    learned that the job has finished well.

    by_calendar: whoever looks now and then does not watch; what counts is how long ago the last evaluation was, or
    before any that the run was first configured.

    up_to_score in the mark of such a rule is the id of the last evaluation that it has seen, not of a score.
    """

    def __init__(self, db: Database, pen: Pen, clock: Clock) -> None:
        self._pen = pen
        self._clock = clock
        self._alerts = Alerts(db)
        self._arrivals = Arrivals(db)
        self._watched: dict[tuple[str, str], _Watched] = {}
        self._started = clock.monotonic()
        # The newest evaluation of all at the last look, and when that was.
        self._newest = -1
        self._looked = 0.0
        self._noted = self._started
        self.by_calendar = False
        # At the last look.
        self._by_calendar_now = self._looked_by_calendar = False

    @property
    def unlooked(self) -> bool:
        """True when it goes by the calendar and nobody has looked at all runs since."""
        return self.by_calendar and not self._looked_by_calendar

    def start(self) -> None:
        """The daemon watches from now on."""
        self._started = self._noted = self._clock.monotonic()

    def newest_id(self, run: str, rule: StaleRule) -> int:
        """The evaluation that the rule has seen when it has seen all."""
        arrival = self._arrivals.newest(run, rule.metric)
        return arrival.id if arrival else 0

    def is_time(self, newest: int) -> bool:
        """True when something may be new: an evaluation has come, of which newest is the id, or a second has passed."""
        now = self._clock.monotonic()
        if newest == self._newest and now - self._looked < _PAUSE_SECONDS and not self.unlooked:
            return False
        self._newest, self._looked, self._by_calendar_now = newest, now, self.by_calendar
        return True

    def looked(self) -> None:
        """All runs have been looked at: now and then the ledger learns how long they have been watched."""
        self._looked_by_calendar = self._by_calendar_now
        now = self._clock.monotonic()
        if now - self._noted >= _NOTE_SECONDS:
            self._noted = now
            self._note(self._watched.items())

    def _note(self, watched: Iterable[tuple[tuple[str, str], _Watched]]) -> None:
        now = self._clock.monotonic()
        # Of several rules on one metric the one that gives the run more time counts.
        rows: dict[tuple[str, str], tuple[int, float]] = {}
        for (run, _), each in watched:
            row = each.arrival.id if each.arrival else 0, max(0.0, now - each.since)
            rows[run, each.metric] = min(row, rows.get((run, each.metric), row))
        self._arrivals.note_watched([(run, metric, *row) for (run, metric), row in rows.items()])

    def look(self, run: Run, rule: StaleRule) -> News | None:
        """What is new for a rule on a run. Writes nothing."""
        watched = self._watched[run.key, rule.name] = self._known(run, rule)
        arrival = watched.arrival
        seen = watched.mark.up_to_score if watched.mark else 0
        event: Event
        if arrival is not None and (arrival.id > seen or not watched.shown):
            event = "came"
        elif watched.open is not None and self._over(run, arrival):
            event = "ended"
        elif watched.open is not None:
            if watched.open.what == happened(rule.stale):
                return None
            event = "amended" if self._silent(run, watched) >= rule.stale else "changed"
        else:
            if self._silent(run, watched) < rule.stale:
                return None
            if self._over(run, arrival):
                # Whoever goes on with a job that had ended has as long as any other.
                self._watched[run.key, rule.name] = replace(watched, since=self._clock.monotonic())
                return None
            event = "fired"
        return News(rule=rule, event=event, arrival=arrival, open=watched.open, mark=watched.mark)

    def _silent(self, run: Run, watched: _Watched) -> timedelta:
        """For how long there was no evaluation."""
        if not self._by_calendar_now:
            return timedelta(seconds=self._clock.monotonic() - watched.since)
        last = watched.arrival.at if watched.arrival else self._arrivals.known_since(run.key)
        return self._clock.now() - last if last else timedelta(0)

    def write(self, run: Run, news: News) -> None:
        """Write it down, as part of the transaction around it."""
        rule, arrival, now = news.rule, news.arrival, self._clock.now()
        # Read anew at the next look: if this transaction comes to nothing, so has what is known here.
        watched = self._watched.pop((run.key, rule.name), None)
        if watched is not None and news.event in {"fired", "changed", "amended"}:
            self._note([((run.key, rule.name), watched)])
        step, newest = (arrival.highest, arrival.id) if arrival else (0, 0)
        what = happened(rule.stale)
        if news.event in {"fired", "amended"}:
            detail = self._detail(run, rule, arrival)
            alert = _alert(run, rule, step=step, what=what, detail=detail)
            if news.open is None:
                self._alerts.add(alert, announce=True, now=now)
            else:
                self._alerts.amend(news.open.id, alert)
            state = StepState(
                id=newest, step=step, state=AlertState.FIRING, direction="worse", note=detail, what=what, detail=detail
            )
        else:
            reason = _REASONS[news.event]
            if news.open is not None:
                self._alerts.resolve(news.open.id, step=step, value=None, reason=reason, now=now)
            state = StepState(id=newest, step=step, state=AlertState.INACTIVE, note=reason)
        last = self._alerts.latest_state(run.key, rule.name)
        self._pen.write_states(run.key, rule.name, {last.step: last} if last else {}, [state], newest)
        if news.event == "amended" or state.state != (last.state if last else AlertState.INACTIVE):
            self._pen.tag(run, rule, state, newest)
        if news.mark is not None and newest > news.mark.up_to_score:
            self._alerts.set_mark(run.key, rule.name, replace(news.mark, up_to_score=newest))

    def _known(self, run: Run, rule: StaleRule) -> _Watched:
        """What the ledger holds, without asking it again for what cannot have changed."""
        watched = self._watched.get((run.key, rule.name))
        if watched is not None and watched.as_of == self._newest:
            return watched
        arrival = self._arrivals.newest(run.key, rule.metric)
        if watched is not None:
            return replace(watched, arrival=arrival, as_of=self._newest)
        since = began = self._started
        if arrival is not None:
            ago = (self._clock.now() - arrival.at).total_seconds()
            since = max(began, self._clock.monotonic() - ago)
        if since == began:
            # It has been watched by daemons before this one.
            since -= self._arrivals.watched(run.key, rule.metric, arrival.id if arrival else 0).total_seconds()
        return _Watched(
            metric=rule.metric,
            arrival=arrival,
            as_of=self._newest,
            mark=self._alerts.mark(run.key, rule.name),
            open=next(iter(self._alerts.firing_of(run.key, rule.name)), None),
            since=since,
            shown=self._alerts.latest_state(run.key, rule.name) is not None,
        )

    def _over(self, run: Run, arrival: Arrival | None) -> bool:
        if arrival is not None and run.total_steps is not None:
            steps = self._arrivals.last_steps(run.key)
            if at_its_end(steps, run.total_steps):
                return True
        return self._arrivals.ended(run.key)

    def _detail(self, run: Run, rule: StaleRule, arrival: Arrival | None) -> str:
        """What is known: the last evaluation, and who seems to have stopped, the job or the scorer."""
        last = f"the last one was of step {arrival.step}, {_moment(arrival.at)}" if arrival else "there was none before"
        if rule.metric:
            other = self._arrivals.newest(run.key, "")
            if other is not None and (arrival is None or other.id > arrival.id):
                return f"{last}; evaluations without {rule.metric} go on, the last of step {other.step}"
        return f"{last}; {_suspect(self._arrivals.on_disk(run.key, since=arrival.at if arrival else None))}"


def _suspect(disk: OnDisk) -> str:
    if disk.waiting == 1:
        return f"1 snapshot waits to be scored, step {disk.newest_waiting}: the scorer is behind or failing"
    if disk.waiting:
        return (
            f"{disk.waiting} snapshots wait to be scored, the newest step {disk.newest_waiting}: "
            "the scorer is behind or failing"
        )
    if disk.failed:
        what = "1 snapshot" if disk.failed == 1 else f"{disk.failed} snapshots"
        return f"{what} could not be scored, the newest step {disk.newest_failed}"
    if disk.settled_at is None:
        return "nothing has come to disk yet: the job may not have started"
    return f"nothing new on disk since {_moment(disk.settled_at)}: the job may be dead"


def _alert(run: Run, rule: StaleRule, *, step: int, what: str, detail: str) -> Alert:
    return Alert(
        id=0,
        run=run.key,
        rule=rule.name,
        metric=rule.metric,
        direction="worse",
        severity=severity(rule, "worse"),
        state=AlertState.FIRING,
        fired_step=step,
        change=0.0,
        threshold=0.0,
        window=(),
        what=what,
        detail=detail,
        kind=rule.kind,
        labels=dict(rule.labels),
    )


def _moment(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M} UTC"
