"""Reading and decoding untrusted pictures into 8-bit RGB."""

from __future__ import annotations

import contextlib
import os
import stat
import threading

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from metricwatch.worker.containers import Metered, UnusableImageError, check

Pixels = npt.NDArray[np.uint8]

# Named formats only: Pillow would hand PostScript to an interpreter and guess at forty more.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# Pillow loads its plugins on first use, which many threads would otherwise reach at once.
Image.init()
# Where Pillow shows 16-bit grey as 32-bit integers.
_SIXTEEN_BIT_FORMATS = frozenset({"PNG", "PPM"})
# How the reason begins for a file that the disk would not give: it may tomorrow.
READ_ERROR = "cannot be read"
_MOST_SLENDER = 100
_LARGE = 8_000_000
_one_at_a_time = threading.Lock()
_MOST_THREADS = 8
# Four channels of 16 bits; and room for headers, profiles and thumbnails.
_BYTES_A_PIXEL = 8
_FILE_ALLOWANCE = 64_000_000


def read(path: str, max_pixels: int) -> bytes:
    """A file's content. Raises UnusableImageError for what cannot hold a picture of at most max_pixels."""
    try:
        status = os.stat(path)
        if reason := _unreadable(status, max_pixels):
            raise UnusableImageError(reason)
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UnusableImageError(_reason(error, max_pixels)) from error
    except ValueError as error:
        raise UnusableImageError(f"not a path of a file: {error}") from error


def _unreadable(status: os.stat_result, max_pixels: int) -> str:
    if not stat.S_ISREG(status.st_mode):
        return "not a regular file"
    if status.st_size == 0:
        return "empty file (0 bytes)"
    if status.st_size > _FILE_ALLOWANCE + _BYTES_A_PIXEL * max_pixels:
        return f"{status.st_size} bytes, too many for the limit of {max_pixels} pixels"
    return ""


def decode(content: bytes, max_pixels: int) -> Pixels:
    """The first frame of a picture file's content as uint8 (H, W, 3), RGB.

    8-bit pictures come out exactly as Pillow's convert("RGB"): alpha dropped, palettes and CMYK converted, EXIF
    orientation ignored, all as pytorch-fid does. 16-bit grey is scaled to 8 bits (v / 257, rounded), not clipped.
    Raises UnusableImageError for everything else; more than max_pixels is refused from the header alone. What is
    decoded takes some 16 bytes a pixel beside its content, and bounded time. MemoryError is raised as it is: another
    time there may be room.
    """
    try:
        check(content, max_pixels)
        with Image.open(Metered(content, max_pixels), formats=_FORMATS) as image:
            _check_size(image, max_pixels)
            # On eight threads at once, eight of these are more memory than the network takes.
            with _one_at_a_time if image.width * image.height > _LARGE else contextlib.nullcontext():
                return _to_rgb(image)
    except (UnusableImageError, MemoryError):
        raise
    except Exception as error:  # decoders raise SyntaxError, ValueError, struct.error, zlib.error ... on damage
        raise UnusableImageError(_reason(error, max_pixels)) from error


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise UnusableImageError(f"{width} x {height} pixels, over the limit of {max_pixels}")
    if max(width, height) > _MOST_SLENDER * min(width, height):
        # Networks that keep the shape of a picture would make a huge one of it.
        raise UnusableImageError(f"{width} x {height} pixels: one side is over {_MOST_SLENDER} times the other")


def _reason(error: Exception, max_pixels: int) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return f"over the limit of {max_pixels} pixels: {error}"
    if isinstance(error, UnidentifiedImageError):
        return "not a picture of a known format, or its header is damaged"
    if isinstance(error, FileNotFoundError):
        return "no such file, or no longer"
    if isinstance(error, OSError):
        # Pillow's own word for damage is an OSError without a number.
        return f"{READ_ERROR}: {error.strerror}" if error.errno else f"truncated or damaged: {error}"
    return f"cannot be decoded: {error!r}"


def _to_rgb(image: Image.Image) -> Pixels:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in _SIXTEEN_BIT_FORMATS):
        values = np.asarray(image).astype(np.uint32)
        # In place: of a hundred million pixels each copy is 400 megabytes.
        values += 128
        values //= 257
        return np.repeat(values.astype(np.uint8)[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise UnusableImageError(
            f"mode {image.mode} (32 bits a channel) has no fixed range to map to 0..255; save it with 8 or 16 bits"
        )
    return np.array(image.convert("RGB"), dtype=np.uint8)


class _Limit:
    threads = _MOST_THREADS


def limit_decode_threads(threads: int) -> None:
    """From now on let decode_threads() be at most that many, for this process."""
    _Limit.threads = max(1, min(threads, _MOST_THREADS))


def decode_threads() -> int:
    """Enough to feed a GPU, never so many that the training job beside us starves."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(_Limit.threads, cores))
