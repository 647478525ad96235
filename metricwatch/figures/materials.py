"""Files of the stage: pictures that are drawn, and what they were drawn from."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

_TRIES = 3


def write(path: Path, content: bytes) -> Path:
    """Put a file in its place, whole and durable, making its folder where need be; returns its path.

    One that is there is replaced. Raises OSError; no part of a file is left then.
    """
    aside = path.with_name(f".{path.name}.new")
    for left in reversed(range(_TRIES)):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write(aside, path, content)
            break
        except FileNotFoundError:
            # Whoever sends the last picture of a folder removes it.
            if not left:
                raise
    return path


def _write(aside: Path, path: Path, content: bytes) -> None:
    try:
        with open(aside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove(folder: Path) -> None:
    """Remove a job's folder with all that is in it; where it is a link, the link. Trouble is left to upkeep."""
    with contextlib.suppress(OSError):
        if folder.is_symlink():
            folder.unlink()
        else:
            shutil.rmtree(folder)
