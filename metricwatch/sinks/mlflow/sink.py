"""The sink: curves, tags, pictures and pages into a run of a tracking server or of a tracking database.

It speaks through MlflowClient alone: start_run() in a sidecar would end the training run on exit. What makes a
repeated write harmless is MLflow's own primary key on metrics (key, timestamp, step, run, value, is_nan), so
points travel verbatim. A directory of files (./mlruns) has no such key and is refused. A picture or a page is harmless
to repeat because its files have the same names each time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from metricwatch.api import (
    ConfigError,
    ModelVersion,
    PermanentError,
    Picture,
    Point,
    Registration,
    RemoteRun,
    Run,
    RunFacts,
    Sink,
    StoredPicture,
)

from .address import Address
from .artifacts import Artifacts
from .batches import batches
from .gallery import Gallery
from .history import History
from .pictures import Pictures
from .registry import Registry
from .runs import Layout, Runs
from .server import TOO_LARGE, Server, status_of


@dataclass(frozen=True, slots=True, kw_only=True)
class MlflowOptions:
    """The keys of `tracking`. timeout is in seconds, for each request.

    prefix is what the exporter puts before the keys of scores: points reach this sink with their final keys. layout is
    which run gets them: the training job's own, a child of that, or one of our own in the experiment.
    A user and password inside uri are used and never shown; MLFLOW_TRACKING_USERNAME, _PASSWORD and _TOKEN work.
    """

    uri: str
    experiment: str = "Default"
    prefix: str = "quality"
    timeout: float = 10.0
    layout: Layout = "training"


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
        self._runs = Runs(self._server, options.experiment, options.layout)
        self._artifacts = Artifacts(self._server)
        self._pictures = Pictures(self._server, self._artifacts)
        self._history = History(self._server)
        self._registry = Registry(self._server, self._artifacts)
        self._gallery = Gallery(self._server, self._history, self._artifacts)

    def find_run(self, run: Run) -> RemoteRun:
        """Find the run by id, by the id in id_file, or by name; only a name may create one.

        By name the choice is, within the experiment: the oldest run tagged metricwatch.run = run.key; else the
        newest run of that name that somebody else made (RUNNING ones first): the training job's own; else a new run
        with tag and name. With the layouts child and own it is the run tagged metricwatch.training_run with that one's
        id, the oldest, made where there is none.

        Raises TemporaryError while id_file is not written yet, PermanentError when the run or the experiment does not
        exist or is deleted.
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
        """True when the training job's status is FINISHED; one that FAILED or was KILLED did not end well.

        A run of ours beside that of the training job is given its end here: FINISHED, whatever became of the job.
        """
        return self._runs.ended(run_id)

    def run_name(self, run_id: str) -> str:
        return self._history.name(run_id)

    def keys(self, run_id: str) -> Sequence[str]:
        return self._history.keys(run_id)

    def read(self, run_id: str, key: str) -> Sequence[Point]:
        return self._history.read(run_id, key)

    def read_pages(self, run_id: str, key: str) -> Iterator[Sequence[Point]]:
        """Pages of 5,000 points in the order of their timestamps; a server that knows no pages gives all at once."""
        return self._history.pages(run_id, key)

    def facts(self, run_id: str) -> RunFacts:
        return self._history.facts(run_id)

    def pictures(self, run_id: str) -> Sequence[StoredPicture]:
        """By step, all that log_image() wrote under a key, whoever called it."""
        return self._gallery.pictures(run_id)

    def read_picture(self, run_id: str, picture: StoredPicture) -> bytes:
        return self._gallery.read(run_id, picture)

    def register(
        self, run_id: str, registration: Registration, show: Callable[[str, int, int], None] = lambda *_: None
    ) -> ModelVersion:
        """Upload the checkpoint to `checkpoints/step-<step>` of the run, unless there is a link, and register it.

        The model is made where there is none. Raises RunGoneError for a run that is deleted or not there,
        TemporaryError where server or artifact store cannot take it now, PermanentError for a name, an alias or a link
        that MLflow does not take: links to files of one machine, for instance.
        """
        return self._registry.register(run_id, registration, show)

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
