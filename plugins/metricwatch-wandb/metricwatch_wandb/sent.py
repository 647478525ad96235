"""What of a run W&B has already: one small file beside its own folders, for W&B appends whatever it is given."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

# The outbox sends again what it sent last and cannot know to be written: 1,000 items at most.
_REMEMBERED = 2500
_DIGITS = 32
_LINE_BYTES = _DIGITS + 1
_LONGEST_HEADER = 4096


def identity(*parts: object) -> str:
    """32 hex digits that tell one point or picture from all others."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:_DIGITS]


def file_of(directory: Path, run_id: str) -> Path:
    return directory / f"metricwatch-{run_id}.sent"


def begin(directory: Path, run_id: str, name: str) -> None:
    """Make the file of a run, with the run's name in its first line; one that is there stays. Raises OSError."""
    file = file_of(directory, run_id)
    if file.exists():
        return
    making = directory / f".{file.name}.{os.getpid()}"
    with making.open("wb") as stream:
        stream.write(json.dumps({"name": name[:200]}).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
    try:
        os.link(making, file)
    except FileExistsError:
        pass
    finally:
        making.unlink()


class Sent:
    """The file of a run while nobody else may write to it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        header = stream.readline(_LONGEST_HEADER)
        try:
            self.name = str(json.loads(header)["name"])
        except (ValueError, KeyError, TypeError):
            raise OSError(errno.EINVAL, "its first line is not what metricwatch wrote") from None
        size = stream.seek(0, os.SEEK_END) - len(header)
        # What a crash cut short is written over.
        self._end = len(header) + size - size % _LINE_BYTES
        stream.seek(max(len(header), self._end - _REMEMBERED * _LINE_BYTES))
        self.known = set(stream.read(self._end - stream.tell()).decode("ascii", "replace").split())

    def add(self, identities: Iterable[str]) -> None:
        """Append; on the disk when this returns. Raises OSError."""
        lines = "".join(f"{each}\n" for each in identities).encode()
        self._stream.truncate(self._end)
        self._stream.seek(self._end)
        self._stream.write(lines)
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._end += len(lines)


@contextmanager
def locked(directory: Path, run_id: str, *, wait: float) -> Iterator[Sent]:
    """The run's file for one's own. Raises OSError, BlockingIOError where another process has it for `wait` seconds."""
    with file_of(directory, run_id).open("r+b") as stream:
        until = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise
            time.sleep(0.02)
        yield Sent(stream)
