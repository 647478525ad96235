"""What a value's validation needs to know beyond the value: its file, the environment, its neighbours."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo, field_validator

RUN = "{run}"
"""What stands for the name of a run in a watch entry that fans out over many."""

# Not the text ${NAME}, which $${NAME} stands for.
_PLACEHOLDER = re.compile(r"(?<!\$)\{\w*\}")


class Section(BaseModel):
    """A mapping of the file. Frozen; refuses unknown keys; its errors never repeat a value."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _plain_text(cls, value: Any) -> Any:
        for text in value if isinstance(value, list | tuple) else (value,):
            if isinstance(text, str):
                refuse_strange_text(text)
        return value


@dataclass(frozen=True, slots=True)
class NotInFile:
    """Marks a field of a section that is worked out and cannot be written: Annotated[Path, NotInFile()]."""


@dataclass(kw_only=True)
class Context:
    """One reading of one file. metrics, receivers and run_names are None where the file does not say them usably.

    composites are their names, without_total_steps the watch entries whose runs do not say how long they are. labels
    are those that alerts may have; None: any. routes are those read so far.
    """

    base: Path = field(default_factory=Path.cwd)
    environ: Mapping[str, str] = field(default_factory=dict)
    experiment: str = "Default"
    metrics: tuple[str, ...] | None = None
    composites: tuple[str, ...] = ()
    without_total_steps: tuple[str, ...] = ()
    receivers: tuple[str, ...] | None = None
    run_names: tuple[str, ...] | None = None
    rule_names: set[str] = field(default_factory=set)
    runs: set[str] = field(default_factory=set)
    labels: tuple[str, ...] | None = None
    routes: list[Any] = field(default_factory=list)


def context_of(info: ValidationInfo[Any]) -> Context:
    """The context a model is read in; a neutral one where it is built by hand."""
    return info.context if isinstance(info.context, Context) else Context()


def refuse_placeholders(text: str, *, but_run: bool = False) -> None:
    """Raise ValueError when a text holds {run}, or with but_run anything like it."""
    for found in _PLACEHOLDER.findall(text):
        if found != RUN:
            raise ValueError(f"{found} stands for nothing: {RUN} is the only placeholder there is")
        if not but_run:
            raise ValueError(f"{RUN} stands for a run of a watch entry; write a path without it here")


def refuse_strange_text(text: str) -> None:
    """Raise ValueError for text that no file name, database or server takes: it would fail late and obscurely."""
    if "\0" in text:
        raise ValueError("holds a NUL character; remove it")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("holds half a character (a lone surrogate); write it as plain UTF-8 text")


def _expand_home(path: str) -> str:
    """The path with ~ or ~user replaced. Raises ValueError where there is no such user."""
    expanded = os.path.expanduser(path)
    if path.startswith("~") and expanded == path:
        raise ValueError("begins with the home folder of a user who does not exist; write the whole path")
    return expanded


def absolute_path(path: Path, base: Path) -> Path:
    """The path made absolute against a folder, with ~ expanded. Symbolic links stay as they are.

    Raises ValueError for the home folder of a user who does not exist.
    """
    return Path(os.path.abspath(base / _expand_home(str(path))))


def absolute_glob(pattern: str, base: Path) -> str:
    """The pattern made absolute against a folder whose own name may hold characters special to glob.

    Raises ValueError for the home folder of a user who does not exist.
    """
    # A folder that happens to be called {run} is no placeholder.
    escaped = glob.escape(str(base)).replace(RUN, "[{]run}")
    return os.path.normpath(os.path.join(escaped, _expand_home(pattern)))


def _resolve(path: Path, info: ValidationInfo[Any]) -> Path:
    return _absolute(path, info, but_run=False)


def _resolve_fanned(path: Path, info: ValidationInfo[Any]) -> Path:
    return _absolute(path, info, but_run=True)


def _absolute(path: Path, info: ValidationInfo[Any], *, but_run: bool) -> Path:
    if path == Path():
        raise ValueError("must name a path")
    refuse_placeholders(str(path), but_run=but_run)
    return absolute_path(path, context_of(info).base)


AbsolutePath = Annotated[Path, AfterValidator(_resolve)]
FannedPath = Annotated[Path, AfterValidator(_resolve_fanned)]
"""A path that may hold {run}, until the entry it belongs to is that of one run."""
