"""Pictures as MLflow's page shows them: a slider over steps for each key.

MlflowClient.log_image() is not to be repeated: it names its files by a random UUID. Here the UUID hangs on what the
picture is, and the rest is the same: two files in the run's artifacts, the picture as it is and a small one in WebP,
`images/<key>+step+<step>+timestamp+<milliseconds>+<uuid>.png` and `…+compressed.webp`, and a tag that says that there
are pictures. The signs between the parts have changed between versions of MLflow: the installed client is asked.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import uuid
from dataclasses import dataclass

from metricwatch.api import PermanentError, Picture

from .artifacts import Artifacts
from .server import Server

# What log_image() takes in a key, and how much of it a file's name of 255 bytes has room for.
_NOT_TAKEN = re.compile(r"[^a-zA-Z0-9_\-./ ]")
_LONGEST_KEY = 120
_FOLDER = "images"
_TAG = "mlflow.loggedImages"
# The page shows the small file, up to 600 pixels wide: log_image()'s 256 would make the words in figures unreadable.
_SMALL_SIDE = 640
# As many as metricwatch's own limit on images: 300 MB, decoded.
_MOST_PIXELS = 100_000_000
_NAMESPACE = uuid.UUID("6f2c8a52-6a0e-5d0b-9f0e-2b1d4c7c9a11")


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """The signs in the names that the installed client gives to pictures."""

    separator: str = "+"
    slash: str = "~"

    def name(self, key: str, picture: Picture, unique: str) -> str:
        parts = (key.replace("/", self.slash), "step", picture.step, "timestamp", picture.timestamp_ms, unique)
        return self.separator.join(map(str, parts))


class Pictures:
    """Writes pictures into runs, each as often as one likes."""

    def __init__(self, server: Server, artifacts: Artifacts) -> None:
        self._server = server
        self._artifacts = artifacts
        self._naming: Naming | None = None

    def write(self, run_id: str, picture: Picture, png: bytes) -> None:
        """Write the picture or raise, as MlflowSink.write_picture() says."""
        described = f"picture {picture.key!r} at step {picture.step}"
        small = _small(png, described)
        with self._server.speaking(f"writing {described} to run {run_id}"):
            run = self._artifacts.active_run(run_id, described)
            naming = self._naming = self._naming or _installed_naming(self._server)
        name = naming.name(plain_key(picture.key), picture, _unique(run_id, picture))
        files = {f"{name}.png": png, f"{name}{naming.separator}compressed.webp": small}
        self._artifacts.store(run, files, _FOLDER, described)
        with self._server.speaking(f"writing {described} to run {run_id}"):
            self._artifacts.check_seen(run, f"{name}.png", _FOLDER)
            if _TAG not in run.data.tags:
                self._server.client().set_tag(run_id, _TAG, "True")


def plain_key(key: str) -> str:
    """The key as MLflow takes it. Keys that differ stay different: one that must be changed ends with its hash."""
    plain = _NOT_TAKEN.sub("_", key)
    if plain == key and 0 < len(key) <= _LONGEST_KEY:
        return key
    mark = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{plain[:_LONGEST_KEY]}-{mark}"


def _unique(run_id: str, picture: Picture) -> str:
    """The same for the same picture, and for no other one."""
    return str(uuid.uuid5(_NAMESPACE, json.dumps([run_id, picture.key, picture.step, picture.timestamp_ms])))


def _small(png: bytes, described: str) -> bytes:
    """The picture in WebP, no larger than 640 pixels on its longer side. Raises PermanentError for what is none."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
            _check_size(image.size)
            scale = min(1.0, _SMALL_SIDE / max(image.size))
            width, height = (max(1, int(side * scale)) for side in image.size)
            made = io.BytesIO()
            # The WebP encoder knows no other modes.
            ready = image if image.mode in {"RGB", "RGBA"} else image.convert("RGB")
            ready.resize((width, height)).save(made, "WEBP")
            return made.getvalue()
    except Exception as error:
        # Pillow raises whatever its decoders meet.
        raise PermanentError(f"mlflow: {described} is no PNG that can be sent: {error}") from error


def _check_size(size: tuple[int, int]) -> None:
    if math.prod(size) > _MOST_PIXELS:
        raise ValueError(f"it has {size[0]} x {size[1]} pixels, more than {_MOST_PIXELS:,}")


def _installed_naming(server: Server) -> Naming:
    """The installed client's own signs, found by having it name a picture that goes nowhere."""
    from mlflow import MlflowClient
    from PIL import Image

    names: list[str] = []
    paper = MlflowClient(tracking_uri=server.address.uri)
    paper.log_artifact = lambda _run, path, _folder: names.append(os.path.basename(path))
    paper.set_tag = lambda *_, **__: None
    try:
        paper.log_image("0" * 32, Image.new("RGB", (1, 1)), key="a/b", step=1, timestamp=2, synchronous=True)
    except Exception:  # noqa: BLE001 - another version's log_image(); its page knows the usual signs
        return Naming()
    found = re.match(r"a(?P<slash>\W)b(?P<separator>\W)step(?P=separator)1(?P=separator)timestamp", "".join(names[:1]))
    return Naming(separator=found["separator"], slash=found["slash"]) if found else Naming()
