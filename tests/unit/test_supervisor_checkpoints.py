"""What the supervisor asks of the worker for a checkpoint, and what it does with the pictures that come back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from metricwatch.clock import to_ms
from metricwatch.config.watching import SamplerConfig
from metricwatch.protocol import Failure, Result, Sampling
from metricwatch.records import JobState, KeptSample
from metricwatch.store.deliveries import Deliveries
from metricwatch.store.ledger import Recorded
from tests.unit import test_supervisor

SAMPLER = SamplerConfig.model_construct(
    use="torchscript", samples=16, seed=7, keep=2, batch_size=None, options={"latent": [128]}
)


@pytest.fixture
def make(tmp_path):
    made = []

    def scene(**options):
        folder = tmp_path / f"state-{len(made)}"
        folder.mkdir()
        made.append(test_supervisor.Scene(folder, **options))
        return made[-1]

    yield scene
    for each in made:
        each.db.close()


def answer(scene, request, *paths, names=("sample-000", "sample-001"), **changes):
    """The worker's evaluation of a request, with these pictures kept."""
    kept = tuple(KeptSample(name=name, path=str(path)) for name, path in zip(names, paths, strict=False))
    evaluation = replace(test_supervisor.evaluation(), kept=kept, **changes)
    scene.worker.replies.append(Result(job=request.job, evaluation=evaluation))
    with capture_logs() as said:
        scene.tick()
    return said


def pictures(scene):
    return [dict(row) for row in scene.db.read("SELECT * FROM pictures ORDER BY id")]


def picture(scene, name="a.png", job=1):
    folder = scene.folder / "pictures" / f"job-{job}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"png")
    return folder / name


# --- the request -------------------------------------------------------------------------------------------


def test_a_checkpoint_is_to_be_sampled_as_configured_in_folders_of_the_state(make):
    scene = make(sampler=SAMPLER)
    scene.add(step=1500)
    request = scene.begin()
    assert request.step == 1500
    assert request.sampling == Sampling(
        use="torchscript",
        options={"latent": [128]},
        samples=16,
        seed=7,
        keep=2,
        kept=str(scene.folder / "pictures" / f"job-{request.job}"),
        batch_size=None,
        pins=str(scene.folder / "pins"),
    )


def test_without_a_sink_that_takes_pictures_none_are_kept(make):
    scene = make(sampler=SAMPLER, picture_sinks=())
    scene.add()
    assert scene.begin().sampling.keep == 0


def test_a_set_of_samples_is_scored_as_it_is(make):
    scene = make()
    scene.add(step=1500)
    request = scene.begin()
    assert (request.step, request.sampling) == (1500, None)


# --- pictures ----------------------------------------------------------------------------------------------


def test_pictures_are_on_their_way_under_a_key_that_is_the_same_at_every_step(make):
    scene = make(sampler=SAMPLER, picture_sinks=("mlflow", "other"))
    scene.add(step=1000)
    answer(scene, scene.begin(), picture(scene, "a.png"), picture(scene, "b.png"))
    found = pictures(scene)
    assert [(row["sink"], row["key"], row["identity"]) for row in found] == [
        ("mlflow", "quality/samples/sample-000", "evaluation/1/sample-000"),
        ("other", "quality/samples/sample-000", "evaluation/1/sample-000"),
        ("mlflow", "quality/samples/sample-001", "evaluation/1/sample-001"),
        ("other", "quality/samples/sample-001", "evaluation/1/sample-001"),
    ]
    assert {(row["run"], row["step"], row["state"]) for row in found} == {(test_supervisor.RUN.key, 1000, "pending")}
    ((delivery,),) = [Deliveries(scene.db).due("mlflow", scene.clock.now(), 100)]
    assert {row["timestamp_ms"] for row in found} == {point.timestamp_ms for point in delivery.points}
    assert found[0]["path"].endswith("pictures/job-1/a.png")
    assert found[0]["timestamp_ms"] == to_ms(scene.clock.now())


def test_pictures_of_files_that_were_scored_before_are_not_sent_again(make):
    scene = make(sampler=SAMPLER)
    scene.add()
    answer(scene, scene.begin(), picture(scene))
    scene.ledger.repeat(1, scene.clock.now())
    answer(scene, scene.begin(), picture(scene, job=2))
    assert [row["identity"] for row in pictures(scene)] == ["evaluation/1/sample-000"]


def test_pictures_of_a_step_that_was_written_anew_are_sent(make):
    scene = make(sampler=SAMPLER)
    for revision in (1, 2):
        scene.add(revision=revision)
        answer(scene, scene.begin(), picture(scene, job=revision))
    assert [row["identity"] for row in pictures(scene)] == ["evaluation/1/sample-000", "evaluation/2/sample-000"]


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "{state}/ledger.sqlite3",
        "{state}/pictures/../ledger.sqlite3",
        "{state}/pictures/job-1/link.png",
        "{state}/pictures",
        "{state}/pictures-of-others/a.png",
        "pictures/job-1/a.png",
        "",
        "{state}/pictures/job-1/\0.png",
    ],
)
def test_a_path_that_is_not_in_the_folder_of_the_pictures_is_refused_and_the_scores_are_kept(make, path):
    scene = make(sampler=SAMPLER)
    good = picture(scene)
    good.with_name("link.png").symlink_to("/etc/passwd")
    scene.add()
    said = answer(scene, scene.begin(), path.format(state=scene.folder), good)
    assert [row["key"] for row in pictures(scene)] == ["quality/samples/sample-001"]
    assert scene.states() == {"done": 1}
    assert [line["event"] for line in said if line["log_level"] == "warning"] == ["picture.refused"]


def test_an_evaluation_that_cannot_be_recorded_leaves_no_pictures(make):
    scene = make(sampler=SAMPLER)
    scene.add()
    twice = test_supervisor.evaluation().scores * 2
    answer(scene, scene.begin(), picture(scene), scores=twice)
    assert scene.states() == {"failed": 1}
    assert pictures(scene) == []


def test_the_log_says_how_long_a_checkpoint_took(make):
    scene = make(sampler=SAMPLER)
    scene.add(1000)
    said = answer(scene, scene.begin(), phases={"load": 0.51234, "sample": 12.0})
    (line,) = [line for line in said if line["event"] == "evaluated"]
    assert (line["load_s"], line["sample_s"]) == (0.512, 12.0)
    assert "score_s" not in line
    scene.add(2000)
    (line,) = [line for line in answer(scene, scene.begin()) if line["event"] == "evaluated"]
    assert not [key for key in line if key.endswith("_s")]


# --- gone --------------------------------------------------------------------------------------------------


def test_a_checkpoint_that_the_trainer_removed_is_skipped_and_nobody_is_alarmed(make):
    scene = make(sampler=SAMPLER)
    scene.add()
    request = scene.begin()
    reason = "step_1000.pt was removed before it was scored"
    scene.worker.replies.append(Failure(job=request.job, reason=reason, changed=True, gone=True))
    with capture_logs() as said:
        scene.tick()
    assert scene.states() == {"skipped": 1}
    assert scene.ledger.jobs(JobState.SKIPPED)[0].reason == reason
    assert {line["log_level"] for line in said} == {"info"}
    scene.add(2000)
    assert scene.begin().step == 2000


def test_a_checkpoint_that_is_gone_because_it_was_written_anew_gives_way_to_the_new_one(make):
    scene = make(sampler=SAMPLER)
    scene.add()
    request = scene.begin()
    scene.ledger.add_snapshot(
        source="s",
        run=test_supervisor.RUN.key,
        step=1000,
        path="/p",
        members=None,
        recorded=Recorded(revision=2, digest="d2", images=1, newest_ns=1, mtime_ns=1),
        now=scene.clock.now(),
    )
    scene.worker.replies.append(Failure(job=request.job, reason="gone", gone=True))
    scene.tick()
    assert scene.begin().digest == "d2"
    assert scene.states() == {"superseded": 1, "leased": 1}
