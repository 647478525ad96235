"""What the supervisor makes of workers that are past help, of daemons that were killed, and of what both leave."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from metricwatch.errors import LedgerUnavailableError, WorkerError
from metricwatch.protocol import Failure, Result
from metricwatch.records import JobState
from tests.support.locked_ledger import unwritable
from tests.unit import test_supervisor

# Leaves a worker alone over the longest pause between two tries.
PATIENT = {"heartbeat_timeout": 10_000, "idle_exit": 10_000}


@pytest.fixture
def make(tmp_path):
    made = []

    def scene(**options) -> test_supervisor.Scene:
        """A daemon over the one state folder; the one before it has gone by then."""
        for before in made:
            before.db.close()
        made.append(test_supervisor.Scene(tmp_path, **options))
        for before in made[-2:-1]:
            made[-1].clock.advance((before.clock.now() - made[-1].clock.now()).total_seconds())
        return made[-1]

    yield scene
    for each in made:
        each.db.close()


def fail(scene, reason="no room", **how):
    """Have the worker answer its job with a failure, and let the pause after it pass."""
    request = scene.begin()
    scene.worker.replies.append(Failure(job=request.job, reason=reason, **how))
    scene.tick()
    scene.clock.advance(601)


def job(scene, number=1):
    return dict(scene.db.read("SELECT * FROM jobs WHERE id = ?", (number,))[0])


# --- a worker that cannot go on ----------------------------------------------------------------------------


def test_a_worker_that_cannot_go_on_is_replaced_before_it_spoils_another_job(make):
    scene = make()
    scene.add(1000)
    scene.add(2000)
    request = scene.begin()
    spoiled = scene.worker
    spoiled.replies.append(Failure(job=request.job, reason="CUDA error: device-side assert", fatal=True))
    spoiled.death = None
    with capture_logs() as said:
        scene.tick()
        # What it does by itself right after.
        spoiled.death = WorkerError("the worker exited with status 1", status=1)
        for _ in range(5):
            scene.tick(1)
    assert spoiled.gone
    assert len(scene.workers) == 2
    assert (job(scene)["crashes"], scene.begin().job) == (1, request.job)
    (died,) = [line for line in said if line["event"] == "worker.died"]
    assert "device-side assert" in died["reason"]
    scene.worker.replies.append(Result(job=request.job, evaluation=test_supervisor.evaluation()))
    scene.tick()
    assert scene.begin().step == 2000


def test_a_job_that_spoils_two_workers_is_quarantined(make):
    scene = make()
    scene.add(1000)
    scene.add(2000)
    for _ in range(2):
        fail(scene, "CUDA error: device-side assert", fatal=True)
    assert "device-side assert" in scene.ledger.jobs(JobState.QUARANTINED)[0].reason
    assert scene.begin().step == 2000


def test_a_spoiled_worker_is_counted_although_the_ledger_could_not_be_written_then(make):
    scene = make()
    scene.add()
    request = scene.begin()
    scene.worker.replies.append(Failure(job=request.job, reason="CUDA error", fatal=True))
    with unwritable(scene.db), pytest.raises(LedgerUnavailableError):
        scene.tick()
    scene.tick()
    assert (job(scene)["state"], job(scene)["crashes"]) == ("queued", 1)


def test_failures_count_towards_the_end_of_a_worker_too(make):
    scene = make(recycle_after=2)
    for step in (1000, 2000, 3000):
        scene.add(step)
        request = scene.begin()
        scene.worker.replies.append(Failure(job=request.job, reason="cannot be read"))
        scene.tick()
    assert len(scene.workers) == 2


# --- a daemon that is killed -------------------------------------------------------------------------------


def test_a_job_that_was_at_work_each_time_the_daemon_was_killed_is_set_aside(make):
    scene = make()
    scene.add(1000)
    scene.add(2000)
    for _ in range(4):
        assert scene.begin().step == 1000
        scene = make()
    assert scene.states() == {"queued": 2}
    assert scene.begin().step == 1000
    with capture_logs() as said:
        scene = make()
    (line,) = [line for line in said if line["event"] == "job.quarantined"]
    assert (line["run"], line["step"], line["log_level"]) == ("night", 1000, "error")
    assert "each of its last 5 turns ended with the daemon killed" in line["reason"]
    assert job(scene)["reason"] == line["reason"]
    assert scene.begin().step == 2000


def test_a_job_that_is_tried_again_by_hand_may_be_cut_off_as_often_as_a_new_one(make):
    scene = make()
    scene.add()
    for _ in range(5):
        scene.begin()
        scene = make()
    assert scene.ledger.put_back(1)
    for _ in range(4):
        scene.begin()
        scene = make()
    assert scene.states() == {"queued": 1}
    assert scene.begin().job == 1


@pytest.mark.parametrize("how", [{"retryable": True}, {"changed": True}])
def test_a_job_that_is_answered_in_between_is_not_what_kills_the_daemon(make, how):
    scene = make(**PATIENT)
    scene.add()
    for _ in range(2):
        for _ in range(4):
            scene.clock.advance(601)
            scene.begin()
            scene = make(**PATIENT)
        scene.clock.advance(601)
        fail(scene, **how)
    assert scene.states() == {"queued": 1}


def test_a_daemon_that_is_stopped_counts_for_nothing(make):
    scene = make()
    scene.add()
    for _ in range(6):
        scene.begin()
        scene.supervisor.close()
        scene = make()
    assert (job(scene)["cut_off"], scene.states()) == (0, {"queued": 1})


# --- what was pinned ---------------------------------------------------------------------------------------


def pin(folder, number=1):
    """What a worker has pinned of a checkpoint, in a folder that is a link to another disk; returns the file."""
    disk = folder / "disk"
    disk.mkdir(exist_ok=True)
    if not (folder / "pins").exists():
        (folder / "pins").symlink_to(disk)
    (disk / "of somebody else").touch()
    file = disk / f"job-{number}" / "checkpoint-100" / "unet" / "model.bin"
    file.parent.mkdir(parents=True)
    file.touch()
    return file


def unpinned(folder) -> bool:
    """The pinned files have gone, and nothing else has."""
    assert (folder / "pins").is_symlink()
    left = [path.name for path in (folder / "pins").iterdir()]
    assert "of somebody else" in left
    return left == ["of somebody else"]


def test_what_a_killed_daemon_had_pinned_is_removed_by_the_next(make, tmp_path):
    pin(tmp_path)
    make()
    assert unpinned(tmp_path)


def test_a_daemon_that_stops_keeps_nothing_pinned(make, tmp_path):
    scene = make()
    scene.add()
    scene.begin()
    pin(tmp_path)
    scene.supervisor.close()
    assert unpinned(tmp_path)


@pytest.mark.parametrize("end", ["killed", "hangs", "cannot go on"])
def test_what_a_worker_had_pinned_is_removed_when_it_dies(make, tmp_path, end):
    scene = make()
    scene.add()
    request = scene.begin()
    pin(tmp_path)
    if end == "killed":
        scene.worker.death = WorkerError("the worker was killed by signal 9")
    elif end == "cannot go on":
        scene.worker.replies.append(Failure(job=request.job, reason="CUDA error", fatal=True))
    scene.tick(61 if end == "hangs" else 0)
    assert unpinned(tmp_path)


def test_pins_that_cannot_be_removed_are_told_of_and_stop_nobody(make, tmp_path):
    (tmp_path / "pins").write_text("not a folder")
    with capture_logs() as said:
        scene = make()
        scene.add()
        scene.begin()
        scene.supervisor.close()
    assert [line["event"] for line in said if line["log_level"] == "warning"] == ["pins.not_removed"] * 2


# --- tries -------------------------------------------------------------------------------------------------


def test_waits_for_the_gpu_leave_all_tries_for_files_that_change(make):
    scene = make(**PATIENT)
    scene.add()
    for _ in range(10):
        fail(scene, retryable=True)
    for _ in range(7):
        fail(scene, "has changed", changed=True)
        assert scene.states() == {"queued": 1}
    fail(scene, "has changed", changed=True)
    assert scene.ledger.jobs(JobState.FAILED)[0].reason == "has changed"


def test_files_that_change_leave_all_tries_for_waits(make):
    scene = make(**PATIENT)
    scene.supervisor.most_attempts = 2
    scene.add()
    for _ in range(3):
        fail(scene, changed=True)
    fail(scene, retryable=True)
    assert scene.states() == {"queued": 1}
    fail(scene, retryable=True)
    assert scene.states() == {"failed": 1}


def test_the_pause_after_a_change_grows_with_the_changes_alone(make):
    scene = make(**PATIENT)
    scene.add()
    waits = []
    for how in ({"retryable": True}, {"retryable": True}, {"changed": True}, {"changed": True}):
        request = scene.begin()
        scene.worker.replies.append(Failure(job=request.job, reason="no", **how))
        with capture_logs() as said:
            scene.tick()
        waits += [line["seconds"] for line in said if line["event"] == "job.postponed"]
        scene.clock.advance(601)
    assert waits == [2, 4, 2, 4]
