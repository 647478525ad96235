"""The files of one snapshot: which images it has, and whether they still are what settled."""

from __future__ import annotations

import os
from dataclasses import dataclass

from metricwatch import listing
from metricwatch.errors import InputError
from metricwatch.protocol import Evaluate


class ChangedError(InputError):
    """The files are no longer those of the snapshot: a newer revision will follow."""


class GoneError(ChangedError):
    """The files are not there any more, none of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSet:
    """The image files of a snapshot, by name, in one directory; manifest is the path of the one there, or None."""

    directory: str
    names: tuple[str, ...]
    manifest: str | None = None

    def path(self, name: str) -> str:
        return os.path.join(self.directory, name)


def list_samples(request: Evaluate) -> SampleSet:
    """Look at the disk. Raises ChangedError when the request's digest no longer holds, InputError without images."""
    directory, entries = _entries(request)
    if request.digest and listing.fingerprint(listing.parts(entries)) != request.digest:
        raise ChangedError(f"{request.path} has changed since it settled")
    images = listing.images(entries)
    if not images:
        suffixes = ", ".join(sorted(listing.IMAGE_SUFFIXES))
        found = f"{len(entries)} file(s), none named {suffixes}" if entries else "it is empty"
        raise InputError(f"no images in {request.path}: {found}")
    manifest = os.path.join(directory, listing.MANIFEST)
    return SampleSet(
        directory=directory,
        names=tuple(entry.name for entry in images),
        manifest=manifest if os.path.isfile(manifest) else None,
    )


def check_unchanged(request: Evaluate) -> None:
    """Raise ChangedError when the files no longer have the digest that the request names."""
    if request.digest and listing.fingerprint(listing.parts(_entries(request)[1])) != request.digest:
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
    return listing.FileEntry.of(name, status)


def stem(name: str) -> str:
    """A file's name without folders and suffix."""
    return os.path.splitext(os.path.basename(name))[0]
