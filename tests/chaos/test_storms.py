"""More files at once than the kernel's queue holds, and file systems that send no events: none is missed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import structlog

from metricwatch.records import Run
from metricwatch.store.db import Database
from metricwatch.testing.clock import FakeClock
from metricwatch.watch.events import EventHints
from metricwatch.watch.stage import Watcher
from tests.support.entries import watch_entry
from tests.support.job import wait_until

QUEUE = Path("/proc/sys/fs/inotify/max_queued_events")
WATCHES = Path("/proc/sys/fs/inotify/max_user_watches")

# A process of its own writes faster than any thread beside the watcher could.
WRITE = """
import os, sys
root, layout, first, last = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
for step in range(first, last):
    path = f"{root}/{step:06d}.png"
    if layout == "directories":
        os.mkdir(f"{root}/{step:06d}")
        path = f"{root}/{step:06d}/0.png"
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT))
"""


class Storm:
    """A watcher over an empty folder, and a process that fills it."""

    def __init__(self, folder: Path, *, rescan: timedelta) -> None:
        self.root = folder / "samples"
        self.root.mkdir()
        (folder / "state").mkdir()
        self.db = Database.open(folder / "state")
        entry = watch_entry(self.root, Run(key="name:x/night", name="night"), rescan=rescan)
        self.clock = FakeClock()
        self.hints = EventHints(lambda: None)
        self.watcher = Watcher(self.db, [entry], self.hints, self.clock)

    def write(self, layout: str, first: int, last: int) -> None:
        subprocess.run([sys.executable, "-c", WRITE, self.root, layout, str(first), str(last)], check=True)

    def recorded(self) -> set[int]:
        return {row["step"] for row in self.db.read("SELECT step FROM snapshots")}

    def tick(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.watcher.tick()

    @contextmanager
    def deaf(self) -> Iterator[None]:
        """Nobody empties the kernel's queue meanwhile, as on a machine that has no time for it."""
        (emitter,) = self.hints._observer.emitters
        with emitter._inotify._lock:
            yield

    def close(self) -> None:
        self.watcher.close()
        self.db.close()


@pytest.fixture
def storm() -> Iterator[Callable[..., Storm]]:
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="metricwatch-storm-", dir=where))
    made = []

    def make(**options: timedelta) -> Storm:
        made.append(Storm(folder, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()
    shutil.rmtree(folder)


@pytest.mark.skipif(not QUEUE.exists(), reason="needs inotify")
@pytest.mark.parametrize("layout", ["flat", "directories"])
def test_events_that_the_kernel_dropped_are_noticed_and_made_up_for(storm, layout, full_size):
    """The next rescan would be in a year, and of most steps no event ever came."""
    files = max(100_000 if full_size else 0, int(QUEUE.read_text()) + 1000)
    if layout == "directories" and files > int(WATCHES.read_text()):
        pytest.skip("fewer inotify watches than directories")
    s = storm(rescan=timedelta(days=365))
    s.watcher.start()
    s.tick(1)
    with structlog.testing.capture_logs() as logs:
        with s.deaf():
            s.write(layout, 0, files)
        # The events that were kept come one by one; the overflow comes after them.
        wait_until(lambda: any(line["event"] == "watch.events_lost" for line in logs), what="the overflow")
        s.tick(1)
        assert s.watcher.settling() == files
        s.tick(6)
        s.tick(6)
    assert s.recorded() == set(range(files))
    assert [line["event"] for line in logs].count("watch.events_lost") == 1


@pytest.mark.skipif(not QUEUE.exists(), reason="needs inotify")
def test_a_rewrite_whose_event_was_dropped_is_found(storm):
    """In a directory that is known, in a file that keeps its name: neither its name nor its time tells."""
    s = storm(rescan=timedelta(days=365))
    s.write("directories", 900_000, 900_100)
    s.watcher.start()
    for _ in range(4):
        s.tick(6)
    assert len(s.recorded()) == 100
    with structlog.testing.capture_logs() as logs:
        with s.deaf():
            s.write("flat", 0, int(QUEUE.read_text()) + 1000)
            (s.root / "900050" / "0.png").write_bytes(b"rewritten")
        wait_until(lambda: any(line["event"] == "watch.events_lost" for line in logs), what="the overflow")
        for _ in range(4):
            s.tick(6)
    assert s.db.read("SELECT max(revision) AS revision FROM snapshots WHERE step = 900050")[0]["revision"] == 2


@pytest.mark.parametrize("layout", ["flat", "directories"])
def test_without_events_a_rescan_in_the_middle_of_a_storm_misses_nothing(storm, layout, full_size):
    files = 100_000 if full_size else 5_000
    s = storm(rescan=timedelta(seconds=10))
    s.hints.listen = lambda roots: None
    s.watcher.start()
    writing = subprocess.Popen([sys.executable, "-c", WRITE, s.root, layout, "0", str(files)])
    while writing.poll() is None:
        s.tick(1)
    assert writing.returncode == 0
    for _ in range(6):
        s.tick(6)
    assert s.recorded() == set(range(files))
    assert s.watcher.settled()
