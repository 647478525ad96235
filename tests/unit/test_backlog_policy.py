"""What is scored when snapshots come faster than scores: the policies, their cap, and who is never passed over."""

from __future__ import annotations

from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from metricwatch.config.watching import Backlog
from metricwatch.protocol import Evaluate, Failure, Heartbeat, Result
from metricwatch.records import JobState, Run
from metricwatch.store.db import Database
from metricwatch.store.ledger import Ledger, Recorded
from metricwatch.store.retries import Retries
from metricwatch.store.waiting import pass_over
from metricwatch.telemetry import Health
from metricwatch.testing.clock import FakeClock
from tests.unit import test_supervisor

RUN = Run(key="name:x/night", name="night")
TTL = timedelta(minutes=2)
LATEST, NEWEST_FIRST = Backlog(policy="latest"), Backlog(policy="newest_first")
POLICIES = [Backlog(), LATEST, NEWEST_FIRST, *(Backlog(policy=p, most=3) for p in ("every", "latest", "newest_first"))]


class Queue:
    """The ledger as the supervisor uses it: policy and claim in one transaction."""

    def __init__(self, folder) -> None:
        self.clock = FakeClock()
        self.db = Database.open(folder)
        self.ledger = Ledger(self.db)
        self.ledger.register_run(RUN, self.clock.now())
        self.served = ""

    def add(self, *steps, source="s", revision=1):
        with self.db.transaction("test"):
            for step in steps:
                self.ledger.add_snapshot(
                    source=source,
                    run=RUN.key,
                    step=step,
                    path="/p",
                    members=None,
                    recorded=Recorded(revision=revision, digest=f"d{revision}", images=8, newest_ns=1, mtime_ns=1),
                    now=self.clock.now(),
                )

    def claim(self, backlog=None, **backlogs):
        """The next job, with one policy for the source `s` or several by source."""
        backlogs = backlogs or {"s": backlog or Backlog()}
        newest_first = [source for source, each in backlogs.items() if each.policy != "every"]
        with self.db.transaction("claim"):
            self.passed = pass_over(self.db, backlogs, self.clock.now())
            job = self.ledger.claim(self.clock.now(), TTL, backlogs, newest_first=newest_first, after=self.served)
        if job is not None:
            self.served = job.snapshot.source
        return job

    def score(self, backlog=None, **backlogs):
        """Claim a job and finish it; its step, None where there is none."""
        job = self.claim(backlog, **backlogs)
        if job is None:
            return None
        self.ledger.finish(job.id, JobState.DONE, self.clock.now())
        return job.snapshot.step

    def score_all(self, backlog):
        return list(iter(lambda: self.score(backlog), None))

    def wait(self, job, reason="the GPU is full", seconds=10):
        self.ledger.postpone(job.id, reason, self.clock.now() + timedelta(seconds=seconds))

    def skipped(self):
        return {row.step: row.reason for row in self.ledger.jobs(JobState.SKIPPED, limit=1000)}

    def queued(self):
        return sorted(row.step for row in self.ledger.jobs(JobState.QUEUED, limit=1000))


@pytest.fixture
def queue(tmp_path):
    made = Queue(tmp_path)
    yield made
    made.db.close()


# --- the policies ------------------------------------------------------------------------------------------


def test_every_scores_all_in_the_order_of_their_arrival(queue):
    queue.add(300, 100, 200)
    assert queue.score_all(Backlog()) == [300, 100, 200]
    assert queue.skipped() == {}


def test_latest_scores_the_newest_and_records_the_others_as_skipped(queue):
    queue.add(100, 1200, 300)
    assert queue.score(LATEST) == 1200
    assert queue.skipped() == dict.fromkeys((100, 300), "passed over: step 1200 is newer")
    assert [(item.count, item.first, item.last) for item in queue.passed] == [(2, 100, 300)]
    times = queue.db.read("SELECT finished_ms FROM jobs WHERE state = 'skipped'")
    assert [row["finished_ms"] for row in times] == [queue.clock.now().timestamp() * 1000] * 2
    assert queue.score(LATEST) is None


def test_latest_scores_a_job_that_went_back_to_an_earlier_checkpoint(queue):
    """What was scored before it did is no reason to pass over what it writes now."""
    queue.add(600, 1200)
    assert queue.score(LATEST) == 1200
    queue.add(600, revision=2)
    assert queue.score(LATEST) == 600


def test_newest_first_leaves_nothing_out_and_lets_a_new_one_pass(queue):
    queue.add(300, 100, 200)
    assert queue.score(NEWEST_FIRST) == 300
    queue.add(400)
    assert queue.score_all(NEWEST_FIRST) == [400, 200, 100]
    assert queue.skipped() == {}


@pytest.mark.parametrize(
    ("policy", "scored"), [("every", [70, 80, 90, 100]), ("newest_first", [100, 90, 80, 70]), ("latest", [100])]
)
def test_beyond_most_the_oldest_are_skipped_and_the_one_that_is_claimed_does_not_count(queue, policy, scored):
    queue.add(*range(10, 101, 10))
    assert queue.score_all(Backlog(policy=policy, most=3)) == scored
    skipped = queue.skipped()
    assert sorted(skipped) == sorted(set(range(10, 101, 10)) - set(scored))
    if policy != "latest":
        assert set(skipped.values()) == {"passed over: more than 3 waited, which is the backlog's `most`"}


def test_no_more_than_most_wait_beside_the_one_at_work(queue):
    queue.add(100, 200, 300, 400)
    assert queue.claim(Backlog(most=3)).snapshot.step == 100
    assert queue.skipped() == {}
    queue.add(500, 600)
    assert queue.claim(Backlog(most=3)).snapshot.step == 300
    assert list(queue.skipped()) == [200]
    assert queue.queued() == [400, 500, 600]


def test_policies_concern_their_own_source_alone(queue):
    queue.add(100, 200, source="s")
    queue.add(100, 200, source="t")
    queue.claim(s=LATEST, t=Backlog())
    assert [row["source"] for row in queue.db.read("SELECT source FROM jobs WHERE state = 'skipped'")] == ["s"]


# --- what waits for another try ----------------------------------------------------------------------------


def test_latest_keeps_the_newest_that_waits_and_scores_no_older_one_in_its_place(queue):
    queue.add(100)
    queue.wait(queue.claim(LATEST))
    queue.add(50)
    assert queue.claim(LATEST) is None
    assert list(queue.skipped()) == [50]
    queue.clock.advance(10)
    assert queue.score(LATEST) == 100


def test_latest_gives_up_one_that_waits_once_a_newer_is_there_and_keeps_what_it_suffered_from(queue):
    queue.add(100)
    queue.wait(queue.claim(LATEST))
    queue.add(200)
    assert queue.claim(LATEST).snapshot.step == 200
    assert queue.skipped() == {100: "passed over: step 200 is newer; before that: the GPU is full"}


def test_one_in_its_first_tries_is_not_pushed_out_by_those_that_wait_for_it(queue):
    cap = Backlog(most=2)
    queue.add(100)
    for _ in range(3):
        queue.wait(queue.claim(cap))
        queue.add(*range(200, 700, 100))
        assert queue.claim(cap) is None
        assert queue.queued() == [100, 500, 600]
        queue.clock.advance(10)


def test_one_that_was_tried_often_waits_like_any_other(queue):
    """A GPU that is full for hours must not keep a backlog without a bound alive."""
    cap = Backlog(most=2)
    queue.add(100)
    for _ in range(4):
        queue.clock.advance(10)
        queue.wait(queue.claim(cap))
    queue.add(200, 300, 400)
    assert queue.claim(cap).snapshot.step == 200
    assert list(queue.skipped()) == [100]


def test_newest_first_waits_for_the_newest_in_its_first_tries_but_takes_a_newer_one_at_once(queue):
    queue.add(100, 200)
    queue.wait(queue.claim(NEWEST_FIRST))
    assert queue.claim(NEWEST_FIRST) is None
    queue.add(300)
    assert queue.score(NEWEST_FIRST) == 300
    queue.clock.advance(10)
    assert queue.score_all(NEWEST_FIRST) == [200, 100]


@pytest.mark.parametrize("policy", ["every", "latest", "newest_first"])
def test_what_a_person_asked_for_is_scored_in_the_end_whatever_the_policy_is(queue, policy):
    backlog = Backlog(policy=policy, most=1)
    queue.add(100, 200, 300, 400, 500)
    queue.score_all(backlog)
    again = sorted(queue.skipped())
    assert again
    for row in queue.db.read("SELECT id FROM jobs WHERE state = 'skipped'"):
        assert queue.ledger.put_back(row["id"])
    queue.add(600)
    assert sorted(queue.score_all(backlog)) == [*again, 600]
    assert queue.skipped() == {}


def test_a_step_that_is_scored_once_more_on_request_is_not_passed_over(queue):
    queue.add(100)
    job = queue.claim(LATEST)
    queue.ledger.finish(job.id, JobState.DONE, queue.clock.now())
    queue.ledger.repeat(job.id, queue.clock.now())
    queue.add(200)
    assert queue.score_all(LATEST) == [200, 100]


# --- several sources ---------------------------------------------------------------------------------------


def test_where_all_are_every_the_oldest_job_of_all_is_next(queue):
    queue.add(1, 2, source="s")
    queue.add(3, source="t")
    assert [queue.score(s=Backlog(), t=Backlog()) for _ in range(3)] == [1, 2, 3]


@pytest.mark.parametrize("policy", ["latest", "newest_first"])
def test_no_source_waits_for_the_whole_backlog_of_another(queue, policy):
    queue.add(*range(1, 6), source="s")
    scored = []
    for step in (10, 20, 30):
        queue.add(step, source="t")
        scored += [queue.score(s=Backlog(), t=Backlog(policy=policy)) for _ in range(2)]
    assert sorted(scored) == [1, 2, 3, 10, 20, 30]


# --- cost --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backlog", POLICIES, ids=str)
def test_a_claim_costs_the_same_behind_ten_thousand_jobs_as_behind_none(queue, backlog):
    queue.add(*range(10_000))
    queue.claim(backlog)
    queue.add(10_000)
    instructions = []
    queue.db._connection.set_progress_handler(lambda: instructions.append(1), 100)
    assert queue.claim(backlog) is not None
    queue.db._connection.set_progress_handler(None, 0)
    # A look at each of the ten thousand would be a thousand of these at least.
    assert len(instructions) < 50


# --- the supervisor ----------------------------------------------------------------------------------------


@pytest.fixture
def supervised(tmp_path):
    made = []

    def scene(**options):
        made.append(test_supervisor.Scene(tmp_path, **options))
        return made[-1]

    yield scene
    for each in made:
        each.db.close()


@pytest.mark.parametrize("backlog", POLICIES, ids=str)
@pytest.mark.parametrize("full", [False, True], ids=["", "GPU full"])
def test_a_single_run_ends_under_each_policy(supervised, backlog, full):
    scene = supervised(backlog=backlog, heartbeat_timeout=10_000)
    scene.supervisor.most_attempts = 2
    for step in range(100, 1100, 100):
        scene.add(step)
    for _ in range(200):
        scene.tick(10)
        request = scene.worker.requests[-1] if scene.worker.requests else None
        if isinstance(request, Evaluate) and full:
            scene.worker.replies.append(Failure(job=request.job, reason="no room", retryable=True))
        elif isinstance(request, Evaluate):
            scene.worker.replies.append(Result(job=request.job, evaluation=test_supervisor.evaluation()))
        if not scene.ledger.unfinished(["s"]):
            break
    assert scene.ledger.unfinished(["s"]) == 0
    assert scene.states().get("skipped", 0) == {"every": 6, "newest_first": 6, "latest": 9}[backlog.policy] * (
        backlog.most is not None or backlog.policy == "latest"
    )


def test_what_is_passed_over_is_told_once_and_counted(supervised):
    scene = supervised(backlog=LATEST)
    with capture_logs() as said:
        for step in (100, 200, 300):
            scene.add(step)
        request = scene.begin()
        scene.tick()
    assert request.step == 300
    (line,) = [line for line in said if line["event"] == "jobs.passed_over"]
    assert line == {
        "event": "jobs.passed_over",
        "log_level": "info",
        "run": "night",
        "count": 2,
        "first_step": 100,
        "last_step": 200,
        "reason": "passed over: step 300 is newer",
    }
    (jobs,) = [metric for metric in Health(scene.db).collect() if metric.name == "metricwatch_jobs"]
    assert {sample.labels["state"]: sample.value for sample in jobs.samples}["skipped"] == 2


def test_skipping_and_claiming_are_one_transaction(supervised):
    """A daemon that dies between the two would have passed a step over for nothing."""
    scene = supervised(backlog=LATEST)
    scene.tick()
    for step in (100, 200):
        scene.add(step)
    statements = []
    scene.db._connection.set_trace_callback(statements.append)
    scene.begin()
    scene.db._connection.set_trace_callback(None)
    kinds = [
        word
        for sql in statements
        for word in ("BEGIN", "state = 'skipped'", "state = 'leased', attempt", "COMMIT")
        if word in sql
    ]
    assert "BEGIN state = 'skipped' state = 'leased', attempt COMMIT" in " ".join(kinds)


def test_the_supervisor_lets_the_sources_take_turns(supervised):
    scene = supervised(backlog=NEWEST_FIRST, sources=("s", "t"))
    for step in (100, 200):
        for source in ("s", "t"):
            scene.add(step, source=source)
    served = []
    for _ in range(4):
        request = scene.begin()
        (row,) = scene.db.read("SELECT source FROM jobs WHERE id = ?", (request.job,))
        served.append((row["source"], request.step))
        scene.worker.replies.append(Result(job=request.job, evaluation=test_supervisor.evaluation()))
        scene.tick()
    assert served == [("s", 200), ("t", 200), ("s", 100), ("t", 100)]


def test_a_skipped_step_is_scored_when_a_person_asks_for_it(supervised):
    scene = supervised(backlog=LATEST)
    for step in (100, 200):
        scene.add(step)
    request = scene.begin()
    Retries(scene.db).request("job", [1])
    scene.worker.replies.append(Result(job=request.job, evaluation=test_supervisor.evaluation()))
    scene.tick()
    request = scene.begin()
    assert request.step == 100
    scene.worker.replies += [Heartbeat(), Result(job=request.job, evaluation=test_supervisor.evaluation())]
    scene.tick()
    assert scene.states() == {"done": 2}
