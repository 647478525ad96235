"""One daemon over a large tree: its start, how soon it notices new sample sets, its memory before, during and after."""

from __future__ import annotations

import shutil
import sqlite3
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.daemon.process import Process, bare, daemon
from tests.bench.daemon.site import Site
from tests.bench.measuring import Spread

_LOOK_SECONDS = 0.001
_PATIENCE_SECONDS = 240.0
_BARE_MLFLOW = (
    "import mlflow; mlflow.MlflowClient({uri!r}).search_experiments(); print('ready'); import time; time.sleep(9e6)"
)
_BARE_WATCHDOG = """
from watchdog.events import FileSystemEventHandler
from watchdog.observers import Observer
observer = Observer()
observer.schedule(FileSystemEventHandler(), {root!r}, recursive=True)
observer.start()
print("ready")
observer.join()
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Seconds from the moment a sample set is complete until the ledger holds it for good."""

    median: float
    p95: float
    most: float
    sets: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Latency:
        ranked = sorted(values)
        at = min(len(ranked) - 1, round(0.95 * (len(ranked) - 1)))
        return cls(median=statistics.median(ranked), p95=ranked[at], most=ranked[-1], sets=len(ranked))


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """Memory in MB (10⁶ bytes), of the daemon's process alone; idle shares are parts of one core.

    renamed: a folder moved in whole from beside the samples. marked: one whose marker is written last. quiet: one without either, less the
    configured quiet time. bare_mlflow is a process that has asked the same server once through MLflow and does nothing;
    bare_watchdog one that listens to the same tree and does nothing.
    """

    files: int
    ready_seconds: float
    rss_at_start: float
    rss_after_work: float
    rss_idle: float
    pss_idle: float
    idle_share: float
    idle_seconds: float
    renamed: Latency
    marked: Latency
    quiet: Latency
    scored: int
    libraries: tuple[str, ...]
    bare_mlflow_rss: float
    bare_watchdog_rss: float
    bare_watchdog_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Length:
    """How much of each there is to be: sets that arrive in each way, seconds of rest and then of an idle window."""

    sets: int
    idle_seconds: float
    rest_seconds: float = 6.0


_QUIET_SECONDS = 1.0


def live(folder: Path, tracking: str, *, steps: int, files: int, length: Length, say: Callable[[str], None]) -> Day:
    """A day of a daemon: start, work, rest. steps times files are on disk and scored when it starts."""
    site = Site(
        folder=folder / "site",
        tracking=tracking,
        steps=steps,
        files=files,
        settings={"worker": {"idle_exit": "2s"}},
    )
    say(f"writing {steps * files} files")
    site.write()
    site.prepare()
    with daemon(site.folder, port=site.port) as running:
        process = running.process
        at_start = process.rss()
        say(f"ready after {running.ready_seconds:.2f} s")
        # What the first look at the tree takes is not what a new sample set waits for.
        time.sleep(length.rest_seconds / 3)
        arrivals = _Arrivals(site, steps)
        renamed = arrivals.take(length.sets, _moved_in)
        marked = arrivals.take(length.sets, _marked)
        quiet = arrivals.take(max(3, length.sets // 4), _unmarked)
        say("waiting for scores and deliveries")
        arrivals.wait_for_delivery()
        after_work = process.rss()
        # The worker leaves, and what had to be looked at again has been.
        time.sleep(length.rest_seconds)
        say(f"idle for {length.idle_seconds:.0f} s")
        share = process.share(length.idle_seconds)
        idle_rss, idle_pss = process.rss(), process.pss()
        libraries = tuple(sorted(process.loaded()))
        arrivals.close()
    mlflow_rss, watchdog_rss, watchdog_share = _bare(site, tracking, folder, length)
    return Day(
        files=steps * files,
        ready_seconds=running.ready_seconds,
        rss_at_start=at_start,
        rss_after_work=after_work,
        rss_idle=idle_rss,
        pss_idle=idle_pss,
        idle_share=share,
        idle_seconds=length.idle_seconds,
        renamed=Latency.of(renamed),
        marked=Latency.of(marked),
        quiet=Latency.of([latency - _QUIET_SECONDS for latency in quiet]),
        scored=arrivals.arrived,
        libraries=libraries,
        bare_mlflow_rss=mlflow_rss,
        bare_watchdog_rss=watchdog_rss,
        bare_watchdog_share=watchdog_share,
    )


def starts(folder: Path, tracking: str, *, times: int) -> Spread:
    """Seconds from the start of the process until a daemon is ready that has nothing to watch yet."""
    site = Site(folder=folder / "empty", tracking=tracking, steps=0)
    site.write()
    seconds = []
    for _ in range(times):
        with daemon(site.folder, port=site.port) as running:
            seconds.append(running.ready_seconds)
    return Spread.of(seconds)


class _Arrivals:
    """Sample sets that arrive beside a running daemon, and its ledger, read from here."""

    def __init__(self, site: Site, next_step: int) -> None:
        self._site = site
        self._next = next_step
        # Beside the samples: what comes from a tree that is not listened to is not known to have come whole. One set of
        # real pictures for all: to draw them anew would take time from the daemon.
        self._pattern = site.new_step(site.samples().with_name("writing"), step=0)
        self._ledger = sqlite3.connect(site.state / "ledger.sqlite3", timeout=30, isolation_level=None)
        self.arrived = 0

    def take(self, sets: int, write: Callable[[Path, Path], None]) -> list[float]:
        """How long each waited until the ledger held it."""
        waited = []
        for number in range(sets):
            target = self._site.samples() / f"step_{self._next:06d}"
            write(self._pattern, target)
            began = time.perf_counter()
            while not self._holds(self._next):
                if time.perf_counter() - began > _PATIENCE_SECONDS:
                    raise RuntimeError(f"{target} is not noticed")
                time.sleep(_LOOK_SECONDS)
            waited.append(time.perf_counter() - began)
            self._next += 1
            self.arrived += 1
            # Not in step with the daemon's half second.
            time.sleep(0.11 + 0.037 * (number % 13))
        return waited

    def wait_for_delivery(self) -> None:
        """Until every step has its end, and every point is sent."""
        end = time.monotonic() + _PATIENCE_SECONDS
        while self._count("jobs WHERE state IN ('queued', 'leased')") or self._count(
            "deliveries WHERE state = 'pending'"
        ):
            if time.monotonic() > end:
                raise RuntimeError("the scores of the new steps do not reach the tracking server")
            time.sleep(0.1)
        if unscored := self._count("jobs WHERE state <> 'done'"):
            raise RuntimeError(f"{unscored} steps could not be scored")

    def close(self) -> None:
        self._ledger.close()

    def _holds(self, step: int) -> bool:
        return bool(self._ledger.execute("SELECT 1 FROM snapshots WHERE step = ? LIMIT 1", (step,)).fetchone())

    def _count(self, what: str) -> int:
        return int(self._ledger.execute(f"SELECT count(*) FROM {what}").fetchone()[0])


def _moved_in(pattern: Path, target: Path) -> None:
    whole = pattern.with_name(target.name)
    shutil.copytree(pattern, whole, dirs_exist_ok=True)
    whole.rename(target)


def _marked(pattern: Path, target: Path) -> None:
    shutil.copytree(pattern, target)
    (target / ".done").touch()


def _unmarked(pattern: Path, target: Path) -> None:
    shutil.copytree(pattern, target)


def _bare(site: Site, tracking: str, folder: Path, length: Length) -> tuple[float, float, float]:
    with bare(_BARE_MLFLOW.format(uri=tracking), folder) as process:
        mlflow_rss = process.rss()
    with bare(_BARE_WATCHDOG.format(root=str(site.samples())), folder) as process:
        return mlflow_rss, process.rss(), _resting(process, length.idle_seconds / 3)


def _resting(process: Process, seconds: float) -> float:
    time.sleep(1.0)
    return process.share(seconds)
