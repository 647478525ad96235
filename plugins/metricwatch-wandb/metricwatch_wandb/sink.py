"""The sink: checks what it is given and hands it to the process that W&B's library runs in."""

from __future__ import annotations

import base64
import hashlib
import io
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal
from urllib.parse import urlsplit

from metricwatch.api import (
    PermanentError,
    Picture,
    Point,
    RemoteRun,
    Run,
    RunGoneError,
    Secret,
    Sink,
    TemporaryError,
    given_id,
    is_own_id,
    own_id,
)
from metricwatch_wandb import sent
from metricwatch_wandb.child import Child

_NOT_IN_KEYS = re.compile(r"[^A-Za-z0-9 _\-./]+")
_LONGEST_KEY = 120
_MOST_PIXELS = 100_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class WandbOptions:
    """What `sinks` says in metricwatch.yaml.

    directory is made where its parent is there; W&B's own files go below it. Without api_key W&B's login on this
    machine is used, without entity the one of that login, without base_url its server or the public one.
    """

    project: str
    directory: Path
    entity: str | None = None
    mode: Literal["online", "offline"] = "online"
    api_key: Secret | None = None
    base_url: str | None = None

    def __post_init__(self) -> None:
        if self.base_url is None:
            return
        parts = urlsplit(self.base_url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("base_url must be the address of a W&B server: https://wandb.example.org")
        if "@" in parts.netloc:
            raise ValueError("base_url must not hold a password; write it as api_key")


class WandbSink(Sink):
    """Writes runs of Weights & Biases: a row for each step and time, pictures, tags as entries of the summary.

    A write has succeeded when the run's own file holds it on the disk; W&B's service uploads from there. W&B appends
    whatever it is given, so <directory>/metricwatch-<run id>.sent says what it has: what is sent again is left out.
    Only a crash of the machine or of these processes after W&B has taken a write and before that is noted (some
    tenths of a second) leaves the write doubled, which no call of W&B's can prevent.
    """

    Options = WandbOptions
    takes_pictures: ClassVar[bool] = True

    def __init__(self, options: WandbOptions) -> None:
        self._folder = options.directory.absolute()
        self._online = options.mode == "online"
        self._project = options.project
        self._child = Child({
            "project": options.project,
            "entity": options.entity,
            "mode": options.mode,
            "api_key": options.api_key.reveal() if options.api_key else None,
            "base_url": options.base_url,
            "directory": str(self._folder),
        })  # fmt: skip

    def find_run(self, run: Run) -> RemoteRun:
        """The run of a name, begun where it is not there; by an id only those that this folder knows."""
        self._require_folder()
        given = given_id(run, "wandb")
        if given:
            self._require_run(given)
            return self._remote(given)
        made = own_id(run)
        try:
            sent.begin(self._folder, made, run.name)
        except OSError as error:
            raise TemporaryError(
                f"wandb: {sent.file_of(self._folder, made)} cannot be made: {error.strerror}"
            ) from error
        return self._remote(made)

    def write(self, run_id: str, points: Sequence[Point], tags: Mapping[str, str]) -> None:
        """Log what was not logged yet. Raises PermanentError, with nothing logged, for NaN and infinity.

        The same goes for keys that W&B or this sink use themselves.
        """
        for point in points:
            if not math.isfinite(point.value):
                raise PermanentError(
                    f"wandb: {point.key} at step {point.step} is {point.value}: only finite values are written"
                )
            _require_free(point.key)
        self._require_run(run_id)
        if points or tags:
            sent_points = [(point.key, point.value, point.timestamp_ms, point.step) for point in points]
            self._child.ask({"do": "write", "run_id": run_id, "points": sent_points, "tags": dict(tags)})

    def write_picture(self, run_id: str, picture: Picture, png: bytes) -> None:
        """Log the PNG file as it is, under its key with what W&B takes for no file name replaced.

        Raises PermanentError for what is no PNG.
        """
        _require_png(picture, png)
        key = _file_key(picture.key)
        _require_free(key)
        self._require_run(run_id)
        self._child.ask({
            "do": "picture",
            "run_id": run_id,
            "key": key,
            "step": picture.step,
            "timestamp_ms": picture.timestamp_ms,
            "png": base64.b64encode(png).decode(),
        })  # fmt: skip

    def ping(self) -> str:
        self._require_folder()
        if not os.access(self._folder, os.W_OK | os.X_OK):
            raise TemporaryError(f"wandb: {self._folder} cannot be written; change its owner or its mode")
        if not self._online:
            return f"{self._folder} can be written; `wandb sync` uploads it to project {self._project}"
        return f"{self._child.ask({'do': 'ping'})['server']} answers; runs go to project {self._project}"

    def close(self) -> None:
        """Finish open runs. Online this waits for uploads, for less than a minute."""
        self._child.close()

    def _remote(self, run_id: str) -> RemoteRun:
        if not self._online:
            return RemoteRun(id=run_id)
        return RemoteRun(id=run_id, url=self._child.ask({"do": "open", "run_id": run_id})["url"])

    def _require_folder(self) -> None:
        try:
            # The folder alone: a parent that is missing may be a disk that is not mounted yet.
            self._folder.mkdir(exist_ok=True)
        except OSError as error:
            raise TemporaryError(f"wandb: {self._folder} is no folder and cannot be made: {error.strerror}") from error

    def _require_run(self, run_id: str) -> None:
        self._require_folder()
        # The pattern keeps "../" out of file names.
        if is_own_id(run_id) and sent.file_of(self._folder, run_id).is_file():
            return
        if self._online:
            # Where nobody answers, nobody says that it is gone.
            self._child.ask({"do": "ping"})
        raise RunGoneError(f"wandb: {self._folder} has no run {run_id[:100]!r}")


def _require_free(key: str) -> None:
    if key in {"step", "timestamp_ms"} or key.startswith("_"):
        raise PermanentError(f"wandb: the key {key!r} has a meaning of its own there: set tracking.prefix")


def _file_key(key: str) -> str:
    """The key, which W&B makes a file name of. Two keys never become one."""
    parts = key.split("/")
    if len(key) <= _LONGEST_KEY and not _NOT_IN_KEYS.search(key) and not {"", ".", ".."} & set(parts):
        return key
    named = _NOT_IN_KEYS.sub("_", key.replace("..", "_"))[:_LONGEST_KEY].strip("/._") or "picture"
    return f"{named.replace('/', '_')}-{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


def _require_png(picture: Picture, png: bytes) -> None:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
            width, height = image.size
            if width * height <= _MOST_PIXELS:
                image.load()
    except Exception as error:
        # Pillow raises whatever its decoders meet.
        raise PermanentError(
            f"wandb: picture {picture.key!r} at step {picture.step} is no PNG that can be written: {error}"
        ) from error
    if width * height > _MOST_PIXELS:
        raise PermanentError(
            f"wandb: picture {picture.key!r} has {width} x {height} pixels, more than {_MOST_PIXELS:,}"
        )
