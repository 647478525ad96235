"""One step's sample set, written from a training loop."""

from __future__ import annotations

import io
import json
import logging
import operator
import os
from types import TracebackType
from typing import Any, Self, SupportsIndex

from metricwatch import listing
from metricwatch.errors import InputError
from metricwatch.hook import staging
from metricwatch.hook.pixels import Pixels, to_pixels
from metricwatch.hook.rank import current_rank

log = logging.getLogger("metricwatch.hook")

_MARKER = ".done"
# Run lengths alone (3 is zlib's Z_RLE) take photographs to the same size as PIL's own choice in a third of the time.
_FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {"compress_level": 1, "compress_type": 3}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
}
# What the watcher reads as a step, and what the reader of manifests takes on a line.
_MOST_STEPS = 10**18
_MOST_CHARACTERS = 99_000
_MOST_NAME_BYTES = 200
_SHOWN = 80


def snapshot(
    directory: str | os.PathLike[str],
    step: SupportsIndex,
    *,
    suffix: str = ".png",
    exist_ok: bool = True,
    rank: int | None = None,
) -> Snapshot:
    """A context manager that writes the images of one step to directory/step_000100, all of them or nothing.

    with metricwatch.snapshot("runs/night/samples", step) as snapshot:
        for name, image, photo in results:
            snapshot.save(name, image, content=photo)

    Until the body is left the images are in a hidden directory, which the watcher passes over; then they are made
    durable and get their name in one step, with the marker `.done` and, where there is something to say, a
    `manifest.jsonl` with them. An exception in the body leaves nothing behind, a killed process a hidden directory
    that the next snapshot of the same step removes. A body that saves nothing writes nothing, with a warning.

    A step that is there already is replaced as a whole (see hook.staging.publish for file systems that cannot), which
    the daemon takes as a new revision; with exist_ok=False it is refused. Of a distributed job only rank 0 writes: see
    hook.rank.current_rank, or give the rank; `snapshot.writes` says whether this process does, and elsewhere save()
    does nothing. suffix is .png, .jpg or .jpeg. Of several that write the same step at once the last one wins.

    Raises InputError for what the caller gave, OSError where the file system refuses (full, read-only).
    """
    return Snapshot(directory, step, suffix=suffix, exist_ok=exist_ok, rank=rank)


class Snapshot:
    """The images of one step on their way to disk; snapshot() makes these."""

    def __init__(
        self,
        directory: str | os.PathLike[str],
        step: SupportsIndex,
        *,
        suffix: str = ".png",
        exist_ok: bool = True,
        rank: int | None = None,
    ) -> None:
        self.step = _step(step)
        # Where the images will be: an absolute path.
        self.path = os.path.join(os.path.abspath(os.fspath(directory)), f"step_{self.step:06}")
        # False in a process that is not rank 0 of its job.
        self.writes = (current_rank() if rank is None else rank) == 0
        if suffix.lower() not in _FORMATS:
            raise InputError(f"suffix {suffix!r}: images are saved as {', '.join(_FORMATS)}")
        self._suffix = suffix
        self._exist_ok = exist_ok
        self._staged = ""
        self._stems: set[str] = set()
        self._lines: list[str] = []
        self._has_warned = False

    def __enter__(self) -> Self:
        if not self.writes:
            return self
        # Now, and not after all images have been made.
        if os.path.lexists(self.path):
            if not os.path.isdir(self.path):
                raise InputError(f"{self.path} exists and is not a directory; remove it, or save somewhere else")
            if not self._exist_ok:
                raise InputError(f"{self.path} exists already; give exist_ok=True to replace it")
        self._staged = staging.stage(self.path)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        staged, self._staged = self._staged, ""
        if not staged:
            return
        try:
            if kind is None and self._stems:
                self._finish(staged)
            elif kind is None:
                log.warning("step %d: the snapshot has no images, nothing was written to %s", self.step, self.path)
        finally:
            staging.discard(staged)

    def save(
        self,
        name: str | int,
        image: Any,
        *,
        content: Any = None,
        style: Any = None,
        prompt: str | None = None,
    ) -> None:
        """Save an image: PIL, numpy (H, W[, 1 or 3]) or torch (1 or 3, H, W), uint8 0..255 or floating 0..1.

        The file is the name with the snapshot's suffix, instead of an image suffix that the name has; a number is
        written with four digits. Names are the file stems by which partners are found, so each may come once.

        content and style are the partners for paired metrics: a path, or an image, which is then saved inside the set
        below content/ or style/. A relative path is one from the current directory, and is noted relative to the set;
        an absolute one is noted as it is. The daemon reads partners below the set's own folder and below the
        configured pairs.content, pairs.style and the folder of pairs.manifest, others not.

        An image with NaN or infinite values is saved, with 0 for NaN and the nearest bound for infinity: it is
        a broken model's picture, and the scores shall show it. How many values it had is noted in the manifest as
        `non_finite`, and warned of once a snapshot, as are values far outside of 0..1. Raises InputError, OSError.
        """
        if not self.writes:
            return
        if not self._staged:
            raise InputError("save() outside of the snapshot's with block; write: with metricwatch.snapshot(...) as s:")
        stem = _stem(name)
        if stem in self._stems:
            raise InputError(f"{stem!r} is in this snapshot already; each image needs a name of its own")
        pixels = to_pixels(image)
        partners: dict[str, Any] = {"content": content, "style": style}
        kept = {kind: to_pixels(given) for kind, given in partners.items() if given is not None and not _is_path(given)}
        line = self._line(stem, partners, prompt, pixels.non_finite)
        for kind, partner in kept.items():
            os.makedirs(os.path.join(self._staged, kind), exist_ok=True)
            self._write(_kept_name(kind, stem), partner)
        self._write(f"{stem}{self._suffix}", pixels)
        self._warn(stem, pixels)
        self._stems.add(stem)
        if line:
            self._lines.append(line)

    def _line(self, stem: str, partners: dict[str, Any], prompt: str | None, non_finite: int) -> str:
        """The image's line of the manifest, or "" where there is nothing to say of it."""
        document: dict[str, Any] = {"image": f"{stem}{self._suffix}"}
        for kind, given in partners.items():
            if given is not None:
                document[kind] = self._noted_path(kind, given) if _is_path(given) else _kept_name(kind, stem)
        if prompt is not None:
            document["prompt"] = _text("the prompt", prompt)
        if non_finite:
            document["non_finite"] = non_finite
        if len(document) == 1:
            return ""
        line = json.dumps(document, ensure_ascii=False)
        if len(line) > _MOST_CHARACTERS:
            raise InputError(f"{stem!r}: {len(line)} characters of paths and prompt; at most {_MOST_CHARACTERS}")
        return line

    def _finish(self, staged: str) -> None:
        if self._lines:
            staging.write_file(os.path.join(staged, listing.MANIFEST), "".join(f"{x}\n" for x in self._lines).encode())
        # Last: a marker that is older than an image vouches for nothing.
        staging.write_file(os.path.join(staged, _MARKER), b"")
        staging.publish(staged, self.path, replace=self._exist_ok)

    def _write(self, name: str, pixels: Pixels) -> None:
        """Encode first: what PIL refuses leaves no half file."""
        kind, options = _FORMATS[os.path.splitext(name)[1].lower()]
        picture = pixels.picture
        if kind == "JPEG" and picture.mode not in {"L", "RGB"}:
            picture = picture.convert("RGB")
        encoded = io.BytesIO()
        picture.save(encoded, kind, **options)
        staging.write_file(os.path.join(self._staged, name), encoded.getvalue())

    def _noted_path(self, kind: str, given: str | os.PathLike[str]) -> str:
        path = _text(f"the {kind} path", os.fspath(given))
        if not path:
            raise InputError(f"the {kind} path is empty; leave it out where there is none")
        return path if os.path.isabs(path) else os.path.relpath(os.path.abspath(path), self.path)

    def _warn(self, stem: str, pixels: Pixels) -> None:
        if self._has_warned or not (pixels.non_finite or pixels.span):
            return
        self._has_warned = True
        if pixels.non_finite:
            reason = f"{pixels.non_finite} values are NaN or infinite and were saved as 0 or 1"
        else:
            assert pixels.span is not None  # noqa: S101 - one of the two there is
            reason = "values from {:.3g} to {:.3g} were clamped to 0..1 (from -1..1 it is x / 2 + 0.5)".format(
                *pixels.span
            )
        log.warning("step %d: image %s: %s; further images of this step are not reported", self.step, stem, reason)


def _step(step: SupportsIndex) -> int:
    try:
        number = operator.index(step)
    except TypeError as error:
        raise InputError(f"step {step!r} is not a whole number") from error
    if isinstance(step, bool) or not 0 <= number < _MOST_STEPS:
        raise InputError(f"step {step!r} is not a number from 0 to 10**18 - 1")
    return number


def _stem(name: str | int) -> str:
    """The name as a file stem. Raises InputError for what is no safe file name everywhere, or hidden."""
    if not isinstance(name, str):
        name = f"{_step(name):04}"
    stem, suffix = os.path.splitext(name)
    if suffix.lower() not in listing.IMAGE_SUFFIXES:
        stem = name
    reason = ""
    if not stem or "/" in stem or any(ord(character) < ord(" ") or character == "\x7f" for character in stem):
        reason = "it must be a plain file name, without slashes and control characters"
    elif stem.startswith("."):
        reason = "files with a leading dot are hidden, the watcher passes them over"
    elif len(_text("the name", stem).encode()) > _MOST_NAME_BYTES:
        reason = f"it is longer than {_MOST_NAME_BYTES} bytes"
    if reason:
        raise InputError(f"image name {name[:_SHOWN]!r}: {reason}")
    return stem


def _text(what: str, text: str) -> str:
    """The text, if it can be written to a manifest and read back."""
    if not isinstance(text, str):
        raise InputError(f"{what} is a {type(text).__name__}, not text")
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise InputError(f"{what} {text[:_SHOWN]!r} holds a NUL or half a character (a lone surrogate)")
    return text


def _kept_name(kind: str, stem: str) -> str:
    # Without loss whatever the snapshot's suffix: paired metrics measure against it.
    return f"{kind}/{stem}.png"


def _is_path(given: Any) -> bool:
    return isinstance(given, (str, os.PathLike))
