"""A real MLflow server for the demo, and the curves read back from it."""

from __future__ import annotations

import re
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from typing import Any

from metricwatch.cli.demo.configuration import COMPOSITE, METRIC, PERCEPTUAL, PREFIX, RULE, SIMILARITY, STYLE
from metricwatch.cli.demo.folder import DemoFolder
from metricwatch.cli.demo.ports import HOST, PortTakenError, on_free_port
from metricwatch.cli.demo.processes import Child, shown
from metricwatch.errors import MetricwatchError

# Its first start creates the database, table by table: a minute on a slow disk.
_START_SECONDS = 120.0

# Column of the report -> key in MLflow.
CURVES = {
    # Read first: where it is there, the rest of its delivery is.
    "composite": f"{PREFIX}/{COMPOSITE}",
    "distance": f"{PREFIX}/{METRIC}",
    "distance_stderr": f"{PREFIX}/{METRIC}_stderr",
    "similarity": f"{PREFIX}/{SIMILARITY}",
    "perceptual": f"{PREFIX}/{PERCEPTUAL}",
    "style": f"{PREFIX}/{STYLE}",
    "firing": f"alert/{RULE}",
}

# As MlflowClient.log_image names the pictures of its slider, "~" or "#" for a slash; each has a small copy beside it.
_SAMPLE = re.compile(rf"/{PREFIX}[~#]samples[~#].*[+%]step[+%](?P<step>\d+)[+%]timestamp[+%][^+%]+[+%][^+%]+\.png$")

History = dict[str, list[tuple[int, float]]]


class TrackingServer:
    """A running `mlflow server` over a database in the demo's folder."""

    def __init__(self, folder: DemoFolder) -> None:
        """Start it and wait until it answers. Raises MetricwatchError naming its log when it does not."""
        self._folder = folder
        self.process, port = on_free_port(self._start)
        self.uri = f"http://{HOST}:{port}"

    def _start(self, port: int) -> Child:
        log = self._folder.log("mlflow")
        process = Child(
            "the MLflow server",
            [
                *(sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"),
                *("--backend-store-uri", f"sqlite:///{self._folder.database_inside}"),
                *("--artifacts-destination", f"./{self._folder.artifacts_inside}"),
            ],
            folder=self._folder.root,
            log=log,
        )
        try:
            _await_health(process, port)
        except BaseException:
            process.stop()
            raise
        return process


def _await_health(process: Child, port: int) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        if process.status is not None:
            if "address already in use" in process.log.read_text(errors="replace").lower():
                raise PortTakenError(f"port {port} was taken by another program")
            raise process.ended_badly()
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=2) as answer:
                if answer.status == 200:  # noqa: PLR2004
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise MetricwatchError(
        f"demo: the MLflow server did not answer within {_START_SECONDS:.0f} s; its log is {shown(process.log)}"
    )


class TrackedRun:
    """The training job's run as MLflow shows it."""

    def __init__(self, uri: str, run_id: str) -> None:
        from mlflow import MlflowClient

        self.id = run_id
        self._uri = uri
        self._client: Any = MlflowClient(tracking_uri=uri)
        self.experiment: str = self._ask(lambda: self._client.get_run(run_id)).info.experiment_id

    @property
    def page(self) -> str:
        """The page of the run, without the server's address."""
        return f"/#/experiments/{self.experiment}/runs/{self.id}"

    def history(self) -> History:
        """Every row of every curve of CURVES, as (step, value) by step. Raises MetricwatchError."""
        return {name: self._curve(key) for name, key in CURVES.items()}

    def pictures(self) -> dict[int, int]:
        """How many samples can be looked at, by step. Raises MetricwatchError."""
        files = self._ask(lambda: self._client.list_artifacts(self.id, "images"))
        found = (_SAMPLE.search(file.path) for file in files)
        return dict(Counter(int(match["step"]) for match in found if match))

    def _curve(self, key: str) -> list[tuple[int, float]]:
        rows = self._ask(lambda: self._client.get_metric_history(self.id, key))
        return sorted((row.step, row.value) for row in rows)

    def _ask(self, question: Any) -> Any:
        try:
            return question()
        except Exception as error:
            # MLflow lets requests' errors through as well as its own.
            reason = " ".join(str(error).split())[:300]
            raise MetricwatchError(f"demo: the MLflow server at {self._uri} does not answer: {reason}") from error
