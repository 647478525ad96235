"""Reference statistics on disk. Losing any of it costs time only; a damaged file is never believed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import numpy as np

from metricwatch.api import Arrays
from metricwatch.worker.log import LogLine


class ReferenceCache:
    """Files below one directory, each written aside and renamed into place. An empty directory name keeps nothing.

    When the directory cannot be written, that is said once and work goes on without keeping anything.
    """

    def __init__(self, directory: str, log: LogLine) -> None:
        self._directory = directory
        self._log = log
        self._refused = not directory

    def load(self, key: str) -> Arrays | None:
        """The arrays saved under a key, or None. A file that cannot be read in full counts as absent."""
        if not self._directory:
            return None
        path = self._path(f"{key}.npz")
        try:
            # Reading to the end makes zipfile check each member's CRC.
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        except FileNotFoundError:
            return None
        except Exception as error:  # noqa: BLE001 - zipfile, zlib and numpy raise what they like on damaged files
            self._log(
                "warning", "kept reference statistics are damaged: computing them anew", path=path, error=str(error)
            )
            return None

    def save(self, key: str, arrays: Arrays) -> None:
        def write(path: str) -> None:
            with open(path, "wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]  # its stub takes the arrays for options

        self._write(f"{key}.npz", write)

    def digest_of(self, identity: str) -> str | None:
        """The content digest of files that looked exactly like this before, or None."""
        if not self._directory:
            return None
        try:
            with open(self._path(f"seen-{identity}.json"), encoding="utf-8") as file:
                digest = json.load(file)["digest"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return digest if isinstance(digest, str) and digest else None

    def remember_digest(self, identity: str, digest: str) -> None:
        def write(path: str) -> None:
            with open(path, "w", encoding="utf-8") as file:
                json.dump({"digest": digest}, file)

        self._write(f"seen-{identity}.json", write)

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name)

    def _write(self, name: str, write: Callable[[str], None]) -> None:
        if self._refused:
            return
        aside = self._path(f".{name}.{os.getpid()}.tmp")
        try:
            os.makedirs(self._directory, exist_ok=True)
            write(aside)
            os.replace(aside, self._path(name))
        except OSError as error:
            self._refused = True
            self._log(
                "warning",
                "reference statistics cannot be kept: each new worker will compute them anew",
                directory=self._directory,
                error=str(error),
            )
            if os.path.exists(aside):
                os.unlink(aside)
