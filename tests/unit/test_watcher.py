"""The watch stage over real files, with a clock that moves when told."""

from __future__ import annotations

import os
import time
from datetime import timedelta

import pytest

from metricwatch.config.watching import WatchEntry
from metricwatch.records import Run
from metricwatch.store.db import Database
from metricwatch.store.ledger import Ledger
from metricwatch.testing.clock import FakeClock
from metricwatch.watch.events import EventHints
from metricwatch.watch.scan import concerns
from metricwatch.watch.stage import Watcher

RUN = Run(key="name:x/night", name="night")
TTL = timedelta(minutes=2)


class Scene:
    """A samples folder, a watcher on it, and the jobs it made."""

    def __init__(self, root, *, events=False, **options) -> None:
        self.root = root
        root.mkdir()
        defaults = {"samples": f"{root}/*", "settle": timedelta(seconds=5), "rescan": timedelta(seconds=10)}
        entry = WatchEntry.model_construct(**{**_DEFAULTS, **defaults, **options})
        entry.__pydantic_private__ = {"_target": RUN}
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


_DEFAULTS = {
    "run": None,
    "reference": None,
    "pairs": None,
    "every": None,
    "markers": (".done", "_SUCCESS"),
    "step_pattern": None,
}


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
    s.write(".writing/a.png")
    (s.root / ".writing").rename(s.root / "1000")
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
