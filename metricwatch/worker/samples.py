"""The files of one snapshot: which images it has, whether they still are what settled, who their partners are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from metricwatch import listing
from metricwatch.api import Need
from metricwatch.errors import InputError
from metricwatch.protocol import Evaluate
from metricwatch.worker.images import UnusableImageError
from metricwatch.worker.pipeline import Item


class ChangedError(InputError):
    """The files are no longer those of the snapshot: a newer revision will follow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSet:
    """The image files of a snapshot, by name, in one directory."""

    directory: str
    names: tuple[str, ...]

    def path(self, name: str) -> str:
        return os.path.join(self.directory, name)


def list_samples(request: Evaluate) -> SampleSet:
    """Look at the disk. Raises ChangedError when the request's digest no longer holds, InputError without images."""
    directory, entries = _entries(request)
    if request.digest and listing.fingerprint(listing.images(entries)) != request.digest:
        raise ChangedError(f"{request.path} has changed since it settled")
    images = listing.images(entries)
    if not images:
        suffixes = ", ".join(sorted(listing.IMAGE_SUFFIXES))
        found = f"{len(entries)} file(s), none named {suffixes}" if entries else "it is empty"
        raise InputError(f"no images in {request.path}: {found}")
    return SampleSet(directory=directory, names=tuple(entry.name for entry in images))


def check_unchanged(request: Evaluate) -> None:
    """Raise ChangedError when the files no longer have the digest that the request names."""
    if request.digest and listing.fingerprint(listing.images(_entries(request)[1])) != request.digest:
        raise ChangedError(f"{request.path} changed while it was being scored")


def _entries(request: Evaluate) -> tuple[str, list[listing.FileEntry]]:
    """The directory and the files that the request speaks of. What vanished is left out, which changes the digest."""
    if request.members is not None:
        entries = (_entry(request.path, name) for name in request.members)
        return request.path, [entry for entry in entries if entry]
    if os.path.isfile(request.path):
        directory, name = os.path.split(request.path)
        entry = _entry(directory, name)
        return directory, [entry] if entry else []
    try:
        return request.path, listing.scan(request.path)
    except OSError as error:
        if request.digest and isinstance(error, FileNotFoundError):
            raise ChangedError(f"{request.path} is gone") from error
        raise InputError(f"cannot list {request.path}: {error.strerror}") from error


def _entry(directory: str, name: str) -> listing.FileEntry | None:
    try:
        status = os.stat(os.path.join(directory, name))
    except OSError:
        return None
    return listing.FileEntry(name=name, size=status.st_size, mtime_ns=status.st_mtime_ns)


class PartnerDirectory:
    """Images of one kind (content or style), found by file stem."""

    def __init__(self, kind: Need, directory: str) -> None:
        """List the directory. Raises InputError when it cannot be read."""
        self._kind = kind
        self._directory = directory
        self._by_stem: dict[str, list[str]] = {}
        try:
            entries = listing.images(listing.scan(directory))
        except OSError as error:
            raise InputError(f"cannot list the {kind} directory {directory}: {error.strerror}") from error
        for entry in entries:
            self._by_stem.setdefault(stem(entry.name), []).append(entry.name)

    def find(self, name: str) -> str:
        """The one file with that stem. Raises UnusableImageError when there is none, or more than one."""
        found = self._by_stem.get(name, [])
        if not found:
            raise UnusableImageError(f"no {self._kind} partner named {name}.* in {self._directory}")
        if len(found) > 1:
            files = ", ".join(found)
            raise UnusableImageError(f"{len(found)} {self._kind} partners named {name}.* in {self._directory}: {files}")
        return os.path.join(self._directory, found[0])


def stem(name: str) -> str:
    """A file's name without folders and suffix."""
    return os.path.splitext(os.path.basename(name))[0]


def pair(samples: SampleSet, partners: Mapping[Need, PartnerDirectory]) -> tuple[list[Item], frozenset[Need]]:
    """The items to score, and the kinds of partners that matched at least once."""
    items = []
    matched: set[Need] = set()
    for name in samples.names:
        missing: list[str] = []
        found: dict[Need, str] = {}
        for kind, directory in partners.items():
            try:
                found[kind] = directory.find(stem(name))
            except UnusableImageError as error:
                missing.append(str(error))
            else:
                matched.add(kind)
        items.append(Item(name=stem(name), path=samples.path(name), partners=found, missing=tuple(missing)))
    return items, frozenset(matched)
