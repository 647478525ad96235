"""Where the checkpoints of a run's steps are, as the ledgers know them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from metricwatch.store.db import FILE_NAME, Database

# As WatchEntry.source ends for an entry of checkpoints.
_SOURCE = " checkpoints"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """The checkpoint of a step: path is the file, or the folder, as it was scored; files are those of it there are.

    there is False where it is gone, or not whole any more.
    """

    step: int
    path: str
    files: dict[str, str]
    there: bool


class Checkpoints:
    """The checkpoints that were scored for one run of the sink, by a daemon or by `metricwatch backfill`."""

    def __init__(self, state: Path, run_id: str) -> None:
        """Read which there are. Raises LedgerError for a ledger that cannot be read."""
        self._known: dict[int, tuple[str, tuple[str, ...] | None]] = {}
        for ledger in (*sorted(state.glob("backfill/*")), state):
            if (ledger / FILE_NAME).is_file():
                self._read(ledger, run_id)

    def of(self, step: int, *, told: str = "") -> Kept | None:
        """The checkpoint of a step; None where none is known. told: where it is, if no ledger here knows."""
        if step not in self._known:
            if not told:
                return None
            files = _below(told)
            return Kept(step=step, path=told, files=files, there=bool(files))
        path, members = self._known[step]
        if members is None:
            files = _below(path)
            return Kept(step=step, path=path, files=files, there=bool(files))
        files = {name: os.path.join(path, name) for name in members if os.path.isfile(os.path.join(path, name))}
        shown = os.path.join(path, members[0]) if len(members) == 1 else path
        return Kept(step=step, path=shown, files=files, there=len(files) == len(members))

    def available(self) -> set[int]:
        """The steps whose checkpoints are still there."""
        return {step for step in self._known if (kept := self.of(step)) is not None and kept.there}

    def _read(self, state: Path, run_id: str) -> None:
        db = Database.open_readonly(state)
        try:
            rows = db.read(
                """SELECT step, max(revision) AS revision, path, members FROM snapshots
                   WHERE run IN (SELECT key FROM runs WHERE id = :id UNION SELECT run FROM remote_runs WHERE id = :id)
                     AND source = run || :source GROUP BY run, step""",
                {"id": run_id, "source": _SOURCE},
            )
        finally:
            db.close()
        for row in rows:
            self._known[row["step"]] = (row["path"], tuple(json.loads(row["members"])) if row["members"] else None)


def _below(folder: str) -> dict[str, str]:
    """All files of a folder by their path in it, or the file itself."""
    if os.path.isfile(folder):
        return {os.path.basename(folder): folder}
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            found[os.path.relpath(path, folder)] = path
    return dict(sorted(found.items()))
