"""The sink: a folder for each run, in it one event file."""

from __future__ import annotations

import errno
import fcntl
import math
import os
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from metricwatch.api import (
    PermanentError,
    Picture,
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
from metricwatch_tensorboard.event_file import DamagedError, append, records, scan
from metricwatch_tensorboard.events import Identity, identity_of, of_picture, of_point, of_tag, tag_of, version

_FILE = "events.out.tfevents.0000000000.metricwatch"
# The outbox sends again what it sent last and cannot know to be written: 1,000 items at most.
_REMEMBERED = 2500
_FOR_EVER = frozenset({errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR})


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorBoardOptions:
    """What `sinks` says in metricwatch.yaml: the folder that `tensorboard --logdir` is given.

    It is made where its parent is there.
    """

    directory: Path


@dataclass(slots=True, kw_only=True)
class _Tail:
    """The end of a file. inode and size say which file this is of; step is the newest that was written."""

    inode: int
    size: int
    known: OrderedDict[Identity, None] = field(default_factory=OrderedDict)
    tags: dict[str, str] = field(default_factory=dict)
    step: int = 0

    def take(self, event: Any) -> None:
        if (tag := tag_of(event)) is not None:
            self.tags[tag[0]] = tag[1]
        elif (identity := identity_of(event)) is not None:
            self.known[identity] = None
            self.step = max(self.step, event.step)
            if len(self.known) > _REMEMBERED:
                self.known.popitem(last=False)


class TensorBoardSink(Sink):
    """Writes <directory>/<run name>-<12 hex digits of its key>/events.out.tfevents…: scalars, images, tags as texts.

    Everything is there once, after a crash too, and on the disk before write() returns. Nothing imports TensorFlow or
    torch.
    """

    Options = TensorBoardOptions
    takes_pictures: ClassVar[bool] = True

    def __init__(self, options: TensorBoardOptions) -> None:
        self._folder = options.directory
        self._tails: dict[str, _Tail] = {}

    def find_run(self, run: Run) -> RemoteRun:
        """The folder of a run: by its name one is begun, by an id (the folder's name) it must be there."""
        self._require_folder()
        given = given_id(run, "tensorboard")
        if given:
            self._require_run(given)
            return self._remote(given)
        made = own_id(run)
        try:
            (self._folder / made).mkdir(exist_ok=True)
        except OSError as error:
            raise TemporaryError(f"tensorboard: {self._folder / made} cannot be made: {error.strerror}") from error
        return self._remote(made)

    def write(self, run_id: str, points: Sequence[Point], tags: Mapping[str, str]) -> None:
        """Append what is not there yet, or raise. Raises PermanentError, with nothing written, for NaN and infinity."""
        for point in points:
            if not math.isfinite(point.value):
                raise PermanentError(
                    f"tensorboard: {point.key} at step {point.step} is {point.value}: only finite values are written"
                )
        self._require_run(run_id)
        if points or tags:
            self._append(run_id, [of_point(point) for point in points], tags)

    def write_picture(self, run_id: str, picture: Picture, png: bytes) -> None:
        """Append the picture as an image of its key at its step. Raises PermanentError for what is no PNG."""
        self._require_run(run_id)
        self._append(run_id, [of_picture(picture, png)], {})

    def ping(self) -> str:
        self._require_folder()
        if not os.access(self._folder, os.W_OK | os.X_OK):
            raise TemporaryError(f"tensorboard: {self._folder} cannot be written; change its owner or its mode")
        return f"{self._folder} can be written"

    def close(self) -> None:
        self._tails.clear()

    def _append(self, run_id: str, events: Sequence[Any], tags: Mapping[str, str]) -> None:
        file = self._folder / run_id / _FILE
        try:
            with open(file, "a+b", opener=_opener) as appending:
                # Another entry or daemon may write to it: what it adds meanwhile must not be cut off below.
                fcntl.flock(appending, fcntl.LOCK_EX | fcntl.LOCK_NB)
                tail = self._read(run_id, appending)
                new = {identity_of(event): event for event in events if identity_of(event) not in tail.known}
                now = time.time()
                step = max((event.step for event in new.values()), default=tail.step)
                texts = [
                    of_tag(name, text, step=max(step, tail.step), now=now)
                    for name, text in tags.items()
                    if tail.tags.get(name) != text
                ]
                written = [*new.values(), *texts]
                if not written:
                    return
                data = [event.SerializeToString() for event in written]
                try:
                    tail.size = append(appending, tail.size, data if tail.size else [version(now), *data])
                except OSError:
                    self._tails.pop(run_id, None)
                    raise
                for event in written:
                    tail.take(event)
        except OSError as error:
            kind = PermanentError if error.errno in _FOR_EVER else TemporaryError
            raise kind(f"tensorboard: {file} cannot be written: {error.strerror}") from error
        except DamagedError as error:
            raise PermanentError(f"tensorboard: {file} is damaged ({error}); move it away") from error

    def _read(self, run_id: str, stream: Any) -> _Tail:
        """The end of the file; what is remembered of it where nobody else has written since."""
        from google.protobuf.message import DecodeError
        from tensorboard.compat.proto.event_pb2 import Event

        status = os.fstat(stream.fileno())
        known = self._tails.get(run_id)
        if known is not None and (known.inode, known.size) == (status.st_ino, status.st_size):
            return known
        found = scan(stream, remember=_REMEMBERED)
        tail = _Tail(inode=status.st_ino, size=found.size)
        for record in records(stream, found):
            try:
                tail.take(Event.FromString(record))
            except DecodeError as error:
                raise DamagedError(f"a record is no event: {error}") from None
        self._tails[run_id] = tail
        return tail

    def _remote(self, run_id: str) -> RemoteRun:
        return RemoteRun(id=run_id, url=(self._folder / run_id).absolute().as_uri())

    def _require_folder(self) -> None:
        try:
            # The folder alone: a parent that is missing may be a disk that is not mounted yet.
            self._folder.mkdir(exist_ok=True)
        except OSError as error:
            raise TemporaryError(
                f"tensorboard: {self._folder} is no folder and cannot be made: {error.strerror}"
            ) from error

    def _require_run(self, run_id: str) -> None:
        self._require_folder()
        # The pattern keeps "../" out of file names.
        if not (is_own_id(run_id) and (self._folder / run_id).is_dir()):
            raise RunGoneError(f"tensorboard: {self._folder} has no run {run_id[:100]!r}")


def _opener(name: str, flags: int) -> int:
    # Not O_APPEND: what a crash cut short is written over. And a pipe that nobody reads would block for ever.
    return os.open(name, (flags & ~os.O_APPEND) | os.O_NONBLOCK, 0o644)
