"""The export stage: drain the outbox into the sinks, points before pictures, pages last."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType

import structlog

from metricwatch import faults
from metricwatch.api import Sink
from metricwatch.clock import LONGEST_WAIT, Clock, backoff
from metricwatch.config.rules import Rule
from metricwatch.drawing.process import draw
from metricwatch.errors import LedgerError, PermanentError, RunGoneError, TemporaryError
from metricwatch.export.endings import EndingWatch
from metricwatch.export.pages import Draw, PageExporter
from metricwatch.export.pictures import PictureExporter
from metricwatch.export.remote import RemoteRuns
from metricwatch.export.reports import ReportExporter
from metricwatch.records import Delivery, Point
from metricwatch.store.db import Database
from metricwatch.store.deliveries import Deliveries
from metricwatch.store.retries import Retries

log = structlog.get_logger(__name__)

_FIRST_RETRY = timedelta(seconds=1)
_MOST_RETRY = timedelta(minutes=1)
# A batch holds at most what MLflow takes in one request: a part that fails does not make the others go twice.
_MOST_ITEMS = 1000
# So long may one run go on before the next one is served: a slow server must not look like a daemon that hangs.
_TURN_SECONDS = 10.0


class Exporter:
    """The only writer of delivery states. A sink that is away costs a growing wait, never a point.

    rules and runs, by key, are the configured ones: pages are written, and ends asked for, for these runs alone (None:
    for all), and the pages have the rules' words. by_name: these sinks know runs by their names alone, whatever id the
    tracking server has for them. reports are, by sink, the command that makes the report of a run that has ended, the
    run's id put behind it.
    """

    def __init__(
        self,
        db: Database,
        sinks: Mapping[str, Sink],
        clock: Clock,
        *,
        rules: Sequence[Rule] = (),
        runs: Collection[str] | None = None,
        draw: Draw = draw,
        by_name: bool = False,
        reports: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> None:
        self._db = db
        self._retries = Retries(db)
        self._sinks = sinks
        self._clock = clock
        self._deliveries = Deliveries(db)
        self._runs = RemoteRuns(db, by_name=by_name)
        self._pictures = PictureExporter(db, self._runs, clock)
        self._pages = PageExporter(db, self._runs, clock, rules=rules, runs=runs, draw=draw)
        self._with_reports = frozenset(reports)
        self._reports = ReportExporter(db, self._runs, clock, commands=reports, runs=runs)
        self._endings = EndingWatch(db, runs, clock)
        # The run that each sink served last, and how many deliveries at once went well, by sink and run.
        self._served: dict[str, str] = {}
        self._sizes: dict[tuple[str, str], int] = {}

    def tick(self) -> int:
        """Give one run of each sink its turn; returns how many deliveries, pictures or pages were settled.

        Raises LedgerError when the outcome cannot be noted: the batch stays pending and goes again, which is harmless.
        """
        return self.take_requests() + self._pictures.cap() + sum(map(self._serve, self._sinks))

    def take_requests(self) -> int:
        """Queue again what a person wants sent again."""
        deliveries = self._retries.requested("delivery")
        for delivery in deliveries:
            with self._db.transaction("retry-delivery"):
                self._deliveries.put_back(delivery)
                self._retries.done("delivery", delivery)
        return len(deliveries)

    def pages_pending(self) -> int:
        """How many pages beside runs do not show what they should, and could be written now."""
        return sum(self._pages.pending(name, sink) for name, sink in self._sinks.items())

    def reports_pending(self) -> int:
        """How many reports are due or being made, and how many runs have not been asked yet whether they are over."""
        return sum(
            self._reports.pending(name) + self._endings.unasked(name, sink)
            for name, sink in self._sinks.items()
            if name in self._with_reports
        )

    def close(self) -> None:
        """End the processes that make reports. A second call does nothing."""
        self._reports.close()

    def _serve(self, name: str) -> int:
        """Points first. Where they have just failed, or there were some, pictures wait for the next turn.

        Pages wait for both, reports for pages too; a run is asked whether it is over when there is nothing else to do.
        """
        sink = self._sinks[name]
        settled = self._drain(name, sink)
        if settled is not None:
            return settled
        pictures_or_pages = self._pictures.drain(name, sink) or self._pages.drain(name, sink)
        return pictures_or_pages or self._reports.drain(name) or self._endings.ask(name, sink)

    def _drain(self, name: str, sink: Sink) -> int | None:
        """Send what is due of one run; returns how many deliveries were settled, None when none was due."""
        due = self._deliveries.due(name, self._clock.now(), _MOST_ITEMS, after=self._served.get(name, ""))
        if not due:
            return None
        self._served[name] = due[0].run
        end = self._clock.monotonic() + _TURN_SECONDS
        settled = 0
        while settled < len(due) and self._clock.monotonic() < end:
            done = self._attempt(name, sink, self._portion(due[settled:]))
            if done is None:
                break
            settled += done
        return settled

    def _portion(self, due: Sequence[Delivery]) -> Sequence[Delivery]:
        """As many of the deliveries, at least one, as shall be tried at once."""
        room = _MOST_ITEMS
        count = 0
        for delivery in due[: self._size(due)]:
            room -= len(delivery.points) + len(delivery.tags)
            if room < 0 and count:
                break
            count += 1
        return due[:count]

    def _size(self, batch: Sequence[Delivery]) -> int:
        return self._sizes.get((batch[0].sink, batch[0].run), _MOST_ITEMS)

    def _resize(self, batch: Sequence[Delivery], size: int) -> None:
        """Let the run's next batch be this long: halved after a failure, doubled after a success.

        A server that cannot take the whole backlog within the sink's timeout gets what it can.
        """
        self._sizes[batch[0].sink, batch[0].run] = max(1, min(size, _MOST_ITEMS))

    def _attempt(self, name: str, sink: Sink, batch: Sequence[Delivery]) -> int | None:
        """Send a batch. Returns how many were settled, 0 when fewer are to be tried, None when the run must wait."""
        try:
            run_id = self._runs.id_of(name, sink, batch[0].run)
            return self._write(sink, run_id, batch)
        except LedgerError:
            raise
        except TemporaryError as error:
            self._postpone(batch, error)
        except PermanentError as error:
            # The points are good, the run is not: they wait until somebody restores it or mends the configuration.
            self._postpone(batch, TemporaryError(str(error), retry_after=_MOST_RETRY))
        except Exception as error:
            # A plugin that breaks its contract must not stop the daemon, nor cost a point.
            log.exception("delivery.failed", sink=name)
            self._postpone(batch, TemporaryError(f"{type(error).__name__}: the sink failed in a way it should not"))
        return None

    def _write(self, sink: Sink, run_id: str, batch: Sequence[Delivery]) -> int:
        """Write a batch; one that the sink refuses is halved until what it refuses is alone."""
        points = [point for delivery in batch for point in delivery.points]
        tags = {key: value for delivery in batch for key, value in delivery.tags.items()}
        try:
            faults.reached("delivery:unsent")
            sink.write(run_id, points, tags)
            faults.reached("delivery:unmarked")
        except RunGoneError:
            raise
        except PermanentError as error:
            if len(batch) == 1:
                return self._write_piecewise(sink, run_id, batch[0], str(error))
            self._resize(batch, len(batch) // 2)
            return 0
        self._deliveries.sent(batch, self._clock.now())
        self._resize(batch, 2 * self._size(batch))
        return len(batch)

    def _write_piecewise(self, sink: Sink, run_id: str, delivery: Delivery, reason: str) -> int:
        """One point that is refused must not take its siblings along: each is tried alone."""
        pieces: list[tuple[str, list[Point], dict[str, str]]] = [
            *((point.key, [point], {}) for point in delivery.points),
            *((key, [], {key: value}) for key, value in delivery.tags.items()),
        ]
        refused = []
        for key, points, tags in pieces if len(pieces) > 1 else []:
            try:
                sink.write(run_id, points, tags)
            except RunGoneError:
                raise
            except PermanentError as error:
                refused.append(f"{key}: {error}")
        if refused or len(pieces) <= 1:
            self._deliveries.reject(delivery, "; ".join(refused) or reason)
            run = self._runs.name(delivery.run)
            log.error("delivery.rejected", sink=delivery.sink, run=run, reason="; ".join(refused) or reason)
        else:
            self._deliveries.sent([delivery], self._clock.now())
        return 1

    def _postpone(self, batch: Sequence[Delivery], error: TemporaryError) -> None:
        self._resize(batch, len(batch) // 2)
        wait = error.retry_after or backoff(batch[0].attempts + 1, first=_FIRST_RETRY, most=_MOST_RETRY)
        wait = min(wait, LONGEST_WAIT)
        self._deliveries.postpone(batch, str(error), self._clock.now() + wait)
        name = self._runs.name(batch[0].run)
        log.warning("delivery.postponed", sink=batch[0].sink, run=name, reason=str(error), seconds=wait.total_seconds())
