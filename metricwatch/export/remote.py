"""Which run of a sink's a run of ours is."""

from __future__ import annotations

import os

import structlog

from metricwatch import faults
from metricwatch.api import Sink
from metricwatch.store.db import Database
from metricwatch.store.deliveries import Deliveries
from metricwatch.store.ledger import Ledger

log = structlog.get_logger(__name__)


class RemoteRuns:
    """Finds each run once and pins it, so that a deleted one is not replaced behind people's backs."""

    def __init__(self, db: Database) -> None:
        self._ledger = Ledger(db)
        self._deliveries = Deliveries(db)
        self._id_files: dict[str, tuple[int, int, int]] = {}

    def name(self, key: str) -> str:
        """The run's name, for people."""
        return self._ledger.run(key).name

    def id_of(self, name: str, sink: Sink, key: str) -> str:
        """The sink's id for a run. Raises what Sink.find_run() does.

        A job that is started again may write another id into its file: from then on everything is that run's.
        """
        run = self._ledger.run(key)
        known = self._deliveries.remote_run(name, key)
        file = _look(run.id_file) if run.id_file else None
        if known is not None and (file is None or self._id_files.get(key) == file):
            return known.id
        remote = sink.find_run(run)
        faults.reached("run-found:unmarked")
        if known is None or known.id != remote.id:
            self._deliveries.remember_remote_run(name, key, remote)
            log.info("run.found", sink=name, run=run.name, id=remote.id, **({"url": remote.url} if remote.url else {}))
        # After the commit only: else what the ledger still says would be believed of the new file.
        if file is not None:
            self._id_files[key] = file
        return remote.id


def _look(path: str) -> tuple[int, int, int] | None:
    """What tells that a file was written anew, or None when it is not there: what it said last then holds."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
