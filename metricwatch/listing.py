"""Which files make a sample set or a checkpoint, and the fingerprint that tells when one of them changed."""

from __future__ import annotations

import errno
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

# The largest sharded checkpoints have some thousands of files; more than this is a whole training folder.
MOST_FILES = 20_000

# The index of a torch distributed checkpoint: hidden, and part of it.
DCP_INDEX = ".metadata"

# Beside the weights, and none of them: a log grows for as long as the job runs, a marker may come late, and so may what
# is found out or drawn with the weights (eval_results.txt, validation/img_0.png, a model card). Each would be a new
# revision of a checkpoint that is the same.
_MARKER = "_SUCCESS"
_BESIDE_SUFFIXES = (".log", ".lock", ".txt", ".md", ".csv", ".html", ".pdf", ".gif", ".svg", *sorted(IMAGE_SUFFIXES))
_LOG_PREFIX = "events.out.tfevents"
# Parts of tokenizers that are texts: BERT's vocab.txt, GPT-2's and CLIP's merges.txt, and whatever lies in a folder of
# their own, as that of a diffusers pipeline.
_TOKENIZER_TEXTS = ("vocab.txt", "merges.txt")
_TOKENIZER_PREFIXES = ("added_tokens", "spiece")
_TOKENIZER_FOLDER = "tokenizer"


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


def everything(directory: str) -> list[FileEntry]:
    """The regular files at any depth below a directory, names relative with "/", sorted by name.

    A link to a file counts as the file; a link to a directory is not followed. What vanishes while we look is left
    out. Raises OSError when a directory cannot be read, or with more than 20,000 files and directories.
    """
    found: list[FileEntry] = []
    folders, seen = [""], 0
    while folders:
        below = folders.pop()
        try:
            listed = os.scandir(os.path.join(directory, below) if below else directory)
        except (FileNotFoundError, NotADirectoryError):
            if below:
                continue
            raise
        with listed:
            for item in listed:
                seen += 1
                if seen > MOST_FILES:
                    reason = f"more than {MOST_FILES:,} files lie in it; name the checkpoints alone"
                    raise OSError(errno.E2BIG, reason, directory)
                try:
                    if item.is_dir(follow_symlinks=False):
                        folders.append(f"{below}{item.name}/")
                    elif item.is_file():
                        found.append(FileEntry.of(below + item.name, item.stat()))
                except OSError:
                    continue
    return sorted(found, key=lambda entry: entry.name)


def tree(directory: str) -> list[FileEntry]:
    """What makes a directory a checkpoint: all finished files below it, but for logs, markers, texts and pictures.

    Names, order and errors as of everything(). Its fingerprint is the digest of a checkpoint that is a directory.
    """
    return [entry for entry in everything(directory) if belongs(entry.name)]


def belongs(name: str) -> bool:
    """True for the name of a checkpoint's own file, relative to the checkpoint's directory."""
    *folders, last = name.split("/")
    if last in {_MARKER, DCP_INDEX}:
        return last == DCP_INDEX and not any(map(is_temporary, folders))
    if last.startswith(_LOG_PREFIX) or (last.lower().endswith(_BESIDE_SUFFIXES) and not _of_a_tokenizer(folders, last)):
        return False
    return not any(map(is_temporary, (*folders, last)))


def _of_a_tokenizer(folders: Iterable[str], name: str) -> bool:
    if not name.endswith(".txt"):
        return False
    return (
        name.endswith(_TOKENIZER_TEXTS)
        or name.startswith(_TOKENIZER_PREFIXES)
        or any(folder.startswith(_TOKENIZER_FOLDER) for folder in folders)
    )


def is_being_written(name: str) -> bool:
    """True for the temporary name of a checkpoint's file, relative to its directory: model.pt.tmp, .model.pt.Xy12.

    Other hidden files (.gitattributes, .DS_Store) are no sign of anything.
    """
    return any(
        part != DCP_INDEX and is_temporary(part) and (not part.startswith(".") or "." in part[1:] or "tmp" in part)
        for part in name.split("/")
    )


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
