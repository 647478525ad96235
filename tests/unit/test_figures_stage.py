"""From an evaluation to pictures on their way to the sinks: what is asked for, put down, drawn, and cleared away."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from metricwatch import faults
from metricwatch.cli import attention
from metricwatch.config.pictures import PicturesConfig
from metricwatch.config.schema import Retention
from metricwatch.drawing.figures import Comparison, ContactSheet, Lookalikes, Radar
from metricwatch.errors import LedgerError, TemporaryError
from metricwatch.figures import stage
from metricwatch.figures.stage import FigureStage
from metricwatch.protocol import Looking, Result
from metricwatch.records import Compared, Evaluation, KeptSample, Look, Lookalike, Neighbour, Score, ScoreState
from metricwatch.store.db import Database
from metricwatch.store.figures import Figures
from metricwatch.store.housekeeping import Housekeeping
from metricwatch.store.pictures import Pictures
from metricwatch.telemetry import Health
from metricwatch.upkeep.stage import Upkeep
from tests.support.locked_ledger import unwritable
from tests.unit import test_supervisor

KINDS = ["contact_sheet", "comparison", "lookalikes", "radar"]


class Pen:
    """Draws a word for each figure, or raises what it is told to."""

    def __init__(self) -> None:
        self.calls, self.errors = [], []

    def __call__(self, figures):
        self.calls.append(figures)
        if self.errors:
            raise self.errors.pop(0)
        return [f"{type(figure).__name__} of {figure.title}".encode() for figure in figures]


class Scene(test_supervisor.Scene):
    def __init__(self, folder, *, sinks=("mlflow",), pictures=None, **options) -> None:
        super().__init__(folder, picture_sinks=sinks, pictures=pictures or PicturesConfig(), **options)
        self.sinks = sinks
        self.pen = Pen()
        self.reopen()

    def reopen(self):
        """As after a crash: another daemon with the same ledger."""
        self.stage = FigureStage(self.db, self.sinks, self.clock, draw=self.pen)
        self.figures, self.pictures = Figures(self.db), Pictures(self.db)

    def folder_of(self, job):
        return self.folder / "looks" / f"job-{job}"

    def look(self, job, **changes):
        """What a worker leaves for a job: a file for each role."""
        folder = self.folder_of(job)
        folder.mkdir(parents=True, exist_ok=True)
        paths = {name: folder / f"{name}.png" for name in ("a", "content", "heat", "near")}
        for path in paths.values():
            path.write_bytes(b"png")
        found = {name: str(path) for name, path in paths.items()}
        nearest = (Neighbour(name="r", image=found["near"], distance=0.5),)
        look = Look(
            samples=(KeptSample(name="a", path=found["a"]),),
            compared=(
                Compared(name="a", image=found["a"], content=found["content"], heat=found["heat"], heat_mean=0.25),
            ),
            heat_of="ssim",
            heat_most=0.9,
            lookalikes=(Lookalike(name="a", image=found["a"], nearest=nearest),),
            space="inception-v3",
            searched=1000,
            usual_distance=2.5,
        )
        return replace(look, **changes)

    def score(self, value=3.0, *, step=1000, look=True, scores=None, revision=1, **evaluated):
        """One job from its snapshot to its figures; returns the request."""
        self.add(step, revision=revision)
        request = self.begin()
        seen = self.look(request.job) if look is True else look(request.job) if look else None
        answer = Evaluation(
            scores=scores or (test_supervisor.fid(value),), skipped=(), images=8, seconds=0.5, provenance={}, look=seen
        )
        self.worker.replies.append(Result(job=request.job, evaluation=replace(answer, **evaluated)))
        self.tick()
        return request

    def put_down(self):
        return self.figures.due(self.clock.now() + timedelta(days=1), 1000)

    def waiting(self):
        """What the sinks are to get: key, step, and the file's content."""
        return [
            (row["key"], row["step"], _content(self.folder / row["path"]))
            for row in self.db.read("SELECT * FROM pictures WHERE state = 'pending' ORDER BY id")
        ]


def _content(path):
    with open(path, "rb") as file:
        return file.read().decode()


@pytest.fixture
def make(tmp_path):
    made = []

    def scene(**options):
        made.append(Scene(tmp_path, **options))
        return made[-1]

    yield scene
    for each in made:
        each.db.close()


def value(key, number, *, higher=False, series="a", state=ScoreState.OK):
    return Score(key=key, value=number, images=8, higher_is_better=higher, series=series, state=state)


# --- what the worker is asked for ----------------------------------------------------------------------------


def test_the_worker_is_asked_for_what_the_configuration_says_in_a_folder_of_the_job(make):
    scene = make(pictures=PicturesConfig(samples=9, compared=3, neighbours=2, heat="ssim"))
    scene.add()
    request = scene.begin()
    folder = str(scene.folder_of(request.job))
    assert request.look == Looking(folder=folder, samples=9, compared=3, neighbours=2, heat="ssim")


@pytest.mark.parametrize(
    "options",
    [
        {"sinks": ()},
        {"pictures": PicturesConfig(samples=0, compared=0, neighbours=0)},
    ],
)
def test_nothing_is_asked_for_where_nobody_wants_pictures_of_samples(make, options):
    scene = make(**options)
    scene.add()
    assert scene.begin().look is None


def test_every_so_many_steps_and_at_first_there_are_figures(make):
    scene = make(pictures=PicturesConfig(every=1000))
    asked = {step: scene.score(float(step), step=step).look is not None for step in (500, 700, 1000, 1500, 2000)}
    assert asked == {500: True, 700: False, 1000: True, 1500: False, 2000: True}
    assert {figure.picture.step for figure in scene.put_down()} == {500, 1000, 2000}


def test_of_the_very_same_files_figures_are_there_already(make):
    scene = make()
    scene.score()
    scene.ledger.add_snapshot(
        source="s",
        run=test_supervisor.RUN.key,
        step=1000,
        path="/p",
        members=None,
        recorded=test_supervisor.Recorded(revision=2, digest="d1", images=8, newest_ns=1, mtime_ns=1),
        now=scene.clock.now(),
    )
    assert scene.begin().look is None


# --- what is put down ----------------------------------------------------------------------------------------


def test_an_evaluation_puts_down_one_figure_of_each_kind_with_what_it_shows(make):
    scene = make()
    job = scene.score(3.0, step=12000).job
    sheet, comparison, lookalikes, radar = (item.figure for item in scene.put_down())
    folder = scene.folder_of(job)
    assert sheet == ContactSheet(
        title="night, step 12,000", samples=(KeptSample(name="a", path=str(folder / "a.png")),)
    )
    assert isinstance(comparison, Comparison)
    assert (comparison.heat_of, comparison.heat_most) == ("ssim", 0.9)
    assert comparison.rows[0].heat == str(folder / "heat.png")
    assert comparison.rows[0].style == ""
    assert isinstance(lookalikes, Lookalikes)
    assert lookalikes.rows[0].nearest[0].image == str(folder / "near.png")
    assert (lookalikes.space, lookalikes.searched, lookalikes.usual_distance) == ("inception-v3", 1000, 2.5)
    assert isinstance(radar, Radar)
    assert [item.picture.key for item in scene.put_down()] == [f"quality/{kind}" for kind in KINDS]


def test_what_a_worker_left_out_is_not_drawn(make):
    scene = make(pictures=PicturesConfig(radar=False))
    scene.score(look=lambda job: scene.look(job, compared=(), lookalikes=()))
    assert [item.kind for item in scene.put_down()] == ["contact_sheet"]


@pytest.mark.parametrize("place", ["/etc/passwd", "{state}/ledger.sqlite3", "{state}/looks/job-99/a.png", "a.png"])
def test_a_file_outside_the_folder_of_the_job_is_refused_and_the_scores_are_kept(make, place):
    scene = make(pictures=PicturesConfig(radar=False))
    path = place.format(state=scene.folder)

    def look(job):
        good = scene.look(job)
        row = replace(good.compared[0], content=path)
        return replace(good, samples=(KeptSample(name="x", path=path),), compared=(row,), lookalikes=())

    with capture_logs() as said:
        scene.score(look=look)
    (comparison,) = (item.figure for item in scene.put_down())
    assert comparison.rows[0].content == ""
    assert [entry["path"] for entry in said if entry["event"] == "picture.refused"] == [path, path]
    assert scene.states() == {"done": 1}


def test_a_link_out_of_the_folder_is_refused(make):
    scene = make(pictures=PicturesConfig(radar=False))

    def look(job):
        good = scene.look(job, compared=(), lookalikes=())
        link = scene.folder_of(job) / "link.png"
        link.symlink_to("/etc/passwd")
        return replace(good, samples=(KeptSample(name="x", path=str(link)),))

    scene.score(look=look)
    assert scene.put_down() == []


# --- the radar -----------------------------------------------------------------------------------------------


def radars(scene):
    return {item.picture.step: item.figure for item in scene.put_down() if item.kind == "radar"}


def test_a_radar_goes_from_the_worst_to_the_best_so_far_this_step_included(make):
    scene = make()
    for step, (low, high) in {1000: (9.0, 0.5), 2000: (4.0, 0.75), 3000: (6.0, 0.25)}.items():
        scene.score(step=step, scores=(value("fid", low), value("ssim", high, higher=True)))
    third = radars(scene)[3000]
    assert [(s.key, s.value, s.best, s.worst, s.at_best_step) for s in third.spokes] == [
        ("fid", 6.0, 4.0, 9.0, 4.0),
        ("ssim", 0.25, 0.75, 0.25, 0.75),
    ]
    assert (third.best_step, third.best_by) == (2000, "fid")
    # Fixed when they were born.
    assert (radars(scene)[1000].spokes[0].best, radars(scene)[2000].best_step) == (9.0, None)


def test_the_best_step_is_the_composites_where_there_is_one(make):
    scene = make(composites={"turned": "0 - fid"})
    scene.score(9.0, step=1000)
    scene.score(4.0, step=2000)
    second = radars(scene)[2000]
    assert (second.best_step, second.best_by) == (1000, "composite_turned")


def test_a_metric_without_a_value_keeps_its_spoke_and_one_that_never_had_one_has_none(make):
    scene = make()
    failed = {"number": None, "state": ScoreState.FAILED}
    scene.score(step=1000, scores=(value("fid", 9.0), value("kid", 1.0), value("lpips", **failed)))
    scene.score(step=2000, scores=(value("fid", **failed), value("kid", 2.0), value("lpips", **failed)))
    second = radars(scene)[2000]
    assert [(spoke.key, spoke.value, spoke.best) for spoke in second.spokes] == [("fid", None, 9.0), ("kid", 2.0, 1.0)]
    assert second.best_by == "kid"


def test_what_does_not_compare_is_not_shown_beside_each_other(make):
    scene = make()
    scene.score(step=1000, scores=(value("kid", 1.0), value("fid", 9.0, series="a")))
    scene.score(step=2000, scores=(value("kid", 2.0), value("fid", 4.0, series="b")))
    kid, fid = radars(scene)[2000].spokes
    assert (kid.at_best_step, fid.at_best_step) == (1.0, None)
    assert (fid.best, fid.worst) == (4.0, 4.0)


def test_an_evaluation_without_any_value_has_no_radar(make):
    scene = make()
    scene.score(scores=(value("fid", None, state=ScoreState.FAILED),), look=False)
    assert scene.put_down() == []


# --- drawing -------------------------------------------------------------------------------------------------


def test_figures_are_drawn_in_one_go_and_wait_for_each_sink_that_takes_pictures(make):
    scene = make(sinks=("mlflow", "board"))
    job = scene.score().job
    assert scene.stage.tick() == 4
    assert len(scene.pen.calls) == 1
    drawn = {
        "contact_sheet": "ContactSheet", "comparison": "Comparison", "lookalikes": "Lookalikes", "radar": "Radar"
    }  # fmt: skip
    wanted = [(f"quality/{kind}", 1000, f"{name} of night, step 1,000") for kind, name in drawn.items()]
    assert sorted(scene.waiting()) == sorted(2 * wanted)
    assert scene.figures.pending() == 0
    assert not scene.folder_of(job).exists()
    assert scene.stage.tick() == 0


def test_a_picture_has_the_time_of_its_points(make):
    scene = make()
    scene.score()
    scene.clock.advance(3600)
    scene.stage.tick()
    born = scene.db.read_one("SELECT points FROM deliveries")["points"]
    times = {row["timestamp_ms"] for row in scene.db.read("SELECT timestamp_ms FROM pictures")}
    assert len(times) == 1
    assert str(times.pop()) in born


def test_figures_survive_that_the_state_folder_is_moved(make, tmp_path):
    scene = make(pictures=PicturesConfig(radar=False))
    scene.score(look=lambda job: scene.look(job, compared=(), lookalikes=()))
    scene.db.close()
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("ledger.sqlite3", "looks"):
        (scene.folder / name).rename(moved / name)
    scene.db, scene.folder = Database.open(moved), moved
    scene.reopen()
    scene.stage.tick()
    assert scene.pen.calls[0][0].samples[0].path.startswith(f"{moved}/looks/")
    assert len(scene.waiting()) == 1


class Crash(BaseException):
    """The process is gone here."""


@pytest.mark.parametrize(
    "point",
    ["figure:undrawn", "figure:unrecorded", "figures-drawn:uncommitted", "figures-drawn:committed", "figure:uncleared"],
)
def test_after_a_crash_anywhere_each_picture_waits_once(make, monkeypatch, point):
    scene = make()
    scene.score()

    def fall(passed):
        if passed == point:
            raise Crash

    monkeypatch.setattr(faults, "_on_reaching", fall)
    with pytest.raises(Crash):
        scene.stage.tick()
    monkeypatch.setattr(faults, "_on_reaching", None)
    scene.reopen()
    scene.stage.tick()
    assert sorted(key for key, _, _ in scene.waiting()) == sorted(f"quality/{kind}" for kind in KINDS)
    assert scene.figures.pending() == 0


def test_a_crash_between_the_commit_of_the_evaluation_and_the_drawing_loses_no_figure(make, monkeypatch):
    scene = make()

    def fall(passed):
        if passed == "evaluation:committed":
            raise Crash

    scene.add()
    request = scene.begin()
    look = scene.look(request.job)
    answer = Evaluation(scores=(test_supervisor.fid(3.0),), skipped=(), images=8, seconds=0.5, provenance={}, look=look)
    scene.worker.replies.append(Result(job=request.job, evaluation=answer))
    monkeypatch.setattr(faults, "_on_reaching", fall)
    with pytest.raises(Crash):
        scene.tick()
    monkeypatch.setattr(faults, "_on_reaching", None)
    scene.stage.tick()
    assert len(scene.waiting()) == 4


def test_a_ledger_that_cannot_be_written_leaves_the_figures_for_later(make):
    scene = make()
    scene.score()
    with unwritable(scene.db), pytest.raises(LedgerError):
        scene.stage.tick()
    scene.stage.tick()
    assert len(scene.waiting()) == 4


# --- when it goes wrong --------------------------------------------------------------------------------------


def test_a_failure_is_tried_again_later_and_each_by_itself(make):
    scene = make()
    scene.score()
    scene.pen.errors = [TemporaryError("drawing: killed by signal 9")]
    with capture_logs() as said:
        assert scene.stage.tick() == 0
    assert [(entry["event"], entry["count"], entry["reason"]) for entry in said] == [
        ("figures.postponed", 4, "drawing: killed by signal 9")
    ]
    assert scene.stage.tick() == 0
    assert len(scene.pen.calls) == 1
    (backlog,) = scene.figures.backlog()
    assert (backlog.pending, backlog.reason) == (4, "drawing: killed by signal 9")
    scene.clock.advance(10)
    assert [scene.stage.tick() for _ in range(5)] == [1, 1, 1, 1, 0]
    assert [len(call) for call in scene.pen.calls] == [4, 1, 1, 1, 1]
    assert len(scene.waiting()) == 4


def test_what_always_fails_is_given_up_with_its_reason_and_its_materials_go(make):
    scene = make(pictures=PicturesConfig(radar=False))
    job = scene.score(look=lambda job: scene.look(job, compared=(), lookalikes=())).job
    scene.pen.errors = [ValueError("a bug")] * 100
    for _ in range(20):
        scene.stage.tick()
        scene.clock.advance(700)
    assert len(scene.pen.calls) == 8
    (failed,) = scene.figures.failed()
    assert (failed.kind, failed.step) == ("contact_sheet", 1000)
    assert "given up after 8 tries; the last time: ValueError" in failed.reason
    assert (scene.figures.pending(), scene.figures.failures()) == (0, 1)
    assert not scene.folder_of(job).exists()


def test_a_disk_without_room_is_waited_for_however_long_it_takes(make, monkeypatch):
    scene = make()
    scene.score()

    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(stage.materials, "write", full)
        for _ in range(50):
            assert scene.stage.tick() == 0
            scene.clock.advance(60)
    assert "No space left on device" in scene.figures.backlog()[0].reason
    assert scene.stage.tick() == 4


def test_figures_whose_files_are_all_gone_are_given_up_and_one_with_some_left_is_drawn(make):
    scene = make(pictures=PicturesConfig(radar=False))
    job = scene.score().job
    for name in ("a", "content", "heat"):
        (scene.folder_of(job) / f"{name}.png").unlink()
    assert scene.stage.tick() == 3
    assert {item.kind for item in scene.figures.failed()} == {"contact_sheet", "comparison"}
    assert [key for key, _, _ in scene.waiting()] == ["quality/lookalikes"]


def test_without_a_sink_any_more_nothing_is_drawn(make):
    scene = make()
    scene.score()
    scene.sinks = ()
    scene.reopen()
    scene.stage.tick()
    assert scene.pen.calls == []
    assert scene.figures.failures() == 4


def test_of_a_backlog_that_has_grown_too_long_the_oldest_are_given_up(make, monkeypatch):
    monkeypatch.setattr(stage, "_MOST_WAITING", 4)
    scene = make()
    first, second = scene.score(step=1000), scene.score(step=2000)
    with capture_logs() as said:
        assert scene.stage.tick() == 8
    assert [(entry["event"], entry["count"]) for entry in said] == [("figures.given_up", 4)]
    assert {step for _, step, _ in scene.waiting()} == {2000}
    assert not scene.folder_of(first.job).exists()
    assert not scene.folder_of(second.job).exists()


def test_what_cannot_be_drawn_now_holds_up_no_other(make):
    scene = make()
    scene.score(step=1000)
    scene.pen.errors = [TemporaryError("no")]
    scene.stage.tick()
    scene.score(step=2000)
    assert scene.stage.tick() == 4
    assert {step for _, step, _ in scene.waiting()} == {2000}


def test_a_folder_that_is_a_link_is_not_emptied_elsewhere(make, tmp_path):
    scene = make()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").touch()
    job = scene.score(look=False).job
    (scene.folder / "looks").mkdir(exist_ok=True)
    scene.folder_of(job).symlink_to(elsewhere)
    scene.stage.tick()
    assert not os.path.lexists(scene.folder_of(job))
    assert (elsewhere / "precious").exists()


# --- what people are told, and what is cleared away ----------------------------------------------------------


def test_health_and_its_metrics_say_what_waits_and_what_was_given_up(make):
    scene = make(pictures=PicturesConfig(radar=False))
    scene.score(look=lambda job: scene.look(job, compared=(), lookalikes=()))
    scene.score(step=2000)
    first = scene.put_down()[0]
    scene.figures.fail(first, "a bug")
    scene.figures.postpone(scene.put_down(), "no memory", scene.clock.now())
    scene.clock.advance(90)
    health = Health(scene.db, clock=scene.clock)
    assert health.document()["figures"] == {
        "pending": 3,
        "oldest_pending_seconds": 90.0,
        "reason": "no memory",
        "failed": 1,
        "last_failure": "a bug",
    }
    gauges = {metric.name: metric.samples[0].value for metric in health.collect() if "figure" in metric.name}
    assert gauges == {
        "metricwatch_figures_pending": 3,
        "metricwatch_figure_oldest_pending_seconds": 90.0,
        "metricwatch_figures_failed": 1,
    }


def test_status_says_what_waits_and_what_was_given_up(make):
    scene = make(pictures=PicturesConfig(radar=False))
    scene.score(step=2000)
    scene.figures.fail(scene.put_down()[0], "a bug")
    scene.clock.advance(90)
    document = attention.figures(scene.db, scene.clock.now())
    run = {"name": "night", "key": test_supervisor.RUN.key}
    assert list(attention.figure_lines({"runs": [run], **document})) == [
        "2 figures of night wait to be drawn, the oldest for 0:01:30: on their way",
        "not drawn: contact_sheet of night step 2000: a bug",
    ]


def test_upkeep_removes_materials_that_nobody_waits_for_and_no_others(make):
    scene = make()
    upkeep = Upkeep(scene.db, Retention(backups=0), {test_supervisor.RUN.key}, scene.clock)
    awaited, left = scene.score(step=1000).job, scene.score(step=2000, look=False).job
    scene.look(left)
    scene.figures.fail(scene.put_down()[-1], "of the second evaluation")
    scene.add(step=3000)
    at_work = scene.begin().job
    scene.look(at_work)
    folders = [scene.folder_of(job) for job in (awaited, left, at_work)]
    for folder in folders:
        for path in (*folder.iterdir(), folder):
            os.utime(path, _old(scene))
    assert upkeep.tick() == 5
    assert [folder.exists() for folder in folders] == [True, False, True]
    assert len(list(folders[0].iterdir())) == 4


def test_figures_leave_the_ledger_with_their_time_and_with_their_run(make):
    scene = make()
    scene.score(step=1000)
    scene.stage.tick()
    scene.score(step=2000)
    store = Housekeeping(scene.db)
    assert store.remove_figures(before=scene.clock.now()) == 0
    scene.clock.advance(60)
    assert store.remove_figures(before=scene.clock.now()) == 4
    assert scene.figures.pending() == 4
    store.remove_run(test_supervisor.RUN.key)
    assert scene.figures.pending() == 0


def _old(scene):
    moment = (scene.clock.now() - timedelta(hours=2)).timestamp()
    return (moment, moment)


def test_a_run_whose_retention_ends_while_its_figures_are_drawn_stops_nobody(make):
    scene = make()
    scene.score()
    run = scene.put_down()[0].run

    def draw(figures):
        with scene.db.transaction("test") as tx:
            tx.execute("DELETE FROM deliveries")
        Housekeeping(scene.db).remove_run(run)
        return [b"png" for _ in figures]

    scene.stage = FigureStage(scene.db, scene.sinks, scene.clock, draw=draw)

    scene.stage.tick()

    assert scene.db.read("SELECT * FROM pictures") == []
    assert scene.figures.pending() == 0
