"""Processes the demo starts, and stops again."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import MutableMapping, Sequence
from contextlib import suppress
from pathlib import Path

from metricwatch.errors import MetricwatchError

_KEPT = frozenset({"METRICWATCH_DEBUG"})
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    # Its background jobs would start processes of their own; the demo needs none.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    # A server that does not answer on the loopback interface will not do so a minute later.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "PYTHONUNBUFFERED": "1",
}


def isolate(environ: MutableMapping[str, str]) -> None:
    """Make an environment the demo's own: no setting of the user's MLflow or metricwatch, no proxy on loopback."""
    for name in [name for name in environ if name.startswith(("MLFLOW_", "METRICWATCH_")) and name not in _KEPT]:
        del environ[name]
    environ.update(_QUIET)
    direct = environ.get("no_proxy") or environ.get("NO_PROXY")
    environ["no_proxy"] = environ["NO_PROXY"] = ",".join(filter(None, (direct, "127.0.0.1", "localhost")))


class Child:
    """A running process in a session of its own: Ctrl-C at the terminal reaches the demo alone, which stops it."""

    def __init__(self, what: str, command: Sequence[str], *, folder: Path, log: Path) -> None:
        self.what = what
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def status(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        return self._process.poll()

    def require_alive(self) -> None:
        """Raise MetricwatchError with the end of its log when it has ended other than with status 0."""
        if self.status not in {None, 0}:
            raise self.ended_badly()

    def ended_badly(self) -> MetricwatchError:
        """What to tell about a process that is gone too early."""
        return MetricwatchError(
            f"demo: {self.what} ended with status {self.status}; its log {shown(self.log)} ends: {self._last_line()}"
        )

    def stop(self, grace: float = 20.0) -> int:
        """SIGTERM, SIGKILL after `grace` seconds, and no process of its group left behind; returns its status."""
        if self._process.poll() is None:
            self._signal(signal.SIGTERM)
            try:
                self._process.wait(grace)
            except subprocess.TimeoutExpired:
                self._signal(signal.SIGKILL)
        status = self._process.wait()
        if not self._group_gone(3.0):
            self._signal(signal.SIGKILL)
        return status

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _group_gone(self, patience: float) -> bool:
        end = time.monotonic() + patience
        while time.monotonic() < end:
            try:
                os.killpg(self._process.pid, 0)
            except ProcessLookupError:
                return True
            time.sleep(0.05)
        return False

    def _last_line(self) -> str:
        lines = [line for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        return lines[-1].strip()[:300] if lines else "(empty)"


def shown(path: Path) -> str:
    """A path as people read it: relative where it lies below the current directory."""
    with suppress(ValueError, OSError):
        return str(path.relative_to(Path.cwd()))
    return str(path)
