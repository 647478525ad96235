"""Pictures from the ledger to a sink: their order, their files, and what they may not hold up."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from metricwatch.api import Sink
from metricwatch.config.schema import Retention
from metricwatch.errors import LedgerError, PermanentError, RunGoneError, TemporaryError
from metricwatch.export import pictures as stage
from metricwatch.export.stage import Exporter
from metricwatch.records import Picture, Point, RemoteRun, Run
from metricwatch.store.db import Database
from metricwatch.store.deliveries import Deliveries
from metricwatch.store.ledger import Ledger, Recorded
from metricwatch.store.pictures import Pictures
from metricwatch.testing.clock import FakeClock
from metricwatch.upkeep.stage import Upkeep
from tests.support.locked_ledger import unwritable

HOUR = 3600


class MemorySink(Sink):
    """Keeps what it is given, in order, and raises what it is told to."""

    Options = dict
    takes_pictures = True

    def __init__(self, options=None) -> None:
        self.arrived = []
        self.point_errors, self.errors = [], []

    def find_run(self, run):
        return RemoteRun(id=f"remote {run.key}")

    def write(self, run_id, points, tags):
        if self.point_errors:
            raise self.point_errors.pop(0)
        self.arrived += [f"point {point.key}" for point in points]

    def write_picture(self, run_id, picture, png):
        if self.errors:
            raise self.errors.pop(0)
        self.arrived.append(f"{run_id.removeprefix('remote ')}/{picture.key}@{picture.step}: {png.decode()}")

    def ping(self):
        return "memory"


class Scene:
    def __init__(self, folder) -> None:
        self.state = folder / "state"
        self.state.mkdir()
        self.clock = FakeClock()
        self.db = Database.open(self.state)
        self.pictures, self.deliveries, self.ledger = Pictures(self.db), Deliveries(self.db), Ledger(self.db)
        self.sink, self.other = MemorySink(), MemorySink()
        self.start({"mlflow": self.sink})

    def start(self, sinks):
        self.exporter = Exporter(self.db, sinks, self.clock)
        self.upkeep = Upkeep(self.db, Retention(backups=0), set(), self.clock)

    def keep(self, step, key="a", run="r", sinks=("mlflow",), job=None):
        """A sample of a job was kept, as a worker and the supervisor do."""
        self.ledger.register_run(Run(key=run, name=run), self.clock.now())
        path = self.state / "pictures" / f"job-{job or step}" / f"{key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"png {key} {step}")
        for each in (path, path.parent):
            self.age(each, 0)
        for sink in sinks:
            self.queue(path, step, key, run, sink)
        return path

    def queue(self, path, step=1, key="a", run="r", sink="mlflow"):
        picture = Picture(key=key, step=step, timestamp_ms=1000 + step)
        self.pictures.enqueue(
            sink=sink, run=run, identity=f"{key}@{step}", picture=picture, path=str(path), now=self.clock.now()
        )

    def point(self, key, run="r"):
        points = [Point(key=key, value=1.0, timestamp_ms=1, step=1)]
        self.ledger.register_run(Run(key=run, name=run), self.clock.now())
        self.deliveries.enqueue(sink="mlflow", run=run, identity=key, points=points, tags={}, now=self.clock.now())

    def turn(self, seconds=0.0):
        self.clock.advance(seconds)
        while self.exporter.tick():
            pass

    def tidy(self, seconds=0.0):
        self.clock.advance(seconds)
        while self.upkeep.tick():
            pass

    def age(self, path, seconds):
        then = self.clock.now().timestamp() - seconds
        os.utime(path, (then, then))

    def files(self):
        return sorted(str(path.relative_to(self.state)) for path in (self.state / "pictures").rglob("*"))


@pytest.fixture
def scene(tmp_path):
    made = Scene(tmp_path)
    yield made
    made.db.close()


# --- the way to the sink -----------------------------------------------------------------------------------


def test_a_picture_arrives_once_and_its_file_and_folder_go(scene):
    scene.keep(1)
    scene.queue(scene.state / "elsewhere.png")  # The same identity again: nothing changes.
    assert scene.pictures.pending() == 1
    scene.turn()
    scene.turn(HOUR)
    assert scene.sink.arrived == ["r/a@1: png a 1"]
    assert scene.files() == []
    assert scene.pictures.pending() == 0


def test_a_folder_goes_with_its_last_file(scene):
    scene.keep(1, "a", job=7)
    scene.keep(1, "b", job=7)
    (scene.state / "pictures/job-7/c.png").write_text("still written")
    scene.turn()
    assert scene.files() == ["pictures/job-7", "pictures/job-7/c.png"]


def test_points_go_first(scene):
    scene.keep(1)
    scene.point("fid")
    scene.point("kid")
    scene.turn()
    assert scene.sink.arrived == ["point fid", "point kid", "r/a@1: png a 1"]


def test_a_picture_waits_for_the_points_of_its_own_run_only(scene):
    scene.sink.point_errors = [TemporaryError("connection refused", retry_after=timedelta(seconds=30))]
    scene.point("fid", run="r")
    scene.keep(1, run="r")
    scene.keep(2, run="s")
    scene.turn()
    scene.turn()
    assert scene.sink.arrived == ["s/a@2: png a 2"]
    scene.turn(31)
    assert scene.sink.arrived[1:] == ["point fid", "r/a@1: png a 1"]


def test_a_picture_that_cannot_be_sent_holds_up_no_point_and_comes_later_in_order(scene):
    scene.sink.errors = [TemporaryError("the artifact store is full")] * 3
    scene.keep(1)
    scene.keep(2)
    scene.turn()
    scene.point("fid")
    scene.turn()
    assert scene.sink.arrived == ["point fid"]
    assert [(item.pending, item.reason) for item in scene.pictures.backlog()] == [(2, "the artifact store is full")]
    for _ in range(8):
        scene.turn(2)
    assert scene.sink.arrived == ["point fid", "r/a@1: png a 1", "r/a@2: png a 2"]
    assert scene.files() == []


def test_the_waits_between_tries_grow_and_end(scene):
    scene.keep(1)
    scene.sink.errors = [TemporaryError("down")] * 100
    tries = []
    for _ in range(4 * HOUR // 10):
        before = len(scene.sink.errors)
        scene.turn(10)
        tries.append(before - len(scene.sink.errors))
    assert sum(tries[:6]) >= 3
    assert 40 <= sum(tries) <= 60, "every five minutes in the end"
    scene.sink.errors = []
    scene.turn(300)
    assert len(scene.sink.arrived) == 1


@pytest.mark.parametrize("error", [RunGoneError("run r is deleted"), KeyError("oops"), PermanentError("find")])
def test_a_good_picture_waits_for_its_run_or_its_sink(scene, error, monkeypatch):
    scene.keep(1)
    if isinstance(error, PermanentError) and not isinstance(error, RunGoneError):
        monkeypatch.setattr(scene.sink, "find_run", lambda run: (_ for _ in ()).throw(error))
    else:
        scene.sink.errors = [error]
    with capture_logs():
        scene.turn()
    assert scene.pictures.pending() == 1
    assert scene.files() != []
    monkeypatch.undo()
    scene.turn(300)
    assert scene.sink.arrived == ["r/a@1: png a 1"]


def test_a_refused_picture_is_set_aside_with_its_reason_and_the_next_one_goes(scene):
    scene.keep(1)
    scene.keep(2)
    scene.sink.errors = [PermanentError("is no PNG")]
    scene.turn()
    assert scene.sink.arrived == ["r/a@2: png a 2"]
    assert scene.pictures.rejected() == [("r", "a@1", "is no PNG")]
    assert scene.pictures.rejections_by_sink() == {"mlflow": (1, "is no PNG")}
    assert scene.files() == []


def test_what_is_no_readable_file_is_rejected_with_its_reason(scene):
    gone = scene.keep(1)
    gone.unlink()
    pipe = scene.state / "pictures/pipe.png"
    os.mkfifo(pipe)
    link = scene.state / "pictures/link.png"
    link.symlink_to(scene.db.path)
    for number, path in enumerate((pipe, link, scene.state / "pictures")):
        scene.queue(path, key=f"k{number}")
    scene.keep(9)
    scene.turn()
    assert scene.sink.arrived == ["r/a@9: png a 9"]
    reasons = [reason for _, _, reason in scene.pictures.rejected()]
    assert ["No such file" in reasons[3], "no regular file" in reasons[2], "symbolic" in reasons[1]] == [True] * 3
    assert scene.db.path.exists()


def test_a_disk_that_has_trouble_is_waited_for(scene, monkeypatch):
    scene.keep(1)

    def failing(*args, **kwargs):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(stage, "open", failing, raising=False)
    scene.turn()
    monkeypatch.undo()
    assert scene.pictures.backlog()[0].reason.endswith("Input/output error")
    scene.turn(10)
    assert len(scene.sink.arrived) == 1


def test_runs_take_turns(scene):
    for step in range(3):
        for run in "rst":
            scene.keep(step, key=f"of-{run}", run=run)
    original = scene.sink.write_picture

    def slowly(*args):
        scene.clock.advance(3)
        original(*args)

    scene.sink.write_picture = slowly
    scene.turn()
    assert [text[0] for text in scene.sink.arrived] == list("rst" * 3)


def test_one_turn_of_pictures_is_short(scene):
    for step in range(10):
        scene.keep(step)

    def slowly(*args):
        scene.clock.advance(0.9)

    scene.sink.write_picture = slowly
    assert scene.exporter.tick() == 3


def test_a_sink_that_takes_no_pictures_is_given_none(scene):
    scene.sink.takes_pictures = False
    scene.keep(1)
    scene.turn(HOUR)
    assert scene.sink.arrived == []
    assert scene.pictures.pending() == 1


def test_a_file_stays_until_the_last_sink_has_it(scene):
    scene.start({"mlflow": scene.sink, "other": scene.other})
    path = scene.keep(1, sinks=("mlflow", "other"))
    scene.other.errors = [TemporaryError("down")]
    scene.turn()
    assert len(scene.sink.arrived) == 1
    assert path.exists()
    scene.turn(10)
    assert scene.other.arrived == scene.sink.arrived
    assert not path.exists()


def test_a_picture_is_sent_again_and_kept_until_its_arrival_is_noted(scene):
    scene.keep(0)
    scene.turn()
    path = scene.keep(1)
    with unwritable(scene.db), pytest.raises(LedgerError):
        scene.exporter.tick()
    assert path.exists()
    scene.turn()
    assert scene.sink.arrived[1:] == ["r/a@1: png a 1"] * 2
    assert not path.exists()


def test_nothing_outside_the_folder_of_pictures_is_removed(scene, tmp_path):
    outside = tmp_path / "outside.png"
    outside.write_text("mine")
    scene.ledger.register_run(Run(key="r", name="r"), scene.clock.now())
    scene.queue(outside)
    sneaky = scene.state / "pictures" / ".." / "notes.png"
    (scene.state / "pictures").mkdir()
    (scene.state / "notes.png").write_text("mine too")
    scene.queue(sneaky, key="b")
    scene.turn()
    assert len(scene.sink.arrived) == 2
    assert outside.exists()
    assert (scene.state / "notes.png").exists()


def test_a_state_folder_may_be_moved(scene, tmp_path):
    scene.keep(1)
    scene.db.close()
    scene.state.rename(tmp_path / "moved")
    scene.state = tmp_path / "moved"
    scene.db = Database.open(scene.state)
    scene.start({"mlflow": scene.sink})
    scene.turn()
    assert scene.sink.arrived == ["r/a@1: png a 1"]
    assert scene.files() == []


def test_of_a_long_backlog_the_newest_are_kept(scene, monkeypatch):
    monkeypatch.setattr(stage, "_MOST_WAITING", 3)
    scene.sink.errors = [TemporaryError("down")]
    for step in range(5):
        scene.keep(step)
    scene.keep(0, run="s")
    with capture_logs() as logs:
        scene.turn()
    assert {entry["event"]: entry.get("count") for entry in logs}["pictures.rejected"] == 2
    assert scene.pictures.rejections() == 2
    assert "pictures waited" in scene.pictures.rejected()[0][2]
    assert [path for path in scene.files() if path.endswith(".png")] == [
        f"pictures/job-{step}/a.png" for step in (2, 3, 4)
    ]
    scene.turn(10)
    assert [text for text in scene.sink.arrived if text.startswith("r/")] == [
        f"r/a@{step}: png a {step}" for step in (2, 3, 4)
    ]


# --- what is left over -------------------------------------------------------------------------------------


def test_files_that_a_crash_left_are_removed_after_an_hour(scene):
    waiting = scene.keep(1)
    scene.keep(2)
    scene.sink.errors = [TemporaryError("down")]
    stray = scene.state / "pictures/job-9/a.png"
    stray.parent.mkdir()
    stray.write_text("left")
    for path in (stray, stray.parent):
        scene.age(path, 0)
    scene.tidy(HOUR - 60)
    assert stray.exists()
    scene.tidy(700)
    assert not stray.parent.exists()
    assert waiting.exists()
    scene.turn()
    scene.turn(10)
    assert len(scene.sink.arrived) == 2


def test_the_folder_of_a_job_at_work_is_left_alone(scene):
    scene.ledger.register_run(Run(key="r", name="r"), scene.clock.now())
    recorded = Recorded(revision=1, digest="d", images=1, newest_ns=1, mtime_ns=1)
    scene.ledger.add_snapshot(
        source="s", run="r", step=1, path="/p", members=None, recorded=recorded, now=scene.clock.now()
    )
    job = scene.ledger.claim(scene.clock.now(), timedelta(minutes=1), ["s"])
    at_work, other = (scene.state / f"pictures/job-{number}/a.png" for number in (job.id, job.id + 1))
    for path in (at_work, other):
        path.parent.mkdir(parents=True)
        path.write_text("x")
        scene.age(path, 9 * HOUR)
        scene.age(path.parent, 9 * HOUR)
    scene.tidy()
    assert at_work.exists()
    assert not other.parent.exists()


def test_links_are_removed_and_not_followed(scene, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "a.png").write_text("mine")
    folder = scene.state / "pictures"
    folder.mkdir()
    (folder / "link").symlink_to(mine)
    then = scene.clock.now().timestamp() - 9 * HOUR
    os.utime(folder / "link", (then, then), follow_symlinks=False)
    scene.age(mine / "a.png", 9 * HOUR)
    scene.tidy()
    assert list(folder.iterdir()) == []
    assert (mine / "a.png").exists()


def test_rows_leave_with_the_retention_of_deliveries_and_waiting_ones_stay(scene):
    scene.keep(1)
    scene.keep(2)
    scene.sink.errors = [PermanentError("is no PNG")]
    scene.turn()
    scene.clock.advance(10 * 24 * HOUR)
    scene.keep(3)
    scene.tidy()
    assert scene.db.read("SELECT count(*) FROM pictures")[0][0] == 3
    scene.tidy(5 * 24 * HOUR)
    assert [(row["step"], row["state"]) for row in scene.db.read("SELECT * FROM pictures")] == [(3, "pending")]


def test_a_run_that_is_forgotten_takes_its_pictures_along(scene):
    scene.keep(1)
    scene.tidy(100 * 24 * HOUR)
    assert scene.ledger.runs() == []
    assert scene.pictures.pending() == 0
    scene.tidy(2 * HOUR)
    assert scene.files() == []
