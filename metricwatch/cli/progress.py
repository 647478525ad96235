"""What a person at a terminal sees of long work. In a pipe or a file it stays silent: the log says enough."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from metricwatch.cli import console

if TYPE_CHECKING:
    from rich.progress import Progress


class Show(Protocol):
    """Show that `done` of `total` of something is reached; total 0 means that nobody knows yet."""

    def __call__(self, what: str, done: int, total: int) -> None: ...


@contextmanager
def bars() -> Iterator[Show]:
    """A bar on stderr for each kind of work, gone when the work is over."""
    screen = console.messages()
    if not screen.is_terminal:
        yield _silent
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=screen, transient=True) as progress:
        yield _Bars(progress)


def _silent(what: str, done: int, total: int) -> None:
    """Nobody is looking."""


class _Bars:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, int] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=None)
        self._progress.update(self._tasks[what], completed=done, total=total or None)  # type: ignore[arg-type]
