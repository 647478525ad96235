"""What a daemon that was killed has left at work."""

from __future__ import annotations

import structlog

from metricwatch.clock import Clock
from metricwatch.records import JobState
from metricwatch.store.db import Database
from metricwatch.store.ledger import Ledger

log = structlog.get_logger(__name__)

# Machines lose power, and people lose patience, but not so often in a row during the work at one job. Where worker and
# daemon share a limit of memory, the kernel may end both at once, and nobody is left to count a crash.
_MOST_CUT_OFF = 5


def take_back(db: Database, clock: Clock) -> None:
    """Queue again what is leased, without a mark against it. The ledger's lock must be held.

    A job is quarantined instead when its last five turns ended so: it may be what kills the daemon.
    """
    ledger = Ledger(db)
    with db.transaction("release"):
        taken_back = ledger.take_back()
        why = {
            job.id: f"each of its last {times} turns ended with the daemon killed, as by a container's limit of "
            "memory: it may be what takes so much; `metricwatch retry` has it tried again"
            for job, times in taken_back
            if times >= _MOST_CUT_OFF
        }
        for number, reason in why.items():
            ledger.finish(number, JobState.QUARANTINED, clock.now(), reason)
    if len(taken_back) > len(why):
        reason = "an earlier daemon was killed while they were at work"
        log.info("jobs.released", count=len(taken_back) - len(why), reason=reason)
    for job, _ in taken_back:
        if job.id in why:
            # Its entry may have left the configuration.
            run = ledger.run(job.snapshot.run).name
            log.error("job.quarantined", run=run, step=job.snapshot.step, reason=why[job.id])
