"""What a rescan costs once everything on disk is known: python -m tests.bench.watching [--factor F]"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from metricwatch.records import Run
from metricwatch.store.db import Database
from metricwatch.watch.events import EventHints
from metricwatch.watch.stage import Watcher
from tests.support.entries import watch_entry

_RESCAN_SECONDS = 10.0
_IDLE_RESCANS = 8


class SkippingClock:
    """The machine's clock with the waiting left out."""

    def __init__(self) -> None:
        self._skipped = 0.0

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self._skipped)

    def monotonic(self) -> float:
        return time.monotonic() + self._skipped

    def skip(self, seconds: float) -> None:
        self._skipped += seconds


@dataclass(frozen=True, slots=True)
class Layout:
    name: str
    steps: int
    images: int
    flat: bool

    def write(self, root: Path, step: int) -> None:
        if self.flat:
            for image in range(self.images):
                (root / f"{step:06d}_{image:03d}.png").write_bytes(b"image")
            return
        folder = root / f"step_{step:06d}"
        folder.mkdir()
        for image in range(self.images):
            (folder / f"{image:03d}.png").write_bytes(b"image")


LAYOUTS = (
    Layout("flat, an image a step", steps=100_000, images=1, flat=True),
    Layout("flat, 100 images a step", steps=1_000, images=100, flat=True),
    Layout("a directory a step, an image in each", steps=100_000, images=1, flat=False),
    Layout("a directory a step, 100 images in each", steps=1_000, images=100, flat=False),
)


def measure(layout: Layout, folder: Path, factor: float) -> str:
    """One line: what the first look, an idle rescan and a rescan after one more step take."""
    root, state = folder / "samples", folder / "state"
    root.mkdir()
    state.mkdir()
    steps = max(1, round(layout.steps * factor))
    for step in range(steps):
        layout.write(root, step)
    entry = watch_entry(root, Run(key="name:bench/night", name="night"), rescan=timedelta(seconds=_RESCAN_SECONDS))
    clock, db = SkippingClock(), Database.open(state)
    # Nobody listens: everything is found by looking, as on a network file system.
    watcher = Watcher(db, [entry], EventHints(lambda: None), clock)
    watcher._hints.listen = lambda roots: None
    watcher.start()

    def tick() -> tuple[int, float, float]:
        clock.skip(_RESCAN_SECONDS)
        watcher.rescan()
        wall, processor = time.perf_counter(), time.process_time()
        recorded = watcher.tick()
        return recorded, time.perf_counter() - wall, time.process_time() - processor

    _, first, _ = tick()
    recorded, record, _ = tick()
    assert recorded == steps, f"{recorded} of {steps}"
    tick()
    idle = [tick()[1:] for _ in range(_IDLE_RESCANS)]
    layout.write(root, steps)
    _, seen, _ = tick()
    recorded, appended, _ = tick()
    assert recorded == 1
    watcher.close()
    db.close()
    wall, processor = (sum(column) / len(idle) for column in zip(*idle, strict=True))
    return (
        f"{layout.name:40} {steps * layout.images:7d} files   first look {first:6.2f} s   recorded in {record:6.2f} s   "
        f"idle rescan {wall:7.4f} s (cpu {processor:7.4f} s, {processor / _RESCAN_SECONDS:5.2%} of a core)   "
        f"one step more: seen {seen:7.4f} s, recorded {appended:7.4f} s"
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--factor", type=float, default=1.0, help="of the 100,000 files of each layout")
    factor = arguments.parse_args().factor
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    for layout in LAYOUTS:
        folder = Path(tempfile.mkdtemp(prefix="metricwatch-bench-", dir=memory))
        try:
            print(measure(layout, folder, factor), flush=True)
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    # A line for each of 100,000 snapshots would be measured too.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    main()
