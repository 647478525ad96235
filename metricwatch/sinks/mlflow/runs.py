"""Which run of MLflow's is meant: by its id, by the id in a file, or by its name."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from typing import Any

from metricwatch.api import PermanentError, RemoteRun, Run, TemporaryError

from .server import Server

RUN_TAG = "metricwatch.run"

_RUN_ID = re.compile(r"[a-zA-Z0-9][\w\-]{0,255}", re.ASCII)


class Runs:
    """The runs of one experiment. Only a name may create one."""

    def __init__(self, server: Server, experiment: str) -> None:
        self._server = server
        self._experiment_name = experiment

    def find(self, run: Run) -> RemoteRun:
        """Find the run, as MlflowSink.find_run() says."""
        if run.id is not None:
            return self._existing(run.id, f"run {run.id!r}")
        if run.id_file is not None:
            run_id = _read_run_id(run.id_file)
            return self._existing(run_id, f"run {run_id!r} (from {run.id_file})")
        with self._server.speaking(f"finding run {run.name!r} in experiment {self._experiment_name!r}"):
            return self._find_or_create(run)

    def _existing(self, run_id: str, described: str) -> RemoteRun:
        if not _RUN_ID.fullmatch(run_id):
            raise PermanentError(f"mlflow: {described[:300]} is not a run id (32 hexadecimal digits)")
        with self._server.speaking(f"looking up {described}"):
            found = self._server.client().get_run(run_id)
        if found.info.lifecycle_stage != "active":
            raise PermanentError(
                f"mlflow: {described} at {self._server.where} is deleted: `mlflow runs restore --run-id {run_id}`"
                " brings it back, or name another run"
            )
        return self._remote(found)

    def _find_or_create(self, run: Run) -> RemoteRun:
        experiment = self._experiment()
        if own := self._own(experiment, run):
            return self._remote(own)
        named = [
            found
            for found in self._search(experiment, "attributes.run_name", run.name, "attributes.start_time DESC")
            if found.info.run_name == run.name and RUN_TAG not in found.data.tags
        ]
        if named:
            running = [found for found in named if found.info.status == "RUNNING"]
            return self._remote((running or named)[0])
        created = self._server.client().create_run(
            experiment, run_name=run.name, tags={RUN_TAG: run.key, "mlflow.source.name": "metricwatch"}
        )
        # A create whose answer was lost may have left an older run behind: settle on the one every later call finds.
        return self._remote(self._own(experiment, run) or created)

    def _own(self, experiment: str, run: Run) -> Any:
        """The oldest run that carries our tag for this run, or None."""
        found = self._search(experiment, f"tags.`{RUN_TAG}`", run.key, "attributes.start_time ASC")
        return next((each for each in found if each.data.tags.get(RUN_TAG) == run.key), None)

    def _search(self, experiment: str, column: str, text: str, order: str) -> Sequence[Any]:
        """Active runs whose column is, or may be, the text: the caller compares again."""
        # MLflow's filters cannot escape a quote. `_` stands for any one character in LIKE.
        pattern = re.sub(r"['\"\\]", "_", text)
        condition = f"{column} = '{text}'" if pattern == text else f"{column} LIKE '{pattern}'"
        runs: Sequence[Any] = self._server.client().search_runs(
            [experiment], filter_string=condition, max_results=200, order_by=[order]
        )
        return runs

    def _experiment(self) -> str:
        """The experiment's id; created when there is none, whoever else is creating it at the same time."""
        from mlflow.exceptions import MlflowException

        client, name = self._server.client(), self._experiment_name
        found = client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(client.create_experiment(name))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            found = client.get_experiment_by_name(name)
        if found is None or found.lifecycle_stage != "active":
            raise PermanentError(
                f"mlflow: experiment {name!r} at {self._server.where} is deleted: `mlflow experiments restore` brings"
                " it back, or set tracking.experiment to another name"
            )
        return str(found.experiment_id)

    def _remote(self, found: Any) -> RemoteRun:
        info = found.info
        url = (
            f"{self._server.where}/#/experiments/{info.experiment_id}/runs/{info.run_id}"
            if self._server.is_web
            else None
        )
        return RemoteRun(id=info.run_id, url=url)


def _read_run_id(path: str) -> str:
    """The id a training job wrote. Raises TemporaryError while it has not."""
    try:
        # A pipe nobody writes to would block for ever, on opening and on reading.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise PermanentError(f"{path}: is a pipe or a device, not a regular file with an MLflow run id")
            content = file.read(4096)
    except FileNotFoundError:
        raise TemporaryError(f"{path}: not written yet; it will hold the MLflow run id of the training job") from None
    except IsADirectoryError:
        raise PermanentError(f"{path}: is a directory, not a file with an MLflow run id") from None
    except OSError as error:
        raise TemporaryError(f"{path}: {error.strerror}") from error
    text = content.decode("utf-8", errors="replace").strip()
    if not text:
        raise TemporaryError(f"{path}: empty; its MLflow run id is not written yet")
    if not _RUN_ID.fullmatch(text):
        raise PermanentError(f"{path}: {text[:60]!r} is not an MLflow run id; write mlflow's run.info.run_id there")
    return text
