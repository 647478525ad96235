"""`metricwatch retry`: what failed is tried again, by the stage whose business it is, and only what was asked for."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from metricwatch.cli import restore, retry
from metricwatch.errors import InputError, LedgerError
from metricwatch.protocol import Result
from metricwatch.records import Evaluation, JobState, Run, Score, ScoreState
from metricwatch.store import backups
from metricwatch.store.db import Database
from metricwatch.store.deliveries import Deliveries
from metricwatch.store.ledger import Ledger, Recorded
from metricwatch.store.retries import Retries
from metricwatch.store.scores import Scores
from metricwatch.testing.clock import FakeClock
from tests.unit import test_stages, test_supervisor, test_watcher

CONFIG = """
tracking: {uri: "http://mlflow:5000"}
watch:
  - {run: {name: night}, samples: a/*}
  - {run: {name: day}, samples: b/*}
metrics: [fid]
"""
RUNS = [Run(key="name:Default/night", name="night"), Run(key="name:Default/day", name="day")]


def score(key="fid", value=1.0, state=ScoreState.OK, series="a"):
    return Score(key=key, value=value, images=8, higher_is_better=False, state=state, series=series)


class Scene:
    def __init__(self, folder) -> None:
        self.file = folder / "metricwatch.yaml"
        self.file.write_text(CONFIG)
        self.state = folder / "metricwatch-state"
        self.state.mkdir()
        self.clock = FakeClock()
        self.db = Database.open(self.state)
        self.ledger = Ledger(self.db)
        for run in RUNS:
            self.ledger.register_run(run, self.clock.now())

    def job(self, step, state, *scores, run=RUNS[0], revision=1):
        """A job that ended like this; returns its id."""
        recorded = Recorded(revision=revision, digest=f"d{revision}", images=8, newest_ns=1, mtime_ns=1)
        self.ledger.add_snapshot(
            source=run.key,
            run=run.key,
            step=step,
            path=str(self.state),
            members=None,
            recorded=recorded,
            now=self.clock.now(),
        )
        job = self.ledger.claim(self.clock.now(), timedelta(minutes=1), [run.key])
        if scores:
            evaluation = Evaluation(scores=scores, skipped=(), images=8, seconds=1.0, provenance={})
            Scores(self.db).record(job, evaluation, self.clock.now())
        self.ledger.finish(job.id, state, self.clock.now(), "for a reason")
        return job.id

    def retry(self, capsys, **options):
        """What was asked for, by kind."""
        capsys.readouterr()
        retry.command(**{"config": self.file, "run": None, "step": None, "as_json": True, **options})
        requested = json.loads(capsys.readouterr().out)["requested"]
        return {kind: count for kind, count in requested.items() if count}


@pytest.fixture
def scene(tmp_path):
    made = Scene(tmp_path)
    yield made
    made.db.close()


def test_jobs_without_scores_and_failed_metrics_are_asked_for_and_whole_ones_are_not(scene, capsys):
    failed = scene.job(1, JobState.FAILED)
    quarantined = scene.job(2, JobState.QUARANTINED)
    scene.job(3, JobState.DONE, score())
    partly = scene.job(4, JobState.DONE, score(), score("lpips", None, ScoreState.FAILED))
    scene.job(5, JobState.DONE, score(value=None, state=ScoreState.TOO_FEW_IMAGES))
    assert scene.retry(capsys) == {"job": 2, "revision": 1}
    retries = Retries(scene.db)
    assert retries.requested("job") == [failed, quarantined]
    assert retries.requested("revision") == [partly]


def test_a_failure_that_a_later_revision_mended_is_left_alone(scene, capsys):
    scene.job(1, JobState.FAILED)
    scene.job(1, JobState.DONE, score(), revision=2)
    assert scene.retry(capsys) == {}
    assert scene.ledger.jobs(JobState.FAILED) == []


def test_run_and_step_narrow_it_down(scene, capsys):
    for step in (1, 2, 3):
        scene.job(step, JobState.FAILED)
    scene.job(2, JobState.FAILED, run=RUNS[1])
    assert scene.retry(capsys, run="day") == {"job": 1}
    assert scene.retry(capsys, step=[2]) == {"job": 2}
    assert scene.retry(capsys, run="night", step=[1, 3]) == {"job": 2}


def test_what_is_no_longer_on_disk_or_watched_is_left_as_it_is(scene, capsys):
    scene.job(1, JobState.FAILED)
    scene.db._connection.execute("UPDATE snapshots SET path = '/gone/by/now'")
    other = Run(key="name:Default/evening", name="evening")
    scene.ledger.register_run(other, scene.clock.now())
    scene.job(2, JobState.FAILED, run=other)
    assert scene.retry(capsys) == {}
    retry.command(config=scene.file, run=None, step=None, as_json=False)
    said = capsys.readouterr().err
    assert "1 snapshots are no longer on disk" in said
    assert "does not watch them: evening" in said
    assert [job.reason for job in scene.ledger.jobs(JobState.FAILED)] == ["for a reason"] * 2


def test_what_was_skipped_is_left_alone_unless_it_is_asked_for(scene, capsys):
    """The policy skipped it on purpose: who mends a failure does not want thousands of old steps scored."""
    first = scene.job(1, JobState.SKIPPED)
    second = scene.job(2, JobState.SKIPPED)
    assert scene.retry(capsys) == {}
    retry.command(config=scene.file, run=None, step=None, as_json=False)
    said = capsys.readouterr().err
    assert "left alone, because they were skipped: 2 snapshots; with --skipped they are scored" in said
    assert scene.retry(capsys, step=[2]) == {"job": 1}
    assert Retries(scene.db).requested("job") == [second]
    assert scene.retry(capsys, skipped=True) == {"job": 2}
    assert Retries(scene.db).requested("job") == [first, second]


def test_a_checkpoint_of_which_a_file_is_gone_is_not_asked_for(scene, capsys):
    """It lies in a folder with others, which is still there."""
    for step in (1, 2):
        scene.job(step, JobState.SKIPPED)
        members = json.dumps([f"step_{step}.pt"])
        scene.db._connection.execute("UPDATE snapshots SET members = ? WHERE step = ?", (members, step))
    (scene.state / "step_2.pt").touch()
    assert scene.retry(capsys, skipped=True) == {"job": 1}
    retry.command(config=scene.file, run=None, step=None, skipped=True, as_json=False)
    assert "1 snapshots are no longer on disk" in capsys.readouterr().err


def test_an_unknown_run_is_told_with_those_there_are(scene, capsys):
    with pytest.raises(InputError, match="--run evening: the ledger has no such run; it has day, night"):
        scene.retry(capsys, run="evening")


def test_people_are_told_what_will_happen_and_who_does_it(scene, capsys):
    scene.job(1, JobState.FAILED)
    retry.command(config=scene.file, run=None, step=None, as_json=False)
    said = capsys.readouterr().err
    assert "to be tried again: 1 snapshots without scores" in said
    assert "no daemon runs" in said
    retry.command(config=scene.file, run=None, step=[99], as_json=False)
    assert "nothing has failed" in capsys.readouterr().err


def test_without_a_ledger_there_is_nothing_to_retry(scene, capsys):
    scene.db.close()
    scene.db.path.unlink()
    with pytest.raises(LedgerError, match="no ledger yet"):
        scene.retry(capsys)
    assert not scene.db.path.exists()


def test_a_ledger_of_another_schema_is_not_written(scene, capsys):
    scene.db.read("PRAGMA user_version = 1")
    with pytest.raises(LedgerError, match="its schema is 1"):
        scene.retry(capsys)


def test_a_quarantined_job_is_scored_like_a_new_one(tmp_path):
    scene = test_supervisor.Scene(tmp_path)
    scene.add()
    job = scene.ledger.claim(scene.clock.now(), timedelta(minutes=1), ["s"])
    for _ in range(2):
        scene.ledger.postpone(job.id, "crashed", scene.clock.now(), crashed=True)
    scene.ledger.finish(job.id, JobState.QUARANTINED, scene.clock.now(), "took its worker down 2 times")
    Retries(scene.db).request("job", [job.id])
    request = scene.begin()
    assert Retries(scene.db).requested("job") == []
    scene.worker.replies.append(Result(job=request.job, evaluation=test_supervisor.evaluation()))
    scene.tick()
    assert scene.states() == {"done": 1}
    scene.db.close()


def test_scores_that_the_same_files_have_already_are_kept_and_not_sent_again(tmp_path):
    """A step is scored once more for a metric whose weights were missing."""
    scene = test_supervisor.Scene(tmp_path, composites={"half": "fid / 2"})
    first = (score(value=3.0), score("lpips", None, ScoreState.FAILED))
    scene.evaluate(*first)
    scene.ledger.add_snapshot(
        source="s",
        run=test_supervisor.RUN.key,
        step=1000,
        path="/p",
        members=None,
        recorded=Recorded(revision=2, digest="d1", images=8, newest_ns=1, mtime_ns=1),
        now=scene.clock.now(),
    )
    request = scene.begin()
    again = (score(value=3.0000001), score("lpips", 0.5))
    scene.worker.replies.append(
        Result(job=request.job, evaluation=Evaluation(scores=again, skipped=(), images=8, seconds=1.0, provenance={}))
    )
    scene.tick()
    sent = [points for points, _ in scene.sent()]
    assert sent == [[("quality/fid", 3.0), ("quality/composite_half", 1.5)], [("quality/lpips", 0.5)]]
    newest = {key: Scores(scene.db).newest(test_supervisor.RUN.key, key) for key in ("fid", "lpips", "composite_half")}
    assert {key: (point.revision, point.score.value) for key, point in newest.items()} == {
        "fid": (2, 3.0),
        "lpips": (2, 0.5),
        "composite_half": (2, 1.5),
    }
    scene.db.close()


def test_a_score_of_another_series_is_news_although_the_files_are_the_same(tmp_path):
    scene = test_supervisor.Scene(tmp_path)
    scene.evaluate(score(value=3.0, series="a"))
    recorded = Recorded(revision=2, digest="d1", images=8, newest_ns=1, mtime_ns=1)
    scene.ledger.add_snapshot(
        source="s", run=test_supervisor.RUN.key, step=1000, path="/p", members=None, recorded=recorded,
        now=scene.clock.now(),
    )  # fmt: skip
    request = scene.begin()
    other = Evaluation(scores=(score(value=4.0, series="b"),), skipped=(), images=8, seconds=1.0, provenance={})
    scene.worker.replies.append(Result(job=request.job, evaluation=other))
    scene.tick()
    assert [points for points, _ in scene.sent()] == [[("quality/fid", 3.0)], [("quality/fid", 4.0)]]
    scene.db.close()


def test_a_message_that_was_refused_is_sent_when_asked_for(tmp_path):
    scene = test_stages.Scene(tmp_path)
    scene.team.errors = [test_stages.PermanentError("no such channel")]
    scene.play(10, 10, 10, 10, 20)
    assert (len(scene.team.messages), len(scene.mail.messages)) == (0, 1)
    failed = [row["id"] for row in scene.db.read("SELECT id FROM notifications WHERE state = 'failed'")]
    Retries(scene.db).request("notification", failed)
    scene.turn()
    assert (len(scene.team.messages), len(scene.mail.messages)) == (1, 1)
    scene.db.close()


def test_a_point_that_was_refused_is_sent_when_asked_for(tmp_path):
    scene = test_stages.Scene(tmp_path)
    scene.sink.poison = {"alert/fid-moved"}
    scene.play(10, 10)
    rejected = [row["id"] for row in scene.db.read("SELECT id FROM deliveries WHERE state = 'rejected'")]
    assert rejected
    scene.sink.poison = set()
    Retries(scene.db).request("delivery", rejected)
    scene.turn()
    assert Deliveries(scene.db).rejections() == 0
    assert {point.key for point in scene.sink.points} >= {"alert/fid-moved"}
    scene.db.close()


def test_restore_puts_the_newest_backup_in_place(scene, capsys):
    scene.job(1, JobState.FAILED)
    made = backups.make(scene.db.path, scene.clock.now())
    scene.job(2, JobState.FAILED)
    scene.db.close()
    scene.db.path.write_bytes(b"")
    restore.command(config=scene.file, backup=None)
    said = capsys.readouterr().err
    assert made.name in said
    assert "kept as" in said
    assert scene.retry(capsys) == {"job": 1}


def test_restore_without_a_backup_says_what_to_do(scene):
    with pytest.raises(InputError, match="there is no backup here; name one with --from FILE"):
        restore.command(config=scene.file, backup=None)


def test_a_step_is_scored_once_more_as_a_new_revision_of_the_same_files(tmp_path):
    scene = test_watcher.Scene(tmp_path / "samples")
    scene.write("1000/a.png")
    assert scene.settle() == [(1000, 1, 1)]
    job = scene.db.read("SELECT id FROM jobs")[0]["id"]
    Retries(scene.db).request("revision", [job])
    assert scene.settle() == [(1000, 2, 1)]
    assert Retries(scene.db).requested("revision") == []
    digests = {row["digest"] for row in scene.db.read("SELECT digest FROM snapshots")}
    assert len(digests) == 1
    # The watcher goes on from there: neither once more, nor with a revision that is taken.
    assert scene.settle() == []
    scene.write("1000/b.png")
    assert scene.settle() == [(1000, 3, 2)]
    # A request about a step that was rewritten since is nothing to do.
    Retries(scene.db).request("revision", [job])
    assert scene.settle() == []
    scene.db.close()


def test_restore_does_not_make_a_state_folder(scene):
    scene.file.write_text(f"state: elsewhere\n{CONFIG}")
    with pytest.raises(InputError, match="no such state folder"):
        restore.command(config=scene.file, backup=None)
    assert not (scene.file.parent / "elsewhere").exists()
