"""A watch entry as the configuration makes it, without a file to read it from."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from metricwatch.config.watching import WatchEntry
from metricwatch.records import Run


def watch_entry(root: Path, run: Run, **options: Any) -> WatchEntry:
    """All that lies in root, for this run; options replace the defaults, unchecked."""
    defaults = {
        "run": None,
        "reference": None,
        "pairs": None,
        "every": None,
        "markers": (".done", "_SUCCESS"),
        "step_pattern": None,
        "samples": f"{root}/*",
        "settle": timedelta(seconds=5),
        "rescan": timedelta(seconds=10),
    }
    entry = WatchEntry.model_construct(**{**defaults, **options})
    entry.__pydantic_private__ = {"_target": run}
    return entry


def checkpoint_entry(root: Path, run: Run, pattern: str = "*", **options: Any) -> WatchEntry:
    """All checkpoints in root whose names match, for this run; options replace the defaults, unchecked."""
    return watch_entry(root, run, **{"samples": None, "checkpoints": f"{root}/{pattern}", **options})
