"""Ids for sinks that have none of their own: made of a run's name, and the same in every process."""

from __future__ import annotations

import hashlib
import os
import re
import stat

from metricwatch.errors import PermanentError, TemporaryError
from metricwatch.records import Run

_ID = re.compile(r"[A-Za-z0-9_\-]{1,48}-[0-9a-f]{12}", re.ASCII)
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_\-]+")
# W&B takes ids of 64 characters.
_LONGEST_NAME = 48
_MOST_BYTES = 4096


def own_id(run: Run) -> str:
    """`<name>-<12 hex digits of the key>`: fit for a file's name, and of two runs of one name never the same."""
    name = _NOT_IN_NAMES.sub("_", run.name)[:_LONGEST_NAME] or "run"
    return f"{name}-{hashlib.sha256(run.key.encode('utf-8', 'surrogateescape')).hexdigest()[:12]}"


def is_own_id(text: str) -> bool:
    """True for what own_id() may give: it leads to no other folder."""
    return _ID.fullmatch(text) is not None


def given_id(run: Run, sink: str) -> str:
    """The id that a run is known by, or that stands in its id_file; "" for one that is known by its name.

    sink begins the messages. Raises TemporaryError while the file is not written, PermanentError for other content.
    """
    if run.id is not None or run.id_file is None:
        return run.id or ""
    try:
        # A pipe nobody writes to would block for ever.
        with open(run.id_file, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            text = file.read(_MOST_BYTES).decode("utf-8", "replace").strip() if regular else "a pipe or a device"
    except FileNotFoundError:
        text = ""
    except OSError as error:
        raise PermanentError(f"{sink}: {run.id_file} cannot be read: {error.strerror}") from None
    if not text:
        raise TemporaryError(f"{sink}: {run.id_file} is not written yet")
    if not is_own_id(text):
        raise PermanentError(f"{sink}: {run.id_file} holds no run id: {text[:80]!r}")
    return text
