"""What goes wrong once in a month: a message, a run, a backup or a clock at the worst moment."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from metricwatch.errors import LedgerDamagedError, LedgerUnavailableError, PermanentError, TemporaryError
from metricwatch.lanes import Lanes
from metricwatch.protocol import Failure
from metricwatch.records import Point, RemoteRun, Run
from metricwatch.store import backups
from metricwatch.store.db import Database
from metricwatch.store.retries import Retries
from tests.support.job import wait_until
from tests.support.locked_ledger import unwritable
from tests.unit import test_stages, test_supervisor, test_upkeep

RUN = test_stages.RUN


@pytest.fixture
def staged(tmp_path):
    scene = test_stages.Scene(tmp_path)
    yield scene
    scene.db.close()


@pytest.fixture
def keep(tmp_path):
    made = []

    def scene(**retention):
        made.append(test_upkeep.Scene(tmp_path, **retention))
        return made[-1]

    yield scene
    for each in made:
        each.db.close()


def enqueue(scene, identity, *, points=(), tags=None):
    scene.deliveries.enqueue(
        sink="mlflow", run=RUN.key, identity=identity, points=points, tags=tags or {}, now=scene.clock.now()
    )


# --- messages ----------------------------------------------------------------------------------------------


def test_a_ledger_that_cannot_be_read_for_a_moment_costs_no_message(staged, monkeypatch):
    for step, value in enumerate((10, 10, 10, 10, 20), start=1):
        staged.score(step, value)
    staged.rules.tick()
    read = staged.db.read_one

    def fails_once(sql, *parameters):
        if "remote_runs" in sql:
            monkeypatch.undo()
            raise LedgerUnavailableError("disk I/O error")
        return read(sql, *parameters)

    monkeypatch.setattr(staged.db, "read_one", fails_once)
    with pytest.raises(LedgerUnavailableError):
        staged.alerts.tick()
    staged.turn()
    assert len(staged.team.messages) == 1


def test_a_receiver_that_asks_for_days_does_not_hold_its_alerts_back_for_days(staged):
    staged.play(10, 10, 10, 10)
    staged.team.errors = [TemporaryError("busy", retry_after=timedelta(days=10))]
    staged.play(20, start=5)
    assert not staged.team.messages
    staged.clock.advance(3600)
    staged.turn()
    assert len(staged.team.messages) == 1


def test_a_message_to_a_receiver_that_is_gone_is_not_waited_for(staged):
    staged.team.errors = [PermanentError("no")]
    staged.play(10, 10, 10, 10, 20)
    staged.configure([test_stages.moves()], {"mail": staged.mail})
    failed = [row["id"] for row in staged.db.read("SELECT id FROM notifications WHERE state = 'failed'")]
    assert failed
    Retries(staged.db).request("notification", failed)
    staged.turn()
    assert staged.log.pending() == 0


# --- points ------------------------------------------------------------------------------------------------


def test_points_follow_a_new_id_file_although_the_ledger_was_full_then(staged, tmp_path):
    file = tmp_path / "mlflow_run_id"
    file.write_text("first")
    staged.ledger.register_run(Run(key=RUN.key, name="night", id_file=str(file)), staged.clock.now())
    went = []
    staged.sink.find_run = lambda run: RemoteRun(id=file.read_text(), url=None)
    staged.sink.write = lambda run_id, points, tags: went.append(run_id)
    enqueue(staged, "a", tags={"a": "1"})
    staged.exporter.tick()
    file.write_text("second, of a job that was started again")
    enqueue(staged, "b", tags={"a": "2"})
    with unwritable(staged.db), pytest.raises(LedgerUnavailableError):
        staged.exporter.tick()
    staged.exporter.tick()
    assert went == ["first", "second, of a job that was started again"]


def test_what_is_delivered_late_on_request_does_not_set_newer_tags_back(staged):
    staged.sink.poison = {"quality/bad"}
    bad = Point(key="quality/bad", value=1.0, timestamp_ms=1, step=1)
    enqueue(staged, "old", points=[bad], tags={"state": "failed", "other": "kept"})
    staged.turn()
    enqueue(staged, "new", tags={"state": "ok"})
    staged.turn()
    staged.sink.poison, staged.sink.tags = set(), {"state": "ok"}
    Retries(staged.db).request("delivery", [1])
    staged.turn()
    assert staged.sink.tags == {"state": "ok", "other": "kept"}
    assert staged.deliveries.rejections() == 0


# --- clocks ------------------------------------------------------------------------------------------------


def test_lanes_turn_although_the_timers_clock_was_set_back(monkeypatch):
    """APScheduler plans by the wall clock."""
    import apscheduler.schedulers.base as timer

    back = [timedelta(0)]

    class Shifted(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + back[0]

    monkeypatch.setattr(timer, "datetime", Shifted)
    turns = []
    with Lanes({"export": (lambda: turns.append(1) or 0,)}, period=0.05, stop=threading.Event()):
        wait_until(lambda: len(turns) > 3, what="turns")
        back[0] = timedelta(hours=-1)
        # By then the timer has planned its next wake an hour ahead.
        time.sleep(0.3)
        turns.clear()
        wait_until(lambda: len(turns) > 3, seconds=10, what="turns after the clock went back")


def test_what_a_clock_that_was_ahead_put_off_for_a_year_is_due_after_a_restart(tmp_path):
    scene = test_supervisor.Scene(tmp_path)
    scene.add(1000)
    request = scene.begin()
    scene.clock.jump(365 * 86_400)
    scene.worker.replies.append(Failure(job=request.job, reason="the GPU is full", retryable=True))
    scene.tick()
    scene.clock.jump(-365 * 86_400)
    assert scene.ledger.claim(scene.clock.now(), timedelta(minutes=2), ["s"]) is None
    scene.db.cap_waits(scene.clock.now() + timedelta(hours=1))
    scene.clock.advance(3600)
    assert scene.ledger.claim(scene.clock.now(), timedelta(minutes=2), ["s"]) is not None
    scene.db.close()


def test_the_time_of_a_backup_counts_among_those_that_the_clock_must_not_go_behind(keep):
    scene = keep()
    scene.turn(days=400)
    assert scene.db.newest_time() == scene.clock.now()


# --- the state folder --------------------------------------------------------------------------------------


def test_a_file_server_that_does_not_answer_for_a_moment_is_waited_for(tmp_path, monkeypatch):
    db = Database.open(tmp_path)

    def stat(*_, **__):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "stat", stat)
    with pytest.raises(LedgerUnavailableError, match="Input/output error"):
        db.check_there()
    monkeypatch.undo()
    db.check_there()
    db.close()


_WRITE_AND_DIE = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from metricwatch.records import Run
from metricwatch.store import backups
from metricwatch.store.db import Database
from metricwatch.store.ledger import Ledger
db = Database.open(Path(sys.argv[1]))
ledger, now = Ledger(db), datetime.now(UTC)
for n in range(50):
    ledger.register_run(Run(key=f"k{n}", name="x" * 200), now)
if sys.argv[2] == "backup":
    backups.make(db.path, now)
for n in range(50, 900):
    ledger.register_run(Run(key=f"k{n}", name="y" * 300), now)
os.kill(os.getpid(), signal.SIGKILL)
"""


def write_and_die(state, backup):
    done = subprocess.run([sys.executable, "-c", _WRITE_AND_DIE, str(state), backup], check=False)
    assert done.returncode == -signal.SIGKILL
    # Somebody removes the ledger, and not what SQLite keeps beside it.
    (state / "ledger.sqlite3").unlink()
    assert (state / "ledger.sqlite3-wal").stat().st_size


def test_the_log_of_a_ledger_that_is_gone_is_not_played_into_its_backup(tmp_path):
    write_and_die(tmp_path, "backup")
    backups.restore(tmp_path, backups.newest(tmp_path), datetime.now().astimezone())
    db = Database.open(tmp_path)
    assert db.read("SELECT count(*) FROM runs")[0][0] == 50
    db.close()


def test_the_log_of_a_ledger_that_is_gone_is_not_played_into_a_new_one(tmp_path):
    write_and_die(tmp_path, "none")
    with pytest.raises(LedgerDamagedError, match="the ledger is gone, and its write-ahead log is here"):
        Database.open(tmp_path)


@pytest.mark.parametrize("left", [0, 5000])
def test_a_ledger_that_is_cut_short_under_a_running_daemon_is_told(tmp_path, left):
    db = Database.open(tmp_path)
    db.compact()
    os.truncate(db.path, left)
    with pytest.raises(LedgerDamagedError, match=f"was cut short to {left} bytes"):
        db.check_there()
    db.close()


def test_somebody_who_reads_the_ledger_does_not_hold_it_up(keep):
    scene = keep(backups=0)
    scene.evaluate("watched", 1)
    reader = sqlite3.connect(scene.db.path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM runs").fetchall()
    scene.evaluate("watched", 2)
    began = time.monotonic()
    scene.upkeep.tick()
    reader.close()
    # SQLite's patience with other writers is 30 s.
    assert time.monotonic() - began < 15


def test_a_compaction_that_finds_no_room_is_no_trouble(keep):
    scene = keep(deliveries="1d", backups=0)
    scene.evaluate("watched", 1)
    rows = [(f"x{n}", "[" + " " * 4000 + "]") for n in range(6000)]
    with scene.db.transaction("test") as tx:
        tx.executemany(
            """INSERT INTO deliveries (sink, run, identity, points, tags, state, created_ms, sent_ms)
               VALUES ('s', 'watched', ?, ?, '{}', 'sent', 0, 0)""",
            rows,
        )
    scene.clock.advance(5 * 86_400)

    class Full:
        def __getattr__(self, name):
            return getattr(connection, name)

        def execute(self, sql, *parameters):
            if sql == "VACUUM":
                error = sqlite3.OperationalError("database or disk is full")
                error.sqlite_errorcode = sqlite3.SQLITE_FULL
                raise error
            return connection.execute(sql, *parameters)

    connection, scene.db._connection = scene.db._connection, Full()
    with capture_logs() as logs:
        scene.turn()
    assert [entry["event"] for entry in logs] == ["ledger.not_compacted"]


# --- backups -----------------------------------------------------------------------------------------------


def test_a_damaged_ledger_is_not_copied_over_its_good_backups(keep):
    scene = keep(backups=1)
    for step in range(40):
        scene.evaluate("watched", step)
    scene.db.compact()
    good = backups.make(scene.db.path, scene.clock.now())
    with open(scene.db.path, "r+b") as file:
        file.seek(4096 * 8)
        file.write(b"\xff" * 4096 * 4)
    scene.clock.advance(2 * 86_400)
    with pytest.raises(LedgerDamagedError, match=f"the ledger is damaged.*metricwatch restore.*{good.name}"):
        scene.upkeep.tick()
    assert backups.all_of(scene.state) == [good]


def test_backups_that_cannot_be_noted_do_not_pile_up(keep):
    scene = keep(backups=2)
    with unwritable(scene.db):
        for _ in range(5):
            with pytest.raises(LedgerUnavailableError):
                scene.upkeep.tick()
            scene.clock.advance(601)
    assert len(backups.all_of(scene.state)) == 2


def test_what_a_killed_backup_left_goes_with_the_next_one(keep):
    scene = keep()
    folder = scene.state / "backups"
    folder.mkdir()
    (folder / "ledger-20250101T000000-000.part").write_bytes(b"half of one")
    scene.turn()
    assert len(os.listdir(folder)) == 1


def test_a_backup_that_cannot_be_removed_does_not_end_the_daemon(keep):
    scene = keep(backups=1)
    (scene.state / "backups" / "ledger-2000.sqlite3").mkdir(parents=True)
    scene.turn()
    assert len(backups.all_of(scene.state)) == 2
