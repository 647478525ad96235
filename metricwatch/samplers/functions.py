"""Functions of the user's own: found by name, and blamed by file and line."""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import importlib.util
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from metricwatch.api import ConfigError, InputError, MetricwatchError

from .outputs import is_no_room

_REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_LIBRARIES = tuple(sysconfig.get_paths()[kind] + os.sep for kind in ("stdlib", "platstdlib", "purelib", "platlib"))
_digests: dict[str, str] = {}


def check_reference(reference: str, option: str, folder: Path | str | None) -> None:
    """Raises ConfigError when it is not written as module:function, or there is no such module. Imports nothing."""
    if not _REFERENCE.fullmatch(reference):
        raise ConfigError(f"{option} must be written as module:function, as in my_models:build; it is {reference!r}")
    top = reference.partition(":")[0].partition(".")[0]
    if folder is None:
        if top not in sys.modules and importlib.util.find_spec(top) is None:
            raise ConfigError(f"{option} {reference!r}: there is no module {top}; name its folder in path")
        return
    place = _folder(folder, reference, option)
    if importlib.machinery.PathFinder.find_spec(top, [place]) is None:
        raise ConfigError(f"{option} {reference!r}: there is no module {top} in {place}")


def _folder(folder: Path | str, reference: str, option: str) -> str:
    place = os.path.abspath(folder)
    if not os.path.isdir(place):
        raise ConfigError(f"path names {place}, which is no folder; {option} {reference!r} is looked for in it")
    return place


def find(reference: str, folder: Path | str | None, option: str) -> Callable[..., Any]:
    """The function `module:function`, its module imported from the folder where one is given.

    The folder is first on sys.path meanwhile, and last from then on, for what the module imports later: nothing in it
    hides a library from others. Raises ConfigError when there is no such
    function, or another module of that name is loaded.
    """
    module_name, _, attribute = reference.partition(":")
    place = _folder(folder, reference, option) if folder is not None else ""
    if place:
        sys.path[:] = [place, *(each for each in sys.path if each != place)]
    importlib.invalidate_caches()
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        advice = "; name its folder in path" if missing == module_name.partition(".")[0] and not place else ""
        raise ConfigError(f"{option} {reference!r}: there is no module {missing}{advice}") from error
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{option} {reference!r} cannot be imported: {_account(error)}") from error
    finally:
        if place:
            sys.path.remove(place)
            sys.path.append(place)
    file = getattr(found, "__file__", None) or ""
    if place and not os.path.abspath(file).startswith(place + os.sep):
        raise ConfigError(
            f"{option} {reference!r}: a module {module_name} is there already, {file or 'built in'}, not from {place}; "
            "give yours another name"
        )
    _digests.setdefault(module_name, _digest(file))
    for word in attribute.split("."):
        found = getattr(found, word, None)
    if not callable(found):
        raise ConfigError(f"{option} {reference!r}: {file or module_name} has no function {attribute}")
    function: Callable[..., Any] = found
    return function


def identity(reference: str) -> str:
    """The function's name and the start of its file's SHA-256, as it was when it was first found."""
    return f"{reference} {_digests.get(reference.partition(':')[0], '')}".strip()


@contextmanager
def blaming(what: str) -> Iterator[None]:
    """Errors of the user's code become an InputError with the file and the line. Ours, and full memory, pass."""
    try:
        yield
    except MetricwatchError:
        raise
    except (Exception, SystemExit) as error:
        if is_no_room(error):
            raise
        raise InputError(f"{what} failed: {_account(error)}") from error


def _account(error: BaseException) -> str:
    """file:line in function: kind: message. The line is the last one in a file that is no library's."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: {error.msg}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_OURS)]
    own = [frame for frame in frames if not frame.filename.startswith((*_LIBRARIES, "<"))] or frames
    said = f"{type(error).__name__}: {error}"[:400].rstrip(": ")
    return f"{own[-1].filename}:{own[-1].lineno} in {own[-1].name}: {said}" if own else said


def _digest(file: str) -> str:
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12]
    except OSError:
        return ""
