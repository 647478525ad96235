"""The ledger: identity, leases, one transaction a transition."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
import threading
from datetime import timedelta

import pytest

from metricwatch.config.watching import Backlog
from metricwatch.errors import LedgerError, LockedError
from metricwatch.records import JobState, Run
from metricwatch.store import lock, schema
from metricwatch.store.db import FILE_NAME, Database
from metricwatch.store.ledger import Ledger, Recorded
from metricwatch.store.lock import DaemonLock
from metricwatch.store.schema import migrations
from metricwatch.store.waiting import changed_steps, pass_over
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
    db._connection.set_trace_callback(lambda sql: plans.append(sql) if "INDEXED BY jobs" in sql else None)
    ledger.claim(clock.now(), TTL, SOURCES)
    ledger.claim(clock.now(), TTL, SOURCES, newest_first=SOURCES)
    pass_over(db, {"s": Backlog(policy="latest", most=3)}, clock.now())
    pass_over(db, {"s": Backlog(most=3)}, clock.now())
    ledger.next_due(SOURCES)
    ledger.unfinished(SOURCES)
    changed_steps(db, "s")
    db._connection.set_trace_callback(None)
    assert len(plans) == 10
    for sql in plans:
        steps = [row["detail"] for row in db.read("EXPLAIN QUERY PLAN " + sql)]
        assert any(
            re.match(r"SEARCH jobs USING (COVERING )?INDEX jobs_(open|by_step) \(source=\?", step) for step in steps
        )
        assert not any("SCAN jobs" in step for step in steps), steps


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


def earlier_ledger(folder, *, version=3):
    """A ledger as an earlier version left it: two jobs, one of them scored."""
    connection = sqlite3.connect(folder / FILE_NAME)
    for number, script in migrations()[:version]:
        connection.executescript(f"{script}\nPRAGMA user_version = {number};")
    connection.executescript(
        """INSERT INTO runs VALUES ('r', 'night', NULL, NULL, NULL, 0);
           INSERT INTO snapshots (id, source, run, step, revision, path, digest, images, newest_ns, mtime_ns, settled_ms)
             VALUES (1, 's', 'r', 100, 1, '/a', 'd', 8, 1, 1, 1), (2, 's', 'r', 200, 1, '/b', 'd', 8, 1, 1, 2);
           INSERT INTO jobs (id, snapshot, state, attempt, crashes, reason, created_ms, finished_ms, holds_back)
             VALUES (5, 1, 'done', 1, 0, '', 3, 4, 1), (6, 2, 'queued', 2, 1, 'it crashed', 5, NULL, 0);
           INSERT INTO evaluations (id, job, run, step, revision, images, seconds, skipped, provenance, evaluated_ms)
             VALUES (9, 5, 'r', 100, 1, 8, 1.0, '[]', '{}', 6);"""
    )
    connection.commit()
    return connection


def test_the_jobs_of_an_earlier_version_are_kept_with_what_refers_to_them(tmp_path, clock):
    earlier_ledger(tmp_path).close()
    db = Database.open(tmp_path)
    (done, queued) = [dict(row) for row in db.read("SELECT * FROM jobs ORDER BY id")]
    assert (done["id"], done["source"], done["step"], done["finished_ms"]) == (5, "s", 100, 4)
    assert (queued["reason"], queued["attempt"], queued["crashes"], queued["holds_back"]) == ("it crashed", 2, 1, 0)
    assert (queued["source"], queued["step"], queued["asked"]) == ("s", 200, 0)
    assert {row["table"] for row in db.read("PRAGMA foreign_key_list(evaluations)")} == {"jobs", "runs"}
    assert Ledger(db).claim(clock.now(), TTL, SOURCES).id == 6
    db.close()


def test_references_are_checked_again_after_a_migration(tmp_path):
    earlier_ledger(tmp_path).close()
    db = Database.open(tmp_path)
    with pytest.raises(LedgerError, match="FOREIGN KEY"), db.transaction("test") as tx:
        tx.execute("DELETE FROM jobs WHERE id = 5")
    db.close()


def test_a_migration_that_fails_changes_nothing_and_references_are_checked_again(tmp_path, monkeypatch):
    connection = earlier_ledger(tmp_path)
    connection.isolation_level = None
    broken = ((99, "DROP TABLE evaluations; CREATE TABLE broken (x INTEGER); SELECT nothing FROM nowhere;"),)
    monkeypatch.setattr(schema, "migrations", lambda: (*migrations()[:3], *broken))
    connection.execute("PRAGMA foreign_keys = ON")
    with pytest.raises(LedgerError, match="migration 0099 failed"):
        schema.migrate(connection, tmp_path / FILE_NAME)
    assert connection.execute("PRAGMA foreign_keys").fetchone() == (1,)
    assert connection.execute("SELECT count(*) FROM evaluations").fetchone() == (1,)
    assert not connection.in_transaction
    connection.close()


def test_a_migration_that_leaves_rows_without_what_they_refer_to_is_undone(tmp_path, monkeypatch):
    connection = earlier_ledger(tmp_path)
    connection.isolation_level = None
    monkeypatch.setattr(schema, "migrations", lambda: (*migrations()[:3], (4, "DELETE FROM jobs WHERE id = 5;")))
    with pytest.raises(LedgerError, match=r"1 rows refer to what is not there \(evaluations\)"):
        schema.migrate(connection, tmp_path / FILE_NAME)
    assert connection.execute("SELECT count(*) FROM jobs").fetchone() == (2,)
    assert connection.execute("PRAGMA user_version").fetchone() == (3,)
    assert connection.execute("PRAGMA foreign_keys").fetchone() == (1,)
    connection.close()


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
    with ledger._db.transaction("test"):
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
