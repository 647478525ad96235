"""Asks sinks now and then whether training jobs have finished: one that has need not go on giving evaluations."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

import structlog

from metricwatch.api import Sink
from metricwatch.clock import Clock
from metricwatch.errors import LedgerError, MetricwatchError, TemporaryError
from metricwatch.store.db import Database
from metricwatch.store.endings import Endings

log = structlog.get_logger(__name__)

_EVERY = timedelta(minutes=5)
# So long may asking go on before points have their turn: a hundred runs, each in a turn of its own, take a minute.
_TURN_SECONDS = 1.0


class EndingWatch:
    """Writes remote_runs.ended_ms. Each run is asked for once in 5 minutes at most; runs None: all are."""

    def __init__(self, db: Database, runs: Collection[str] | None, clock: Clock) -> None:
        self._endings = Endings(db)
        self._runs = runs
        self._clock = clock
        # By sink, run and the sink's id: when it may be asked for again.
        self._next: dict[tuple[str, str, str], float] = {}
        self._next_look: dict[str, float] = {}

    def unasked(self, name: str, sink: Sink) -> int:
        """How many runs were never asked for since the start, and can be now."""
        if type(sink).ended is Sink.ended or self._clock.monotonic() < self._next_look.get(name, 0.0) - 1:
            return 0
        return sum(
            (name, run, run_id) not in self._next
            for run, run_id, _ in self._endings.known(name)
            if self._runs is None or run in self._runs
        )

    def ask(self, name: str, sink: Sink) -> int:
        """Ask for runs that are due, for about a second; returns 1, and ends, where that changed what the ledger says.

        A sink that cannot tell now is asked again as late as one that can: no failure of this is worth a word.
        """
        now = self._clock.monotonic()
        # Most sinks know no ends: they are spared the question.
        if type(sink).ended is Sink.ended or now < self._next_look.get(name, 0.0):
            return 0
        due = [
            found
            for found in self._endings.known(name)
            if (self._runs is None or found[0] in self._runs) and self._next.get((name, *found[:2]), 0.0) <= now
        ]
        if not due:
            self._next_look[name] = now + 1
            return 0
        for run, run_id, before in due:
            if self._asked(name, sink, run, run_id, before=before):
                return 1
            if now < self._next_look.get(name, 0.0) or self._clock.monotonic() > now + _TURN_SECONDS:
                break
        return 0

    def _asked(self, name: str, sink: Sink, run: str, run_id: str, *, before: bool) -> int:
        """Ask for this run; returns 1 where that changed what the ledger says."""
        now = self._clock.monotonic()
        self._next[name, run, run_id] = now + _EVERY.total_seconds()
        try:
            ended = sink.ended(run_id)
        except LedgerError:
            raise
        except MetricwatchError as error:
            log.debug("run.end_unknown", sink=name, run=run, reason=str(error))
            if isinstance(error, TemporaryError):
                # It may be away for all of them: a timeout for each would keep points waiting.
                self._next_look[name] = now + _EVERY.total_seconds()
            return 0
        except Exception:
            log.exception("run.end_unknown", sink=name)
            return 0
        if ended == before:
            return 0
        self._endings.note(name, run, ended=self._clock.now() if ended else None)
        log.info("run.ended" if ended else "run.goes_on", sink=name, run=run)
        return 1
