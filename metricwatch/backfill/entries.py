"""Which run a folder of old steps is logged to, and by the settings of which watch entry it is scored."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from metricwatch import catalog
from metricwatch.config.context import RUN, Context
from metricwatch.config.problems import from_pydantic
from metricwatch.config.schema import Config
from metricwatch.config.watching import RunConfig, WatchEntry
from metricwatch.errors import InputError
from metricwatch.records import Run

# The files are old: nobody writes them.
_SETTLE = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a person asks for: a folder of steps, the run it belongs to, and what differs from the configuration.

    like names the run of the watch entry whose settings count. Without run_id and run_name it is that entry's own run.
    """

    folder: Path
    run_id: str | None = None
    run_name: str | None = None
    checkpoints: bool = False
    like: str | None = None
    reference: Path | None = None
    every: int | None = None
    limit: int | None = None


def entry_for(config: Config, wanted: Wanted) -> WatchEntry:
    """A watch entry for the folder and the run, otherwise as the one of the configuration that is meant.

    That is the one of the run named in `like`, else the one whose pattern holds the folder, else the one of the run,
    else the only one. Raises InputError where that is none, or does not say how checkpoints are sampled.
    """
    folder = Path(os.path.abspath(wanted.folder))
    entry, held = _chosen(config, wanted, folder)
    checkpoints = wanted.checkpoints or (held and entry.checkpoints is not None)
    if checkpoints and entry.sampler is None:
        raise InputError(
            f"the watch entry of {entry.target.name} has no sampler, so nobody knows how to make images of checkpoints;"
            " name the run of one that has: --like RUN"
        )
    if wanted.reference is not None and not wanted.reference.exists():
        raise InputError(f"--reference {wanted.reference}: does not exist; name a folder of images or an .npz file")
    target = _target(config, wanted, entry)
    # Where the configuration knows the run, its own words for it take the place of this below.
    run = {"id": wanted.run_id} if wanted.run_id else {"name": wanted.run_name or entry.target.name}
    given: dict[str, Any] = {
        "run": run,
        "checkpoints" if checkpoints else "samples": f"{glob.escape(str(folder))}/*",
        "sampler": entry.sampler if checkpoints else None,
        "reference": Path(os.path.abspath(wanted.reference)) if wanted.reference else entry.reference,
        "pairs": entry.pairs,
        "every": wanted.every or entry.every,
        "settle": min(entry.settle, _SETTLE),
        "markers": entry.markers,
        "step_pattern": entry.step_pattern,
    }
    try:
        made = WatchEntry.model_validate(given, context=Context(experiment=config.tracking.experiment))
    except ValidationError as error:
        problems = "; ".join(problem.message for problem in from_pydantic(error, given, WatchEntry))
        raise InputError(f"{wanted.folder}: {problems}") from None
    # How far the training was is told by the length that the configuration knows, or nobody does.
    made._target = target or replace(made.target, total_steps=_total_steps(entry))  # noqa: SLF001 - as for_run()
    return made


def _chosen(config: Config, wanted: Wanted, folder: Path) -> tuple[WatchEntry, bool]:
    """The entry whose settings count, as that of one run, and whether its pattern holds the folder."""
    names = [entry.target.name for entry in config.watch]
    entries = list(config.watch)
    if wanted.like is not None:
        entries = [entry for entry in entries if entry.target.name == wanted.like]
        if not entries:
            raise InputError(
                f"--like {wanted.like}: no watch entry has that run; {catalog.did_you_mean(wanted.like, names)}"
            )
    holding = [(entry, run) for entry in entries if (run := _held(entry, folder)) is not None]
    if len(holding) == 1:
        entry, run = holding[0]
        return (entry.for_run(run) if entry.fans_out else entry), True
    asked = wanted.run_name or wanted.run_id
    named = [entry for entry in entries if asked and asked in {entry.target.name, entry.target.id}]
    if len(named) == 1 or len(entries) == 1:
        entry = (named or entries)[0]
        return (entry.for_run(wanted.run_name or folder.name) if entry.fans_out else entry), False
    raise InputError(
        f"{wanted.folder}: several watch entries could say what it is scored with; name the run of the one that is"
        f" meant: --like RUN, which is one of {', '.join(names)}"
    )


def _held(entry: WatchEntry, folder: Path) -> str | None:
    """The run of an entry's pattern that a folder is of, "" for an entry of one run; None where it is of neither."""
    parent = os.path.dirname(entry.pattern)
    pattern = "(?P<run>[^/]+)".join(fnmatch.translate(part).removesuffix(r"\Z") for part in parent.split(RUN, 1))
    found = re.fullmatch(pattern, str(folder))
    return None if found is None else found.groupdict().get("run", "")


def _target(config: Config, wanted: Wanted, entry: WatchEntry) -> Run | None:
    """The run as the configuration knows it, None where it does not."""
    if wanted.run_id is None and wanted.run_name is None:
        if RUN in entry.target.key:
            raise InputError(f"{wanted.folder}: of which run? Write --run NAME or --run-id ID")
        return entry.target
    runs = [entry.target, *(each.target for each in config.watch if not each.fans_out)]
    if wanted.run_id is not None:
        return next((run for run in runs if run.id == wanted.run_id), None)
    return next((run for run in runs if run.name == wanted.run_name), None)


def _total_steps(entry: WatchEntry) -> int | None:
    run: RunConfig | None = entry.run
    return run.total_steps if run is not None else None
