"""A sink that appends JSON lines to a file for each run: for pandas, jq and whatever else reads lines.

A line is {"run": name, "created_for": key}, the first of a file; {"run", "key", "step", "value", "timestamp_ms"}, a
point; or {"run", "tags": {name: text}}, of which the last of a name counts.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from metricwatch.api import (
    PermanentError,
    Point,
    RemoteRun,
    Run,
    RunGoneError,
    Sink,
    TemporaryError,
    given_id,
    is_own_id,
    own_id,
)

# The outbox sends again what it sent last and cannot know to be written: 1,000 items at most. So much of a file's end
# is compared with what comes, not the weeks before it.
_REMEMBERED = 8000
_TAIL_BYTES = 4_000_000
_FOR_EVER = frozenset({errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR})


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonLinesOptions:
    """What `sinks` says in metricwatch.yaml: the folder for the files. It is made where its parent is there."""

    directory: Path


@dataclass(slots=True, kw_only=True)
class _Tail:
    """The end of a file, as whole lines: the points and the tags in it. inode and size say which file this is of."""

    inode: int
    size: int
    lines: OrderedDict[str, None] = field(default_factory=OrderedDict)
    tags: dict[str, str] = field(default_factory=dict)

    def take(self, line: str) -> None:
        document = json.loads(line)
        if not isinstance(document, dict) or "run" not in document:
            raise ValueError("it holds other lines than ours")
        self.tags |= document.get("tags", {})
        if "key" in document:
            self.lines[line] = None
            if len(self.lines) > _REMEMBERED:
                self.lines.popitem(last=False)


class JsonLinesSink(Sink):
    """Writes <directory>/<run name>-<12 hex digits of its key>.jsonl, a line for each point and each change of tags.

    A line is on the disk before write() returns. One that a crash cut short is taken away before the next is written. A
    file that somebody moves away is begun anew.
    """

    Options = JsonLinesOptions

    def __init__(self, options: JsonLinesOptions) -> None:
        self._folder = options.directory
        self._tails: dict[str, _Tail] = {}
        self._names: dict[str, str] = {}

    def find_run(self, run: Run) -> RemoteRun:
        """The file of a run: by its name one is begun, by an id (a file's name without suffix) it must be there."""
        self._require_folder()
        given = given_id(run, "json_lines")
        if given:
            self._require_run(given)
            return self._remote(given)
        made = own_id(run)
        self._names[made] = run.name
        if not self._file(made).exists():
            self._append(made, [json.dumps({"run": run.name, "created_for": run.key})], {})
        return self._remote(made)

    def write(self, run_id: str, points: Sequence[Point], tags: Mapping[str, str]) -> None:
        """Append what is not there yet, or raise. Raises PermanentError, with nothing written, for NaN and infinity."""
        for point in points:
            if not math.isfinite(point.value):
                raise PermanentError(
                    f"json_lines: {point.key} at step {point.step} is {point.value}, which has no form in JSON"
                )
        self._require_folder()
        name = self._name(run_id)
        lines = [
            json.dumps(
                {
                    "run": name,
                    "key": point.key,
                    "step": point.step,
                    "value": point.value,
                    "timestamp_ms": point.timestamp_ms,
                }
            )
            for point in points
        ]
        self._append(run_id, lines, tags)

    def run_name(self, run_id: str) -> str:
        """The run's name as its file has it."""
        self._require_folder()
        return self._name(run_id)

    def ping(self) -> str:
        self._require_folder()
        if not os.access(self._folder, os.W_OK | os.X_OK):
            raise TemporaryError(f"json_lines: {self._folder} cannot be written; change its owner or its mode")
        return f"{self._folder} can be written"

    def close(self) -> None:
        self._tails.clear()

    def _append(self, run_id: str, lines: Sequence[str], tags: Mapping[str, str]) -> None:
        """Append the lines and tags that are not there, all or none of them."""
        file = self._file(run_id)
        try:
            with open(file, "a+b", opener=_opener) as stream:
                # Another entry or daemon may write to it: what it adds meanwhile must not be cut off below.
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                tail = self._read(run_id, stream)
                new = [line for line in dict.fromkeys(lines) if line not in tail.lines]
                if changed := {name: text for name, text in tags.items() if tail.tags.get(name) != text}:
                    new.append(json.dumps({"run": self._names.get(run_id, run_id), "tags": changed}))
                if not new:
                    return
                stream.truncate(tail.size)
                content = "".join(f"{line}\n" for line in new).encode()
                try:
                    stream.write(content)
                    stream.flush()
                    os.fsync(stream.fileno())
                except OSError:
                    # A full disk takes a part: the next try must not find half of it, nor half a line.
                    self._tails.pop(run_id, None)
                    os.ftruncate(stream.fileno(), tail.size)
                    raise
                tail.size += len(content)
                for line in new:
                    tail.take(line)
        except OSError as error:
            kind = PermanentError if error.errno in _FOR_EVER else TemporaryError
            raise kind(f"json_lines: {file} cannot be written: {error.strerror}") from error
        except ValueError as error:
            raise PermanentError(f"json_lines: {file} is damaged ({error}); move it away") from error

    def _read(self, run_id: str, stream: BinaryIO) -> _Tail:
        """The end of the file; what is remembered of it where nobody else has written since."""
        status = os.fstat(stream.fileno())
        known = self._tails.get(run_id)
        if known is not None and (known.inode, known.size) == (status.st_ino, status.st_size):
            return known
        start = max(0, status.st_size - _TAIL_BYTES)
        stream.seek(start)
        text, end, torn = stream.read().rpartition(b"\n")
        whole = text.decode().split("\n") if end else []
        tail = _Tail(inode=status.st_ino, size=status.st_size - len(torn))
        # The first may begin in the middle.
        for line in whole[1:] if start else whole:
            tail.take(line)
        self._tails[run_id] = tail
        return tail

    def _name(self, run_id: str) -> str:
        """Raises RunGoneError for a run that has no file, and that this sink has never begun."""
        if run_id not in self._names:
            self._require_run(run_id)
            self._names[run_id] = _first_name(self._file(run_id)) or run_id
        elif not self._file(run_id).exists():
            self._tails.pop(run_id, None)
        return self._names[run_id]

    def _file(self, run_id: str) -> Path:
        return self._folder / f"{run_id}.jsonl"

    def _remote(self, run_id: str) -> RemoteRun:
        return RemoteRun(id=run_id, url=self._file(run_id).absolute().as_uri())

    def _require_folder(self) -> None:
        try:
            # The folder alone: a parent that is missing may be a disk that is not mounted yet.
            self._folder.mkdir(exist_ok=True)
        except OSError as error:
            raise TemporaryError(
                f"json_lines: {self._folder} is no folder and cannot be made: {error.strerror}"
            ) from error

    def _require_run(self, run_id: str) -> None:
        # The pattern keeps "../" out of file names.
        if not (is_own_id(run_id) and self._file(run_id).exists()):
            raise RunGoneError(f"json_lines: {self._folder} has no run {run_id[:100]!r}")


def _opener(name: str, flags: int) -> int:
    # A pipe that nobody reads would block for ever.
    return os.open(name, flags | os.O_NONBLOCK, 0o644)


def _first_name(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            document: Any = json.loads(stream.readline(100_000))
    except (OSError, ValueError):
        return ""
    return str(document.get("run", "")) if isinstance(document, dict) else ""
