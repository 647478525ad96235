"""A training job's folder, a configuration beside it, and the real daemon as a process."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.support.photos import write_crops

# -P as the console script has it: modules of the working directory are not ours to import.
METRICWATCH = (sys.executable, "-P", "-m", "metricwatch")
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}


def wait_until(reached: Callable[[], Any], *, seconds: float = 60.0, what: str = "the condition") -> Any:
    """Poll until something true comes back, and return it. Raises AssertionError with `what` when time is up."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := reached():
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {seconds:g} s")


class Job:
    """The job writes sample sets of 16 real photo crops; more blur is worse."""

    def __init__(self, folder: Path, tracking_uri: str, experiment: str, **settings: Any) -> None:
        self.folder = folder
        self.samples = folder / "samples"
        self.samples.mkdir(parents=True)
        self.reference = write_crops(folder / "reference", 24, side=96, seed=1)
        self.config: dict[str, Any] = {
            "state": "state",
            "tracking": {"uri": tracking_uri, "experiment": experiment},
            "watch": [
                {
                    "run": {"name": "night"},
                    "samples": "samples/*",
                    "reference": "reference",
                    "pairs": {"content": "content"},
                    "settle": "1s",
                }
            ],
            "metrics": ["ssim"],
            # To draw takes a process and a second or two: who looks at pictures asks for them.
            "pictures": False,
            **settings,
            # A faster engine takes a second or two to start in each worker, and some tests have many.
            "worker": {"engine": "eager", **settings.get("worker", {})},
        }
        self.content = write_crops(folder / "content", 16, side=96, seed=2)
        self.write_config()

    @property
    def file(self) -> Path:
        return self.folder / "metricwatch.yaml"

    def write_config(self) -> None:
        self.file.write_text(yaml.safe_dump(self.config))

    def write_step(self, step: int, *, blur: float = 0.0, marked: bool = True) -> Path:
        """A sample set written elsewhere and moved in whole, as a careful job does."""
        folder = write_crops(self.folder / "writing" / f"step_{step:06d}", 16, side=96, seed=2, blur=blur)
        if marked:
            (folder / ".done").touch()
        target = self.samples / folder.name
        if target.exists():
            shutil.rmtree(target)
        folder.rename(target)
        return target

    def start(self, *arguments: str, **environ: str) -> Daemon:
        return Daemon(self, arguments, environ)

    def call(self, *arguments: str, timeout: float = 120, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run a metricwatch command in the job's folder to its end."""
        return subprocess.run(
            [*METRICWATCH, *arguments],
            cwd=self.folder,
            env={**os.environ, **QUIET, **environ},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


class Daemon:
    """`metricwatch run` as a process; its log is kept beside the configuration."""

    def __init__(self, job: Job, arguments: tuple[str, ...], environ: dict[str, str]) -> None:
        self.log_file = job.folder / "daemon.log"
        with self.log_file.open("ab") as output:
            self.process = subprocess.Popen(
                [*METRICWATCH, "run", *arguments],
                cwd=job.folder,
                env={**os.environ, **QUIET, **environ},
                stdout=output,
                stderr=output,
            )

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def wait_for(self, text: str, *, seconds: float = 60.0) -> None:
        """Wait until the log says so."""

        def said() -> bool:
            assert self.process.poll() is None or text in self.log, f"the daemon ended:\n{self.log[-3000:]}"
            return text in self.log

        wait_until(said, seconds=seconds, what=f"log line with {text!r}")

    def stop(self, sign: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(sign)
        return self.process.wait(timeout=30)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
