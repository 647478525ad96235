"""Which files make a sample set, and the fingerprint that tells when one of them changed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})

# Says which content, style and prompt belong to which image of its directory.
MANIFEST = "manifest.jsonl"

# What writers call a file that is not finished yet.
_TEMPORARY_SUFFIXES = (".tmp", ".temp", ".part", ".partial", ".incomplete", ".swp", "~")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """A file as a directory scan sees it; name is relative to the scanned directory.

    ctime_ns also moves when a copy that keeps size and time is put in its place; 0 where nobody asks for it.
    """

    name: str
    size: int
    mtime_ns: int
    ctime_ns: int = 0

    @classmethod
    def of(cls, name: str, status: os.stat_result) -> Self:
        return cls(name=name, size=status.st_size, mtime_ns=status.st_mtime_ns, ctime_ns=status.st_ctime_ns)


def is_temporary(name: str) -> bool:
    """True for hidden files and for the names that writers give to unfinished ones."""
    return name.startswith(".") or name.lower().endswith(_TEMPORARY_SUFFIXES)


def is_unfinished(name: str) -> bool:
    """True for the temporary name of a picture or manifest that is being written: a.png.part, .a.png.Xy12."""
    if not is_temporary(name):
        return False
    return MANIFEST in name or any(f".{part}" in IMAGE_SUFFIXES for part in name.lower().split(".")[1:])


def is_image(name: str) -> bool:
    """True for a finished file with the suffix of a picture. Says nothing about what is inside."""
    return not is_temporary(name) and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def scan(directory: str) -> list[FileEntry]:
    """The regular files directly in a directory, sorted by name. Raises OSError when it cannot be read.

    Files that vanish while we look are left out: the next scan tells the truth.
    """
    entries = []
    with os.scandir(directory) as found:
        for item in found:
            try:
                if not item.is_file():
                    continue
                status = item.stat()
            except OSError:
                continue
            entries.append(FileEntry.of(item.name, status))
    return sorted(entries, key=lambda entry: entry.name)


def entries(directory: str, names: Iterable[str]) -> tuple[FileEntry, ...]:
    """The files of these names, in the same order. Names that have gone are left out."""
    found = []
    for name in names:
        try:
            found.append(FileEntry.of(name, os.stat(os.path.join(directory, name))))
        except OSError:
            continue
    return tuple(found)


def images(entries: Iterable[FileEntry]) -> list[FileEntry]:
    """The pictures among the files, in the same order."""
    return [entry for entry in entries if is_image(entry.name)]


def parts(entries: Iterable[FileEntry]) -> list[FileEntry]:
    """What makes a directory a sample set: its pictures and, where there is one, its manifest."""
    return [entry for entry in entries if is_image(entry.name) or entry.name == MANIFEST]


def fingerprint(entries: Iterable[FileEntry]) -> str:
    """Hex digest over names, sizes and modification times: changes when a file is written, added or removed.

    Costs no read of the files, so it can be taken at every scan.
    """
    digest = hashlib.blake2b(digest_size=16)
    for entry in sorted(entries, key=lambda entry: entry.name):
        digest.update(os.fsencode(entry.name))
        digest.update(b"\0%d\0%d\0" % (entry.size, entry.mtime_ns))
    return digest.hexdigest()
