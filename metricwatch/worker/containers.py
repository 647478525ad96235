"""What is checked of a picture's file before its decoder is let at it, and how much work the decoder may make of it.

Pillow and libtiff bound neither the memory that metadata take nor the steps they cost: a TIFF of 8 megabytes can have
12 gigabytes read. None of these metadata have a part in the pixels.
"""

from __future__ import annotations

import io
import re
import struct
import time
from collections.abc import Iterator

from metricwatch.errors import InputError

# Blocks of a GIF have 255 bytes, of other formats thousands: ten times what any picture within a sane limit takes.
_MOST_READS = 2_000_000
# Of a thread's own time, so that a busy machine counts for nothing: some ten times what the slowest format takes.
_SECONDS = 10.0
_PIXELS_A_SECOND = 5_000_000

_EXIF = b"Exif\0\0"
# One, and those of the pictures within a picture. Pillow joins them by copying, and makes objects of their numbers.
_MOST_EXIF = 8
# Each goes over the whole picture. Ten are usual; with so many the largest picture takes some 20 seconds.
_MOST_SCANS = 500
_SCAN = re.compile(rb"\xff\xda\0[\x08\x0a\x0c\x0e][\1-\4]")

# Pillow takes the rare big-endian BigTIFF for a TIFF, libtiff does not: what one checks is not what the other reads.
_TIFF_ORDERS = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<"}
_BIG_TIFF = b"II+\0"
_MOST_TAGS = 65_535
_TILE_SIDES = (322, 323)
# Directories that Pillow reads with the first: Exif, GPS, interoperability.
_DIRECTORIES = (34665, 34853, 40965)
_BYTES = {1: 1, 2: 1, 6: 1, 7: 1, 3: 2, 8: 2, 4: 4, 9: 4, 11: 4, 13: 4, 5: 8, 10: 8, 12: 8, 16: 8, 17: 8, 18: 8}
_UNSIGNED = {1: "B", 3: "H", 4: "L", 13: "L", 16: "Q", 18: "Q"}


class UnusableImageError(InputError):
    """One file that cannot be scored. The message is the reason alone: the caller knows the path."""


class Metered(io.BytesIO):
    """A file's content in memory that a decoder may ask for only so often, and for only so long.

    Raises UnusableImageError at the read that is too much, or that comes after too many seconds of the thread that
    made this object. A picture of max_pixels takes a tenth of either.
    """

    def __init__(self, content: bytes, max_pixels: int) -> None:
        super().__init__(content)
        self._left = _MOST_READS
        self._end = time.thread_time() + _SECONDS + max_pixels / _PIXELS_A_SECOND

    def read(self, size: int | None = -1, /) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise UnusableImageError(f"damaged: in more than {_MOST_READS} pieces")
        # A look at the clock costs more than a short read.
        if self._left % 16 == 0 and time.thread_time() > self._end:
            raise UnusableImageError("takes too long to decode")
        return super().read(size)


def check(content: bytes, max_pixels: int) -> None:
    """Raise UnusableImageError for a file that would take far more memory or time than its pixels do."""
    if content[:4] in _TIFF_ORDERS:
        _check_tiff(content, max_pixels)
    elif content[:2] in (b"II", b"MM"):
        raise UnusableImageError("not a picture of a known format, or its header is damaged")
    elif content[:2] == b"\xff\xd8":
        if content.count(_EXIF) > _MOST_EXIF:
            raise UnusableImageError(f"damaged: more than {_MOST_EXIF} pieces of Exif data")
        if sum(1 for _ in _SCAN.finditer(content)) > _MOST_SCANS:
            raise UnusableImageError(f"damaged: more than {_MOST_SCANS} scans")


def _check_tiff(content: bytes, max_pixels: int) -> None:
    total = numbers = 0
    sides = dict.fromkeys(_TILE_SIDES, 1)
    for tag, kind, count, value in _tiff_tags(content):
        width = _BYTES.get(kind, 0)
        if count * width > len(value):
            total += count * width
            numbers += count if width > 1 else 0
        if tag in sides:
            sides[tag] = max(sides[tag], _number(content, kind, value))
    if total > len(content):
        raise UnusableImageError(f"damaged: {total} bytes of tags in a file of {len(content)}")
    # A picture of tiles of 16 x 16 has a hundredth of a number a pixel.
    if numbers > max(100_000, max_pixels // 100):
        raise UnusableImageError(f"damaged: {numbers} numbers in its tags")
    if sides[322] * sides[323] > max_pixels:
        raise UnusableImageError(f"tiles of {sides[322]} x {sides[323]} pixels, over the limit of {max_pixels}")


def _tiff_tags(content: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Tag, type, count, and the bytes that are the value or its offset, of each entry that will be read."""
    big = content[:4] == _BIG_TIFF
    order = _TIFF_ORDERS[content[:4]]
    head, offset, entry = ("Q", "Q", "HHQ8s") if big else ("H", "L", "HHL4s")
    waiting = [_unpack(order + offset, content, 8 if big else 4)]
    seen: set[int] = set()
    while waiting:
        start = waiting.pop()
        if start in seen:
            continue
        seen.add(start)
        count = _unpack(order + head, content, start)
        if count > _MOST_TAGS or len(seen) > 2 * len(_DIRECTORIES):
            raise UnusableImageError("damaged: too many tags")
        first = start + struct.calcsize(order + head)
        step = struct.calcsize(order + entry)
        body = content[first : first + count * step]
        for found in struct.iter_unpack(order + entry, body[: len(body) // step * step]):
            yield found
            if found[0] in _DIRECTORIES:
                waiting.append(_number(content, found[1], found[3]))


def _number(content: bytes, kind: int, value: bytes) -> int:
    """The one unsigned number of an entry; 0 where it is none."""
    code = _UNSIGNED.get(kind)
    if code is None or _BYTES[kind] > len(value):
        return 0
    return int(struct.unpack_from(_TIFF_ORDERS[content[:4]] + code, value)[0])


def _unpack(layout: str, content: bytes, start: int) -> int:
    try:
        return int(struct.unpack_from(layout, content, start)[0])
    except (struct.error, OverflowError) as error:
        raise UnusableImageError("truncated or damaged: its directory is not in the file") from error
