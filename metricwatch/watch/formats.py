"""What the formats of checkpoints tell about their own completeness. Reads a little of them, and runs nothing."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO, TypeVar

from metricwatch import listing
from metricwatch.listing import FileEntry

_T = TypeVar("_T")

# Files beside the checkpoints that name the last complete one.
_DEEPSPEED = "latest"
_MEGATRON = "latest_checkpointed_iteration.txt"
TRACKERS = frozenset({_DEEPSPEED, _MEGATRON})

# model-00001-of-00003.safetensors
_SHARD = re.compile(r"(?P<stem>.+)-\d+-of-(?P<total>\d+)(?P<suffix>\.safetensors|\.bin)")
_INDEXES = (".safetensors.index.json", ".bin.index.json")
_ZIPS = (".pt", ".pth", ".ckpt", ".bin", ".pt2", ".tar")
_LARGEST_TRACKER = 1024
_LARGEST_INDEX = 16 * 1024 * 1024
_LARGEST_HEADER = 100_000_000
_CHUNK = 1024 * 1024
# A file's offsets in a header of safetensors. A text in its metadata cannot look so: its quotes are escaped.
_OFFSETS = re.compile(rb'"data_offsets"\s{0,9}:\s{0,9}\[\s{0,9}\d{1,19}\s{0,9},\s{0,9}(\d{1,19})\s{0,9}\]')
_LONGEST_OFFSETS = 128
# An end-of-central-directory record: 22 bytes and a comment of its own length.
_ZIP_END = b"PK\x05\x06"
_ZIP_END_BYTES = 22
_LONGEST_COMMENT = 65_535
# Files read at one look, and verdicts remembered. Beyond that it is the quiet time that decides.
_MOST_READ = 1000
_MOST_REMEMBERED = 4096


def last_written(directory: str, parts: Sequence[FileEntry]) -> list[FileEntry]:
    """The files that a format writes last, of those that are there: in the directory, or beside it and naming it.

    Weaker than a marker of the user's own: programs put files of their own into such directories, and other processes
    of the job may still be at theirs. Accelerate's save_state has no last file: each process ends with its own random
    states and custom objects.
    """
    top = {entry.name: entry for entry in parts if entry.size and "/" not in entry.name}
    names = [
        # torch.distributed.checkpoint: finish() collects what all ranks wrote and renames the index into place.
        listing.DCP_INDEX,
        # Transformers' Trainer._save_checkpoint: after model, optimizer and random states of this process. Those of
        # other processes are written without a barrier.
        "trainer_state.json",
        # diffusers' save_pretrained: "finally save the config", after all components.
        "model_index.json",
    ]
    if listing.DCP_INDEX in top:
        # Lightning's FSDP and model-parallel strategies save theirs after the distributed checkpoint.
        names.append("meta.pt")
    found = [top[name] for name in names if name in top]
    parent, name = os.path.split(directory)
    # DeepSpeed's save_checkpoint: the tag, by rank 0 after its own files (in older versions by every rank, and without
    # waiting for the others). Megatron: the iteration, after a barrier or when the asynchronous save is finalised.
    for tracker in (_DEEPSPEED, _MEGATRON):
        entry = _tracker(parent, tracker, name)
        if entry is not None:
            found.append(entry)
    return found


class Evidence:
    """Finds signs in the files that more is to come. What it has read of a file is remembered while that stays.

    Any trouble with a file, and any file of unknown form, is no sign: never an exception.
    """

    def __init__(self) -> None:
        self._ends: dict[tuple[str, int, int], bool] = {}
        self._shards: dict[tuple[str, int, int], frozenset[str]] = {}

    def of_more_to_come(self, directory: str, parts: Sequence[FileEntry]) -> bool:
        """True when one of the files is incomplete, or others that must be there are not."""
        names = {entry.name for entry in parts}
        shard_folders = {os.path.dirname(name) for name in names if name.endswith(".distcp")}
        if any(os.path.join(folder, listing.DCP_INDEX) not in names for folder in shard_folders):
            return True
        if _lacks_shards(names):
            return True
        if len(self._ends) + len(self._shards) > _MOST_REMEMBERED:
            self._ends.clear()
            self._shards.clear()
        read = [entry for entry in parts if entry.name.endswith((*_INDEXES, ".safetensors", *_ZIPS))][:_MOST_READ]
        return any(self._is_incomplete(directory, entry, names) for entry in read)

    def _is_incomplete(self, directory: str, entry: FileEntry, names: set[str]) -> bool:
        path = os.path.join(directory, entry.name)
        key = path, entry.size, entry.mtime_ns
        if entry.name.endswith(_INDEXES):
            shards = self._shards.get(key)
            if shards is None:
                shards = self._shards[key] = _quietly(_shards_of, path) or frozenset()
            folder = os.path.dirname(entry.name)
            return any(os.path.join(folder, shard) not in names for shard in shards)
        if not entry.size:
            # Just opened for writing.
            return True
        incomplete = self._ends.get(key)
        if incomplete is None:
            is_safetensors = entry.name.endswith(".safetensors")
            incomplete = self._ends[key] = bool(_quietly(_lacks_data if is_safetensors else _lacks_zip_end, path))
        return incomplete


def _lacks_shards(names: set[str]) -> bool:
    """True when a sharded model of Hugging Face lacks one of its shards, or the index, which is written after them."""
    shards: dict[tuple[str, str, int], int] = {}
    for name in names:
        if found := _SHARD.fullmatch(name):
            group = found["stem"], found["suffix"], int(found["total"])
            shards[group] = shards.get(group, 0) + 1
    return any(
        count < total or f"{stem}{suffix}.index.json" not in names for (stem, suffix, total), count in shards.items()
    )


def _quietly(read: Callable[[str], _T], path: str) -> _T | None:
    try:
        return read(path)
    except (OSError, ValueError, RecursionError, MemoryError):
        return None


def _shards_of(path: str) -> frozenset[str]:
    """The files that the index of a sharded checkpoint names."""
    with _open(path) as file:
        text = file.read(_LARGEST_INDEX + 1)
    document = json.loads(text) if len(text) <= _LARGEST_INDEX else None
    weights = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(weights, dict):
        return frozenset()
    shards = {shard for shard in weights.values() if isinstance(shard, str)}
    # A shard elsewhere is none that we could see come.
    return frozenset(shard for shard in shards if os.path.normpath(shard) == shard and shard[0] not in "/.")


def _lacks_data(path: str) -> bool:
    """True when a file of safetensors is shorter or longer than 8 bytes, its header and the data of that."""
    with _open(path) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        # Zeros: the file was made in its full size and is filled now.
        if size < 8 + length or length < len(b"{}"):
            return length <= _LARGEST_HEADER
        if length > _LARGEST_HEADER:
            return False
        return 8 + length + _end_of_data(_chunks(file, length)) != size


def _end_of_data(chunks: Iterable[bytes]) -> int:
    # Not parsed: the objects of a header of 100 MB would be ten times that, in a process that is to stay small.
    end, rest = 0, b""
    for chunk in chunks:
        text = rest + chunk
        end = max([end, *map(int, _OFFSETS.findall(text))])
        rest = text[-_LONGEST_OFFSETS:]
    return end


def _lacks_zip_end(path: str) -> bool:
    """True when a file begins as a zip, as torch.save writes it, and does not end as one."""
    with _open(path) as file:
        if file.read(4) != b"PK\x03\x04":
            return False
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _ZIP_END_BYTES - _LONGEST_COMMENT))
        tail = file.read(_ZIP_END_BYTES + _LONGEST_COMMENT)
    at = tail.rfind(_ZIP_END)
    while at >= 0:
        # The record must reach to the end exactly: weights may hold any four bytes, and other zips.
        if len(tail) - at == _ZIP_END_BYTES + int.from_bytes(tail[at + 20 : at + 22], "little"):
            return False
        at = tail.rfind(_ZIP_END, 0, at)
    return True


def _tracker(parent: str, name: str, directory: str) -> FileEntry | None:
    """The tracker in the parent folder when it names this directory."""
    path = os.path.join(parent, name)
    try:
        with _open(path) as file:
            status = os.fstat(file.fileno())
            says = file.read(_LARGEST_TRACKER).decode().strip()
    except (OSError, ValueError):
        return None
    if says.isdecimal() and name == _MEGATRON:
        says = f"iter_{int(says):07d}"
    return FileEntry.of(name, status) if says == directory else None


def _chunks(file: BinaryIO, length: int) -> Iterator[bytes]:
    while length > 0 and (chunk := file.read(min(_CHUNK, length))):
        length -= len(chunk)
        yield chunk


def _open(path: str) -> BinaryIO:
    """Open a regular file to read. Raises OSError for anything else: a pipe would keep us waiting."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("not a regular file")
    return open(descriptor, "rb")
