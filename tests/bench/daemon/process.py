"""A process seen from outside: its memory and its time on the processor as the kernel counts them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.job import METRICWATCH, QUIET

_TICK = 1 / os.sysconf("SC_CLK_TCK")
_LOOK_SECONDS = 0.002


class Process:
    """A process that was started here. Everything is of itself alone, not of its children."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.pid = process.pid

    def rss(self) -> float:
        """Resident memory in MB (10⁶ bytes)."""
        return self._kilobytes("status", "VmRSS:") * 1024 / 1e6

    def pss(self) -> float:
        """Resident memory in MB, of what is shared with other processes its share."""
        return self._kilobytes("smaps_rollup", "Pss:") * 1024 / 1e6

    def processor(self) -> float:
        """Seconds on the processor so far, in user and system mode."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * _TICK

    def share(self, seconds: float) -> float:
        """The part of one core that it takes during the next so many seconds."""
        began, before = time.monotonic(), self.processor()
        time.sleep(seconds)
        return (self.processor() - before) / (time.monotonic() - began)

    def alive(self) -> bool:
        return self._process.poll() is None

    def loaded(self) -> set[str]:
        """The packages of which it has mapped a library, as the kernel shows them: numpy for numpy/…/x.so."""
        maps = Path(f"/proc/{self.pid}/maps").read_text()
        paths = {line.split(maxsplit=5)[5] for line in maps.splitlines() if "site-packages/" in line}
        return {path.partition("site-packages/")[2].partition("/")[0] for path in paths}

    def stop(self) -> None:
        """SIGTERM, and SIGKILL where that is not enough."""
        if self.alive():
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()

    def _kilobytes(self, file: str, name: str) -> int:
        lines = Path(f"/proc/{self.pid}/{file}").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A daemon that is ready after so many seconds from its start as a process, and the port of its health endpoint."""

    process: Process
    ready_seconds: float
    port: int
    log: Path

    def answer_seconds(self, path: str) -> float:
        """How long the health endpoint takes for one answer."""
        began = time.perf_counter()
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
            answer.read()
        return time.perf_counter() - began


@contextmanager
def daemon(folder: Path, *, port: int, environ: Mapping[str, str] | None = None) -> Iterator[Running]:
    """`metricwatch run` over a folder's metricwatch.yaml, from when it says that it has started until the end."""
    log = folder / "daemon.log"
    with log.open("wb") as output:
        began = time.perf_counter()
        started = subprocess.Popen(
            [*METRICWATCH, "run"],
            cwd=folder,
            env={**os.environ, **QUIET, **(environ or {})},
            stdout=output,
            stderr=output,
        )
    process = Process(started)
    try:
        wait_for(process, log, "daemon.started")
        yield Running(process=process, ready_seconds=time.perf_counter() - began, port=port, log=log)
    finally:
        process.stop()


@contextmanager
def bare(code: str, folder: Path) -> Iterator[Process]:
    """Another Python process, from when it has said "ready" until the end."""
    log = folder / "bare.log"
    with log.open("wb") as output:
        started = subprocess.Popen(
            [sys.executable, "-P", "-u", "-c", code],
            cwd=folder,
            env={**os.environ, **QUIET},
            stdout=output,
            stderr=output,
        )
    process = Process(started)
    try:
        wait_for(process, log, "ready")
        yield process
    finally:
        process.stop()


def wait_for(process: Process, log: Path, words: str, *, seconds: float = 300.0) -> None:
    """Until the log says so. Raises RuntimeError where the process ends before, or time is up."""
    end = time.monotonic() + seconds
    while words not in log.read_text(errors="replace"):
        if not process.alive() or time.monotonic() > end:
            raise RuntimeError(f"no {words!r}: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(_LOOK_SECONDS)
