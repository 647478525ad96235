"""One TensorBoard event file that is appended to for weeks, and that a crash may have cut short.

The framing is that of TensorFlow's record files: length (uint64), its CRC, the data, their CRC. TensorBoard leaves a
file for good once it has gone on to a later one of the folder, so a run has one file, whatever comes.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

_HEADER = struct.Struct("<QI")
_FOOTER_BYTES = 4
_LARGEST = 1 << 31


class DamagedError(Exception):
    """The file holds something else than whole records."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanned:
    """What a file was found to hold: the end of its last whole record, and place and length of its last ones' data."""

    size: int
    last: tuple[tuple[int, int], ...]


def scan(stream: BinaryIO, *, remember: int) -> Scanned:
    """Go from record to record without reading what is in them. Raises DamagedError for what is none.

    A record that a crash cut short is not counted.
    """
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    end = stream.seek(0, os.SEEK_END)
    places: deque[tuple[int, int]] = deque(maxlen=remember)
    at = 0
    while at + _HEADER.size <= end:
        stream.seek(at)
        header = stream.read(_HEADER.size)
        length, crc = _HEADER.unpack(header)
        if length > _LARGEST or masked_crc32c(header[:8]) != crc:
            raise DamagedError(f"no record begins at byte {at:,}")
        if at + _HEADER.size + length + _FOOTER_BYTES > end:
            break
        places.append((at + _HEADER.size, length))
        at += _HEADER.size + length + _FOOTER_BYTES
    return Scanned(size=at, last=tuple(places))


def records(stream: BinaryIO, found: Scanned) -> Iterator[bytes]:
    """The data of the last records, one after another."""
    for place, length in found.last:
        stream.seek(place)
        yield stream.read(length)


def append(stream: BinaryIO, at: int, data: Iterable[bytes]) -> int:
    """Write records at a place, which becomes the end of what was there; returns the new end, on the disk.

    Nothing of them is left where that fails.
    """
    from tensorboard.summary.writer.record_writer import RecordWriter

    stream.truncate(at)
    stream.seek(at)
    try:
        writer = RecordWriter(stream)
        for record in data:
            writer.write(record)
        stream.flush()
        os.fsync(stream.fileno())
    except OSError:
        os.ftruncate(stream.fileno(), at)
        raise
    return stream.tell()
