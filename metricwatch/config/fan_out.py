"""Which paths and which runs an entry with {run} stands for."""

from __future__ import annotations

import os
import re

from metricwatch.config.context import RUN
from metricwatch.config.watching import WatchEntry


class FanOut:
    """Reads the name of a run out of paths, and out of the keys by which the ledger knows runs. Asks no disk.

    folders is a glob: the directories in which those of the runs lie; pattern is the glob of all runs' steps.
    """

    def __init__(self, entry: WatchEntry) -> None:
        self.entry = entry
        parts = entry.pattern.split(os.sep)
        self._depth = next(depth for depth, part in enumerate(parts) if RUN in part)
        self._folder = _matcher(parts[self._depth])
        self._hidden = parts[self._depth].startswith(".")
        self._key = _matcher(entry.target.key)
        self.folders = os.sep.join(parts[: self._depth]) or os.sep
        self.pattern = entry.pattern.replace(RUN, "*")

    def name_in(self, folder: str) -> str | None:
        """The run's name in the name of its folder; None for a folder that is none of a run, such as a hidden one."""
        if folder.startswith(".") and not self._hidden:
            return None
        found = self._folder.fullmatch(folder)
        return found["run"] if found else None

    def name_at(self, path: str) -> str | None:
        """The name of the run to which a path below folders belongs."""
        parts = path.split(os.sep)
        return self.name_in(parts[self._depth]) if len(parts) > self._depth else None

    def name_of(self, key: str) -> str | None:
        """The name of the run that has this key, or None when it is none of this entry's."""
        found = self._key.fullmatch(key)
        return found["run"] if found else None


def _matcher(template: str) -> re.Pattern[str]:
    """What a text with {run} becomes, the same name in each place."""
    first, *others = map(re.escape, template.split(RUN))
    return re.compile(f"{first}(?P<run>[^/]+){'(?P=run)'.join(others)}", re.DOTALL)
