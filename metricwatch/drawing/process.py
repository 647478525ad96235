"""Has pictures drawn by a process of its own, which is gone afterwards.

matplotlib takes half a second and about 90 MB: in the daemon it would stay for weeks.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import timedelta

from metricwatch.drawing.curve import Form
from metricwatch.drawing.figures import Drawing
from metricwatch.drawing.wire import decode_pictures, encode_request
from metricwatch.errors import TemporaryError

_PATIENCE = timedelta(seconds=60)
_LONGEST_REASON = 300
# After the patience of the one who waits, who tells why: this is for when nobody waits any more.
_ALARM_AFTER = 5


def draw(drawings: Sequence[Drawing], form: Form = "png", *, patience: timedelta = _PATIENCE) -> list[bytes]:
    """One picture for each drawing, as PNG or SVG files' content. Raises TemporaryError when it cannot be drawn.

    The same drawings of the same files give the same bytes with the same matplotlib and Pillow. A file that is missing
    or broken is drawn as an empty frame with a cross. Blocks for at most `patience`; safe in any thread.
    """
    if not drawings:
        return []
    request = encode_request(drawings, form, math.ceil(patience.total_seconds()) + _ALARM_AFTER)
    try:
        process = subprocess.Popen(
            # -P: a training job's folder may hold a random.py of its own.
            [sys.executable, "-P", "-m", "metricwatch.drawing"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(),
            # Ctrl-C at the terminal is the daemon's to handle; and a group of its own can be killed whole.
            start_new_session=True,
        )
    except OSError as error:
        raise TemporaryError(f"drawing: cannot start a process: {error.strerror}") from error
    try:
        out, err = process.communicate(request, timeout=patience.total_seconds())
    except subprocess.TimeoutExpired:
        raise TemporaryError(f"drawing: no picture within {patience.total_seconds():g} s") from None
    finally:
        _end(process)
    if process.returncode != 0:
        raise TemporaryError(f"drawing: {_reason(err, process.returncode)}")
    try:
        pictures = decode_pictures(out)
    except ValueError:
        raise TemporaryError(f"drawing: the answer is cut or foreign: {_reason(err, 0)}") from None
    if len(pictures) != len(drawings):
        raise TemporaryError(f"drawing: {len(pictures)} pictures for {len(drawings)} drawings")
    return pictures


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill its group while it runs, and take its pipes and its number back."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        # One that is stuck in the kernel is not waited for.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def _reason(err: bytes, status: int) -> str:
    lines = [line.strip() for line in err.decode(errors="replace").splitlines() if line.strip()]
    ending = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
    return lines[-1][:_LONGEST_REASON] if lines else ending


def _environment() -> dict[str, str]:
    environment = {**os.environ, "MPLBACKEND": "agg"}
    # One picture needs no threads, and each of numpy's takes memory.
    environment.setdefault("OPENBLAS_NUM_THREADS", "1")
    if "MPLCONFIGDIR" not in environment and (folder := _cache_folder()):
        # Where it cannot write its index of fonts, matplotlib makes it anew each time.
        environment["MPLCONFIGDIR"] = folder
    return environment


def _cache_folder() -> str | None:
    """A folder of ours that lasts and can be written, or None."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    # /tmp is everybody's: the name says whose it is, and the check below that it is.
    spare = os.path.join(tempfile.gettempdir(), f"metricwatch-{os.getuid()}")
    for parent in (os.path.join(cache, "metricwatch"), spare):
        folder = os.path.join(parent, "matplotlib")
        try:
            os.makedirs(parent, mode=0o700, exist_ok=True)
            status = os.lstat(parent)
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
                continue
            os.makedirs(folder, mode=0o700, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    return None
