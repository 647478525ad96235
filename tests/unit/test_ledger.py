"""The ledger: identity, leases, one transaction a transition."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from datetime import timedelta

import pytest

from metricwatch.errors import LedgerError, LockedError
from metricwatch.records import JobState, Run
from metricwatch.store import lock
from metricwatch.store.db import FILE_NAME, Database
from metricwatch.store.ledger import Ledger, Recorded
from metricwatch.store.lock import DaemonLock
from metricwatch.store.schema import migrations
from metricwatch.testing.clock import FakeClock

RUN = Run(key="name:x/night", name="night")
TTL = timedelta(minutes=2)
SOURCES = ["s"]


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def db(tmp_path):
    database = Database.open(tmp_path)
    yield database
    database.close()


@pytest.fixture
def ledger(db, clock):
    ledger = Ledger(db)
    ledger.register_run(RUN, clock.now())
    return ledger


def add(ledger, clock, step=1000, revision=1, digest="d1"):
    return ledger.add_snapshot(
        source="s",
        run=RUN.key,
        step=step,
        path="/samples",
        members=None,
        recorded=recorded(revision, digest),
        now=clock.now(),
    )


def recorded(revision=1, digest="d1"):
    return Recorded(revision=revision, digest=digest, images=8, newest_ns=1, mtime_ns=2)


def test_a_snapshot_is_recorded_once_with_its_job(ledger, clock):
    assert add(ledger, clock) is not None
    assert add(ledger, clock) is None
    assert ledger.unfinished(SOURCES) == 1
    assert ledger.newest("s") == {1000: recorded(1, "d1")}


def test_a_rewritten_step_supersedes_the_job_nobody_began(ledger, clock):
    add(ledger, clock)
    add(ledger, clock, revision=2, digest="d2")
    assert ledger.newest("s") == {1000: recorded(2, "d2")}
    assert ledger.job_counts()["superseded"] == 1
    assert ledger.claim(clock.now(), TTL, SOURCES).snapshot.revision == 2


def test_jobs_are_claimed_oldest_first_and_only_once(ledger, clock):
    add(ledger, clock, step=1000)
    add(ledger, clock, step=2000)
    assert [ledger.claim(clock.now(), TTL, SOURCES).snapshot.step for _ in range(2)] == [1000, 2000]
    assert ledger.claim(clock.now(), TTL, SOURCES) is None


def test_a_lease_that_is_not_renewed_lapses(ledger, clock):
    add(ledger, clock)
    job = ledger.claim(clock.now(), TTL, SOURCES)
    clock.advance(60)
    ledger.renew(job.id, clock.now(), TTL)
    clock.advance(100)
    assert ledger.claim(clock.now(), TTL, SOURCES) is None
    clock.advance(21)
    again = ledger.claim(clock.now(), TTL, SOURCES)
    assert (again.id, again.attempt) == (job.id, 2)


def test_a_stopped_daemons_leases_are_queued_again_without_counting_an_attempt(ledger, clock):
    add(ledger, clock)
    ledger.claim(clock.now(), TTL, SOURCES)
    assert ledger.release_all() == 1
    assert ledger.claim(clock.now(), TTL, SOURCES).attempt == 1


def test_a_postponed_job_waits(ledger, clock):
    add(ledger, clock)
    job = ledger.claim(clock.now(), TTL, SOURCES)
    assert ledger.postpone(job.id, "later", clock.now() + timedelta(seconds=10), crashed=True) == 1
    assert ledger.claim(clock.now(), TTL, SOURCES) is None
    clock.advance(10)
    assert ledger.claim(clock.now(), TTL, SOURCES) is not None


def test_jobs_of_a_source_that_is_not_asked_for_wait(ledger, clock):
    add(ledger, clock)
    assert ledger.claim(clock.now(), TTL, ["another"]) is None
    assert ledger.next_due(["another"]) is None
    assert ledger.unfinished(["another"]) == 0
    assert ledger.claim(clock.now(), TTL, SOURCES) is not None


def test_open_jobs_are_found_through_their_index(db, ledger, clock):
    """A table of a million finished jobs must not make the next one slow to find."""
    plans = []
    read = db.read
    db._connection.set_trace_callback(lambda sql: plans.append(sql) if "INDEXED BY jobs_open" in sql else None)
    ledger.claim(clock.now(), TTL, SOURCES)
    ledger.next_due(SOURCES)
    ledger.unfinished(SOURCES)
    db._connection.set_trace_callback(None)
    assert len(plans) == 3
    for sql in plans:
        steps = [row["detail"] for row in read("EXPLAIN QUERY PLAN " + sql)]
        assert steps[0].startswith(("SCAN jobs USING INDEX jobs_open", "SEARCH jobs USING INDEX jobs_open")), steps


def test_failed_jobs_keep_their_reason(ledger, clock):
    add(ledger, clock)
    job = ledger.claim(clock.now(), TTL, SOURCES)
    ledger.finish(job.id, JobState.FAILED, clock.now(), "no images")
    assert [row.reason for row in ledger.jobs(JobState.FAILED)] == ["no images"]


def test_a_transaction_that_fails_leaves_nothing(db, ledger, clock):
    def half() -> None:
        with db.transaction("test"):
            add(ledger, clock)
            raise RuntimeError("between two writes")

    with pytest.raises(RuntimeError):
        half()
    assert ledger.unfinished(SOURCES) == 0


def test_threads_share_the_ledger_one_transaction_at_a_time(db, ledger, clock):
    threads = [
        threading.Thread(target=lambda n=n: [add(ledger, clock, step=n * 100 + i) for i in range(20)]) for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.unfinished(SOURCES) == 80


def test_migrations_are_numbered_without_gaps_and_run_once(tmp_path, db):
    versions = [version for version, _ in migrations()]
    assert versions == list(range(1, len(versions) + 1))
    Database.open(tmp_path).close()


def test_a_ledger_of_a_newer_version_is_refused_by_name(tmp_path, db):
    db.close()
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(LedgerError, match="newer metricwatch"):
        Database.open(tmp_path)


def test_a_file_that_is_no_ledger_is_named(tmp_path):
    (tmp_path / FILE_NAME).write_text("this is not a database, it only has its name" * 50)
    with pytest.raises(LedgerError, match=FILE_NAME):
        Database.open(tmp_path)


def test_a_missing_ledger_says_what_to_do(tmp_path):
    with pytest.raises(LedgerError, match="metricwatch run"):
        Database.open_readonly(tmp_path)


def test_a_second_daemon_is_refused_and_told_who_owns_the_ledger(tmp_path):
    with DaemonLock(tmp_path):
        assert lock.owner(tmp_path).startswith("pid ")
        with pytest.raises(LockedError, match=r"another metricwatch daemon owns this ledger \(pid \d+"):
            DaemonLock(tmp_path)
    assert lock.owner(tmp_path) is None
    DaemonLock(tmp_path).release()


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom metricwatch.store.lock import DaemonLock\n"
        "held = DaemonLock(Path(sys.argv[1]))\nprint('held', flush=True)\ntime.sleep(60)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout.readline() == "held\n"
        with pytest.raises(LockedError):
            DaemonLock(tmp_path)
    finally:
        owner.kill()
        owner.wait()
        owner.stdout.close()
    DaemonLock(tmp_path).release()


def test_a_state_folder_that_was_removed_is_noticed(tmp_path):
    """The open ledger would live on without a name, and a second daemon would be let in beside it."""
    state = tmp_path / "state"
    with DaemonLock(state) as held:
        held.check()
        (state / lock.FILE_NAME).unlink()
        with pytest.raises(LedgerError, match="removed or replaced"):
            held.check()
        DaemonLock(state).release()
        with pytest.raises(LedgerError, match="removed or replaced"):
            held.check()


def test_an_unusable_state_folder_is_named(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(LedgerError, match="name another with `state:`"):
        DaemonLock(blocked / "state")


def test_a_job_that_waits_holds_back_the_later_ones_of_its_source(ledger, clock):
    """Scored out of order, a rule would judge a curve with a hole in it."""
    add(ledger, clock, step=1000)
    add(ledger, clock, step=2000)
    job = ledger.claim(clock.now(), TTL, SOURCES)
    ledger.postpone(job.id, "crashed", clock.now() + timedelta(seconds=10), crashed=True)
    assert ledger.claim(clock.now(), TTL, SOURCES) is None
    clock.advance(10)
    assert [ledger.claim(clock.now(), TTL, SOURCES).snapshot.step for _ in range(2)] == [1000, 2000]


def test_a_job_that_waits_does_not_hold_back_another_source(ledger, clock):
    add(ledger, clock, step=1000)
    ledger.add_snapshot(source="t", run=RUN.key, step=1, path="/t", members=None, recorded=recorded(), now=clock.now())
    job = ledger.claim(clock.now(), TTL, ["s", "t"])
    ledger.postpone(job.id, "later", clock.now() + timedelta(seconds=10))
    assert ledger.claim(clock.now(), TTL, ["s", "t"]).snapshot.source == "t"


def test_a_job_that_waits_again_and_again_lets_the_others_pass(ledger, clock):
    add(ledger, clock, step=1000)
    add(ledger, clock, step=2000)
    for _ in range(4):
        job = ledger.claim(clock.now(), TTL, SOURCES)
        assert job.snapshot.step == 1000
        ledger.postpone(job.id, "the GPU is full", clock.now() + timedelta(seconds=10))
        if job.attempt < 4:
            assert ledger.claim(clock.now(), TTL, SOURCES) is None
            clock.advance(10)
    assert ledger.claim(clock.now(), TTL, SOURCES).snapshot.step == 2000


def test_claiming_stays_quick_behind_a_long_queue_that_is_held_back(ledger, clock):
    for step in range(3000):
        add(ledger, clock, step=step)
    job = ledger.claim(clock.now(), TTL, SOURCES)
    ledger.postpone(job.id, "later", clock.now() + timedelta(seconds=10))
    steps = []
    ledger._db._connection.set_progress_handler(lambda: steps.append(1), 1000)
    assert ledger.claim(clock.now(), TTL, SOURCES) is None
    # Thousands of virtual instructions for each row would be a scan of the queue for each.
    assert len(steps) < 500


def test_a_job_whose_files_are_gone_holds_nobody_back(ledger, clock):
    add(ledger, clock, step=1000)
    add(ledger, clock, step=2000)
    job = ledger.claim(clock.now(), TTL, SOURCES)
    ledger.postpone(job.id, "it is gone", clock.now() + timedelta(seconds=10), holds_back=False)
    assert ledger.claim(clock.now(), TTL, SOURCES).snapshot.step == 2000
