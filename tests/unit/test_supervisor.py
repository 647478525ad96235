"""The supervisor's decisions, with a worker that does what the test says and a clock that waits for it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from metricwatch.config import Composite, Pairs
from metricwatch.config.pictures import NO_PICTURES
from metricwatch.config.watching import Backlog
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
    def __init__(
        self,
        folder,
        *,
        total_steps=None,
        composites=None,
        options=None,
        pairs=None,
        backlog=None,
        sampler=None,
        sources=("s",),
        picture_sinks=("mlflow",),
        pictures=NO_PICTURES,
        **policy,
    ) -> None:
        self.folder = folder
        self.clock = FakeClock()
        self.db = Database.open(folder)
        self.ledger = Ledger(self.db)
        self.ledger.register_run(RUN, self.clock.now())
        self.workers: list[ScriptedWorker] = []
        self.refuse: WorkerError | None = None
        settings = {"heartbeat_timeout": 60, "stall_timeout": 1800, "idle_exit": 600, "recycle_after": 500, **policy}
        target = replace(RUN, total_steps=total_steps)
        entries = [
            SimpleNamespace(
                source=source,
                reference=None,
                pairs=pairs,
                target=target,
                backlog=backlog or Backlog(),
                sampler=sampler,
            )
            for source in sources
        ]
        self.supervisor = Supervisor(
            self.db,
            entries=entries,
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
            state=folder,
            picture_sinks=picture_sinks,
            pictures=pictures,
            metric_options=options or {},
            composites={name: Composite(expression=text) for name, text in (composites or {}).items()},
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

    def evaluate(self, *scores, step=1000, revision=1):
        """One job from its snapshot to its scores."""
        self.add(step, revision=revision)
        self.worker_answers(Evaluation(scores=scores, skipped=(), images=8, seconds=0.5, provenance={}))

    def worker_answers(self, evaluation):
        """The job that is next, from its claim to its scores."""
        request = self.begin()
        self.worker.replies.append(Result(job=request.job, evaluation=evaluation))
        self.tick()

    def sent(self):
        """Scores and news on their way to the sink, a pair for each delivery that has any."""
        effort = {"quality/evaluation_seconds", "quality/images"}
        pairs = (
            (
                [(key, value) for key, value in points if key not in effort],
                {name: value for name, value in tags.items() if not name.startswith("metricwatch.best")},
            )
            for points, tags in self.deliveries()
        )
        return [(points, tags) for points, tags in pairs if points or tags]

    def deliveries(self):
        due = Deliveries(self.db).due("mlflow", self.clock.now(), 100)
        return [([(point.key, point.value) for point in delivery.points], dict(delivery.tags)) for delivery in due]

    def best(self):
        """What each delivery says of the best steps."""
        return [
            {name.removeprefix("metricwatch."): value for name, value in tags.items() if "metricwatch.best" in name}
            for _, tags in self.deliveries()
        ]

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


def fid(value, *, series="a", detail="", **provenance):
    state = ScoreState.OK if value is not None else ScoreState.TOO_FEW_IMAGES
    return Score(
        key="fid",
        value=value,
        images=8,
        higher_is_better=False,
        state=state,
        detail=detail,
        series=series,
        provenance=provenance,
    )


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


def test_scores_without_a_value_are_kept_and_sent_as_a_state_alone(make):
    scene = make()
    scene.evaluate(fid(None, detail="got 1"))
    assert Scores(scene.db).series(RUN.key, "fid")[0].score.state is ScoreState.TOO_FEW_IMAGES
    assert scene.sent() == [([], {"metricwatch.state.fid": "too_few_images: got 1"})]


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


# --- composites, options, what changed ---------------------------------------------------------------------


def test_composites_are_recorded_and_sent_like_any_score(make):
    scene = make(composites={"quality": "p*fid/100"}, total_steps=4000)
    scene.evaluate(fid(40.0), step=1000)
    assert Scores(scene.db).series(RUN.key, "composite_quality")[0].score.value == pytest.approx(0.1)
    ((points, tags),) = scene.sent()
    assert points == [("quality/fid", 40.0), ("quality/composite_quality", pytest.approx(0.1))]
    assert "metricwatch.series.composite_quality" in tags


def test_a_composite_of_what_is_missing_is_recorded_with_its_state(make):
    scene = make(composites={"quality": "fid/100"})
    scene.evaluate(fid(None, detail="got 1"))
    score = Scores(scene.db).series(RUN.key, "composite_quality")[0].score
    assert (score.state, score.detail) == (ScoreState.NO_INPUT, "fid has no value: too_few_images (got 1)")
    assert scene.sent()[0][1]["metricwatch.state.composite_quality"].startswith("no_input: fid has no value")


def test_a_metric_with_the_key_of_a_composite_fails_the_job_and_not_the_daemon(make):
    scene = make(composites={"quality": "fid/100"})
    scene.evaluate(fid(40.0), replace(fid(1.0), key="composite_quality"))
    assert scene.ledger.jobs(JobState.FAILED)[0].reason == "two metrics gave the same key: composite_quality"


def test_the_worker_is_told_options_pairs_and_prompt(make):
    pairs = Pairs(content="/c", manifest="/m.jsonl", prompt="a painting")
    scene = make(options={"fid": {"splits": 3}}, pairs=pairs)
    scene.add()
    request = scene.begin()
    assert request.options == {"fid": {"splits": 3}}
    assert (request.content, request.style, request.manifest) == ("/c", None, "/m.jsonl")
    assert request.prompt == "a painting"


def test_a_change_of_series_is_tagged_and_logged_once(make):
    scene = make()
    with capture_logs() as lines:
        for step, digest in ((1000, "a1"), (2000, "a1"), (3000, "b2"), (4000, "b2")):
            scene.evaluate(fid(30.0, series=digest, reference_digest=digest), step=step)
    assert [list(tags.values()) for _, tags in scene.sent()] == [
        ["since step 1000: reference_digest=a1"],
        [],
        ["since step 3000: reference_digest=b2"],
        [],
    ]
    (line,) = [line for line in lines if line["event"] == "series.changed"]
    assert line["key"] == "fid"
    assert "reference_digest changed from a1 to b2" in line["reason"]


def test_a_state_is_tagged_while_it_lasts_and_ok_when_it_is_over(make):
    scene = make()
    for step, value in ((1000, 30.0), (2000, None), (3000, None), (4000, 30.0), (5000, 30.0)):
        scene.evaluate(fid(value, detail="got 1"), step=step)
    states = [tags.get("metricwatch.state.fid") for _, tags in scene.sent()]
    # Nothing was to be sent of step 3000: it repeats step 2000.
    assert states == [None, "too_few_images: got 1", "ok", None]


def test_a_late_arrival_of_an_older_step_tags_nothing(make):
    scene = make()
    with capture_logs() as said:
        scene.evaluate(fid(30.0, series="b", reference_digest="b2"), step=3000)
        scene.evaluate(fid(30.0, series="a", reference_digest="a1"), step=1000)
        scene.evaluate(fid(None, detail="got 1"), step=2000)
        scene.evaluate(fid(30.0, series="b", reference_digest="b2"), step=4000)
    assert [tags for _, tags in scene.sent()] == [
        {"metricwatch.series.fid": "since step 3000: reference_digest=b2"},
        {},
        {},
    ]
    assert "series.changed" not in [line["event"] for line in said]


def test_a_rewritten_newest_step_is_news(make):
    scene = make()
    scene.evaluate(fid(None, detail="got 1"), step=1000)
    scene.evaluate(fid(30.0), step=1000, revision=2)
    assert scene.sent()[-1][1]["metricwatch.state.fid"] == "ok"


def test_an_evaluation_without_a_value_is_no_change_of_series(make):
    scene = make()
    with capture_logs() as said:
        for step, value, series in ((1000, 30.0, "a"), (2000, None, "none"), (3000, 30.0, "a")):
            scene.evaluate(fid(value, series=series, detail="got 1"), step=step)
    tagged = [list(tags) for _, tags in scene.sent()]
    assert tagged == [["metricwatch.series.fid"], ["metricwatch.state.fid"], ["metricwatch.state.fid"]]
    assert "series.changed" not in [line["event"] for line in said]


def test_of_a_rewritten_step_the_newest_revision_is_what_was_said_last(make):
    scene = make()
    scene.evaluate(fid(30.0, series="a"), step=1000)
    scene.evaluate(fid(30.0, series="b"), step=1000, revision=2)
    scene.evaluate(fid(30.0, series="b"), step=2000)
    assert [len(tags) for _, tags in scene.sent()] == [1, 1, 0]


# --- what every evaluation has -------------------------------------------------------------------------------


def test_each_evaluation_logs_what_it_took_and_how_many_images_it_read(make):
    scene = make()
    scene.evaluate(fid(30.0), step=1000)
    ((points, _),) = scene.deliveries()
    assert points == [("quality/fid", 30.0), ("quality/evaluation_seconds", 0.5), ("quality/images", 8.0)]


@pytest.mark.parametrize("value", [7.0, None])
def test_a_metric_keeps_its_name_also_where_it_has_no_value(make, value):
    scene = make()
    scene.evaluate(replace(fid(value), key="images"), step=1000)
    ((points, _),) = scene.deliveries()
    assert [each for each in points if each[0] == "quality/images"] == ([("quality/images", value)] if value else [])
    assert "quality/evaluation_seconds" in dict(points)


# --- the best step so far ------------------------------------------------------------------------------------


def test_the_best_step_is_said_when_it_changes_and_only_then(make):
    scene = make()
    for step, value in ((1000, 30.0), (2000, 20.0), (3000, 25.0), (4000, 20.0)):
        scene.evaluate(replace(fid(value), stderr=0.213), step=step)
    assert scene.best() == [
        {"best.fid": "step 1,000: 30 ± 0.21"},
        {"best.fid": "step 2,000: 20 ± 0.21"},
        {},
        {},
    ]


def test_a_late_arrival_may_be_the_best(make):
    scene = make()
    scene.evaluate(fid(30.0), step=3000)
    scene.evaluate(fid(20.0), step=1000)
    assert scene.best()[-1] == {"best.fid": "step 1,000: 20"}


def test_a_best_step_that_is_rewritten_worse_hands_it_on(make):
    scene = make()
    for step, value in ((1000, 20.0), (2000, 30.0)):
        scene.evaluate(fid(value), step=step)
    scene.evaluate(fid(40.0), step=1000, revision=2)
    assert scene.best() == [{"best.fid": "step 1,000: 20"}, {}, {"best.fid": "step 2,000: 30"}]


def test_a_new_series_has_a_best_step_of_its_own_and_a_straggler_of_the_old_one_changes_nothing(make):
    scene = make()
    scene.evaluate(fid(10.0, series="a"), step=1000)
    scene.evaluate(fid(30.0, series="b"), step=3000)
    scene.evaluate(fid(5.0, series="a"), step=2000)
    assert scene.best() == [{"best.fid": "step 1,000: 10"}, {"best.fid": "step 3,000: 30"}, {}]


def test_a_tag_whose_only_step_was_rewritten_to_no_value_says_so(make):
    scene = make()
    scene.evaluate(fid(10.0), step=1000)
    scene.evaluate(fid(None), step=1000, revision=2)
    assert scene.best()[-1] == {"best.fid": "none: no step has a value"}


def test_a_higher_value_is_better_where_the_metric_says_so(make):
    scene = make()
    for step, value in ((1000, 0.2), (2000, 0.6)):
        scene.evaluate(replace(fid(value), key="ssim", higher_is_better=True), step=step)
    assert scene.best()[-1] == {"best.ssim": "step 2,000: 0.6"}


def test_the_checkpoint_of_the_best_step_is_named_by_its_path(make):
    scene = make(sources=(f"{RUN.key} checkpoints",))
    for step, members in ((1000, ("step_1000.pt",)), (2000, None)):
        scene.ledger.add_snapshot(
            source=f"{RUN.key} checkpoints",
            run=RUN.key,
            step=step,
            path="/runs/night" if members else "/runs/night/step_2000",
            members=members,
            recorded=Recorded(revision=1, digest="d", images=1, newest_ns=1, mtime_ns=1),
            now=scene.clock.now(),
        )
        answer = Evaluation(scores=(fid(30.0 - step / 1000),), skipped=(), images=8, seconds=0.5, provenance={})
        scene.worker_answers(answer)
    assert [tags["best_checkpoint.fid"] for tags in scene.best()] == [
        "/runs/night/step_1000.pt",
        "/runs/night/step_2000",
    ]


def test_a_delivery_that_goes_again_sets_no_best_step_back(make):
    scene = make()
    scene.evaluate(fid(30.0), step=1000)
    scene.evaluate(fid(20.0), step=2000)
    deliveries = Deliveries(scene.db)
    first, second = deliveries.due("mlflow", scene.clock.now(), 10)
    deliveries.sent([second], scene.clock.now())
    deliveries.reject(first, "no")
    deliveries.put_back(first.id)
    (again,) = deliveries.due("mlflow", scene.clock.now(), 10)
    assert again.points[0].key == "quality/fid"
    assert "metricwatch.best.fid" not in again.tags
