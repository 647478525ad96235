"""manifest.jsonl: which content, style and prompt belong to which image, one JSON object a line."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from metricwatch.errors import InputError

_FIELDS = ("image", "content", "style", "prompt")
# A line of text for each of a million images.
_MOST_BYTES = 500_000_000
_MOST_LINES = 2_000_000
_MOST_CHARACTERS = 100_000
_SHOWN = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What a manifest says of one image. Paths are absolute; None where it says nothing."""

    content: str | None = None
    style: str | None = None
    prompt: str | None = None


class Manifest:
    """Entries by image: a file name, or a name without suffix. Paths are relative to the manifest's own directory."""

    def __init__(self, path: str, entries: Mapping[str, Entry]) -> None:
        self.path = path
        self._entries = entries

    def find(self, name: str) -> Entry | None:
        """The entry for an image file of this name, by name or else by stem; None when there is none."""
        return self._entries.get(name) or self._entries.get(os.path.splitext(name)[0])

    def entries(self) -> Iterator[tuple[str, Entry]]:
        """Each image with its entry, in the order of the lines."""
        return iter(self._entries.items())

    def has(self, field: str) -> bool:
        """True when some entry says something about this field."""
        return any(getattr(entry, field) is not None for entry in self._entries.values())


def read_manifest(path: str) -> Manifest:
    """Read a manifest. Raises InputError naming the line that is wrong, and what is wrong with it."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            # Opening a pipe would wait for a writer for ever.
            raise InputError(f"the manifest {path} is not a regular file")
        if status.st_size > _MOST_BYTES:
            raise InputError(f"{path}: over {_MOST_BYTES} bytes; is this a manifest?")
        # Of all that Unicode calls the end of a line, JSON lines know one.
        with open(path, encoding="utf-8-sig", newline="\n") as file:
            return Manifest(path, _entries(iter(lambda: file.readline(_MOST_CHARACTERS + 1), ""), path))
    except OSError as error:
        raise InputError(f"cannot read the manifest {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"the manifest {path} is not UTF-8 text: {error.reason}") from error


def _entries(lines: Iterable[str], path: str) -> dict[str, Entry]:
    folder = os.path.dirname(os.path.abspath(path))
    entries: dict[str, Entry] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        if len(line) > _MOST_CHARACTERS:
            raise InputError(f"{where}: over {_MOST_CHARACTERS} characters on one line; is this a manifest?")
        if len(entries) == _MOST_LINES:
            raise InputError(f"{where}: over {_MOST_LINES} images; is this a manifest?")
        image, entry = _entry(_object(line, where), folder, where)
        if image in entries:
            raise InputError(f"{where}: {image[:_SHOWN]!r} has an entry already; one line an image")
        entries[image] = entry
    return entries


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        document = json.loads(line, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not a JSON object on one line: {error}") from error
    if not isinstance(document, dict):
        raise InputError(f"{where}: a {type(document).__name__} instead of a JSON object")
    for field in _FIELDS:
        value = document.get(field)
        if value is not None and not isinstance(value, str):
            raise InputError(f"{where}: {field!r} must be a string, not {type(value).__name__}")
        if value is not None and _strange(value):
            raise InputError(f"{where}: {field!r} holds a NUL or half a character (a lone surrogate)")
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice[:_SHOWN]!r} is given twice")
    return found


def _strange(text: str) -> bool:
    """True for text that no file name takes and no encoding knows."""
    return "\0" in text or any("\ud800" <= character <= "\udfff" for character in text)


def _entry(document: Mapping[str, Any], folder: str, where: str) -> tuple[str, Entry]:
    """Other keys are welcome: generators note seeds and the like beside them."""
    image = document.get("image")
    if not image:
        raise InputError(f"{where}: names no 'image'")

    def path(field: str) -> str | None:
        return os.path.normpath(os.path.join(folder, document[field])) if document.get(field) else None

    entry = Entry(content=path("content"), style=path("style"), prompt=document.get("prompt"))
    return os.path.basename(image), entry
