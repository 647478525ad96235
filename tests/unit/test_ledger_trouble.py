"""When the ledger cannot be written: nothing is lost, nothing is told twice, and all goes on once it can."""

from __future__ import annotations

import threading

import pytest
from structlog.testing import capture_logs

from metricwatch.errors import LedgerDamagedError, LedgerUnavailableError, WorkerError
from metricwatch.lanes import Lanes
from metricwatch.protocol import Heartbeat, Result
from metricwatch.store.deliveries import Deliveries
from tests.support.job import wait_until
from tests.support.locked_ledger import unwritable
from tests.unit import test_stages, test_supervisor


@pytest.fixture
def supervised(tmp_path):
    scene = test_supervisor.Scene(tmp_path)
    yield scene
    scene.db.close()


@pytest.fixture
def staged(tmp_path):
    scene = test_stages.Scene(tmp_path)
    yield scene
    scene.db.close()


def test_a_result_waits_for_the_ledger(supervised):
    supervised.add(1000)
    supervised.add(2000)
    request = supervised.begin()
    supervised.worker.replies += [Result(job=request.job, evaluation=test_supervisor.evaluation()), Heartbeat()]
    with unwritable(supervised.db):
        for _ in range(3):
            with pytest.raises(LedgerUnavailableError):
                supervised.tick(300)
    supervised.tick()
    assert supervised.states() == {"done": 1, "leased": 1}
    assert Deliveries(supervised.db).pending() == 1
    # While nobody listened the worker was not silent.
    assert not supervised.worker.gone


def test_a_crash_is_counted_although_the_ledger_could_not_be_written_then(supervised):
    supervised.add()
    for attempt in (1, 2):
        request = supervised.begin()
        supervised.worker.replies.append(Heartbeat(job=request.job, phase="scoring"))
        supervised.tick()
        supervised.worker.death = WorkerError("the worker was killed by signal 11")
        with unwritable(supervised.db):
            for _ in range(2):
                with pytest.raises(LedgerUnavailableError):
                    supervised.tick()
        supervised.tick()
        assert supervised.states() == ({"queued": 1} if attempt == 1 else {"quarantined": 1})
        supervised.tick(61)


def test_no_job_is_begun_that_could_not_be_claimed(supervised):
    supervised.add()
    supervised.tick()
    with unwritable(supervised.db):
        for _ in range(2):
            with pytest.raises(LedgerUnavailableError):
                supervised.tick()
    assert supervised.begin().job == 1
    assert len([request for request in supervised.worker.requests if hasattr(request, "metrics")]) == 1


def test_a_message_that_has_arrived_is_not_sent_again_for_want_of_a_mark(staged):
    for step, value in enumerate((10, 10, 10, 10, 20), start=1):
        staged.score(step, value)
    staged.rules.tick()
    staged.alerts._announce()
    with unwritable(staged.db):
        for _ in range(3):
            with pytest.raises(LedgerUnavailableError):
                staged.alerts.tick()
    assert len(staged.team.messages) == 1
    staged.turn()
    assert len(staged.team.messages) == len(staged.mail.messages) == 1
    assert staged.log.pending() == 0


def test_points_that_have_arrived_wait_for_their_mark_and_are_at_most_repeated(staged):
    staged.score(1000, 10)
    with staged.db.transaction("test"):
        staged.deliveries.enqueue(
            sink="mlflow", run=test_stages.RUN.key, identity="x", points=[], tags={"a": "b"}, now=staged.clock.now()
        )
    staged.exporter.tick()
    staged.score(2000, 10)
    with staged.db.transaction("test"):
        staged.deliveries.enqueue(
            sink="mlflow", run=test_stages.RUN.key, identity="y", points=[], tags={"a": "c"}, now=staged.clock.now()
        )
    with unwritable(staged.db), pytest.raises(LedgerUnavailableError):
        staged.exporter.tick()
    assert staged.deliveries.pending() == 1
    staged.turn()
    assert staged.deliveries.pending() == 0


def test_lanes_try_again_until_the_ledger_can_be_written_and_say_so_once():
    stop = threading.Event()
    trouble = [True]
    done = threading.Event()

    def tick():
        if trouble[0]:
            raise LedgerUnavailableError("ledger.sqlite3: database or disk is full")
        done.set()
        return 0

    with capture_logs() as logs, Lanes({"a": (tick,), "b": (tick,)}, period=0.01, stop=stop) as lanes:
        wait_until(lambda: lanes.trouble, what="the trouble")
        assert "disk is full" in lanes.trouble
        assert lanes.turning()
        trouble[0] = False
        wait_until(lambda: not lanes.trouble, what="its end")
        assert lanes.trouble_seconds() == 0
    assert done.is_set()
    assert [entry["event"] for entry in logs] == ["ledger.unavailable", "ledger.available"]


def test_a_damaged_ledger_ends_the_daemon():
    def tick():
        raise LedgerDamagedError("ledger.sqlite3: the ledger is damaged")

    stop = threading.Event()
    with pytest.raises(LedgerDamagedError), Lanes({"a": (tick,)}, period=0.01, stop=stop):
        assert stop.wait(10)
