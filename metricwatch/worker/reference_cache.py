"""Reference statistics on disk. Losing any of it costs time only; a damaged file is never believed."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from metricwatch import faults
from metricwatch.api import Arrays
from metricwatch.worker.log import LogLine

# A writer that is alive has renamed its file long before.
_ABANDONED_SECONDS = 86_400
# A ZIP whose count of members is damaged is good for its reader, and lacks the last ones.
_NAMES = "names_of_all"


class ReferenceCache:
    """Files below one directory, each written aside and renamed into place. An empty directory name keeps nothing.

    Above most_bytes those that were used the longest ago go.

    When the directory cannot be written, that is said once and work goes on without keeping anything.
    """

    def __init__(self, directory: str, log: LogLine, *, most_bytes: int = 4_000_000_000) -> None:
        self._directory = directory
        self._log = log
        self._most_bytes = most_bytes
        self._refused = not directory

    def load(self, key: str) -> Arrays | None:
        """The arrays saved under a key, or None. A file that cannot be read in full counts as absent."""
        if not self._directory:
            return None
        path = self._path(f"{key}.npz")
        try:
            # Reading to the end makes zipfile check each member's CRC.
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            _check_names(arrays)
        except FileNotFoundError:
            return None
        except Exception as error:  # noqa: BLE001 - zipfile, zlib and numpy raise what they like on damaged files
            self._log(
                "warning", "kept reference statistics are damaged: computing them anew", path=path, error=str(error)
            )
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return arrays

    def save(self, key: str, arrays: Arrays) -> None:
        def write(path: str) -> None:
            with open(path, "wb") as file:
                np.savez(file, **arrays, **{_NAMES: np.array(sorted(arrays))})  # type: ignore[arg-type]  # its stub takes the arrays for options

        self._write(f"{key}.npz", write)
        self._sweep()

    def digest_of(self, identity: str) -> str | None:
        """The content digest of files that looked exactly like this before, or None."""
        if not self._directory:
            return None
        try:
            with open(self._path(f"seen-{identity}.json"), encoding="utf-8") as file:
                document = json.load(file)
            digest = document["digest"]
            good = document["check"] == _check(identity, digest)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return str(digest) if good else None

    def remember_digest(self, identity: str, digest: str) -> None:
        def write(path: str) -> None:
            with open(path, "w", encoding="utf-8") as file:
                json.dump({"digest": digest, "check": _check(identity, digest)}, file)

        self._write(f"seen-{identity}.json", write)

    def _sweep(self) -> None:
        """Remove the statistics that nobody has asked for the longest, above a size, and what killed writers left."""
        with contextlib.suppress(OSError):
            entries = [(entry, entry.stat()) for entry in os.scandir(self._directory) if entry.is_file()]
            kept = sorted((status.st_mtime, status.st_size, entry.path) for entry, status in entries if _is_kept(entry))
            surplus = sum(size for _, size, _ in kept) - self._most_bytes
            # The newest stays, however large it is.
            for _, size, path in kept[:-1]:
                if surplus > 0:
                    os.unlink(path)
                    surplus -= size
            for entry, status in entries:
                if entry.name.endswith(".tmp") and time.time() - status.st_mtime > _ABANDONED_SECONDS:
                    os.unlink(entry.path)

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name)

    def _write(self, name: str, write: Callable[[str], None]) -> None:
        if self._refused:
            return
        aside = self._path(f".{name}.{os.getpid()}.tmp")
        try:
            os.makedirs(self._directory, exist_ok=True)
            write(aside)
            faults.reached("reference:unnamed")
            os.replace(aside, self._path(name))
        except OSError as error:
            self._refused = True
            self._log(
                "warning",
                "reference statistics cannot be kept: each new worker will compute them anew",
                directory=self._directory,
                error=str(error),
            )
            with contextlib.suppress(OSError):
                os.unlink(aside)


def _check_names(arrays: dict[str, npt.NDArray[Any]]) -> None:
    """Take the list of names out of arrays. Raises ValueError when it does not fit the others."""
    if arrays.pop(_NAMES, np.array([])).tolist() != sorted(arrays):
        raise ValueError("arrays are missing")


def _check(identity: str, digest: str) -> str:
    """A wrong digest would not cost time but begin new series."""
    return blake2b(f"{identity} {digest}".encode(), digest_size=8).hexdigest()


def _is_kept(entry: os.DirEntry[str]) -> bool:
    return entry.name.endswith(".npz") and not entry.name.startswith(".")
