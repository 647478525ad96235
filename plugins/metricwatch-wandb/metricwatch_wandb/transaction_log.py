"""Reads a run's .wandb file while W&B's service still writes to it.

The file is a log as LevelDB has it (doc/log_format.md of google/leveldb) behind a header of seven bytes: blocks of
32 KiB, in them chunks of CRC (4 bytes), length (2), kind (1) and data. Each entry is one Record in protobuf.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

_BLOCK_BYTES = 32 * 1024
_FILE_HEADER = b":W&B"
_FILE_HEADER_BYTES = 7
_CHUNK = struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


class NotALogError(Exception):
    """The file is no .wandb file."""


class TransactionLog:
    """The records of a file from its beginning, each given once."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._at = 0

    def new(self) -> Iterator[bytes]:
        """The whole records that came since the last call. Raises OSError and NotALogError."""
        with self.file.open("rb") as stream:
            if not self._at:
                header = stream.read(_FILE_HEADER_BYTES)
                if len(header) < _FILE_HEADER_BYTES:
                    return
                if not header.startswith(_FILE_HEADER):
                    raise NotALogError(f"{self.file} is no .wandb file")
                self._at = _FILE_HEADER_BYTES
            stream.seek(self._at)
            start, data = self._at, stream.read()
        at, gathered = start, b""
        while at - start + _CHUNK.size <= len(data):
            left = _BLOCK_BYTES - at % _BLOCK_BYTES
            if left < _CHUNK.size:
                at += left
                continue
            _, length, kind = _CHUNK.unpack_from(data, at - start)
            if not kind:
                # The writer leaves the rest of a block empty.
                at += left
                continue
            if kind > _LAST:
                raise NotALogError(f"{self.file} is damaged at byte {at:,}")
            begin = at - start + _CHUNK.size
            if begin + length > len(data):
                return
            piece = data[begin : begin + length]
            at += _CHUNK.size + length
            gathered = piece if kind in {_FULL, _FIRST} else gathered + piece
            if kind in {_FULL, _LAST}:
                self._at = at
                yield gathered
