"""The supervisor's decisions, with a worker that does what the test says and a clock that waits for it."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace

import pytest

from metricwatch.errors import WorkerError
from metricwatch.protocol import Evaluate, Failure, Heartbeat, Log, Ready, Result
from metricwatch.records import Evaluation, JobState, Run, Score, ScoreState
from metricwatch.store.db import Database
from metricwatch.store.deliveries import Deliveries
from metricwatch.store.ledger import Ledger, Recorded
from metricwatch.store.scores import Scores
from metricwatch.supervisor.stage import Policy, Supervisor
from metricwatch.testing.clock import FakeClock

RUN = Run(key="name:x/night", name="night")


class ScriptedWorker:
    """Stands where a WorkerProcess stands: says what it is told to, and remembers what it was sent."""

    pid = 4711

    def __init__(self) -> None:
        self.replies = []
        self.requests = []
        self.gone = False
        self.death: WorkerError | None = None

    def send(self, request):
        self.requests.append(request)

    def poll(self):
        if self.death:
            raise self.death
        said, self.replies = self.replies, []
        return said

    def stop(self, grace=5.0):
        self.gone = True

    kill = stop


class Scene:
    def __init__(self, folder, **policy) -> None:
        self.clock = FakeClock()
        self.db = Database.open(folder)
        self.ledger = Ledger(self.db)
        self.ledger.register_run(RUN, self.clock.now())
        self.workers: list[ScriptedWorker] = []
        self.refuse: WorkerError | None = None
        settings = {"heartbeat_timeout": 60, "stall_timeout": 1800, "idle_exit": 600, "recycle_after": 500, **policy}
        entry = SimpleNamespace(source="s", reference=None, pairs=None, target=RUN)
        self.supervisor = Supervisor(
            self.db,
            entries=[entry],
            metrics=["fid"],
            prefix="quality",
            sinks=["mlflow"],
            spawn=self.spawn,
            policy=Policy(
                heartbeat_timeout=timedelta(seconds=settings["heartbeat_timeout"]),
                stall_timeout=timedelta(seconds=settings["stall_timeout"]),
                idle_exit=timedelta(seconds=settings["idle_exit"]),
                recycle_after=settings["recycle_after"],
            ),
            clock=self.clock,
        )
        self.supervisor.start()

    def spawn(self):
        if self.refuse:
            raise self.refuse
        self.workers.append(ScriptedWorker())
        self.workers[-1].replies.append(Ready(pid=4711, device="cpu", versions={}))
        return self.workers[-1]

    @property
    def worker(self) -> ScriptedWorker:
        return self.workers[-1]

    def add(self, step=1000, source="s", revision=1):
        self.ledger.add_snapshot(
            source=source,
            run=RUN.key,
            step=step,
            path="/p",
            members=None,
            recorded=Recorded(revision=revision, digest=f"d{revision}", images=8, newest_ns=1, mtime_ns=1),
            now=self.clock.now(),
        )

    def tick(self, seconds=0.0):
        self.clock.advance(seconds)
        return self.supervisor.tick()

    def begin(self):
        """Until the worker has its job."""
        for _ in range(3):
            self.tick()
        return next(request for request in reversed(self.worker.requests) if isinstance(request, Evaluate))

    def states(self):
        return {state: count for state, count in self.ledger.job_counts().items() if count}


@pytest.fixture
def make(tmp_path):
    made = []

    def scene(**policy) -> Scene:
        made.append(Scene(tmp_path, **policy))
        return made[-1]

    yield scene
    for each in made:
        each.db.close()


def evaluation(value=1.0):
    score = Score(
        key="fid", value=value, images=8, higher_is_better=False, stderr=0.1, provenance={"precision": "exact"}
    )
    return Evaluation(scores=(score,), skipped=(), images=8, seconds=0.5, provenance={})


def test_no_worker_runs_while_there_is_nothing_to_do(make):
    scene = make()
    scene.tick(10)
    assert scene.workers == []


def test_a_result_becomes_scores_and_a_delivery_in_one_go(make):
    scene = make()
    scene.add()
    request = scene.begin()
    scene.worker.replies.append(Result(job=request.job, evaluation=evaluation()))
    scene.tick()
    assert scene.states() == {"done": 1}
    assert Scores(scene.db).series(RUN.key, "fid")[0].score.value == 1.0
    assert Deliveries(scene.db).pending() == 1


def test_scores_without_a_value_are_kept_and_not_sent(make):
    scene = make()
    scene.add()
    request = scene.begin()
    score = Score(key="fid", value=None, images=1, higher_is_better=False, state=ScoreState.TOO_FEW_IMAGES, detail="1")
    answer = Evaluation(scores=(score,), skipped=(), images=1, seconds=0.5, provenance={})
    scene.worker.replies.append(Result(job=request.job, evaluation=answer))
    scene.tick()
    assert Scores(scene.db).series(RUN.key, "fid")[0].score.state is ScoreState.TOO_FEW_IMAGES
    assert Deliveries(scene.db).pending() == 0


def test_a_silent_worker_is_killed_and_its_job_tried_again(make):
    scene = make()
    scene.add()
    scene.begin()
    scene.tick(61)
    assert scene.worker.gone
    scene.tick(3)
    assert len(scene.workers) == 2
    assert scene.begin().job == 1


def test_heartbeats_keep_a_slow_job_alive_and_its_lease_renewed(make):
    scene = make()
    scene.add()
    request = scene.begin()
    for _ in range(20):
        scene.worker.replies.append(Heartbeat(job=request.job, phase="scoring", done=3, total=8))
        scene.tick(30)
    assert not scene.worker.gone
    assert scene.supervisor.progress.done == 3
    assert scene.ledger.claim(scene.clock.now(), timedelta(minutes=1), ["s"]) is None


def test_a_job_that_takes_its_worker_down_twice_is_quarantined_and_the_next_goes_on(make):
    scene = make()
    scene.add(1000)
    scene.add(2000)
    for _ in range(2):
        while scene.begin().job != 1:
            scene.tick(1)
        scene.worker.replies.append(Heartbeat(job=1, phase="scoring"))
        scene.tick()
        scene.worker.death = WorkerError("the worker was killed by signal 11")
        scene.tick()
        scene.tick(61)
        job = scene.begin()
        if job.job == 2:
            scene.worker.replies.append(Result(job=2, evaluation=evaluation()))
            scene.tick(61)
    assert scene.states() == {"quarantined": 1, "done": 1}
    assert "signal 11" in scene.ledger.jobs(JobState.QUARANTINED)[0].reason


def test_a_job_whose_files_changed_is_tried_again(make):
    scene = make()
    scene.add()
    request = scene.begin()
    scene.worker.replies.append(Failure(job=request.job, reason="changed", changed=True))
    scene.tick()
    assert scene.states() == {"queued": 1}
    assert scene.ledger.next_due(["s"]) > scene.clock.now()


def test_a_job_whose_step_was_rewritten_meanwhile_gives_way_to_the_new_revision(make):
    scene = make()
    scene.add()
    request = scene.begin()
    scene.add(revision=2)
    scene.worker.replies.append(Failure(job=request.job, reason="changed", changed=True))
    scene.tick()
    assert scene.begin().digest == "d2"
    assert scene.states() == {"superseded": 1, "leased": 1}


def test_bad_input_fails_the_job_with_its_reason_and_is_not_retried(make):
    scene = make()
    scene.add()
    request = scene.begin()
    scene.worker.replies.append(Failure(job=request.job, reason="no images in /p: it is empty"))
    scene.tick()
    assert scene.ledger.jobs(JobState.FAILED)[0].reason == "no images in /p: it is empty"


def test_a_full_gpu_is_waited_for_with_growing_pauses(make):
    """Over the hours that it takes the training job to give memory back, not over seconds."""
    scene = make(heartbeat_timeout=10_000, idle_exit=10_000)
    scene.add()
    for _ in range(20):
        request = scene.begin()
        scene.worker.replies.append(Failure(job=request.job, reason="the GPU has no room", retryable=True))
        scene.tick()
        assert scene.states() == {"queued": 1}
        scene.tick(601)


def test_once_means_that_even_a_full_gpu_is_not_waited_for_without_end(make):
    scene = make()
    scene.supervisor.most_attempts = 3
    scene.add()
    for _ in range(3):
        request = scene.begin()
        scene.worker.replies.append(Failure(job=request.job, reason="the GPU has no room", retryable=True))
        scene.tick()
        scene.tick(30)
    assert scene.ledger.jobs(JobState.FAILED)[0].reason == "the GPU has no room"


def test_a_worker_that_lives_without_progress_is_replaced(make):
    scene = make(stall_timeout=600)
    scene.add()
    request = scene.begin()
    for _ in range(25):
        scene.worker.replies.append(Heartbeat(job=request.job, phase="scoring", done=3, total=8))
        scene.tick(30)
        if scene.workers[0].gone:
            break
    assert "no progress for 600 s" in scene.supervisor.last_error


def test_a_worker_that_died_before_it_began_is_not_the_jobs_fault(make):
    scene = make()
    scene.add()
    for _ in range(3):
        scene.begin()
        scene.worker.death = WorkerError("the worker was killed by signal 9")
        scene.tick()
        scene.tick(61)
    assert scene.ledger.unfinished(["s"]) == 1


def test_a_job_that_lets_no_worker_begin_is_quarantined_in_the_end(make):
    scene = make()
    scene.add()
    for _ in range(7):
        scene.begin()
        scene.worker.death = WorkerError("the worker was killed by signal 11")
        scene.tick()
        scene.tick(61)
    assert scene.states() == {"quarantined": 1}


@pytest.mark.parametrize("key", ["step", "run", "images", "event", "level"])
def test_a_plugins_key_may_be_any_word(make, key):
    scene = make()
    scene.add()
    request = scene.begin()
    score = Score(key=key, value=1.0, images=8, higher_is_better=False)
    answer = Evaluation(scores=(score,), skipped=(), images=8, seconds=0.5, provenance={})
    scene.worker.replies.append(Result(job=request.job, evaluation=answer))
    scene.tick()
    assert scene.states() == {"done": 1}


def test_two_scores_of_one_key_fail_the_job_and_not_the_daemon(make):
    scene = make()
    scene.add()
    request = scene.begin()
    score = Score(key="fid", value=1.0, images=8, higher_is_better=False)
    answer = Evaluation(scores=(score, score), skipped=(), images=8, seconds=0.5, provenance={})
    scene.worker.replies.append(Result(job=request.job, evaluation=answer))
    scene.tick()
    assert scene.ledger.jobs(JobState.FAILED)[0].reason == "two metrics gave the same key: fid"


def test_a_worker_that_does_not_start_is_tried_again_with_growing_waits(make):
    scene = make()
    scene.add()
    scene.refuse = WorkerError("cannot start a worker process")
    waits = []
    for _ in range(4):
        before = scene.clock.monotonic()
        failed = scene.supervisor.failed_starts
        while scene.supervisor.failed_starts == failed:
            scene.tick(1)
        waits.append(scene.clock.monotonic() - before)
    assert waits == sorted(waits)
    assert waits[-1] > waits[0]
    assert "cannot start" in scene.supervisor.last_error
    assert scene.states() == {"queued": 1}


def test_why_a_worker_gave_up_is_remembered(make):
    scene = make()
    scene.add()
    scene.tick()
    scene.worker.replies = [Log(level="error", event="worker cannot start", fields={"reason": "no CUDA device"})]
    scene.tick()
    scene.worker.death = WorkerError("the worker exited with status 78")
    scene.tick()
    assert "no CUDA device" in scene.supervisor.last_error


def test_an_idle_worker_gives_its_memory_back(make):
    scene = make(idle_exit=5)
    scene.add()
    request = scene.begin()
    scene.worker.replies.append(Result(job=request.job, evaluation=evaluation()))
    scene.tick()
    scene.tick(6)
    assert scene.worker.gone


def test_a_worker_is_replaced_after_so_many_evaluations(make):
    scene = make(recycle_after=1)
    for step in (1000, 2000):
        scene.add(step)
        request = scene.begin()
        scene.worker.replies.append(Result(job=request.job, evaluation=evaluation()))
        scene.tick()
    assert len(scene.workers) == 2


def test_jobs_of_an_entry_that_left_the_configuration_wait_for_its_return(make):
    scene = make()
    scene.add(source="removed from the configuration")
    for _ in range(3):
        scene.tick()
    assert scene.states() == {"queued": 1}
    assert scene.workers == []


def test_a_reply_about_another_job_is_ignored(make):
    scene = make()
    scene.add()
    request = scene.begin()
    scene.worker.replies.append(Result(job=request.job + 1, evaluation=evaluation()))
    scene.tick()
    assert scene.states() == {"leased": 1}


def test_stopping_queues_the_job_at_work_again_without_a_mark(make):
    scene = make()
    scene.add()
    scene.begin()
    scene.supervisor.close()
    assert scene.worker.gone
    assert scene.ledger.claim(scene.clock.now(), timedelta(minutes=1), ["s"]).attempt == 1
