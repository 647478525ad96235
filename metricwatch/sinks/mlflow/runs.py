"""Which run of MLflow's is meant: by its id, by the id in a file, or by its name; and which one gets the curves."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import structlog

from metricwatch.api import PermanentError, RemoteRun, Run, TemporaryError

from .server import Server

RUN_TAG = "metricwatch.run"
TRAINING_TAG = "metricwatch.training_run"
"""On a run of ours that has the curves of a training job's run: that one's id."""

Layout = Literal["training", "child", "own"]

log = structlog.get_logger(__name__)

_PARENT_TAG = "mlflow.parentRunId"
_CHILD_NAME = "metricwatch"
_OVER = frozenset({"FINISHED", "FAILED", "KILLED"})

_RUN_ID = re.compile(r"[a-zA-Z0-9][\w\-]{0,255}", re.ASCII)


class Runs:
    """The runs of one experiment. Only a name may create a run that stands for a training job's own.

    layout says where the curves go: into the training job's run; into a child of it, called "metricwatch", in the same
    experiment wherever that is; or into a run of our own in the configured experiment, "<name> quality".
    """

    def __init__(self, server: Server, experiment: str, layout: Layout = "training") -> None:
        self._server = server
        self._experiment_name = experiment
        self._layout = layout

    def find(self, run: Run) -> RemoteRun:
        """Find the run that gets the curves, as MlflowSink.find_run() says."""
        if run.id is not None:
            found = self._existing(run.id, f"run {run.id!r}")
        elif run.id_file is not None:
            run_id = _read_run_id(run.id_file)
            found = self._existing(run_id, f"run {run_id!r} (from {run.id_file})")
        else:
            with self._server.speaking(f"finding run {run.name!r} in experiment {self._experiment_name!r}"):
                found = self._find_or_create(run)
        # One that we made, because no training job's was there, needs no other beside it.
        if self._layout == "training" or found.data.tags.keys() & {RUN_TAG, TRAINING_TAG}:
            return self._remote(found)
        with self._server.speaking(f"finding our run beside run {found.info.run_id}"):
            return self._remote(self._beside(found))

    def ended(self, run_id: str) -> bool:
        """True when the training job has finished well. A run of ours beside its own ends and goes on with it."""
        with self._server.speaking(f"asking whether run {run_id} is over"):
            client = self._server.client()
            ours = client.get_run(run_id)
            training = ours.data.tags.get(TRAINING_TAG)
            if training is None:
                return bool(ours.info.status == "FINISHED")
            status = client.get_run(training).info.status
            if ours.info.lifecycle_stage == "active" and (status in _OVER) != (ours.info.status in _OVER):
                # What became of the job is said in its own run: ours has done what it is for.
                if status in _OVER:
                    client.set_terminated(run_id, "FINISHED")
                else:
                    client.update_run(run_id, "RUNNING")
            return bool(status == "FINISHED")

    def _beside(self, training: Any) -> Any:
        """Our run with the curves of a training job's, created when there is none. A deleted one is not replaced."""
        from mlflow.entities import ViewType

        run_id = training.info.run_id
        tags = {TRAINING_TAG: run_id, "mlflow.source.name": "metricwatch"}
        if self._layout == "child":
            experiment, name = training.info.experiment_id, _CHILD_NAME
            tags[_PARENT_TAG] = run_id
        else:
            experiment, name = self._experiment(), f"{training.info.run_name or run_id} quality"
        if known := self._oldest_beside(experiment, tags):
            return known
        if deleted := self._oldest_beside(experiment, tags, ViewType.DELETED_ONLY):
            raise PermanentError(
                f"mlflow: run {deleted.info.run_id} with the curves of run {run_id} at {self._server.where} is deleted:"
                f" `mlflow runs restore --run-id {deleted.info.run_id}` brings it back"
            )
        created = self._server.client().create_run(experiment, run_name=name, tags=tags)
        # As below: of two creates one answer may have been lost.
        return self._oldest_beside(experiment, tags) or created

    def _oldest_beside(self, experiment: str, tags: Mapping[str, str], view: Any = None) -> Any:
        found = self._search(
            experiment, f"tags.`{TRAINING_TAG}`", tags[TRAINING_TAG], "attributes.start_time ASC", view
        )
        return next((each for each in found if each.data.tags.get(_PARENT_TAG) == tags.get(_PARENT_TAG)), None)

    def _existing(self, run_id: str, described: str) -> Any:
        if not _RUN_ID.fullmatch(run_id):
            raise PermanentError(f"mlflow: {described[:300]} is not a run id (32 hexadecimal digits)")
        with self._server.speaking(f"looking up {described}"):
            found = self._server.client().get_run(run_id)
        if found.info.lifecycle_stage != "active":
            raise PermanentError(
                f"mlflow: {described} at {self._server.where} is deleted: `mlflow runs restore --run-id {run_id}`"
                " brings it back, or name another run"
            )
        return found

    def _find_or_create(self, run: Run) -> Any:
        experiment = self._experiment()
        if own := self._own(experiment, run):
            return own
        named = [
            found
            for found in self._search(experiment, "attributes.run_name", run.name, "attributes.start_time DESC")
            if found.info.run_name == run.name and not found.data.tags.keys() & {RUN_TAG, TRAINING_TAG}
        ]
        if named:
            running = [found for found in named if found.info.status == "RUNNING"]
            return (running or named)[0]
        created = self._server.client().create_run(
            experiment, run_name=run.name, tags={RUN_TAG: run.key, "mlflow.source.name": "metricwatch"}
        )
        log.info(
            "mlflow.run_created",
            run=run.name,
            experiment=self._experiment_name,
            reason="the experiment has no run of that name; one elsewhere is named by id or id_file",
        )
        # A create whose answer was lost may have left an older run behind: settle on the one every later call finds.
        return self._own(experiment, run) or created

    def _own(self, experiment: str, run: Run) -> Any:
        """The oldest run that carries our tag for this run, or None."""
        found = self._search(experiment, f"tags.`{RUN_TAG}`", run.key, "attributes.start_time ASC")
        return next((each for each in found if each.data.tags.get(RUN_TAG) == run.key), None)

    def _search(self, experiment: str, column: str, text: str, order: str, view: Any = None) -> Sequence[Any]:
        """Active runs, or those of a view, whose column is, or may be, the text: the caller compares again."""
        from mlflow.entities import ViewType

        # MLflow's filters cannot escape a quote. `_` stands for any one character in LIKE.
        pattern = re.sub(r"['\"\\]", "_", text)
        condition = f"{column} = '{text}'" if pattern == text else f"{column} LIKE '{pattern}'"
        runs: Sequence[Any] = self._server.client().search_runs(
            [experiment],
            filter_string=condition,
            run_view_type=view or ViewType.ACTIVE_ONLY,
            max_results=200,
            order_by=[order],
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
