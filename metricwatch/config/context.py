"""What a value's validation needs to know beyond the value: its file, the environment, its neighbours."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo

_FAN_OUT = re.compile(r"\{\w*\}")


class Section(BaseModel):
    """A mapping of the file. Frozen; refuses unknown keys; its errors never repeat a value."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True)


@dataclass(kw_only=True)
class Context:
    """One reading of one file. metrics and receivers are None where the file does not say them usably."""

    base: Path = field(default_factory=Path.cwd)
    environ: Mapping[str, str] = field(default_factory=dict)
    experiment: str = "Default"
    metrics: tuple[str, ...] | None = None
    receivers: tuple[str, ...] | None = None
    rule_names: set[str] = field(default_factory=set)
    runs: set[str] = field(default_factory=set)


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


def absolute_path(path: Path, base: Path) -> Path:
    """The path made absolute against a folder, with ~ expanded. Symbolic links stay as they are."""
    return Path(os.path.abspath(base / path.expanduser()))


def absolute_glob(pattern: str, base: Path) -> str:
    """The pattern made absolute against a folder whose own name may hold characters special to glob."""
    return os.path.normpath(os.path.join(glob.escape(str(base)), os.path.expanduser(pattern)))


def _resolve(path: Path, info: ValidationInfo[Any]) -> Path:
    if path == Path():
        raise ValueError("must name a path")
    refuse_fan_out(str(path))
    return absolute_path(path, context_of(info).base)


AbsolutePath = Annotated[Path, AfterValidator(_resolve)]
