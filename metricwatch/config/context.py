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

_FAN_OUT = re.compile(r"\{\w*\}")


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


def refuse_fan_out(path: str) -> None:
    """Raise ValueError when a path holds {run} or the like."""
    if found := _FAN_OUT.search(path):
        raise ValueError(
            f"{found.group()} fans one entry out over many runs, which this version does not support; "
            "write one watch entry for each run"
        )


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
    return os.path.normpath(os.path.join(glob.escape(str(base)), _expand_home(pattern)))


def _resolve(path: Path, info: ValidationInfo[Any]) -> Path:
    if path == Path():
        raise ValueError("must name a path")
    refuse_fan_out(str(path))
    return absolute_path(path, context_of(info).base)


AbsolutePath = Annotated[Path, AfterValidator(_resolve)]
