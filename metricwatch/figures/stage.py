"""The figures stage: from what an evaluation left to be drawn to pictures that wait for the sinks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path

import structlog

from metricwatch import faults
from metricwatch.clock import Clock, backoff
from metricwatch.drawing.figures import Figure
from metricwatch.drawing.process import draw
from metricwatch.errors import LedgerError, TemporaryError
from metricwatch.figures import materials
from metricwatch.store.db import Database
from metricwatch.store.figures import FOLDER as MATERIALS
from metricwatch.store.figures import FigureJob, Figures, files_of
from metricwatch.store.ledger import Ledger
from metricwatch.store.pictures import FOLDER as PICTURES
from metricwatch.store.pictures import Pictures

log = structlog.get_logger(__name__)

# The figures as PNG files' content, in their order. Raises TemporaryError.
Draw = Callable[[Sequence[Figure]], list[bytes]]

# To start the drawing process costs as much as a figure or two: those of a few evaluations share one.
_AT_ONCE = 12
_FIRST_RETRY = timedelta(seconds=10)
_MOST_RETRY = timedelta(minutes=10)
_MOST_TRIES = 8
# A disk that is full is no fault of the figure: it waits for as long as it takes.
_DISK_PAUSE = timedelta(minutes=1)
# What nobody draws must not fill the disk: three megabytes or so for each evaluation.
_MOST_WAITING = 1000
_CAP_SECONDS = 60.0


class FigureStage:
    """The only writer of the states of figures, and the one that removes what they were drawn from.

    A figure is drawn anew after a crash anywhere; its picture has the identity of the figure, and goes once.
    """

    def __init__(self, db: Database, sinks: Sequence[str], clock: Clock, *, draw: Draw = draw) -> None:
        """sinks: those that take pictures."""
        self._db = db
        self._figures = Figures(db)
        self._pictures = Pictures(db)
        self._ledger = Ledger(db)
        self._sinks = sinks
        self._clock = clock
        self._draw = draw
        self._state = db.path.parent
        self._served = ""
        self._next_cap = 0.0

    def tick(self) -> int:
        """Have some figures of one run drawn; returns how many were settled, drawn or given up.

        Blocks for as long as the drawing takes. Raises LedgerError when the outcome cannot be noted: they are drawn
        again, which is harmless.
        """
        given_up = self._cap()
        due = self._figures.due(self._clock.now(), _AT_ONCE, after=self._served)
        if not due:
            return given_up
        self._served = due[0].run
        # One that has failed may be what its like fail of: it is tried by itself.
        together = [figure for figure in due if not figure.attempts] if not due[0].attempts else due[:1]
        drawable = [figure for figure in together if self._has_materials(figure)]
        settled = len(together) - len(drawable)
        if drawable:
            settled += self._attempt(drawable)
        self._clear(figure.job for figure in together)
        return given_up + settled

    def _attempt(self, figures: Sequence[FigureJob]) -> int:
        """Draw and hand on; returns how many were settled."""
        try:
            faults.reached("figure:undrawn")
            drawn = self._draw([figure.figure for figure in figures])
            paths = [
                materials.write(self._state / PICTURES / f"job-{figure.job}" / f"figure-{figure.id}.png", png)
                for figure, png in zip(figures, drawn, strict=True)
            ]
            faults.reached("figure:unrecorded")
        except LedgerError:
            raise
        except TemporaryError as error:
            return self._try_again(figures, str(error))
        except OSError as error:
            self._wait_for_disk(figures, error)
            return 0
        except Exception as error:
            # None of it is worth the daemon.
            log.exception("figure.failed")
            return self._try_again(figures, f"{type(error).__name__}: drawing failed in a way it should not")
        self._hand_on(figures, paths)
        return len(figures)

    def _hand_on(self, figures: Sequence[FigureJob], paths: Sequence[Path]) -> None:
        now = self._clock.now()
        with self._db.transaction("figures-drawn"):
            # The retention of a run may have ended while they were drawn: upkeep removes the files then.
            left = self._figures.left_of(figures)
            for figure, path in zip(figures, paths, strict=True):
                for sink in self._sinks if figure.id in left else ():
                    self._pictures.enqueue(
                        sink=sink,
                        run=figure.run,
                        identity=f"figure/{figure.id}",
                        picture=figure.picture,
                        path=str(path),
                        now=now,
                    )
            self._figures.drawn(figures, now)
        faults.reached("figure:uncleared")

    def _has_materials(self, figure: FigureJob) -> bool:
        """False, and the figure is given up, where nothing could be seen on it: no sink, or all its files are gone."""
        files = files_of(figure.figure)
        if not self._sinks:
            self._give_up(figure, "no sink takes pictures any more")
        elif files and not any(map(os.path.lexists, files)):
            self._give_up(figure, "what it is drawn from is gone")
        else:
            return True
        return False

    def _try_again(self, figures: Sequence[FigureJob], reason: str) -> int:
        """Put them off, those that were tried often enough for ever; returns how many these were."""
        given_up = [figure for figure in figures if figure.attempts + 1 >= _MOST_TRIES]
        for figure in given_up:
            self._give_up(figure, f"given up after {_MOST_TRIES} tries; the last time: {reason}")
        if left := [figure for figure in figures if figure not in given_up]:
            wait = backoff(left[0].attempts + 1, first=_FIRST_RETRY, most=_MOST_RETRY)
            self._postpone(left, reason, wait, counted=True)
        return len(given_up)

    def _wait_for_disk(self, figures: Sequence[FigureJob], error: OSError) -> None:
        reason = f"{error.filename or self._state / PICTURES}: {error.strerror or error}"
        self._postpone(figures, reason, _DISK_PAUSE, counted=False)

    def _postpone(self, figures: Sequence[FigureJob], reason: str, wait: timedelta, *, counted: bool) -> None:
        self._figures.postpone(figures, reason, self._clock.now() + wait, counted=counted)
        run, seconds = self._name(figures[0].run), wait.total_seconds()
        log.warning("figures.postponed", run=run, count=len(figures), reason=reason, seconds=seconds)

    def _give_up(self, figure: FigureJob, reason: str) -> None:
        self._figures.fail(figure, reason)
        run = self._name(figure.run)
        log.error("figure.given_up", run=run, step=figure.picture.step, figure=figure.kind, reason=reason)

    def _cap(self) -> int:
        """Now and then: give up the oldest of a backlog that has grown too long; returns how many."""
        if self._clock.monotonic() < self._next_cap:
            return 0
        self._next_cap = self._clock.monotonic() + _CAP_SECONDS
        reason = f"more than {_MOST_WAITING:,} figures waited: the newest were kept"
        found = self._figures.cap(_MOST_WAITING, reason)
        for run, jobs in found.items():
            log.error("figures.given_up", run=self._name(run), count=len(jobs), reason=reason)
            self._clear(jobs)
        return sum(map(len, found.values()))

    def _clear(self, jobs: Iterable[int]) -> None:
        """Remove what no figure waits for any more. What a crash leaves behind is removed by upkeep."""
        done = set(jobs)
        for job in done - self._figures.awaited(done):
            materials.remove(self._state / MATERIALS / f"job-{job}")

    def _name(self, run: str) -> str:
        """The run as people know it."""
        try:
            return self._ledger.run(run).name
        except KeyError:
            return run
