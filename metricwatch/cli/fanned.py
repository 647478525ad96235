"""What `metricwatch check` finds of an entry with {run}: the runs it stands for now."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from metricwatch.cli.folders import count, inspect_shared, inspect_steps
from metricwatch.cli.levels import Finding, ok, warning
from metricwatch.config import WatchEntry
from metricwatch.config.context import RUN

# Each is a line; a folder may hold a thousand.
_MOST_LISTED = 20


def inspect_fan_out(where: str, entry: WatchEntry, entries: Sequence[WatchEntry]) -> Iterator[Finding]:
    """Look at the runs that one of the entries stands for, and at what it compares them with."""
    from metricwatch.watch.fan_out import Fans

    fans = Fans(entries)
    runs = [found for fan, found in fans.take() if fan.entry is entry]
    if runs:
        yield ok(f"{where}.run", f"{entry.pattern} stands for {count(len(runs), 'run')} now; later ones are taken up")
    else:
        yield warning(f"{where}.run", f"{entry.pattern} stands for no run yet; right if the jobs create their folders")
    for run in runs[:_MOST_LISTED]:
        item = f"{where}.run {run.target.name}"
        steps = inspect_steps(item, run)
        file = run.target.id_file
        if file is not None and not Path(file).is_file():
            yield warning(item, f"{file} is not there yet; its points wait until the training job writes it")
        else:
            yield steps
    if len(runs) > _MOST_LISTED:
        yield ok(f"{where}.run", f"and {count(len(runs) - _MOST_LISTED, 'more run')}")
    # What all runs share is told once.
    shared = dict.fromkeys(finding for run in runs[:_MOST_LISTED] or [entry] for finding in inspect_shared(where, run))
    yield from (finding for finding in shared if RUN not in finding.detail)
