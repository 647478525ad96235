"""report.html beside each run whose training job has ended, made by a process of its own while the rest goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import IO

import structlog

from metricwatch.clock import Clock, backoff
from metricwatch.export.remote import RemoteRuns
from metricwatch.store.db import Database
from metricwatch.store.pages import Pages, Shown
from metricwatch.store.reports import REPORT_PAGE, ended_runs, outdated

log = structlog.get_logger(__name__)

_FIRST_RETRY = timedelta(minutes=1)
_MOST_RETRY = timedelta(hours=1)
_MOST_ATTEMPTS = 8
# What arrives after the end is shown, but not evaluation by evaluation.
_AFTER_THE_LAST = timedelta(minutes=10)
_LOOK_SECONDS = 1.0
_PATIENCE_SECONDS = 600.0
_LONGEST_REASON = 300


@dataclass(slots=True, kw_only=True)
class _Work:
    """A report that is being made: what it is to show, and the process that makes it."""

    run: str
    shows: Shown
    attempts: int
    process: subprocess.Popen[bytes]
    errors: IO[bytes]
    deadline: float


class ReportExporter:
    """The only writer of the ledger's rows on reports.

    commands are, by sink, what makes a report when the run's id is put behind it; it writes it beside the run itself.
    runs, by key, are those to write reports for, None: all. One process at a time for each sink; its end is noticed at
    the next turn.
    """

    def __init__(
        self,
        db: Database,
        remote: RemoteRuns,
        clock: Clock,
        *,
        commands: Mapping[str, Sequence[str]],
        runs: Collection[str] | None = None,
    ) -> None:
        self._db = db
        self._pages = Pages(db, REPORT_PAGE)
        self._remote = remote
        self._clock = clock
        self._commands = commands
        self._runs = runs
        self._works: dict[str, _Work] = {}
        self._next: dict[str, float] = {}

    def drain(self, name: str) -> int:
        """Begin a report, or note how the one that was begun has ended; returns 1 when one is written or given up.

        Never waits. Raises LedgerError when the outcome cannot be noted: the report is made again.
        """
        work = self._works.get(name)
        if work is not None:
            if work.process.poll() is None and self._clock.monotonic() < work.deadline:
                return 0
            del self._works[name]
            return self._finish(name, work)
        if name not in self._commands or self._clock.monotonic() < self._next.get(name, 0.0):
            return 0
        self._next[name] = self._clock.monotonic() + _LOOK_SECONDS
        if due := self._due(name):
            run, shows = next(iter(due.items()))
            self._begin(name, run, shows)
        return 0

    def pending(self, name: str) -> int:
        """How many reports are being made, or are due."""
        if name not in self._commands:
            return 0
        return len(self._works.keys() & {name}) + len(self._due(name))

    def close(self) -> None:
        """End what is being made: it is made again by the next daemon."""
        while self._works:
            _, work = self._works.popitem()
            _end(work)

    def _due(self, name: str) -> dict[str, Shown]:
        """The runs whose report lacks something, and what it should show."""
        now, marks = self._clock.now(), self._pages.marks(name)
        found = {}
        for run, shows in ended_runs(self._db, name).items():
            mark = marks.get(run)
            busy = name in self._works and self._works[name].run == run
            if busy or (self._runs is not None and run not in self._runs):
                continue
            if mark is not None:
                waits = mark.not_before is not None and mark.not_before > now
                if waits or (mark.shows is not None and mark.not_before is None and not outdated(mark.shows, shows)):
                    continue
                same_end = mark.shows is not None and mark.shows.alerts == shows.alerts
                if same_end and mark.sent_at is not None and timedelta(0) <= now - mark.sent_at < _AFTER_THE_LAST:
                    continue
            found[run] = shows
        return found

    def _begin(self, name: str, run: str, shows: Shown) -> None:
        mark = self._pages.marks(name).get(run)
        # What was given up does not count against what there is to show by now.
        attempts = mark.attempts if mark is not None and mark.not_before is not None else 0
        try:
            # A file: nobody reads a pipe while it works. Beside the ledger: where that is, we can write.
            errors = tempfile.TemporaryFile(dir=self._db.path.parent)  # noqa: SIM115 - closed with the process
        except OSError as error:
            self._failed(name, run, shows, attempts, f"cannot make a file for its errors: {error.strerror}")
            return
        try:
            process = subprocess.Popen(
                [*self._commands[name], shows.target],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                # Ctrl-C at the terminal is the daemon's to handle; and with those that draw it can be killed whole.
                start_new_session=True,
            )
        except OSError as error:
            errors.close()
            self._failed(name, run, shows, attempts, f"cannot start a process: {error.strerror}")
            return
        self._works[name] = _Work(
            run=run,
            shows=shows,
            attempts=attempts,
            process=process,
            errors=errors,
            deadline=self._clock.monotonic() + _PATIENCE_SECONDS,
        )

    def _finish(self, name: str, work: _Work) -> int:
        status = work.process.poll()
        reason = _end(work)
        try:
            run_name = self._remote.name(work.run)
        except KeyError:
            # Its retention has ended meanwhile.
            return 0
        if status == 0:
            self._pages.sent(name, work.run, work.shows, self._clock.now())
            log.info("report.written", sink=name, run=run_name, page=REPORT_PAGE)
            return 1
        if status is None:
            reason = f"not made within {_PATIENCE_SECONDS:g} s"
        elif not reason:
            reason = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
        return self._failed(name, work.run, work.shows, work.attempts, reason)

    def _failed(self, name: str, run: str, shows: Shown, attempts: int, reason: str) -> int:
        run_name = self._remote.name(run)
        if attempts + 1 >= _MOST_ATTEMPTS:
            self._pages.refused(name, run, shows, reason)
            log.error("report.given_up", sink=name, run=run_name, reason=reason)
            return 1
        wait = backoff(attempts + 1, first=_FIRST_RETRY, most=_MOST_RETRY)
        self._pages.postpone(name, run, reason, self._clock.now() + wait)
        log.warning("report.postponed", sink=name, run=run_name, reason=reason, seconds=wait.total_seconds())
        return 0


def _end(work: _Work) -> str:
    """Kill what is left of it; returns the last line that it said."""
    with contextlib.suppress(ProcessLookupError):
        if work.process.poll() is None:
            os.killpg(work.process.pid, signal.SIGKILL)
    # One that is stuck in the kernel is not waited for.
    with contextlib.suppress(subprocess.TimeoutExpired):
        work.process.wait(1)
    with work.errors:
        size = work.errors.seek(0, os.SEEK_END)
        work.errors.seek(max(0, size - 4 * _LONGEST_REASON))
        lines = [line.strip() for line in work.errors.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("metricwatch: ")[:_LONGEST_REASON] if lines else ""
