"""What a reference is on disk: a directory of images, or one file of statistics."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from hashlib import blake2b

from metricwatch import listing
from metricwatch.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The files of a reference as they look now. identity changes when any of them, or the place, does."""

    path: str
    is_file: bool
    files: tuple[listing.FileEntry, ...]

    @property
    def fingerprint(self) -> str:
        """Over names, sizes and times: that of the last change too, since a copy may keep the others."""
        changes = ",".join(str(entry.ctime_ns) for entry in self.files)
        return blake2b(f"{listing.fingerprint(self.files)} {changes}".encode(), digest_size=16).hexdigest()

    @property
    def identity(self) -> str:
        place = os.fsencode(os.path.realpath(self.path))
        return blake2b(place + b"\0" + self.fingerprint.encode(), digest_size=16).hexdigest()

    @property
    def newest_ns(self) -> int:
        return max(entry.mtime_ns for entry in self.files)

    def paths(self) -> list[str]:
        if self.is_file:
            return [self.path]
        return [os.path.join(self.path, entry.name) for entry in self.files]


def look(path: str) -> Source:
    """Look at a reference. Raises InputError when it is missing, holds no images, or is another kind of file."""
    try:
        if os.path.isdir(path):
            images = tuple(listing.images(listing.scan(path)))
            if not images:
                raise InputError(f"no images in the reference directory {path}")
            return Source(path=path, is_file=False, files=images)
        status = os.stat(path)
    except FileNotFoundError as error:
        raise InputError(f"the reference {path} does not exist") from error
    except OSError as error:
        raise InputError(f"the reference {path} cannot be read: {error.strerror}") from error
    if not path.lower().endswith(".npz"):
        raise InputError(f"the reference {path} is neither a directory of images nor an .npz file of statistics")
    if not stat.S_ISREG(status.st_mode):
        # Opening a pipe would wait for a writer for ever.
        raise InputError(f"the reference {path} is not a regular file")
    entry = listing.FileEntry.of(os.path.basename(path), status)
    return Source(path=path, is_file=True, files=(entry,))
