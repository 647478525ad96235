"""The supervisor stage: claim jobs, keep a worker alive, write down what it answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import structlog

from metricwatch.clock import Clock, backoff
from metricwatch.config.composites import Composite
from metricwatch.config.pictures import NO_PICTURES, PicturesConfig
from metricwatch.config.watching import Backlog, WatchEntry
from metricwatch.errors import ConfigError, InputError, WorkerError
from metricwatch.protocol import Evaluate, Failure, Heartbeat, Log, Ready, Reply, Result
from metricwatch.records import Evaluation, Job, JobState, Snapshot
from metricwatch.store.db import Database
from metricwatch.store.ledger import Ledger
from metricwatch.store.retries import Retries
from metricwatch.store.waiting import pass_over
from metricwatch.supervisor.exchange import request_for
from metricwatch.supervisor.process import WorkerProcess
from metricwatch.supervisor.recording import Recorder
from metricwatch.supervisor.recovery import take_back
from metricwatch.supervisor.reporting import report, report_passed_over
from metricwatch.supervisor.workspace import Workspace

log = structlog.get_logger(__name__)

_LEASE = timedelta(minutes=2)
_START_TIMEOUT = timedelta(minutes=3)
_FIRST_RETRY = timedelta(seconds=2)
_MOST_RETRY = timedelta(minutes=10)
_MOST_RESTART = timedelta(minutes=1)
# A job that takes its worker down twice will do so a third time.
_MOST_CRASHES = 2
_MOST_FALSE_STARTS = 5
# A GPU that is full is waited for so often, which takes hours; then the metrics that fit are scored without the others.
_MOST_WAITS = 20
# Files that change under the reader have a new revision by then, or are written without end. With the pauses between
# tries, four minutes: what is left of a checkpoint that lost files is recorded after one.
_MOST_CHANGES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """When to give a worker up: silent for too long, alive without progress for too long, idle, or old."""

    heartbeat_timeout: timedelta
    stall_timeout: timedelta
    idle_exit: timedelta
    recycle_after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What the worker is doing, for progress bars and `status`."""

    run: str
    step: int
    phase: str
    done: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Victim:
    """A job whose worker died, until that is written down."""

    job: Job
    reason: str
    wait: timedelta
    crashed: bool


class Supervisor:
    """The only writer of leases, job states and scores. Runs one worker, started when there is work."""

    def __init__(
        self,
        db: Database,
        *,
        entries: Sequence[WatchEntry],
        metrics: Sequence[str],
        prefix: str,
        sinks: Sequence[str],
        spawn: Callable[[], WorkerProcess],
        policy: Policy,
        clock: Clock,
        state: Path,
        picture_sinks: Sequence[str] = (),
        metric_options: Mapping[str, Mapping[str, Any]] | None = None,
        composites: Mapping[str, Composite] = MappingProxyType({}),
        dated: Callable[[Snapshot], datetime] | None = None,
        pictures: PicturesConfig = NO_PICTURES,
        tagged: bool = True,
    ) -> None:
        """state: the folder in which the worker pins checkpoints and leaves pictures for the picture_sinks.

        dated and tagged: as Recorder says.
        """
        self._db = db
        self._ledger = Ledger(db)
        self._retries = Retries(db)
        self._workspace = Workspace(state)
        self._recorder = Recorder(
            db,
            prefix=prefix,
            sinks=sinks,
            picture_sinks=picture_sinks,
            composites=composites,
            workspace=self._workspace,
            dated=dated,
            pictures=pictures,
            tagged=tagged,
        )
        self._entries: dict[str, WatchEntry] = {}
        self._backlogs: dict[str, Backlog] = {}
        self._newest_first: set[str] = set()
        self.watch(entries)
        self._metrics = tuple(metrics)
        self._metric_options = metric_options or {}
        self._pictures_wanted = bool(picture_sinks)
        self._spawn = spawn
        self._policy = policy
        self._clock = clock
        self._worker: WorkerProcess | None = None
        self._ready = False
        self._job: Job | None = None
        self._served = ""
        self._inbox: deque[Reply] = deque()
        self._victim: _Victim | None = None
        self._heard = 0.0
        self._renewed = 0.0
        self._idle_since = 0.0
        self._progressed = 0.0
        self._answered = 0
        self._not_before = 0.0
        self._last_error = ""
        self.failed_starts = 0
        self.progress: Progress | None = None
        # How often to try a job that may succeed later (the GPU is full, say); None: for ever.
        self.most_attempts: int | None = None

    def watch(self, entries: Sequence[WatchEntry]) -> None:
        """Do the jobs of these entries, too, from now on. A second call for the same ones does no harm."""
        for entry in entries:
            self._entries[entry.source] = entry
            self._backlogs[entry.source] = entry.backlog
            if entry.backlog.policy != "every":
                self._newest_first.add(entry.source)

    def start(self) -> None:
        """Queue again what a killed daemon left at work, and let go of its files. The ledger's lock must be held."""
        self._workspace.unpin()
        take_back(self._db, self._clock)

    def tick(self) -> int:
        """Read what the worker said, then give it the next job; returns the messages and jobs handled.

        Raises ConfigError when the worker says that it cannot work as configured (no such device, say).
        """
        self._bury()
        work = self._listen()
        self._look_after()
        return work + self.take_requests() + self._assign()

    def close(self) -> None:
        """Stop the worker; the job at work is queued again without a mark against it."""
        if self._worker is not None:
            self._worker.stop(grace=2.0) if self._job is None else self._worker.kill()
            self._worker = None
        self._job = None
        self._workspace.unpin()
        self._ledger.release_all()

    @property
    def last_error(self) -> str:
        """Why the worker last failed to start or died, or ""."""
        return self._last_error

    # --- what the worker said ------------------------------------------------------------------------------

    def _listen(self) -> int:
        if self._worker is None:
            return 0
        if self._inbox:
            # It was us who did not listen meanwhile.
            self._heard = self._progressed = self._clock.monotonic()
            return self._read_inbox()
        try:
            replies = self._worker.poll()
        except WorkerError as error:
            self._on_death(str(error))
            if error.status == ConfigError.exit_code:
                raise ConfigError(f"the worker cannot work with this configuration: {self._last_error}") from error
            return 1
        if replies:
            self._heard = self._clock.monotonic()
        self._inbox.extend(replies)
        return self._read_inbox()

    def _read_inbox(self) -> int:
        """Act on what was said. A message leaves only then: a ledger that cannot be written costs no result."""
        read = 0
        while self._inbox:
            reply = self._inbox[0]
            self._on_reply(reply)
            read += not isinstance(reply, Heartbeat)
            if self._worker is None:
                # That was its last word.
                break
            self._inbox.popleft()
        return read

    def _on_reply(self, reply: Reply) -> None:
        match reply:
            case Ready():
                self._ready = True
                self.failed_starts = 0
                self._idle_since = self._clock.monotonic()
                log.info("worker.ready", pid=reply.pid, device=reply.device)
            case Heartbeat():
                self._on_heartbeat(reply)
            case Log():
                log.log(_LEVELS.get(reply.level, 20), reply.event, **reply.fields)
                if reply.level == "error":
                    self._last_error = " ".join((reply.event, *reply.fields.values()))
            case Result() if self._job is not None and reply.job == self._job.id:
                self._on_result(self._job, reply.evaluation)
            case Failure(fatal=True):
                # Before it is given anything else to spoil. That it exits is then no news.
                self._on_death(f"the worker cannot go on: {reply.reason}", crashed=True)
            case Failure() if self._job is not None and reply.job == self._job.id:
                self._on_failure(self._job, reply)
            case _:
                log.warning("worker.unexpected", message=type(reply).__name__)

    def _on_heartbeat(self, beat: Heartbeat) -> None:
        if self._job is None or beat.job != self._job.id:
            return
        snapshot = self._job.snapshot
        progress = Progress(run=snapshot.run, step=snapshot.step, phase=beat.phase, done=beat.done, total=beat.total)
        if progress != self.progress:
            self.progress = progress
            self._progressed = self._clock.monotonic()
        if self._clock.monotonic() - self._renewed > _LEASE.total_seconds() / 4:
            self._ledger.renew(self._job.id, self._clock.now(), _LEASE)
            self._renewed = self._clock.monotonic()

    def _on_result(self, job: Job, evaluation: Evaluation) -> None:
        total_steps = self._entries[job.snapshot.source].target.total_steps
        try:
            evaluation, before = self._recorder.record(job, evaluation, self._clock.now(), total_steps=total_steps)
        except InputError as error:
            self._on_failure(job, Failure(job=job.id, reason=str(error)))
            return
        self._free()
        report(evaluation, before, run=self._name(job), step=job.snapshot.step)

    def _on_failure(self, job: Job, failure: Failure) -> None:
        now = self._clock.now()
        if (failure.changed or failure.gone) and self._ledger.has_newer(job.snapshot):
            self._ledger.finish(job.id, JobState.SUPERSEDED, now, "rewritten while it was scored")
        elif failure.gone:
            # A trainer that keeps its last checkpoints only: nothing is wrong.
            self._ledger.finish(job.id, JobState.SKIPPED, now, failure.reason)
            log.info("job.skipped", run=self._name(job), step=job.snapshot.step, reason=failure.reason)
        else:
            self._try_again_or_fail(job, failure, now)
        self._free()

    def _try_again_or_fail(self, job: Job, failure: Failure, now: datetime) -> None:
        with self._db.transaction("failure"):
            # Counted apart: after many waits for the GPU files may still be in the making, and the other way round.
            tries = self._ledger.count_change(job.id) if failure.changed else job.attempt
            wait = backoff(tries, first=_FIRST_RETRY, most=_MOST_RETRY)
            again = failure.retryable and (self.most_attempts is None or tries < self.most_attempts)
            if failure.changed:
                again = tries < _MOST_CHANGES
            if again:
                # Files that are written anew, or gone, come when they come: nobody waits for them.
                self._ledger.postpone(job.id, failure.reason, now + wait, holds_back=not failure.changed)
            else:
                self._ledger.finish(job.id, JobState.FAILED, now, failure.reason)
        if again:
            log.warning("job.postponed", step=job.snapshot.step, reason=failure.reason, seconds=wait.total_seconds())
        else:
            log.error("job.failed", run=self._name(job), step=job.snapshot.step, reason=failure.reason)

    def _name(self, job: Job) -> str:
        """The run as people know it."""
        return self._entries[job.snapshot.source].target.name

    def _free(self) -> None:
        """The worker has answered for its job."""
        self._job = None
        self.progress = None
        # Whatever the answer was: what goes wrong in a process may stay wrong until it ends.
        self._answered += 1
        self._idle_since = self._clock.monotonic()

    # --- the worker's life ---------------------------------------------------------------------------------

    def _look_after(self) -> None:
        if self._worker is None:
            return
        now = self._clock.monotonic()
        limit = self._policy.heartbeat_timeout if self._ready else max(_START_TIMEOUT, self._policy.heartbeat_timeout)
        if now - self._heard > limit.total_seconds():
            self._on_death(f"the worker gave no sign of life for {limit.total_seconds():.0f} s and was killed")
        elif self._job is not None and now - self._progressed > self._policy.stall_timeout.total_seconds():
            stalled = self._policy.stall_timeout.total_seconds()
            self._on_death(f"the worker made no progress for {stalled:.0f} s and was killed")
        elif self._ready and self._job is None:
            idle = now - self._idle_since > self._policy.idle_exit.total_seconds()
            if idle or self._answered >= self._policy.recycle_after:
                log.info("worker.stopped", reason="idle" if idle else "recycled", answered=self._answered)
                self._worker.stop()
                self._worker = None

    def _on_death(self, reason: str, *, crashed: bool = False) -> None:
        """Give the worker up, with its job. crashed: this is the job's doing beyond doubt."""
        if self._worker is not None:
            self._worker.kill()
            self._worker = None
        self._workspace.unpin()
        self._last_error = f"{reason}; {self._last_error}" if self._last_error else reason
        log.error("worker.died", reason=reason, step=self._job.snapshot.step if self._job else None)
        if not self._ready:
            self.failed_starts += 1
        attempts = max(1, self.failed_starts)
        wait = backoff(attempts, first=_FIRST_RETRY, most=_MOST_RESTART)
        self._not_before = self._clock.monotonic() + wait.total_seconds()
        if self._job is not None:
            # A worker that died before it began is not the job's fault, unless that happens every time.
            crashed = crashed or self.progress is not None or self._job.attempt > _MOST_FALSE_STARTS
            self._victim = _Victim(job=self._job, reason=reason, wait=wait, crashed=crashed)
        self._job, self.progress = None, None
        self._inbox.clear()
        self._bury()

    def _bury(self) -> None:
        """Write down whose worker died. Until that succeeds no other job is begun."""
        if self._victim is None:
            return
        job, reason = self._victim.job, self._victim.reason
        why = ""
        with self._db.transaction("crash"):
            until = self._clock.now() + self._victim.wait
            crashes = self._ledger.postpone(job.id, reason, until, crashed=self._victim.crashed)
            if crashes >= _MOST_CRASHES:
                why = f"took its worker down {crashes} times; the last time {reason}"
                self._ledger.finish(job.id, JobState.QUARANTINED, self._clock.now(), why)
        self._victim = None
        if why:
            log.error("job.quarantined", run=self._name(job), step=job.snapshot.step, reason=why)

    def take_requests(self) -> int:
        """Queue again what a person wants tried again."""
        jobs = self._retries.requested("job")
        for job in jobs:
            with self._db.transaction("retry-job"):
                known = self._ledger.put_back(job)
                self._retries.done("job", job)
            if known:
                log.info("job.retried", job=job)
        return len(jobs)

    def _assign(self) -> int:
        if self._worker is None:
            return self._start_worker() if self._wanted() else 0
        return self._claim(self._worker) if self._ready and self._job is None else 0

    def _wanted(self) -> bool:
        due = self._ledger.next_due(self._entries)
        return due is not None and due <= self._clock.now() and self._clock.monotonic() >= self._not_before

    def _claim(self, worker: WorkerProcess) -> int:
        now = self._clock.now()
        with self._db.transaction("claim"):
            passed = pass_over(self._db, self._backlogs, now)
            # Jobs of entries that left the configuration wait for their return.
            job = self._ledger.claim(now, _LEASE, self._entries, newest_first=self._newest_first, after=self._served)
        report_passed_over(passed, {source: entry.target.name for source, entry in self._entries.items()})
        if job is None:
            return sum(item.count for item in passed)
        self._job = job
        self._served = job.snapshot.source
        self._heard = self._renewed = self._progressed = self._clock.monotonic()
        worker.send(self._request(job))
        return 1

    def _request(self, job: Job) -> Evaluate:
        entry = self._entries[job.snapshot.source]
        request = request_for(
            job,
            entry,
            self._metrics,
            self._metric_options,
            patient=job.attempt <= _MOST_WAITS,
            look=self._recorder.looking(job),
        )
        if entry.sampler is None:
            return request
        return replace(request, sampling=self._workspace.sampling(job, entry.sampler, wanted=self._pictures_wanted))

    def _start_worker(self) -> int:
        self._ready = False
        try:
            self._worker = self._spawn()
        except WorkerError as error:
            self._on_death(str(error))
            return 1
        self._answered = 0
        self._last_error = ""
        self._heard = self._clock.monotonic()
        return 1


_LEVELS: Mapping[str, int] = {"debug": 10, "info": 20, "warning": 30, "error": 40}
