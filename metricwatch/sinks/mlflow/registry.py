"""Checkpoints as versions of a model in MLflow's registry."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from metricwatch.api import ModelVersion, PermanentError, Registration, TemporaryError

from .artifacts import Artifacts
from .server import Server

RUN_TAG, STEP_TAG, DIGEST_TAG = "metricwatch.run_id", "metricwatch.step", "metricwatch.digest"

# What MLflow takes as a name (mlflow/utils/validation.py), less the quotes that its filters cannot escape.
_NAME = re.compile(r"[^/:.%\"'\\\x00-\x1f][^/:%\"'\\\x00-\x1f]{0,199}")
_ALIAS = re.compile(r"(?!latest$|v\d+$)[\w\-]{1,255}", re.ASCII | re.IGNORECASE)
_LINK = re.compile(r"(?P<scheme>[a-zA-Z][\w+.\-]*):/*(?P<user>[^/]*@)?")
# A server answers when it has put the whole file into its store.
_UPLOAD_SECONDS = "3600"


class Registry:
    """Makes model versions, each once."""

    def __init__(self, server: Server, artifacts: Artifacts) -> None:
        self._server = server
        self._artifacts = artifacts

    def register(
        self, run_id: str, registration: Registration, show: Callable[[str, int, int], None] = lambda *_: None
    ) -> ModelVersion:
        """Make the version or find it, as MlflowSink.register() says."""
        _check(registration)
        doing = f"registering step {registration.step} of run {run_id} as {registration.name!r}"
        with self._server.speaking(doing):
            run = self._artifacts.active_run(run_id, f"model {registration.name!r}")
            self._ensure_model(registration.name)
            found = self._existing(run_id, registration)
        created = found is None
        if found is None:
            source = registration.link or self._upload(run, registration, show)
            with self._server.speaking(doing):
                found = self._server.client().create_model_version(
                    registration.name,
                    source,
                    run_id=run_id,
                    tags={**registration.tags, **_identity(run_id, registration)},
                    description=registration.description,
                    # Of managed registries, which copy the files; ours are there.
                    await_creation_for=None,
                )
        if registration.alias:
            with self._server.speaking(
                f"giving {registration.name!r} {found.version} the alias {registration.alias!r}"
            ):
                self._server.client().set_registered_model_alias(
                    registration.name, registration.alias, str(found.version)
                )
        where = f"{self._server.where}/#/models/{registration.name}/versions/{found.version}"
        return ModelVersion(
            name=registration.name,
            version=str(found.version),
            source=str(found.source),
            created=created,
            url=where if self._server.is_web else None,
        )

    def _ensure_model(self, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._server.client().create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _existing(self, run_id: str, registration: Registration) -> Any:
        """The version that is this checkpoint already, or None."""
        wanted = _identity(run_id, registration)
        token = None
        given: set[str] = set()
        while True:
            page = self._server.client().search_model_versions(
                f"name = '{registration.name}'", max_results=200, page_token=token
            )
            for version in page:
                same = all(version.tags.get(key) == value for key, value in wanted.items())
                if same and (not registration.link or version.source == registration.link):
                    return version
            token = page.token
            if not token:
                return None
            if token in given:
                raise TemporaryError(
                    f"mlflow: looking for versions of {registration.name!r} at {self._server.where}: the server gives"
                    " the same page again and again"
                )
            given.add(token)

    def _upload(self, run: Any, registration: Registration, show: Callable[[str, int, int], None]) -> str:
        """Put the files beside the run; returns where that is, as the registry is to know it."""
        folder = f"checkpoints/step-{registration.step}"
        run_id, store = run.info.run_id, run.info.artifact_uri
        with self._server.storing(f"storing the checkpoint of step {registration.step} of run {run_id}", store):
            client = self._server.client()
            with _patience():
                for number, (name, path) in enumerate(registration.files.items()):
                    show("files uploaded", number, len(registration.files))
                    below = name.rpartition("/")[0]
                    client.log_artifact(run_id, path, f"{folder}/{below}" if below else folder)
            show("files uploaded", len(registration.files), len(registration.files))
        first = next(iter(registration.files))
        below, _, last = first.rpartition("/")
        with self._server.speaking(f"looking for the checkpoint of step {registration.step} of run {run_id}"):
            self._artifacts.check_seen(run, last, f"{folder}/{below}" if below else folder)
        return f"{store.rstrip('/')}/{folder}"


def _identity(run_id: str, registration: Registration) -> dict[str, str]:
    """Tags that no other checkpoint has."""
    tags = {RUN_TAG: run_id, STEP_TAG: str(registration.step), DIGEST_TAG: registration.digest}
    return {key: value for key, value in tags.items() if value}


def _check(registration: Registration) -> None:
    """Raise PermanentError for what MLflow would refuse, or take and hide, in its own words' place."""
    if not _NAME.fullmatch(registration.name):
        raise PermanentError(
            f"mlflow: {registration.name[:80]!r} cannot be a model's name: letters, digits, spaces, - and _ are safe"
        )
    if registration.alias and not _ALIAS.fullmatch(registration.alias):
        raise PermanentError(
            f"mlflow: {registration.alias[:80]!r} cannot be an alias: letters, digits, - and _, not latest, not v1"
        )
    if not registration.link:
        return
    address = _LINK.match(registration.link)
    if address is None or address["scheme"].lower() == "file":
        raise PermanentError(
            "mlflow: a link must be an address that the server and others can open, as s3://bucket/folder: MLflow takes"
            " no paths of one machine; leave --link out to upload the checkpoint"
        )
    if address["user"]:
        raise PermanentError("mlflow: a link with a user or password in it would be shown to everybody: leave them out")


@contextmanager
def _patience() -> Iterator[None]:
    """Let an upload take its time. Nobody else speaks to a server meanwhile: a command does one thing."""
    names = ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, _UPLOAD_SECONDS))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
