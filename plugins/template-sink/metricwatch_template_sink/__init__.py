"""A sink that appends JSON lines to a file for each run, every point once.

A line is {"run": its name}, the first; {"key", "step", "timestamp_ms", "value"}, a point; or {"tags": {name: text}}, of
which the last of a name counts.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from metricwatch.api import PermanentError, Point, RemoteRun, Run, RunGoneError, Sink, TemporaryError


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateSinkOptions:
    """What `tracking` says in metricwatch.yaml; a sink has these three fields.

    uri: the folder. It must be there: one that is missing is taken for a disk that is not mounted yet. experiment and
    prefix are not needed here: a run's key has the one, and a point's key begins with the other.
    """

    uri: Path
    experiment: str = "Default"
    prefix: str = "quality"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What a file of this size holds, in whole lines. One that has another size is read anew."""

    size: int
    lines: frozenset[str]
    tags: dict[str, str]


class TemplateSink(Sink):
    """Writes <uri>/<run id>.jsonl. A run's id is made of its key, so that no list of runs is needed."""

    Options = TemplateSinkOptions

    def __init__(self, options: TemplateSinkOptions) -> None:
        self._folder = options.uri
        self._known: dict[str, _Known] = {}

    def find_run(self, run: Run) -> RemoteRun:
        self._require_folder()
        given = run.id or (_read_id(Path(run.id_file)) if run.id_file else "")
        if given:
            self._require_run(given)
            return self._remote(given)
        made = hashlib.sha256(run.key.encode()).hexdigest()[:32]
        if not self._file(made).exists():
            self._append(made, [json.dumps({"run": run.name})], {})
        return self._remote(made)

    def write(self, run_id: str, points: Sequence[Point], tags: Mapping[str, str]) -> None:
        for point in points:
            if not math.isfinite(point.value):
                raise PermanentError(f"{point.key} at step {point.step} is {point.value}, which has no form in JSON")
        self._require_folder()
        self._require_run(run_id)
        self._append(run_id, [json.dumps(asdict(point)) for point in points], tags)

    def ping(self) -> str:
        self._require_folder()
        return f"{self._folder} is there"

    def close(self) -> None:
        self._known.clear()

    def _append(self, run_id: str, lines: Sequence[str], tags: Mapping[str, str]) -> None:
        """Append the lines and tags that are not there. A line that a crash cut short is taken away first."""
        try:
            with self._file(run_id).open("a+b") as stream:
                known = self._read(run_id, stream)
                new = [line for line in dict.fromkeys(lines) if line not in known.lines]
                if changed := {name: text for name, text in tags.items() if known.tags.get(name) != text}:
                    new.append(json.dumps({"tags": changed}))
                stream.truncate(known.size)
                stream.write("".join(f"{line}\n" for line in new).encode())
                stream.flush()
                os.fsync(stream.fileno())
                size = stream.seek(0, os.SEEK_END)
            self._known[run_id] = _Known(size=size, lines=known.lines | set(new), tags=known.tags | changed)
        except OSError as error:
            raise TemporaryError(f"{self._file(run_id)} cannot be written: {error.strerror}") from error
        except ValueError as error:
            raise PermanentError(f"{self._file(run_id)} is damaged ({error}); move it away") from error

    def _read(self, run_id: str, stream: BinaryIO) -> _Known:
        size = stream.seek(0, os.SEEK_END)
        if run_id in self._known and self._known[run_id].size == size:
            return self._known[run_id]
        stream.seek(0)
        text, end, _ = stream.read().rpartition(b"\n")
        lines = text.decode().split("\n") if end else []
        tags: dict[str, str] = {}
        for line in lines:
            tags |= json.loads(line).get("tags", {})
        return _Known(size=len(text + end), lines=frozenset(lines), tags=tags)

    def _file(self, run_id: str) -> Path:
        return self._folder / f"{run_id}.jsonl"

    def _remote(self, run_id: str) -> RemoteRun:
        return RemoteRun(id=run_id, url=self._file(run_id).absolute().as_uri())

    def _require_folder(self) -> None:
        if not self._folder.is_dir():
            raise TemporaryError(f"{self._folder} is not there; make the folder, or mount the disk that has it")

    def _require_run(self, run_id: str) -> None:
        # The pattern keeps "../" out of file names.
        if not (re.fullmatch(r"[0-9a-f]{32}", run_id) and self._file(run_id).exists()):
            raise RunGoneError(f"{self._folder} has no run {run_id[:80]!r}")


def _read_id(file: Path) -> str:
    try:
        text = file.read_text().strip()
    except FileNotFoundError:
        text = ""
    except (OSError, ValueError) as error:
        raise PermanentError(f"{file} cannot be read: {error}") from None
    if not text:
        raise TemporaryError(f"{file} is not written yet")
    if not re.fullmatch(r"[0-9a-f]{32}", text):
        raise PermanentError(f"{file} holds no run id: {text[:80]!r}")
    return text


__all__ = ["TemplateSink", "TemplateSinkOptions"]
