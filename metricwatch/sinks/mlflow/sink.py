"""The sink: curves, tags, pictures and pages into a run of a tracking server or of a tracking database.

It speaks through MlflowClient alone: start_run() in a sidecar would end the training run on exit. What makes a
repeated write harmless is MLflow's own primary key on metrics (key, timestamp, step, run, value, is_nan), so
points travel verbatim. A directory of files (./mlruns) has no such key and is refused. A picture or a page is harmless
to repeat because its files have the same names each time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from metricwatch.api import ConfigError, PermanentError, Picture, Point, RemoteRun, Run, Sink

from .address import Address
from .artifacts import Artifacts
from .batches import batches
from .history import History
from .pictures import Pictures
from .runs import Runs
from .server import TOO_LARGE, Server, status_of


@dataclass(frozen=True, slots=True, kw_only=True)
class MlflowOptions:
    """The keys of `tracking`. timeout is in seconds, for each request.

    prefix is what the exporter puts before the keys of scores: points reach this sink with their final keys.
    A user and password inside uri are used and never shown; MLFLOW_TRACKING_USERNAME, _PASSWORD and _TOKEN work.
    """

    uri: str
    experiment: str = "Default"
    prefix: str = "quality"
    timeout: float = 10.0


class MlflowSink(Sink):
    """Writes to http(s)://, sqlite:/// and every other database MLflow supports. Not for several threads."""

    Options = MlflowOptions
    takes_pictures: ClassVar[bool] = True
    takes_pages: ClassVar[bool] = True

    def __init__(self, options: MlflowOptions) -> None:
        address = Address(options.uri)
        if options.timeout <= 0:
            raise ConfigError(f"tracking.timeout must be above 0 seconds, not {options.timeout:g}")
        self._where = address.where
        self._server = Server(address, options.timeout)
        self._runs = Runs(self._server, options.experiment)
        self._artifacts = Artifacts(self._server)
        self._pictures = Pictures(self._server, self._artifacts)
        self._history = History(self._server)

    def find_run(self, run: Run) -> RemoteRun:
        """Find the run by id, by the id in id_file, or by name; only a name may create one.

        By name the choice is, within the experiment: the oldest run tagged metricwatch.run = run.key; else the
        newest run of that name that somebody else made (RUNNING ones first): the training job's own; else a new run
        with tag and name. Raises TemporaryError while id_file is not written yet, PermanentError when the run or
        the experiment does not exist or is deleted.
        """
        return self._runs.find(run)

    def write(self, run_id: str, points: Sequence[Point], tags: Mapping[str, str]) -> None:
        """Write all or raise; a repeat leaves one row of each point. Long tag values are cut to MLflow's limit.

        Raises PermanentError, with nothing sent, when a value is NaN or infinite: MLflow would store +Inf as 1.8e308.
        """
        for point in points:
            if not math.isfinite(point.value):
                raise PermanentError(
                    f"mlflow: {point.key} at step {point.step} is {point.value}: only finite values are logged"
                )
        with self._server.speaking(f"writing to run {run_id}"):
            for metrics, run_tags in batches(points, tags):
                self._log(run_id, metrics, run_tags)

    def write_picture(self, run_id: str, picture: Picture, png: bytes) -> None:
        """Write what MlflowClient.log_image() writes, under names that a repeat overwrites.

        Raises PermanentError for what is no PNG, RunGoneError for a run that is deleted or not there, TemporaryError
        where server or artifact store cannot take it now. Characters that MLflow does not take in a key become "_".
        """
        self._pictures.write(run_id, picture, png)

    def write_page(self, run_id: str, name: str, content: bytes) -> None:
        """Write the file into the run's uppermost folder of artifacts, where MLflow's page shows it.

        Raises RunGoneError for a run that is deleted or not there, TemporaryError where server or artifact store cannot
        take it now, PermanentError for a name with a folder in it.
        """
        self._artifacts.write(run_id, name, content)

    def ended(self, run_id: str) -> bool:
        """True when the run's status is FINISHED; one that FAILED or was KILLED did not end well."""
        with self._server.speaking(f"asking whether run {run_id} is over"):
            return bool(self._server.client().get_run(run_id).info.status == "FINISHED")

    def run_name(self, run_id: str) -> str:
        return self._history.name(run_id)

    def keys(self, run_id: str) -> Sequence[str]:
        return self._history.keys(run_id)

    def read(self, run_id: str, key: str) -> Sequence[Point]:
        return self._history.read(run_id, key)

    def ping(self) -> str:
        with self._server.speaking("asking for a sign of life"):
            self._server.client().search_experiments(max_results=1)
        return f"MLflow {self._server.version()}at {self._where}"

    def close(self) -> None:
        self._server.close()

    def _log(self, run_id: str, metrics: list[Any], tags: list[Any]) -> None:
        """One request, or as many as it takes where a gateway's limit is below MLflow's own."""
        from mlflow.exceptions import MlflowException

        try:
            self._server.client().log_batch(run_id, metrics=metrics, tags=tags)
        except MlflowException as error:
            if status_of(error) != TOO_LARGE or len(metrics) + len(tags) == 1:
                raise
            middle = (len(metrics) + len(tags)) // 2
            beyond = max(0, middle - len(metrics))
            self._log(run_id, metrics[:middle], tags[:beyond])
            self._log(run_id, metrics[middle:], tags[beyond:])
