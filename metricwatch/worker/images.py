"""Decoding untrusted pictures into 8-bit RGB, and reading ahead of the network that consumes them."""

from __future__ import annotations

import os
import stat
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from metricwatch.errors import InputError

Pixels = npt.NDArray[np.uint8]

# Named formats only: Pillow would hand PostScript to an interpreter and guess at forty more.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# Pillow loads its plugins on first use, which many threads would otherwise reach at once.
Image.init()
# Where Pillow shows 16-bit grey as 32-bit integers.
_SIXTEEN_BIT_FORMATS = frozenset({"PNG", "PPM"})


class UnusableImageError(InputError):
    """One file that cannot be scored. The message is the reason alone: the caller knows the path."""


def decode(path: str, max_pixels: int) -> Pixels:
    """The first frame of a picture as uint8 (H, W, 3), RGB.

    8-bit pictures come out exactly as Pillow's convert("RGB"): alpha dropped, palettes and CMYK converted, EXIF
    orientation ignored, all as pytorch-fid does. 16-bit grey is scaled to 8 bits (v / 257, rounded), not clipped.
    Raises UnusableImageError for everything else; more than max_pixels is refused from the header alone.
    """
    try:
        return _decode(path, max_pixels)
    except UnusableImageError:
        raise
    except Exception as error:  # decoders raise SyntaxError, ValueError, struct.error, zlib.error ... on damage
        raise UnusableImageError(_reason(error, max_pixels)) from error


def _decode(path: str, max_pixels: int) -> Pixels:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise UnusableImageError("not a regular file")
    if status.st_size == 0:
        raise UnusableImageError("empty file (0 bytes)")
    with Image.open(path, formats=_FORMATS) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise UnusableImageError(f"{width} x {height} pixels, over the limit of {max_pixels}")
        return _to_rgb(image)


def _reason(error: Exception, max_pixels: int) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return f"over the limit of {max_pixels} pixels: {error}"
    if isinstance(error, UnidentifiedImageError):
        return "not a picture of a known format, or its header is damaged"
    if isinstance(error, FileNotFoundError):
        return "vanished before it was read"
    if isinstance(error, OSError):
        # Pillow's own word for damage is an OSError without a number.
        return f"cannot be read: {error.strerror}" if error.errno else f"truncated or damaged: {error}"
    return f"cannot be decoded: {error!r}"


def _to_rgb(image: Image.Image) -> Pixels:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in _SIXTEEN_BIT_FORMATS):
        values = np.asarray(image).astype(np.uint32)
        grey = ((values + 128) // 257).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise UnusableImageError(
            f"mode {image.mode} (32 bits a channel) has no fixed range to map to 0..255; save it with 8 or 16 bits"
        )
    return np.array(image.convert("RGB"), dtype=np.uint8)


class Decoder:
    """Decodes a known sequence of files on threads, some way ahead of the reader. Use as a context manager.

    take(path) must be called for each path in the order given, from one thread. A path that occurs more than once
    is decoded once and kept until its last take. Reading ahead stops at `ahead` pictures, or once `ahead_bytes` of
    pixels wait to be taken; what is being decoded then, a picture a thread at most, comes on top.
    """

    def __init__(
        self, paths: Sequence[str], *, max_pixels: int, ahead: int, ahead_bytes: int = 256_000_000, threads: int = 0
    ) -> None:
        self._uses = Counter(paths)
        self._upcoming: Iterator[str] = iter(dict.fromkeys(paths))
        self._decoded: dict[str, Future[Pixels]] = {}
        # Bytes of pixels by path; 0 until the picture is decoded, which is when its size is known.
        self._untaken: dict[str, int] = {}
        self._unfinished = 0
        self._lock = threading.Lock()
        self._max_pixels = max_pixels
        self._ahead = max(1, ahead)
        self._ahead_bytes = ahead_bytes
        self._threads = threads or decode_threads()

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="decode")
        with self._lock:
            self._refill()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._upcoming = iter(())
        self._pool.shutdown(wait=True, cancel_futures=True)

    def take(self, path: str) -> Pixels:
        """The picture's pixels, or UnusableImageError. Every use of a broken file raises anew."""
        with self._lock:
            if path not in self._decoded:
                # Whatever waits already: the reader cannot go on without this one.
                self._submit()
            future = self._decoded[path]
            self._untaken.pop(path, None)
            self._uses[path] -= 1
            if not self._uses[path]:
                del self._decoded[path]
            self._refill()
        return future.result()

    def _refill(self) -> None:
        """Submit what the bounds allow. No more at a time than there are threads: sizes are not known before."""
        while (
            self._unfinished < self._threads
            and len(self._untaken) < self._ahead
            and sum(self._untaken.values()) < self._ahead_bytes
            and self._submit()
        ):
            pass

    def _submit(self) -> bool:
        path = next(self._upcoming, None)
        if path is None:
            return False
        self._untaken[path] = 0
        self._unfinished += 1
        self._decoded[path] = self._pool.submit(self._work, path)
        return True

    def _work(self, path: str) -> Pixels:
        size = 0
        try:
            pixels = decode(path, self._max_pixels)
            size = pixels.nbytes
            return pixels
        finally:
            # Here and not at the next take(): the reader may be busy with a batch for long.
            with self._lock:
                self._unfinished -= 1
                if path in self._untaken:
                    self._untaken[path] = size
                self._refill()


def decode_threads() -> int:
    """Enough to feed a GPU, never so many that the training job beside us starves."""
    return max(1, min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1))
