"""Files of a run, wherever its artifact store is."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from typing import Any

from metricwatch.api import PermanentError, RunGoneError, TemporaryError

from .server import Server


class Artifacts:
    """Writes files beside runs; what has a file's name takes its place. folder "" is the uppermost one."""

    def __init__(self, server: Server) -> None:
        self._server = server
        # Runs, and folders of theirs, of which the server was seen to have the files.
        self._seen: set[tuple[str, str]] = set()

    def write(self, run_id: str, name: str, content: bytes) -> None:
        """Write a file into the uppermost folder, or raise as MlflowSink.write_page() says."""
        if os.path.basename(name) != name or name in {"", ".", ".."}:
            raise PermanentError(f"mlflow: {name!r} is not the name of a file")
        with self._server.speaking(f"writing {name} to run {run_id}"):
            run = self.active_run(run_id, name)
        self.store(run, {name: content}, "", name)
        with self._server.speaking(f"writing {name} to run {run_id}"):
            self.check_seen(run, name, "")

    def active_run(self, run_id: str, described: str) -> Any:
        """The run. Raises RunGoneError for one in the trash: the store of files does not ask. Call while speaking."""
        run = self._server.client().get_run(run_id)
        if run.info.lifecycle_stage != "active":
            raise RunGoneError(f"mlflow: run {run_id} at {self._server.where} is deleted: {described} waits")
        return run

    def listed(self, run: Any, folder: str) -> list[tuple[str, int]]:
        """The paths of the files in a folder, with their bytes (0 where the store does not say). Call while speaking.

        A server is asked itself: MlflowClient.list_artifacts() asks for logged models as well, page after page, of
        which servers before 3 know nothing. It is the way where a server may not look into the store.
        """
        run_id = run.info.run_id
        if self._server.is_web:
            query = {"run_id": run_id, **({"path": folder} if folder else {})}
            answer = self._server.get("/api/2.0/mlflow/artifacts/list", query)
            if answer.ok:
                files = answer.json().get("files", [])
                return [(file["path"], int(file.get("file_size") or 0)) for file in files if not file.get("is_dir")]
        found = self._server.client().list_artifacts(run_id, folder or None)
        return [(file.path, file.file_size or 0) for file in found if not file.is_dir]

    def store(self, run: Any, files: Mapping[str, bytes], folder: str, described: str) -> None:
        """Write files by name. Raises TemporaryError for whatever the store says: its owner can mend it."""
        run_id = run.info.run_id
        with (
            self._server.storing(f"storing {described} of run {run_id}", run.info.artifact_uri),
            tempfile.TemporaryDirectory(prefix="metricwatch-") as local,
        ):
            for name, content in files.items():
                path = os.path.join(local, name)
                with open(path, "wb") as file:
                    file.write(content)
                self._server.client().log_artifact(run_id, path, folder or None)

    def check_seen(self, run: Any, name: str, folder: str) -> None:
        """Raise TemporaryError where files land in a folder of this machine which the server's own is not.

        That is what becomes of a server whose artifact root is a plain folder and whose clients are elsewhere.
        """
        run_id, store = run.info.run_id, run.info.artifact_uri
        # A drive or a folder: what has a scheme is the same place from everywhere.
        if (run_id, folder) in self._seen or not self._server.is_web or not re.match(r"file:|/|\.", store):
            return
        query = {"run_id": run_id, **({"path": folder} if folder else {})}
        answer = self._server.get("/api/2.0/mlflow/artifacts/list", query)
        path = f"{folder}/{name}" if folder else name
        if answer.ok and path not in {file["path"] for file in answer.json().get("files", [])}:
            raise TemporaryError(
                f"mlflow: {self._server.where} does not see what is written to its artifact store {store}: that is a"
                " folder of the server's own machine. Let it pass artifacts on (`mlflow server --serve-artifacts"
                " --artifacts-destination FOLDER` without --default-artifact-root) and use a new experiment, or mount"
                " the folder here"
            )
        self._seen.add((run_id, folder))
