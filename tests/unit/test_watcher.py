"""The watch stage over real files, with a clock that moves when told."""

from __future__ import annotations

import os
import time
from datetime import timedelta

import pytest
import structlog

from metricwatch.errors import LedgerError
from metricwatch.records import Run
from metricwatch.store.db import Database
from metricwatch.store.ledger import Ledger
from metricwatch.testing.clock import FakeClock
from metricwatch.watch import stage, tree
from metricwatch.watch.events import EventHints, Hints
from metricwatch.watch.scan import concerns
from metricwatch.watch.stage import Watcher
from tests.support.entries import watch_entry
from tests.support.job import wait_until

RUN = Run(key="name:x/night", name="night")
TTL = timedelta(minutes=2)


class Scene:
    """A samples folder, a watcher on it, and the jobs it made."""

    def __init__(self, root, *, events=False, **options) -> None:
        self.root = root
        root.mkdir()
        entry = watch_entry(root, RUN, **options)
        self.clock = FakeClock()
        self.state = root.parent / "state"
        self.state.mkdir(exist_ok=True)
        self.db = Database.open(self.state)
        self.entry = entry
        self.hints = EventHints(lambda: None)
        self.watcher = Watcher(self.db, [entry], self.hints, self.clock)
        if not events:
            self.hints.listen = lambda roots: None
        self.watcher.start()
        self.ledger = Ledger(self.db)

    def write(self, name, content=b"image", at=None):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if at is not None:
            os.utime(path, ns=(at, at))
        return path

    def look(self, seconds=0.0) -> int:
        """Let time pass and look at everything."""
        self.clock.advance(seconds)
        self.watcher.rescan()
        return self.watcher.tick()

    def settle(self) -> list[tuple[int, int, int]]:
        """Let everything settle; returns (step, revision, images) of the jobs queued since the last call."""
        self.look()
        self.look(6)
        found = []
        while job := self.ledger.claim(self.clock.now(), TTL, [RUN.key]):
            found.append((job.snapshot.step, job.snapshot.revision, job.snapshot.images))
        return found


def await_new_time(path) -> None:
    """Return when what happens now gets a later time than what happened to this path: the kernel's clock ticks."""
    probe = path.parent / ".probe"

    def later() -> bool:
        probe.unlink(missing_ok=True)
        probe.touch()
        return probe.stat().st_ctime_ns > path.stat().st_ctime_ns

    wait_until(later, seconds=5, what="the clock of files")


@pytest.fixture
def scene(tmp_path):
    made = []

    def make(**options) -> Scene:
        made.append(Scene(tmp_path / "samples", **options))
        return made[-1]

    yield make
    for each in made:
        each.watcher.close()
        each.db.close()


def test_a_directory_a_step_becomes_a_snapshot_once(scene):
    s = scene()
    s.write("step_1000/a.png")
    s.write("step_1000/b.png")
    assert s.settle() == [(1000, 1, 2)]
    assert s.settle() == []


def test_flat_files_are_grouped_by_the_step_in_their_name(scene):
    s = scene()
    for name in ("001000_0.png", "001000_1.png", "002000_0.png", "notes.txt"):
        s.write(name)
    assert s.settle() == [(1000, 1, 2), (2000, 1, 1)]


def test_a_growing_set_waits_until_it_is_quiet(scene):
    s = scene()
    for n in range(4):
        s.write(f"1000/{n}.png")
        assert s.look(4) == 0
    assert s.look(4) == 0
    assert s.look(1.1) == 1
    assert s.settle() == [(1000, 1, 4)]


def test_a_marker_settles_at_once(scene):
    s = scene()
    s.write("1000/a.png")
    s.write("1000/.done")
    assert s.look() == 1


def test_steps_are_recorded_in_order_whichever_settles_first(scene):
    """Scored out of order, a rule would see a curve with holes."""
    s = scene()
    for step in (1000, 2000, 3000):
        s.write(f"{step}/a.png")
    for step in (2000, 3000):
        s.write(f"{step}/.done")
    assert s.look() == 0
    assert not s.watcher.settled()
    assert s.settle() == [(1000, 1, 1), (2000, 1, 1), (3000, 1, 1)]


def test_a_step_that_never_settles_does_not_hold_the_others_up_for_long(scene):
    s = scene()
    s.write("2000/a.png")
    s.write("2000/.done")
    recorded = 0
    for second in range(20):
        s.write(f"1000/{second}.png")
        recorded += s.look(1)
    assert recorded == 1


def test_a_held_step_that_changes_settles_anew(scene):
    s = scene()
    s.write("1000/a.png")
    s.write("2000/a.png")
    s.write("2000/.done")
    s.look()
    s.write("2000/b.png")
    s.write("2000/.done", b"again")
    assert s.settle() == [(1000, 1, 1), (2000, 1, 2)]


def test_a_marker_of_flat_files_settles_their_step(scene):
    s = scene()
    s.write("step_1000_a.png")
    s.write("step_1000.done")
    s.write("step_2000_a.png")
    assert s.look() == 1
    assert s.settle() == [(1000, 1, 1), (2000, 1, 1)]


def test_a_marker_left_over_from_an_earlier_write_does_not_count(scene):
    s = scene()
    s.write("1000/.done", at=1_000_000_000)
    s.write("1000/a.png", at=2_000_000_000)
    assert s.look() == 0
    assert s.settle() == [(1000, 1, 1)]


def test_unfinished_files_hold_a_step_back_and_are_not_counted(scene):
    s = scene()
    s.write("1000/a.png")
    s.write("1000/b.png.tmp", b"half")
    s.look()
    s.look(4)
    s.write("1000/b.png.tmp", b"half and more")
    assert s.look(4) == 0
    (s.root / "1000/b.png.tmp").rename(s.root / "1000/b.png")
    assert s.settle() == [(1000, 1, 2)]


def test_hidden_and_temporary_directories_are_not_steps(scene):
    s = scene()
    s.write(".1000/a.png")
    s.write("1000.tmp/a.png")
    assert s.settle() == []


def test_an_empty_directory_waits_for_its_first_image(scene):
    s = scene()
    (s.root / "1000").mkdir()
    assert s.settle() == []
    assert s.watcher.settled()
    s.write("1000/a.png")
    assert s.settle() == [(1000, 1, 1)]


def test_a_marked_directory_without_images_is_recorded_so_that_somebody_hears_of_it(scene):
    s = scene()
    s.write("1000/.done")
    assert s.settle() == [(1000, 1, 0)]


def test_a_rewritten_step_is_a_new_revision(scene):
    s = scene()
    s.write("1000/a.png")
    assert s.settle() == [(1000, 1, 1)]
    s.write("1000/b.png")
    assert s.settle() == [(1000, 2, 2)]


def test_a_file_rewritten_in_place_is_found_by_the_rescan_alone(scene):
    s = scene()
    s.write("1000/a.png", at=1_000_000_000)
    assert s.settle() == [(1000, 1, 1)]
    s.write("1000/a.png", b"other", at=2_000_000_000)
    assert s.settle() == [(1000, 2, 1)]


def test_a_late_marker_or_a_text_file_is_no_new_revision(scene):
    s = scene()
    s.write("1000/a.png")
    assert s.settle() == [(1000, 1, 1)]
    s.write("1000/.done")
    s.write("1000/prompts.txt")
    assert s.settle() == []


def test_only_multiples_of_every_are_taken(scene):
    s = scene(every=1000)
    for step in (500, 1000, 1500, 2000):
        s.write(f"{step}/a.png")
    assert [step for step, *_ in s.settle()] == [1000, 2000]


def test_a_restarted_daemon_knows_what_was_recorded(scene):
    s = scene()
    s.write("1000/a.png")
    assert s.settle() == [(1000, 1, 1)]
    again = Watcher(s.db, [s.entry], s.hints, s.clock)
    again.start()
    again.tick()
    s.clock.advance(6)
    again.rescan()
    assert again.tick() == 0
    assert again.settled()


def test_two_places_with_the_same_step_do_not_take_turns(scene):
    s = scene()
    s.write("a_1000/x.png")
    s.write("b_1000/x.png")
    s.write("b_1000/y.png")
    assert s.settle() == [(1000, 1, 1)]
    assert s.settle() == []


def test_a_folder_that_does_not_exist_yet_is_waited_for(scene, tmp_path):
    s = scene(samples=f"{tmp_path}/later/samples/*")
    assert s.settle() == []
    folder = tmp_path / "later" / "samples" / "1000"
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(b"image")
    assert s.settle() == [(1000, 1, 1)]


def test_a_step_deleted_while_settling_is_forgotten(scene):
    s = scene()
    path = s.write("1000/a.png")
    s.look()
    path.unlink()
    path.parent.rmdir()
    assert s.settle() == []
    assert s.watcher.settled()


def test_a_link_that_leads_in_circles_is_passed_over(scene):
    s = scene()
    (s.root / "1000").symlink_to(s.root / "1000")
    s.write("2000/a.png")
    assert s.settle() == [(2000, 1, 1)]


def test_a_jump_of_the_wall_clock_settles_nothing(scene):
    s = scene()
    s.write("1000/a.png")
    s.look()
    s.clock.jump(3600)
    assert s.look() == 0
    s.clock.jump(-7200)
    assert s.look(6) == 1


def test_events_bring_a_look_long_before_the_rescan(scene):
    """Real inotify: no time passes on the clock, so only an event can bring the snapshot."""
    s = scene(events=True, rescan=timedelta(hours=1))
    s.watcher.tick()
    s.write("1000/a.png")
    s.write("1000/.done")
    recorded = 0
    deadline = time.monotonic() + 10
    while not recorded and time.monotonic() < deadline:
        s.clock.advance(0.2)
        recorded = s.watcher.tick()
        time.sleep(0.02)
    assert recorded == 1


def test_a_directory_renamed_into_place_needs_no_quiet_time(scene):
    s = scene(events=True, rescan=timedelta(hours=1), settle=timedelta(hours=1))
    s.watcher.tick()
    writing = s.write(".writing/a.png").parent
    await_new_time(writing)
    writing.rename(s.root / "1000")
    recorded = 0
    deadline = time.monotonic() + 10
    while not recorded and time.monotonic() < deadline:
        s.clock.advance(0.2)
        recorded = s.watcher.tick()
        time.sleep(0.02)
    assert recorded == 1


@pytest.mark.parametrize("copied_at", [None, 1_000_000_000], ids=["written", "copied with old times"])
def test_a_rewrite_waits_for_quiet_even_beside_a_marker(scene, copied_at):
    """The marker may be that of the first write: a rewrite in place must not be taken image by image."""
    s = scene()
    for name in "abc":
        s.write(f"1000/{name}.png")
        s.write(f"001000_{name}.png".replace("001000", "002000"))
    s.write("1000/.done")
    s.write("002000.done")
    assert s.settle() == [(1000, 1, 3), (2000, 1, 3)]
    for name in "abc":
        s.write(f"1000/{name}.png", b"rewritten", at=copied_at)
        s.write(f"002000_{name}.png", b"rewritten", at=copied_at)
        assert s.look(1) == 0
    assert s.settle() == [(1000, 2, 3), (2000, 2, 3)]


def test_deleting_images_is_no_new_revision(scene):
    s = scene()
    for name in "abc":
        s.write(f"1000/{name}.png")
        s.write(f"002000_{name}.png")
    s.write("1000/.done")
    assert len(s.settle()) == 2
    for name in "abc":
        (s.root / f"1000/{name}.png").unlink()
        (s.root / f"002000_{name}.png").unlink()
        assert s.settle() == []


def test_a_log_that_grows_beside_the_images_does_not_keep_them_from_settling(scene):
    s = scene()
    s.write("1000/a.png")
    recorded = 0
    for second in range(8):
        s.write("1000/train.log", b"x" * second)
        recorded += s.look(1)
    assert recorded == 1


def test_names_that_cannot_be_recorded_are_passed_over(scene):
    s = scene()
    s.write("img_123456789012345678901234/a.png")
    os.mkdir(os.fsencode(s.root) + b"/step_3000_\xff")
    with open(os.fsencode(s.root) + b"/step_3000_\xff/a.png", "wb") as file:
        file.write(b"image")
    s.write("1000/a.png")
    assert s.settle() == [(1000, 1, 1)]


def test_once_takes_what_the_first_look_finds(scene):
    s = scene()
    s.watcher.only_present = True
    s.write("1000/a.png")
    s.look()
    s.write("2000/a.png")
    assert s.settle() == [(1000, 1, 1)]
    assert s.watcher.settled()


@pytest.mark.parametrize(
    ("path", "concerned"),
    [
        ("/runs/a/samples/1000", True),
        ("/runs/a/samples/1000/x.png", True),
        ("/runs/a/samples/1000.done", True),
        ("/runs/a/samples/1000/deep/x.png", False),
        ("/runs/a/samples", False),
        ("/runs/a/train.log", False),
        ("/runs/a/checkpoints/1.pt", False),
    ],
)
def test_events_elsewhere_below_the_root_wake_nobody(path, concerned):
    assert concerns("/runs/*/samples/*", path) is concerned


def test_a_restart_does_not_look_into_what_it_knows(scene, monkeypatch):
    s = scene()
    for step in range(1, 40):
        s.write(f"{step}000/a.png")
    assert len(s.settle()) == 39
    looked = []
    monkeypatch.setattr("metricwatch.watch.stage.look_into", lambda candidate, markers: looked.append(candidate))
    again = Watcher(s.db, [s.entry], s.hints, s.clock)
    again.start()
    again.tick()
    assert len(looked) <= 16


@pytest.mark.parametrize("marked", [True, False], ids=["with a marker", "by quiet"])
def test_what_a_full_disk_refused_is_recorded_when_there_is_room_again(scene, marked):
    s = scene()
    for step in range(1, 400):
        s.write(f"{step}000/a.png")
        if marked:
            s.write(f"{step}000/.done")
    connection = s.db._connection
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages + 2}").fetchone()
    with pytest.raises(LedgerError, match="full"):
        s.settle()
    assert not s.watcher.settled()
    with pytest.raises(LedgerError, match="full"):
        s.look(6)
    assert s.db.read("SELECT * FROM snapshots") == []
    connection.execute("PRAGMA max_page_count = 1000000").fetchone()
    s.write("9000/a.png", b"rewritten while the disk was full")
    assert s.settle() + s.settle() == [(step * 1000, 1, 1) for step in range(1, 400)]
    assert s.watcher.settled()


def test_a_commit_that_failed_and_was_done_all_the_same_is_not_repeated(scene):
    """As after an I/O error behind the write-ahead log: the ledger has the row, the watcher was told that it has not."""
    s = scene()
    s.write("1000/a.png")
    s.look()
    s.look(6)
    del s.watcher._sources[0].known[1000]
    s.write("1000/b.png")
    assert s.settle() == [(1000, 1, 1)]
    assert s.settle() == [(1000, 2, 2)]


def test_a_hint_of_a_rename_that_comes_late_does_not_settle_the_next_write(scene):
    """The directory came whole; since then the job has begun to write into it."""
    s = scene()
    moved = s.write(".writing/a.png").parent
    await_new_time(moved)
    moved.rename(s.root / "1000")
    assert s.settle() == [(1000, 1, 1)]
    await_new_time(s.root / "1000")
    (s.root / "1000" / "a.png").write_bytes(b"half of it")
    s.hints.take = lambda: Hints(touched={f"{s.root}/1000"}, renamed={f"{s.root}/1000"})
    s.clock.advance(1)
    assert s.watcher.tick() == 0


def test_a_marker_that_a_copy_brought_before_the_images_does_not_count(scene):
    """rsync keeps times: the marker is younger than every image, and is there before them."""
    s = scene()
    marker = s.write("1000/.done", b"", at=2_000_000_000)
    await_new_time(marker)
    s.write("1000/a.png", at=1_000_000_000)
    assert s.look() == 0
    s.write("1000/b.png", at=1_000_000_000)
    assert s.settle() == [(1000, 1, 2)]


def test_a_rewrite_with_fewer_images_by_a_clock_set_back_is_a_new_revision(scene):
    s = scene()
    for name in "abc":
        s.write(f"1000/{name}.png", at=2_000_000_000)
    assert s.settle() == [(1000, 1, 3)]
    (s.root / "1000" / "c.png").unlink()
    for name in "ab":
        s.write(f"1000/{name}.png", b"rewritten", at=1_000_000_000)
    assert s.settle() == [(1000, 2, 2)]


def test_an_image_under_a_temporary_name_asks_for_more_patience_but_not_for_ever(scene):
    s = scene()
    s.write("1000/a.png")
    s.write("1000/b.png.part", b"its writer died")
    s.look()
    assert s.look(50) == 0
    assert s.look(11) == 1


@pytest.mark.parametrize("layout", ["{}/a.png", "{}_a.png"], ids=["directories", "flat"])
def test_a_change_within_the_same_tick_of_a_coarse_clock_is_found(scene, monkeypatch, layout):
    """A step comes right after a look, and the folder's time stays what it was: some file systems count in seconds."""
    stamp = (1, 1, 1, 1)
    monkeypatch.setattr(tree, "stamp_of", lambda directory: stamp)
    s = scene()
    s.write(layout.format(1000))
    s.look()
    s.write(layout.format(2000))
    s.look(1)
    s.look(1.5)
    assert [step for step, *_ in s.settle()] == [1000, 2000]


def test_an_image_added_within_the_same_tick_of_its_directory_is_found(scene, monkeypatch):
    monkeypatch.setattr("metricwatch.watch.stage._FEWEST_LOOKED_INTO", 0)
    s = scene()
    s.write("1000/a.png")
    s.write("1000/.done")
    moment = s.root.stat().st_mtime_ns
    os.utime(s.root / "1000", ns=(moment, moment))
    assert s.look() == 1
    s.write("1000/b.png")
    os.utime(s.root / "1000", ns=(moment, moment))
    s.look(3)
    assert s.look(6) == 1


@pytest.mark.parametrize("layout", ["{}/a.png", "{}_a.png"], ids=["directories", "flat"])
def test_an_idle_rescan_lists_nothing_and_looks_into_a_few(scene, monkeypatch, layout):
    s = scene()
    for step in range(1, 200):
        s.write(layout.format(f"{step:03d}000"))
    assert len(s.settle()) == 199
    for _ in range(3):
        s.look(10)
    listed, looked = [], []
    scandir, look_into = os.scandir, stage.look_into
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or scandir(path))
    monkeypatch.setattr(stage, "look_into", lambda *args: looked.append(args) or look_into(*args))
    monkeypatch.setattr(s.watcher, "_has_moved", lambda source, step: False)
    s.look(10)
    assert len(looked) == 16
    assert str(s.root) not in listed
    s.write(layout.format("900000"))
    s.look(10)
    assert s.look(6) == 1


def test_a_link_whose_target_comes_later_is_found(scene, tmp_path):
    """Its coming moves no time of the folder that the link is in."""
    s = scene()
    (s.root / "1000").symlink_to(tmp_path / "elsewhere")
    (s.root / "2000_a.png").symlink_to(tmp_path / "one.png")
    for _ in range(3):
        assert s.settle() == []
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.png").write_bytes(b"image")
    (tmp_path / "one.png").write_bytes(b"image")
    assert s.settle() == [(1000, 1, 1), (2000, 1, 1)]


def test_strange_names_are_handled_or_named_once(scene):
    s = scene()
    s.write("1000\n'\"\x1b[m/a\n.png")
    s.write("2000\t\\_a.png")
    s.write("nothing\nto see/a.png")
    for name in (b"/step_3000_\xff", b"/step_4000_\xff\n"):
        os.mkdir(os.fsencode(s.root) + name)
    s.write("5000/a.png")
    with open(os.fsencode(s.root) + b"/5000/\xff\n.png", "wb") as file:
        file.write(b"image")
    with structlog.testing.capture_logs() as logs:
        assert s.settle() == [(1000, 1, 1), (2000, 1, 1), (5000, 1, 2)]
        assert s.settle() == []
    warned = [line for line in logs if line["log_level"] == "warning"]
    assert sorted(line["reason"].partition(" carries")[0] for line in warned) == [
        "its name",
        "its name is not UTF-8",
        "its name is not UTF-8",
    ]


def test_thousands_of_names_without_a_step_do_not_fill_the_log(scene):
    s = scene()
    for n in range(100):
        s.write(f"picture_{chr(97 + n % 26)}{'x' * (n // 26)}/a.png")
    with structlog.testing.capture_logs() as logs:
        assert s.settle() == []
    assert len(logs) == 21
    assert logs[-1]["event"] == "watch.no_more_reports"


def test_a_folder_deleted_and_made_anew_is_listened_to_again(scene, tmp_path):
    """A job that begins again with `rm -r samples` must not leave the daemon to its rescans."""
    s = scene(events=True)
    s.look()
    s.root.rmdir()
    s.look(10)
    # Another directory may get the inode of the one that went.
    (tmp_path / "other").mkdir()
    s.root.mkdir()
    s.look(10)
    s.write("1000/a.png")
    s.write("1000/.done")

    def recorded() -> bool:
        s.clock.advance(0.01)
        return s.watcher.tick() == 1

    wait_until(recorded, seconds=10, what="an event")


class SlowDisk(FakeClock):
    """Time passes whenever somebody asks for it: every look takes seconds."""

    seconds = 0.0

    def monotonic(self) -> float:
        self.advance(self.seconds)
        return super().monotonic()


def test_a_slow_file_system_is_looked_at_less_often_and_that_is_said_once(scene):
    s = scene()
    s.clock = s.watcher._clock = SlowDisk()
    s.write("1000/a.png")
    s.settle()
    SlowDisk.seconds = 1.0
    refreshed = []
    refresh = s.watcher._sources[0].tree.refresh
    s.watcher._sources[0].tree.refresh = lambda now: refreshed.append(now) or refresh(now)
    began = s.clock.monotonic()
    with structlog.testing.capture_logs() as logs:
        while s.clock.monotonic() < began + 1000:
            s.watcher.tick()
    SlowDisk.seconds = 0.0
    took = 4.0
    assert len(refreshed) * took <= 1000 * 0.05 + took
    assert len(refreshed) > 5
    assert [line["event"] for line in logs] == ["watch.rescan_slowed"]


@pytest.mark.parametrize("layout", ["{}/a.png", "{}_a.png"], ids=["directories", "flat"])
def test_what_is_renamed_over_a_known_name_is_found_by_the_next_rescan(scene, monkeypatch, layout):
    """However many other steps are to be asked first: the listing shows another inode."""
    s = scene()
    s.write(layout.format(1000))
    assert s.settle() == [(1000, 1, 1)]
    for _ in range(2):
        s.look(10)
    monkeypatch.setattr(s.watcher, "_in_turn", lambda source: set())
    s.write(layout.format(".writing"), b"another")
    name = layout.format(1000).partition("/")[0]
    if (s.root / name).is_dir():
        (s.root / name).rename(s.root / ".old")
    (s.root / layout.format(".writing").partition("/")[0]).rename(s.root / name)
    assert s.settle() == [(1000, 2, 1)]
