"""Decoding untrusted pictures into 8-bit RGB, and reading ahead of the network that consumes them."""

from __future__ import annotations

import os
import stat
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

    take(path) must be called for each path in the order given. A path that occurs more than once is decoded
    once and kept until its last take. Reading ahead stops at `ahead` pictures or about `ahead_bytes` of pixels.
    """

    def __init__(
        self, paths: Sequence[str], *, max_pixels: int, ahead: int, ahead_bytes: int = 256_000_000, threads: int = 0
    ) -> None:
        self._uses = Counter(paths)
        self._upcoming: Iterator[str] = iter(dict.fromkeys(paths))
        self._decoded: dict[str, Future[Pixels]] = {}
        self._untaken: set[str] = set()
        self._max_pixels = max_pixels
        self._ahead = max(1, ahead)
        self._ahead_bytes = ahead_bytes
        self._threads = threads or decode_threads()

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="decode")
        self._refill()
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def take(self, path: str) -> Pixels:
        """The picture's pixels, or UnusableImageError. Every use of a broken file raises anew."""
        if path not in self._decoded:
            self._submit()
        future = self._decoded[path]
        self._untaken.discard(path)
        self._uses[path] -= 1
        if not self._uses[path]:
            del self._decoded[path]
        self._refill()
        return future.result()

    def _refill(self) -> None:
        while len(self._untaken) < self._ahead and self._waiting_bytes() < self._ahead_bytes and self._submit():
            pass

    def _waiting_bytes(self) -> int:
        ready = (self._decoded[path] for path in self._untaken)
        return sum(future.result().nbytes for future in ready if future.done() and not future.exception())

    def _submit(self) -> bool:
        path = next(self._upcoming, None)
        if path is None:
            return False
        self._untaken.add(path)
        self._decoded[path] = self._pool.submit(decode, path, self._max_pixels)
        return True


def decode_threads() -> int:
    """Enough to feed a GPU, never so many that the training job beside us starves."""
    return max(1, min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1))
