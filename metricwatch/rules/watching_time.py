"""The rules about time, in the daemon: which run has had no evaluation for too long, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from metricwatch.clock import Clock
from metricwatch.config.rules import StaleRule
from metricwatch.records import Alert, AlertState, Run
from metricwatch.rules.definition import severity
from metricwatch.rules.judgements import StepState
from metricwatch.rules.stale import CAME, at_its_end, happened
from metricwatch.rules.writing import Pen
from metricwatch.store.alerts import Alerts, RuleMark
from metricwatch.store.arrivals import Arrival, Arrivals, OnDisk
from metricwatch.store.db import Database

# Between two looks at the clock; what arrives is seen at once.
_PAUSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What has become of a run for one rule: it has been silent for too long, has evaluations again, or has ended."""

    rule: StaleRule
    event: Literal["fired", "came", "ended"]
    arrival: Arrival | None
    open: Alert | None
    mark: RuleMark | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Watched:
    """What the ledger holds for a rule on a run. since: when its time began, on the monotonic clock.

    as_of is the id of the newest evaluation of all when the arrival was looked up.
    """

    arrival: Arrival | None
    as_of: int
    mark: RuleMark | None
    open: Alert | None
    since: float
    shown: bool


class TimeWatch:
    """Finds what is new, and writes it when it is told to.

    The time of a run begins with its last evaluation, or when the daemon starts if that is later: a daemon that was off
    has not watched, nor does a machine that slept. What fires goes on through restarts, until an evaluation comes or
    the run has ended: no further step fits before total_steps, or a sink has learned that the job has finished well.

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

    def start(self) -> None:
        """The daemon watches from now on."""
        self._started = self._clock.monotonic()

    def newest_id(self, run: str, rule: StaleRule) -> int:
        """The evaluation that the rule has seen when it has seen all."""
        arrival = self._arrivals.newest(run, rule.metric)
        return arrival.id if arrival else 0

    def is_time(self) -> bool:
        """True when something may be new: an evaluation has come, or a second has passed."""
        now, newest = self._clock.monotonic(), self._arrivals.newest_id()
        if newest == self._newest and now - self._looked < _PAUSE_SECONDS:
            return False
        self._newest, self._looked = newest, now
        return True

    def look(self, run: Run, rule: StaleRule) -> News | None:
        """What is new for a rule on a run. Writes nothing."""
        watched = self._watched[run.key, rule.name] = self._known(run, rule)
        arrival = watched.arrival
        seen = watched.mark.up_to_score if watched.mark else 0
        event: Literal["fired", "came", "ended"]
        if arrival is not None and (arrival.id > seen or not watched.shown):
            event = "came"
        elif watched.open is not None:
            if not self._over(run, arrival):
                return None
            event = "ended"
        else:
            now = self._clock.monotonic()
            if now - watched.since < rule.stale.total_seconds():
                return None
            if self._over(run, arrival):
                # Whoever goes on with a job that had ended has as long as any other.
                self._watched[run.key, rule.name] = replace(watched, since=now)
                return None
            event = "fired"
        return News(rule=rule, event=event, arrival=arrival, open=watched.open, mark=watched.mark)

    def write(self, run: Run, news: News) -> None:
        """Write it down, as part of the transaction around it."""
        rule, arrival, now = news.rule, news.arrival, self._clock.now()
        # Read anew at the next look: if this transaction comes to nothing, so has what is known here.
        self._watched.pop((run.key, rule.name), None)
        step, newest = (arrival.highest, arrival.id) if arrival else (0, 0)
        what = happened(rule.stale)
        if news.event == "fired":
            detail = self._detail(run, rule, arrival)
            alert = _alert(run, rule, step=step, what=what, detail=detail)
            self._alerts.add(alert, announce=True, now=now)
            state = StepState(
                id=newest, step=step, state=AlertState.FIRING, direction="worse", note=detail, what=what, detail=detail
            )
        else:
            reason = CAME if news.event == "came" else "the run has ended"
            if news.open is not None:
                self._alerts.resolve(news.open.id, step=step, value=None, reason=reason, now=now)
            state = StepState(id=newest, step=step, state=AlertState.INACTIVE, note=reason)
        last = self._alerts.latest_state(run.key, rule.name)
        self._pen.write_states(run, rule, {last.step: last} if last else {}, [state], newest)
        if state.state != (last.state if last else AlertState.INACTIVE):
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
        since = self._started
        if arrival is not None:
            ago = (self._clock.now() - arrival.at).total_seconds()
            since = max(since, self._clock.monotonic() - ago)
        return _Watched(
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
