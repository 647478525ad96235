"""File system events as hints: they make things quick, never correct. The rescan does that."""

from __future__ import annotations

import logging
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import structlog
from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver, ObservedWatch

log = structlog.get_logger(__name__)

_IGNORED = frozenset({"opened", "closed_no_write"})
# Not the writes into a file that stays open, such as a job's log: the kernel need not tell of each.
_WHOLE: list[type[FileSystemEvent]] = [
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
]
# With so many paths waiting one look at everything is cheaper than a look at each.
_MOST_TOUCHED = 100_000
# Overflows closer together than this belong to one burst, and are told of once.
_BURST_SECONDS = 60.0
# Where watchdog says that the kernel dropped events, and nowhere else. A version that does not say it leaves all to
# the rescan.
_INOTIFY_LOG = "watchdog.observers.inotify_c"
_RECONCILE_LOG = "watchdog.observers.inotify"


@dataclass(slots=True)
class Hints:
    """Paths that something happened to since the last look; renamed ones are files and directories that arrived whole.

    lost says that there was more, and nobody knows where.
    """

    touched: set[str] = field(default_factory=set)
    renamed: set[str] = field(default_factory=set)
    lost: bool = False


class EventHints(FileSystemEventHandler):
    """Listens to directory trees. A tree that cannot be listened to is left to the rescan, with a warning."""

    def __init__(self, wake: Callable[[], None], concerns: Callable[[str], bool] = lambda _: True) -> None:
        """wake() is called when something happened to a path that `concerns` us; other paths are passed over."""
        self._wake = wake
        self._concerns = concerns
        self._lock = threading.Lock()
        self._hints = Hints()
        self._lost_at: float | None = None
        self._observer: BaseObserver | None = None
        self._listening: dict[str, tuple[tuple[int, int], ObservedWatch]] = {}
        self._refused: set[str] = set()

    def listen(self, roots: Iterable[str], *, whole_files: bool = False) -> None:
        """Listen to these trees too, those of them that exist by now. One made anew under its name counts as new.

        whole_files: a file that is written to and stays open is not told of.
        """
        for root in roots:
            try:
                status = os.stat(root)
            except OSError:
                continue
            identity = status.st_dev, status.st_ino
            listening = self._listening.get(root)
            if not os.path.isdir(root) or (listening is not None and listening[0] == identity):
                continue
            try:
                observer = self._started()
                if listening is not None:
                    del self._listening[root]
                    observer.unschedule(listening[1])
                only = _WHOLE if whole_files else None
                self._listening[root] = identity, observer.schedule(self, root, recursive=True, event_filter=only)
            except OSError as error:
                # ENOSPC: the user's inotify watches are used up. Polling goes on.
                if root not in self._refused:
                    log.warning("watch.events_off", root=root, reason=str(error), consequence="polling only")
                    self._refused.add(root)

    def ignore(self, root: str) -> None:
        """Listen to this tree no more."""
        listening = self._listening.pop(root, None)
        if listening is not None:
            self._started().unschedule(listening[1])

    def take(self) -> Hints:
        """The hints since the last call."""
        with self._lock:
            hints, self._hints = self._hints, Hints()
        return hints

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type in _IGNORED:
            return
        paths = {os.fsdecode(path) for path in (event.src_path, event.dest_path) if path}
        touched = set(filter(self._concerns, paths))
        if not touched:
            return
        with self._lock:
            self._hints.touched |= touched
            if isinstance(event, DirMovedEvent) and event.dest_path:
                self._hints.renamed.add(os.fsdecode(event.dest_path))
            elif isinstance(event, FileMovedEvent):
                self._hints.renamed |= touched & {os.fsdecode(event.dest_path)}
            if len(self._hints.touched) > _MOST_TOUCHED:
                self._hints = Hints(lost=True)
        self._wake()

    def on_overflow(self) -> None:
        """The kernel's queue ran over and events are gone: the next look must be at everything."""
        now = time.monotonic()
        with self._lock:
            self._hints.lost = True
            told, self._lost_at = self._lost_at, now
        if told is None or now - told > _BURST_SECONDS:
            log.warning("watch.events_lost", reason="the inotify queue overflowed", consequence="rescanning everything")
        self._wake()

    def filter(self, record: logging.LogRecord) -> bool:
        """Take watchdog's word for an overflow, out of its log."""
        if "overflow" not in str(record.msg):
            return True
        if record.name == _INOTIFY_LOG:
            self.on_overflow()
        return False

    def close(self) -> None:
        for name in (_INOTIFY_LOG, _RECONCILE_LOG):
            logging.getLogger(name).removeFilter(self)
        if self._observer is not None:
            self._observer.stop()
            self._observer.join(timeout=5)
            self._observer = None

    def _started(self) -> BaseObserver:
        if self._observer is None:
            for name in (_INOTIFY_LOG, _RECONCILE_LOG):
                logging.getLogger(name).addFilter(self)
            # Of directories made so fast that watchdog meets them twice: pages of its inner state, and no harm.
            warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"watchdog\.")
            self._observer = Observer()
            self._observer.start()
        return self._observer
