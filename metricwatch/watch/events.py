"""File system events as hints: they make things quick, never correct. The rescan does that."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import structlog
from watchdog.events import DirMovedEvent, FileMovedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

log = structlog.get_logger(__name__)

_IGNORED = frozenset({"opened", "closed_no_write"})


@dataclass(slots=True)
class Hints:
    """Paths that something happened to since the last look; renamed ones arrived whole under their name."""

    touched: set[str] = field(default_factory=set)
    renamed: set[str] = field(default_factory=set)


class EventHints(FileSystemEventHandler):
    """Listens to directory trees. A tree that cannot be listened to is left to the rescan, with a warning."""

    def __init__(self, wake: Callable[[], None], concerns: Callable[[str], bool] = lambda _: True) -> None:
        """wake() is called when something happened to a path that `concerns` us; other paths are passed over."""
        self._wake = wake
        self._concerns = concerns
        self._lock = threading.Lock()
        self._hints = Hints()
        self._observer: BaseObserver | None = None
        self._listening: set[str] = set()
        self._refused: set[str] = set()

    def listen(self, roots: Iterable[str]) -> None:
        """Listen to these trees too, those of them that exist by now."""
        for root in roots:
            if root in self._listening or not os.path.isdir(root):
                continue
            try:
                if self._observer is None:
                    self._observer = Observer()
                    self._observer.start()
                self._observer.schedule(self, root, recursive=True)
            except OSError as error:
                # ENOSPC: the user's inotify watches are used up. Polling goes on.
                if root not in self._refused:
                    log.warning("watch.events_off", root=root, reason=str(error), consequence="polling only")
                    self._refused.add(root)
                continue
            self._listening.add(root)

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
            if isinstance(event, DirMovedEvent | FileMovedEvent) and event.dest_path:
                self._hints.renamed.add(os.fsdecode(event.dest_path))
        self._wake()

    def close(self) -> None:
        if self._observer is not None:
            self._observer.stop()
            self._observer.join(timeout=5)
            self._observer = None
