"""Which run of a sink's a run of ours is."""

from __future__ import annotations

import os
from dataclasses import replace

import structlog

from metricwatch import faults
from metricwatch.api import Sink
from metricwatch.store.db import Database
from metricwatch.store.deliveries import Deliveries
from metricwatch.store.ledger import Ledger

log = structlog.get_logger(__name__)


class RemoteRuns:
    """Finds each run once and pins it, so that a deleted one is not replaced behind people's backs.

    by_name: for sinks beside the tracking server, whose ids are not theirs: they find every run by its name.
    """

    def __init__(self, db: Database, *, by_name: bool = False) -> None:
        self._by_name = by_name
        self._ledger = Ledger(db)
        self._deliveries = Deliveries(db)
        self._id_files: dict[str, tuple[int, int, int]] = {}

    def name(self, key: str) -> str:
        """The run's name, for people."""
        return self._ledger.run(key).name

    def may_be_found(self, name: str, key: str) -> bool:
        """False while the training job has not written its id: asking for it can only fail."""
        run = self._ledger.run(key)
        waits = run.id_file is not None and not self._by_name and not os.path.isfile(run.id_file)
        return not waits or self._deliveries.remote_run(name, key) is not None

    def id_of(self, name: str, sink: Sink, key: str) -> str:
        """The sink's id for a run. Raises what Sink.find_run() does.

        A job that is started again may write another id into its file: from then on everything is that run's.
        """
        run = self._ledger.run(key)
        if self._by_name:
            run = replace(run, id=None, id_file=None)
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
