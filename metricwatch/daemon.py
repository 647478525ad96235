"""The App: wires the stages together and turns them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

import structlog

from metricwatch.alerts.stage import AlertDispatcher
from metricwatch.assembly import load_further_sinks, load_notifiers, load_sink, report_commands, spawn_worker
from metricwatch.clock import LONGEST_WAIT, Clock, SteadyClock, SystemClock
from metricwatch.config.schema import Config
from metricwatch.config.watching import WatchEntry
from metricwatch.errors import LedgerUnavailableError, WorkerError
from metricwatch.export.stage import Exporter
from metricwatch.figures.stage import FigureStage
from metricwatch.lanes import Lanes
from metricwatch.records import Snapshot
from metricwatch.rules.stage import Rules
from metricwatch.store.db import Database
from metricwatch.store.deliveries import Deliveries
from metricwatch.store.figures import Figures
from metricwatch.store.ledger import Ledger
from metricwatch.store.lock import DaemonLock
from metricwatch.store.notifications import NotificationLog
from metricwatch.store.pictures import Pictures
from metricwatch.store.scores import Scores
from metricwatch.supervisor.stage import Policy, Progress, Supervisor
from metricwatch.telemetry import Health, HealthServer
from metricwatch.upkeep.stage import Upkeep
from metricwatch.watch.events import EventHints
from metricwatch.watch.fan_out import Fans
from metricwatch.watch.scan import concerns
from metricwatch.watch.stage import Watcher

log = structlog.get_logger(__name__)

# The stages look at the clock this often; events and the worker's messages wake them at once.
_PERIOD_SECONDS = 0.5
_SIGNAL_SECONDS = 1.0
_MOST_FAILED_STARTS = 3
_ATTEMPTS_ONCE = 4
# How long `run --once` waits for a ledger that cannot be written.
_TROUBLE_ONCE_SECONDS = 15.0
_CLOCK_TOLERANCE = timedelta(seconds=5)
# How long one turn waits for messages on their way.
_MESSAGE_PATIENCE = timedelta(milliseconds=250)


@dataclass(frozen=True, slots=True, kw_only=True)
class Once:
    """How `run --once` ended.

    done, failed and skipped count snapshots, failed_scores the metrics that could not be computed on snapshots that are
    done, rejected what the sink will never take. undelivered, pictures, also those to be drawn, and unsent are kept
    in the ledger for the next run.
    """

    done: int
    failed: int
    skipped: int
    failed_scores: int
    rejected: int
    undelivered: int
    pictures: int
    unsent: int
    stopped: bool


class App:
    """One daemon: its ledger, stages and plugins. A context manager: leaving it gives everything back."""

    def __init__(
        self,
        config: Config,
        *,
        clock: Clock | None = None,
        cache: Path | None = None,
        dated: Callable[[Database, Snapshot], datetime] | None = None,
        tagged: bool = True,
    ) -> None:
        """Take the ledger's lock and build the stages. Raises LockedError, LedgerError, ConfigError, PluginError.

        cache: the folder of what the worker keeps to save time, by default the state folder; daemons may share it.
        dated: the time at which a snapshot's points are shown; None: when they were recorded. tagged: whether
        tags tell what is best, and since when a series lasts.
        """
        self.config = config
        self._cache = cache or config.state
        self._dated = dated
        self._tagged = tagged
        self._wall = clock or SystemClock()
        self._stop = threading.Event()
        self._lanes: Lanes | None = None
        self._closers: list[Callable[[], None]] = []
        try:
            self._build(config)
        except BaseException:
            self.close()
            raise

    def _build(self, config: Config) -> None:
        dated = self._dated
        self._lock = DaemonLock(config.state)
        self._closers.append(self._lock.release)
        self.db = Database.open(config.state)
        self._closers.append(self.db.close)
        self._clock = _steady(self._wall, self.db)
        self.db.cap_waits(self._clock.now() + LONGEST_WAIT)
        fans = Fans(config.watch)
        entries = [*fans.plain, *(entry for _, entry in fans.take(self.db))]
        runs = list({entry.target.key: entry.target for entry in entries}.values())
        # Shared with the stages that ask whether a run is watched: fans may find more of them.
        self._watched = {run.key for run in runs}
        sinks = {config.tracking.sink: load_sink(config), **load_further_sinks(config)}
        notifiers = load_notifiers(config)
        self._closers.extend(sink.close for sink in sinks.values())
        self._closers.extend(notifier.close for notifier in notifiers.values())
        self.sources = [entry.source for entry in entries]
        watched = [
            *((entry.pattern, entry.checkpoints is not None) for entry in fans.plain),
            *((fan.template.pattern, fan.entry.checkpoints is not None) for fan in fans.fans),
        ]
        hints = EventHints(self.wake, lambda path: any(concerns(pattern, path, deep=deep) for pattern, deep in watched))
        self.watcher = Watcher(self.db, entries, hints, self._clock, fans=fans, found=self._watch_more)
        self._closers.append(self.watcher.close)
        picture_sinks = [name for name, sink in sinks.items() if sink.takes_pictures]
        self.supervisor = Supervisor(
            self.db,
            entries=entries,
            metrics=config.metrics,
            prefix=config.tracking.prefix,
            sinks=tuple(sinks),
            spawn=lambda: spawn_worker(config, wake=self.wake, cache=self._cache),
            policy=Policy(
                heartbeat_timeout=config.worker.heartbeat_timeout,
                stall_timeout=config.worker.stall_timeout,
                idle_exit=config.worker.idle_exit,
                recycle_after=config.worker.recycle_after,
            ),
            clock=self._clock,
            state=config.state,
            picture_sinks=picture_sinks,
            pictures=config.pictures,
            metric_options=config.metric_options,
            composites=config.composites,
            dated=None if dated is None else lambda snapshot: dated(self.db, snapshot),
            tagged=self._tagged,
        )
        self._closers.append(self.supervisor.close)
        self.figures = FigureStage(self.db, picture_sinks, self._clock)
        self.rules = Rules(self.db, config.rules, runs, tuple(sinks), self._clock)
        # One each: a sink that hangs must not keep the others waiting.
        self.exporters = {
            name: Exporter(
                self.db,
                {name: sink},
                self._clock,
                rules=config.rules,
                runs=self._watched,
                by_name=name != config.tracking.sink,
                reports=report_commands(config, name, sink),
            )
            for name, sink in sinks.items()
        }
        self._closers.extend(exporter.close for exporter in self.exporters.values())
        self.alerts = AlertDispatcher(
            self.db,
            config.rules,
            notifiers,
            sink=config.tracking.sink,
            clock=self._clock,
            routing=config.route,
            inhibit=config.inhibit,
            quiet_hours=config.quiet_hours,
            runs=self._watched,
            patience=_MESSAGE_PATIENCE,
        )
        self._closers.append(self.alerts.close)
        self.upkeep = Upkeep(self.db, config.retention, self._watched, self._clock)
        if config.telemetry.port is not None:
            health = Health(
                self.db,
                self._turning,
                trouble=self._trouble,
                sinks=tuple(sinks),
                receivers=tuple(notifiers),
                clock=self._clock,
            )
            server = HealthServer(config.telemetry.host, config.telemetry.port, health)
            self._closers.append(server.close)
            log.info("telemetry.listening", host=config.telemetry.host, port=server.port)
        for stage in (self.watcher, self.supervisor, self.rules, self.alerts):
            stage.start()

    def _watch_more(self, entries: Sequence[WatchEntry]) -> None:
        """Have every stage take care of runs that have been found meanwhile. Called in the lane of the watcher."""
        self._watched.update(entry.target.key for entry in entries)
        self.sources.extend(entry.source for entry in entries if entry.source not in self.sources)
        self.supervisor.watch(entries)
        self.rules.watch([entry.target for entry in entries])

    # --- turning -------------------------------------------------------------------------------------------

    def tick(self) -> int:
        """One turn of every stage, in order; returns the work done."""
        scoring = (self.watcher, self.supervisor, self.rules, self.figures)
        work = sum(stage.tick() for stage in scoring) + sum(exporter.tick() for exporter in self.exporters.values())
        return work + sum(stage.tick() for stage in (self.alerts, self.upkeep))

    def run(self) -> None:
        """Turn until stop() is called. Raises what a stage could not handle."""
        with self._turn():
            log.info("daemon.started", state=str(self.config.state), watching=len(self.config.watch))
            # With a limit: a signal that the system hands to another thread does not wake this one.
            while not self._stop.wait(_SIGNAL_SECONDS):
                pass
        log.info(
            "daemon.stopped",
            undelivered=Deliveries(self.db).pending(),
            pictures=Figures(self.db).pending() + Pictures(self.db).pending(),
            unsent=NotificationLog(self.db).pending(),
        )

    def run_once(
        self, *, drain: timedelta, progress: Callable[[Progress | None, int, int], None] = lambda *_: None
    ) -> Once:
        """Score everything that is on disk, then deliver for at most `drain`; returns how far that came.

        progress is called often, with what the worker does, the jobs finished so far and all jobs known.
        """
        jobs, deliveries, notifications = Ledger(self.db), Deliveries(self.db), NotificationLog(self.db)
        scores, figures, pictures = Scores(self.db), Figures(self.db), Pictures(self.db)
        # Before the count: what is tried again is no failure of before.
        self.supervisor.take_requests()
        for exporter in self.exporters.values():
            exporter.take_requests()
        self.alerts.take_requests()
        before, failed_before, rejected_before = jobs.job_counts(), scores.failed(), deliveries.rejections()
        self.watcher.only_present = True
        self.supervisor.most_attempts = _ATTEMPTS_ONCE
        self.alerts.at_once = True
        with self._turn():
            while not self._stop.is_set() and not self._all_scored(jobs):
                counts = jobs.job_counts()
                finished = sum(counts[state] - before[state] for state in ("done", "failed", "quarantined", "skipped"))
                left = jobs.unfinished(self.sources) + self.watcher.settling()
                progress(self.supervisor.progress, finished, finished + left)
                self._wait_once()
            self.rules.all_scored = True
            deadline = time.monotonic() + drain.total_seconds()
            while not self._stop.is_set() and time.monotonic() < deadline:
                outboxes = (deliveries, figures, pictures, notifications)
                waiting = any(outbox.pending() for outbox in outboxes) or self._pages_pending()
                if not (self.rules.behind() or waiting or notifications.unannounced()):
                    break
                self._wait_once()
            stopped = self._stop.is_set()
        after = jobs.job_counts()
        return Once(
            done=after["done"] - before["done"],
            failed=sum(after[state] - before[state] for state in ("failed", "quarantined")),
            skipped=after["skipped"] - before["skipped"],
            failed_scores=scores.failed() - failed_before,
            rejected=deliveries.rejections() - rejected_before,
            undelivered=deliveries.pending(),
            pictures=figures.pending() + pictures.pending(),
            unsent=notifications.pending(),
            stopped=stopped,
        )

    def stop(self) -> None:
        """Ask run() to return. Safe from any thread; a signal handler must call it from a new one."""
        self._stop.set()

    def wake(self) -> None:
        """Files or the worker have something to tell: turn now. What follows from it is no half second's hurry."""
        if self._lanes is not None:
            self._lanes.wake("score")

    def close(self) -> None:
        """Stop the worker and give lock, ledger and connections back. A second call does nothing."""
        self._stop.set()
        while self._closers:
            try:
                self._closers.pop()()
            except Exception as error:  # noqa: BLE001 - a plugin's failure must not keep the ledger locked
                log.warning("close.failed", reason=str(error) or type(error).__name__)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _turn(self) -> Lanes:
        # Lanes of their own: a tracking server that hangs must delay neither scoring nor the alarm.
        self._lanes = Lanes(
            {
                "score": (self._own, self.watcher.tick, self.supervisor.tick, self.rules.tick),
                "figures": (self.figures.tick,),
                **{f"export {name}": (exporter.tick,) for name, exporter in self.exporters.items()},
                "alerts": (self.alerts.tick,),
                "upkeep": (self.upkeep.tick,),
            },
            period=_PERIOD_SECONDS,
            stop=self._stop,
            until={"score": self.watcher.seconds_to_look},
        )
        return self._lanes

    def _own(self) -> int:
        self._lock.check()
        self.db.check_there()
        return 0

    def _turning(self) -> bool:
        return self._lanes is None or (self._lanes.turning() and not self._trouble())

    def _trouble(self) -> str:
        return self._lanes.trouble if self._lanes is not None else ""

    def _wait_once(self) -> None:
        """Wait a moment. Raises LedgerUnavailableError: nobody waits at a prompt until a disk has room again."""
        self._stop.wait(0.1)
        if self._lanes is not None and self._lanes.trouble_seconds() > _TROUBLE_ONCE_SECONDS:
            raise LedgerUnavailableError(f"{self._lanes.trouble}; nothing is lost: run again when it can be written")

    def _pages_pending(self) -> int:
        return sum(exporter.pages_pending() + exporter.reports_pending() for exporter in self.exporters.values())

    def _all_scored(self, jobs: Ledger) -> bool:
        if self.supervisor.failed_starts >= _MOST_FAILED_STARTS:
            raise WorkerError(f"the worker does not start: {self.supervisor.last_error}")
        return self.watcher.settled() and not jobs.unfinished(self.sources) and not self.rules.behind()


def _steady(wall: Clock, db: Database) -> Clock:
    """A clock that never goes back behind what the ledger holds."""
    newest = db.newest_time()
    ahead = newest - wall.now()
    if ahead > _CLOCK_TOLERANCE:
        log.warning(
            "clock.behind",
            reason=f"the ledger holds times up to {newest:%Y-%m-%d %H:%M:%S} UTC, {ahead} after now",
            consequence="time goes on from there, so that nothing is recorded before what came first",
        )
    return SteadyClock(wall, not_before=newest)
