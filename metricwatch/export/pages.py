"""The last queue of a sink: alerts.html beside each run, made anew when what it shows has changed.

A page is drawn by another process while points and pictures go on; one at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import structlog

from metricwatch.api import Sink
from metricwatch.clock import LONGEST_WAIT, Clock, backoff
from metricwatch.config.rules import Rule
from metricwatch.drawing.curve import Curve, Form
from metricwatch.drawing.page import Page, build_page
from metricwatch.drawing.process import draw
from metricwatch.errors import LedgerError, PermanentError, TemporaryError
from metricwatch.export.contents import Contents
from metricwatch.export.remote import RemoteRuns
from metricwatch.store.db import Database
from metricwatch.store.pages import ALERTS_PAGE, PageMark, Pages, Shown

log = structlog.get_logger(__name__)

_FIRST_RETRY = timedelta(seconds=5)
_MOST_RETRY = timedelta(minutes=10)
# An alert that has just begun or ended is shown soon, the evaluations of one that lasts now and then.
_AFTER_ALERTS = timedelta(seconds=5)
_AFTER_SCORES = timedelta(minutes=1)
_LOOK_SECONDS = 1.0

Draw = Callable[[Sequence[Curve], Form], list[bytes]]


@dataclass(slots=True, kw_only=True)
class _Work:
    """A page that is being made: by the time it is written more may have happened, which is another page then."""

    run: str
    attempts: int
    shows: Shown
    page: Page
    curves: dict[str, Curve]
    pictures: dict[str, bytes] = field(default_factory=dict)
    trouble: str = ""
    thread: threading.Thread | None = None

    def draw(self, draw: Draw) -> None:
        try:
            self.pictures = dict(zip(self.curves, draw(tuple(self.curves.values()), "svg"), strict=True))
        except TemporaryError as error:
            self.trouble = str(error)
        except Exception as error:
            log.exception("page.undrawn")
            self.trouble = f"drawing: {type(error).__name__}"

    def content(self) -> bytes:
        """The page with its pictures, or with the reason why there are none."""
        rules = [
            replace(
                rule,
                picture=self.pictures.get(rule.name),
                trouble=rule.trouble or (self.trouble if rule.name in self.curves else ""),
            )
            for rule in self.page.rules
        ]
        return build_page(replace(self.page, rules=rules))


class PageExporter:
    """The only writer of the ledger's pages.

    rules give the words of what is configured; runs, by key, are those to write pages for, None: all. A page is written
    without its curves where these cannot be drawn, and again when they can.
    """

    def __init__(
        self,
        db: Database,
        remote: RemoteRuns,
        clock: Clock,
        *,
        rules: Sequence[Rule] = (),
        runs: Collection[str] | None = None,
        draw: Draw = draw,
    ) -> None:
        self._pages = Pages(db)
        self._contents = Contents(db, rules)
        self._remote = remote
        self._runs = runs
        self._clock = clock
        self._draw = draw
        self._works: dict[str, _Work] = {}
        # By sink: when it may be looked at, or tried, again; and the run that it served last.
        self._next: dict[str, float] = {}
        self._served: dict[str, str] = {}

    def drain(self, name: str, sink: Sink) -> int:
        """Begin a page, or write the one that is made by now; returns 1 when one was written or refused.

        Never waits for a drawing. Raises LedgerError when the outcome cannot be noted: the page is written again.
        """
        if not sink.takes_pages:
            return 0
        work = self._works.get(name)
        if work is None:
            if self._clock.monotonic() < self._next.get(name, 0.0) or (work := self._begin(name)) is None:
                return 0
            self._works[name] = work
        if work.thread is not None and work.thread.is_alive():
            return 0
        del self._works[name]
        return self._finish(name, sink, work)

    def pending(self, name: str, sink: Sink) -> int:
        """How many pages of a sink are not what they should be and could be written now."""
        if not sink.takes_pages:
            return 0
        now, marks = self._clock.now(), self._pages.marks(name)
        return len(self._works.keys() & {name}) or sum(
            self._is_due(shows, marks.get(run), now, at_once=True) and self._remote.may_be_found(name, run)
            for run, shows in self._wanted(name).items()
        )

    def _wanted(self, name: str) -> dict[str, Shown]:
        found = self._pages.wanted(name)
        return {run: shows for run, shows in found.items() if self._runs is None or run in self._runs}

    def _is_due(self, shows: Shown, mark: PageMark | None, now: datetime, *, at_once: bool = False) -> bool:
        if mark is None:
            return True
        # A clock that was ahead must not keep a page for years.
        if mark.not_before is not None and timedelta(0) < mark.not_before - now <= LONGEST_WAIT:
            return False
        if mark.shows == shows:
            return mark.not_before is not None
        only_scores = mark.shows is not None and replace(mark.shows, scores=shows.scores) == shows
        wait = _AFTER_SCORES if only_scores else timedelta(0) if at_once else _AFTER_ALERTS
        return mark.sent_at is None or not timedelta(0) <= now - mark.sent_at < wait

    def _begin(self, name: str) -> _Work | None:
        """Take the run that is due next, with what its page shows now; None when none is."""
        self._next[name] = self._clock.monotonic() + _LOOK_SECONDS
        now, marks = self._clock.now(), self._pages.marks(name)
        wanted = self._wanted(name)
        due = [
            run
            for run, shows in wanted.items()
            if self._is_due(shows, marks.get(run), now) and self._remote.may_be_found(name, run)
        ]
        if not due:
            return None
        run = min(due, key=lambda key: (key <= self._served.get(name, ""), key))
        self._served[name] = run
        page, curves = self._contents.of(run, self._remote.name(run), now)
        work = _Work(
            run=run,
            attempts=marks[run].attempts if run in marks else 0,
            shows=wanted[run],
            page=page,
            curves=curves,
        )
        if curves:
            # Ends with the daemon: the drawing process ends itself.
            work.thread = threading.Thread(target=work.draw, args=(self._draw,), name="pages", daemon=True)
            work.thread.start()
        return work

    def _finish(self, name: str, sink: Sink, work: _Work) -> int:
        """Write the page; 1 when that is settled."""
        try:
            self._remote.name(work.run)
        except KeyError:
            # Its retention has ended while the page was drawn.
            return 0
        try:
            target = self._remote.id_of(name, sink, work.run)
            shows = replace(work.shows, target=target)
            if not self._write(name, sink, work, shows):
                return 1
        except LedgerError:
            raise
        except TemporaryError as error:
            self._postpone(name, work, str(error), error.retry_after)
            return 0
        except PermanentError as error:
            # The page is good, the run is not: it waits until somebody mends the configuration.
            self._postpone(name, work, str(error), _MOST_RETRY, others=False)
            return 0
        except Exception as error:
            # A plugin that breaks its contract must not stop the daemon.
            log.exception("page.failed", sink=name)
            self._postpone(name, work, f"{type(error).__name__}: the sink failed in a way it should not")
            return 0
        now = self._clock.now()
        if work.trouble:
            lacks = f"written without curves: {work.trouble}"
            wait = _wait(work)
            self._pages.sent(name, work.run, shows, now, lacks=lacks, again=now + wait)
            log.warning(
                "page.incomplete", sink=name, run=work.page.run_name, reason=lacks, seconds=wait.total_seconds()
            )
        else:
            self._pages.sent(name, work.run, shows, now)
        return 1

    def _write(self, name: str, sink: Sink, work: _Work, shows: Shown) -> bool:
        """Hand the page over; False when the sink will not take it."""
        try:
            sink.write_page(shows.target, ALERTS_PAGE, work.content())
        except PermanentError as error:
            self._pages.refused(name, work.run, shows, str(error))
            log.error("page.refused", sink=name, run=work.page.run_name, reason=str(error))
            return False
        return True

    def _postpone(
        self, name: str, work: _Work, reason: str, retry_after: timedelta | None = None, *, others: bool = True
    ) -> None:
        """Try again later. others: whether what keeps this page away keeps the others away too."""
        wait = min(retry_after or _wait(work), LONGEST_WAIT)
        self._pages.postpone(name, work.run, reason, self._clock.now() + wait)
        if others:
            # Each try may cost a timeout.
            self._next[name] = self._clock.monotonic() + wait.total_seconds()
        log.warning("page.postponed", sink=name, run=work.page.run_name, reason=reason, seconds=wait.total_seconds())


def _wait(work: _Work) -> timedelta:
    return backoff(work.attempts + 1, first=_FIRST_RETRY, most=_MOST_RETRY)
