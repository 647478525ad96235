"""Pictures of a run, found by the names of its artifacts: ours, and whatever else log_image() wrote under a key.

A name is `<key>+step+<step>+timestamp+<milliseconds>+<anything>.png` with "~" for a slash in the key; clients of
before wrote "%" for "+" and "#" for "~". Those with a "#" are found, but MLflow does not give them out.
"""

from __future__ import annotations

import os
import posixpath
import re
import tempfile

from metricwatch.api import PermanentError, StoredPicture

from .artifacts import Artifacts
from .history import History
from .server import Server, status_of

_FOLDER = "images"
_NAME = re.compile(
    r"(?P<key>[^+%]+)(?P<sign>[+%])step(?P=sign)(?P<step>-?\d{1,19})(?P=sign)timestamp(?P=sign)(?P<at>\d{1,19})"
    r"(?P=sign)[^+%/]+\.png"
)
_MOST_BYTES = 100_000_000
_NOT_FOUND = 404


class Gallery:
    """Reads pictures of runs, whoever wrote them."""

    def __init__(self, server: Server, history: History, artifacts: Artifacts) -> None:
        self._server = server
        self._history = history
        self._artifacts = artifacts
        # What was listed last: the store says how large a file is there, and nowhere else.
        self._sizes: dict[tuple[str, str], int] = {}

    def pictures(self, run_id: str) -> list[StoredPicture]:
        """All pictures that MLflow's page has a slider for, by step, then by time and key."""
        run = self._history.run(run_id)
        with self._server.storing(f"listing the pictures of run {run_id}", run.info.artifact_uri):
            files = self._artifacts.listed(run, _FOLDER)
        found = []
        self._sizes.clear()
        for path, size in files:
            name = _NAME.fullmatch(posixpath.basename(path))
            if name is None:
                continue
            self._sizes[run_id, path] = size
            found.append(
                StoredPicture(
                    key=re.sub("[~#]", "/", name["key"]),
                    step=int(name["step"]),
                    timestamp_ms=int(name["at"]),
                    place=path,
                )
            )
        return sorted(found, key=lambda picture: (picture.step, picture.timestamp_ms, picture.key, picture.place))

    def read(self, run_id: str, picture: StoredPicture) -> bytes:
        """The file's content. Raises PermanentError for one that is not there or has more than 100 MB."""
        described = f"picture {picture.key!r} at step {picture.step} of run {run_id}"
        place = picture.place
        if posixpath.dirname(place) != _FOLDER or _NAME.fullmatch(posixpath.basename(place)) is None:
            raise PermanentError(f"mlflow: {described}: {place[:300]!r} is no place of a picture")
        self._check(self._sizes.get((run_id, place), 0), described)
        run = self._history.run(run_id)
        with (
            self._server.storing(f"reading {described}", run.info.artifact_uri),
            tempfile.TemporaryDirectory(prefix="metricwatch-") as folder,
        ):
            # Asked for at each download; a bar of its own would get between what the program prints.
            os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
            try:
                path = self._server.client().download_artifacts(run_id, place, folder)
            except Exception as error:
                if _is_missing(error):
                    raise PermanentError(f"mlflow: {described} is not there (any more)") from None
                raise
            self._check(os.path.getsize(path), described)
            with open(path, "rb") as file:
                return file.read()

    def _check(self, size: int, described: str) -> None:
        if size > _MOST_BYTES:
            raise PermanentError(f"mlflow: {described} has {size:,} bytes, more than {_MOST_BYTES:,}")


def _is_missing(error: Exception) -> bool:
    """True when a store says that it has no such file, in whichever words."""
    from mlflow.exceptions import MlflowException

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, FileNotFoundError) or status == _NOT_FOUND:
        return True
    if isinstance(error, MlflowException):
        return status_of(error) == _NOT_FOUND or error.error_code == "RESOURCE_DOES_NOT_EXIST"
    return isinstance(error, OSError) and "No such" in str(error)
