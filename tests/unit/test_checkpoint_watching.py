"""The watch stage over real checkpoints that are written slowly, with a clock that moves when told."""

from __future__ import annotations

import io
import json
import os
import shutil
import time
from datetime import timedelta

import pytest
import structlog
import torch
from safetensors.torch import save as safetensors_bytes
from torch.distributed import checkpoint as dcp

from metricwatch import listing
from metricwatch.records import JobState, Run
from metricwatch.store.db import Database
from metricwatch.store.ledger import Ledger
from metricwatch.testing.clock import FakeClock
from metricwatch.watch import formats, stage
from metricwatch.watch.events import EventHints
from metricwatch.watch.scan import concerns
from metricwatch.watch.stage import Watcher
from tests.support.entries import checkpoint_entry
from tests.support.job import wait_until

RUN = Run(key="name:x/night", name="night")


class Scene:
    """A folder of checkpoints, a watcher on it, and the snapshots it made."""

    def __init__(self, tmp_path, pattern="*", *, events=False, **options) -> None:
        self.root = tmp_path / "checkpoints"
        self.root.mkdir(exist_ok=True)
        self.clock = FakeClock()
        (tmp_path / "state").mkdir(exist_ok=True)
        self.db = Database.open(tmp_path / "state")
        self.entry = checkpoint_entry(self.root, RUN, pattern, **options)
        self.woken = []
        self.hints = EventHints(
            lambda: self.woken.append(1), lambda path: concerns(self.entry.pattern, path, deep=True)
        )
        if not events:
            self.hints.listen = lambda roots: None
        self.start()

    def start(self) -> None:
        """The watcher of a daemon that has just been started."""
        self.watcher = Watcher(self.db, [self.entry], self.hints, self.clock)
        self.watcher.start()

    def write(self, name, content=b"weights"):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def look(self, seconds=0.0) -> int:
        """Let time pass and look at everything."""
        self.clock.advance(seconds)
        self.watcher.rescan()
        return self.watcher.tick()

    def settle(self) -> list[tuple[int, int, int]]:
        """Let everything settle; returns (step, revision, files) of what was recorded since the last call."""
        before = len(self.snapshots())
        self.look()
        self.look(6)
        return [(row["step"], row["revision"], row["images"]) for row in self.snapshots()[before:]]

    def snapshots(self) -> list:
        return list(self.db.read("SELECT * FROM snapshots ORDER BY id", ()))


@pytest.fixture
def scene(tmp_path):
    made = []

    def make(*args, **options) -> Scene:
        made.append(Scene(tmp_path, *args, **options))
        return made[-1]

    yield make
    for each in made:
        each.watcher.close()
        each.db.close()


def torch_bytes(seed=0) -> bytes:
    """A checkpoint as torch.save writes it."""
    file = io.BytesIO()
    torch.save({"state_dict": {"w": torch.full((64, 64), float(seed))}, "step": seed}, file)
    return file.getvalue()


def await_new_time(path) -> None:
    """Return when the clock of files has moved on since this path was changed."""
    probe = path.parent / ".probe"

    def later() -> bool:
        probe.unlink(missing_ok=True)
        probe.touch()
        return probe.stat().st_ctime_ns > path.stat().st_ctime_ns

    wait_until(later, seconds=5, what="the clock of files")
    probe.unlink()


def test_each_file_and_each_directory_with_a_step_is_a_checkpoint(scene):
    s = scene()
    for name in ("step_100.pt", "epoch=3-step=200.ckpt", "model_300.safetensors", "step_400", "checkpoint-500/m.bin"):
        s.write(name, b"weights of " + name.encode())
    s.write("checkpoint-500/unet/deep/m.bin")
    s.write("train_600.log")
    assert s.settle() == [(100, 1, 1), (200, 1, 1), (300, 1, 1), (400, 1, 1), (500, 1, 2)]
    assert s.settle() == []
    file, *_, directory = s.snapshots()
    assert (file["path"], json.loads(file["members"])) == (str(s.root), ["step_100.pt"])
    assert (directory["path"], directory["members"]) == (str(s.root / "checkpoint-500"), None)
    assert file["digest"] == listing.fingerprint(listing.entries(str(s.root), ["step_100.pt"]))
    assert directory["digest"] == listing.fingerprint(listing.tree(directory["path"]))


def test_a_file_without_a_step_is_told_once(scene):
    s = scene("*.ckpt")
    with structlog.testing.capture_logs() as logs:
        s.write("last.ckpt")
        s.write("step=100.ckpt")
        assert s.settle() == [(100, 1, 1)]
        s.write("last.ckpt", b"another")
        assert s.settle() == []
    assert [(line["event"], line["path"]) for line in logs if line["log_level"] == "warning"] == [
        ("watch.ignored", str(s.root / "last.ckpt"))
    ]


def test_files_of_one_step_clash_once_and_the_first_is_used(scene):
    s = scene("*.pt")
    with structlog.testing.capture_logs() as logs:
        for step in (1000, 2000, 3000):
            s.write(f"G_{step}.pt")
            s.write(f"D_{step}.pt")
            assert s.settle() == [(step, 1, 1)]
    assert {tuple(json.loads(row["members"])) for row in s.snapshots()} == {(f"D_{n}000.pt",) for n in (1, 2, 3)}
    told = [line["reason"] for line in logs if line["event"] == "watch.clash"]
    assert len(told) == 1
    assert "make `checkpoints` narrower" in told[0]


def test_the_second_of_two_takes_over_when_the_first_is_deleted(scene):
    s = scene("*.pt")
    s.write("D_1000.pt")
    s.write("G_1000.pt", b"generator")
    assert s.settle() == [(1000, 1, 1)]
    (s.root / "D_1000.pt").unlink()
    assert s.settle() == [(1000, 2, 1)]
    assert json.loads(s.snapshots()[-1]["members"]) == ["G_1000.pt"]


@pytest.mark.parametrize("name", ["step_1.pt", "step_1/model.pt"], ids=["file", "directory"])
def test_a_torch_file_that_stalls_half_written_waits_twelve_times_as_long(scene, name):
    s = scene()
    whole = torch_bytes()
    for share in (0.0, 0.3, 0.6, 0.99):
        s.write(name, whole[: int(len(whole) * share)])
        s.look()
        assert s.look(20) == 0
    s.write(name, whole)
    assert s.settle() == [(1, 1, 1)]


def test_a_torch_file_that_is_never_finished_is_scored_to_be_told_of(scene):
    s = scene()
    s.write("step_1.pt", torch_bytes()[:-30])
    s.look()
    assert s.look(59) == 0
    assert s.look(2) == 1


def test_safetensors_in_pieces_wait_for_the_last_one(scene):
    s = scene()
    whole = safetensors_bytes({"w": torch.zeros(64, 64), "b": torch.ones(3)})
    for end in (5, 40, len(whole) - 1):
        s.write("step_1/unet/model.safetensors", whole[:end])
        s.look()
        assert s.look(20) == 0
    s.write("step_1/unet/model.safetensors", whole)
    assert s.settle() == [(1, 1, 1)]


def test_an_index_waits_for_the_shards_that_it_names(scene):
    s = scene()
    names = [f"model-{n}-of-2.safetensors" for n in (1, 2)]
    s.write("checkpoint-1/model.safetensors.index.json", json.dumps({"weight_map": dict(enumerate(names))}).encode())
    for name in names:
        s.look()
        assert s.look(20) == 0
        s.write(f"checkpoint-1/{name}", safetensors_bytes({"w": torch.zeros(3)}))
    assert s.settle() == [(1, 1, 3)]


def test_a_torch_distributed_checkpoint_settles_with_its_index(scene):
    s = scene()
    s.write("step-1/__0_0.distcp", b"a rank is at it")
    s.look()
    assert s.look(20) == 0
    shutil.rmtree(s.root / "step-1")
    dcp.save({"w": torch.zeros(16, 16)}, checkpoint_id=s.root / "step-1", no_dist=True)
    s.look()
    assert s.look(0.5) == 0
    assert s.look(0.6) == 1
    assert s.snapshots()[0]["images"] == 2


def test_what_comes_right_after_the_last_file_is_part_of_the_checkpoint(scene):
    """Lightning saves meta.pt after the distributed checkpoint, other processes their random states."""
    s = scene()
    dcp.save({"w": torch.zeros(4)}, checkpoint_id=s.root / "epoch=0-step=7.ckpt", no_dist=True)
    s.look()
    s.write("epoch=0-step=7.ckpt/meta.pt", torch_bytes())
    assert s.look(1.1) == 0
    assert s.look(1.1) == 1
    assert s.settle() == []
    assert s.snapshots()[0]["images"] == 3


@pytest.mark.parametrize(
    ("last", "content"),
    [
        ("checkpoint-500/trainer_state.json", b"{}"),
        ("checkpoint-500/model_index.json", b"{}"),
        ("latest", b"checkpoint-500"),
    ],
)
def test_a_formats_last_file_spares_the_quiet_time_unless_something_is_younger(scene, last, content):
    s = scene()
    early = s.write(last, content)
    await_new_time(early)
    s.write("checkpoint-500/model.bin")
    s.look()
    assert s.look(2) == 0
    await_new_time(s.root / "checkpoint-500/model.bin")
    s.write(last, content)
    assert s.look() + s.look(1.1) == 1


def test_a_last_file_left_over_from_the_first_write_does_not_vouch_for_a_rewrite(scene):
    s = scene()
    s.write("checkpoint-500/model.bin")
    s.write("checkpoint-500/trainer_state.json", b"{}")
    assert s.settle() == [(500, 1, 2)]
    s.write("checkpoint-500/model.bin", b"rewritten")
    s.write("checkpoint-500/trainer_state.json", b"{} ")
    s.look()
    assert s.look(4.9) == 0
    assert s.look(0.2) == 1


@pytest.mark.parametrize(
    ("name", "marker"),
    [
        ("step_1.pt", "step_1.pt.done"),
        ("step_1.pt", "step_1.done"),
        ("step_1/model.pt", "step_1/.done"),
        ("step_1/model.pt", "step_1/_SUCCESS"),
        ("step_1/model.pt", "step_1.done"),
    ],
)
def test_a_marker_settles_at_once_and_is_no_part_of_the_checkpoint(scene, name, marker):
    s = scene("step_*")
    s.write(name, torch_bytes())
    s.write(marker, b"")
    assert s.look() == 1
    await_new_time(s.root / marker)
    s.write(marker, b"again")
    assert s.settle() == []


def test_a_marker_beside_a_file_is_found_under_a_glob_with_a_suffix_and_speaks_for_no_other(scene):
    s = scene("*.pt")
    s.write("D_1.pt")
    s.write("G_1.pt")
    s.write("G_1.pt.done", b"")
    assert s.look() == 0
    s.write("D_1.pt.done", b"")
    assert s.look() == 1


def test_unfinished_names_and_logs(scene):
    """A name in the making asks for patience; a log that grows does not keep a checkpoint from settling."""
    s = scene()
    s.write("1/model.bin")
    part = s.write("1/unet/model.bin.part")
    s.look()
    assert s.look(50) == 0
    part.rename(s.root / "1/unet/model.bin")
    s.look()
    s.write("1/train.log", b"more")
    assert s.look(6) == 1
    s.write("1/train.log", b"more and more")
    assert s.settle() == []
    assert s.snapshots()[0]["images"] == 2


@pytest.mark.parametrize("name", ["step_1.pt", "step_1"])
def test_a_hard_link_and_its_end_are_no_new_revision_even_over_a_restart(scene, tmp_path, name):
    s = scene()
    path = s.write(name if name.endswith(".pt") else f"{name}/model.pt", torch_bytes())
    s.write("step_2/model.pt")
    assert s.settle() == [(1, 1, 1), (2, 1, 1)]
    for restart in (False, True):
        await_new_time(path)
        os.link(path, tmp_path / "state" / "pin")
        if restart:
            s.start()
        assert s.settle() == []
        (tmp_path / "state" / "pin").unlink()
        assert s.settle() == []


def test_rotation_file_by_file_is_no_new_revision_even_over_a_restart(scene, tmp_path):
    s = scene()
    for step in (1, 2):
        for n in range(4):
            s.write(f"step_{step}/{n}.bin")
    s.write("step_3.pt")
    assert s.settle() == [(1, 1, 4), (2, 1, 4), (3, 1, 1)]
    paths = sorted(s.root.glob("*/*"))
    await_new_time(paths[-1])
    for n, path in enumerate(paths):
        # Pinned before it goes: the links move the times of the change.
        os.link(path, tmp_path / "state" / f"pin-{n}")
    for n, path in enumerate(paths):
        path.unlink()
        if n % 3 == 1:
            s.start()
        assert s.settle() == []
    shutil.rmtree(s.root / "step_1")
    (s.root / "step_3.pt").unlink()
    assert s.settle() == []


# --- what is left of a checkpoint, and what comes late -----------------------------------------------------


def claim(s):
    return Ledger(s.db).claim(s.clock.now(), timedelta(minutes=2), [s.entry.source])


def states(s) -> list[tuple[int, int, str]]:
    rows = s.db.read(
        "SELECT snapshots.step, revision, state FROM jobs JOIN snapshots ON snapshots.id = snapshot ORDER BY jobs.id"
    )
    return [tuple(row) for row in rows]


def with_optimizer(s, name="checkpoint-1"):
    """A checkpoint that has settled; returns the file of it that trainers remove from older ones."""
    s.write(f"{name}/unet/model.bin")
    optimizer = s.write(f"{name}/unet/optimizer.bin", b"momentum")
    s.settle()
    return optimizer


@pytest.mark.parametrize("restarted", [False, True])
def test_a_checkpoint_that_is_stripped_while_it_waits_is_recorded_as_it_is_left(scene, restarted):
    s = scene()
    with_optimizer(s).unlink()
    if restarted:
        s.start()
    assert [s.look(20) for _ in range(3)] == [0, 0, 0]
    assert s.look(20) == 1
    assert states(s) == [(1, 1, "superseded"), (1, 2, "queued")]
    assert s.snapshots()[-1]["digest"] == listing.fingerprint(listing.tree(str(s.root / "checkpoint-1")))
    assert s.look(120) == 0


def test_a_checkpoint_that_is_stripped_after_it_was_scored_stays_scored(scene):
    s = scene()
    optimizer = with_optimizer(s)
    Ledger(s.db).finish(claim(s).id, JobState.DONE, s.clock.now())
    optimizer.unlink()
    assert [s.look(30) for _ in range(4)] == [0] * 4
    assert s.watcher.settled()


def test_a_checkpoint_that_is_stripped_at_work_waits_for_what_becomes_of_the_work(scene, monkeypatch):
    """Found again by what the worker met, where neither an event nor the folder's own time tells of it."""
    monkeypatch.setattr(stage, "_FEWEST_LOOKED_INTO", 0)
    s = scene()
    optimizer = with_optimizer(s)
    ledger, job = Ledger(s.db), claim(s)
    optimizer.unlink()
    (s.root / "checkpoint-1").touch()
    assert [s.look(30) for _ in range(4)] == [0] * 4
    ledger.count_change(job.id)
    ledger.postpone(job.id, "it has changed", s.clock.now(), holds_back=False)
    assert [s.look(30) for _ in range(3)] == [0, 0, 1]
    assert states(s) == [(1, 1, "superseded"), (1, 2, "queued")]


def test_a_checkpoint_that_failed_because_it_was_stripped_is_recorded_as_it_is_left(scene):
    s = scene(settle=timedelta(minutes=1))
    s.write("checkpoint-1/model.bin")
    optimizer = s.write("checkpoint-1/optimizer.bin")
    s.look()
    s.look(61)
    ledger, job = Ledger(s.db), claim(s)
    optimizer.unlink()
    s.look()
    ledger.count_change(job.id)
    ledger.finish(job.id, JobState.FAILED, s.clock.now(), "it has changed")
    optimizer.parent.touch()
    s.look()
    assert (s.look(700), s.look(21)) == (0, 1)


def test_a_file_that_is_written_as_another_goes_needs_no_more_patience_than_any_rewrite(scene):
    s = scene()
    with_optimizer(s).unlink()
    s.look()
    s.write("checkpoint-1/unet/model.bin", b"averaged")
    assert s.settle() == [(1, 2, 1)]


def test_what_lacks_its_own_parts_is_no_checkpoint_however_long_it_lies_there(scene):
    s = scene()
    index = json.dumps({"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}).encode()
    s.write("checkpoint-1/model.safetensors.index.json", index)
    for name in "ab":
        s.write(f"checkpoint-1/{name}.safetensors", safetensors_bytes({"w": torch.zeros(3)}))
    assert s.settle() == [(1, 1, 3)]
    (s.root / "checkpoint-1/b.safetensors").unlink()
    assert [s.look(60) for _ in range(4)] == [0] * 4
    assert s.watcher.settled()


def test_what_comes_late_beside_the_weights_is_no_new_revision(scene):
    s = scene()
    s.write("checkpoint-1/model.bin")
    assert s.settle() == [(1, 1, 1)]
    for name in ("eval_results.txt", "README.md", "validation/img_0.png", "metrics.csv", "report.html"):
        s.write(f"checkpoint-1/{name}")
        assert s.settle() == []
    s.write("checkpoint-1/tokenizer/vocab.txt")
    assert s.settle() == [(1, 2, 2)]


@pytest.mark.parametrize("name", ["step_1.pt", "step_1/model/w.pt"])
def test_a_checkpoint_rewritten_in_place_is_a_new_revision(scene, name):
    s = scene()
    s.write(name, torch_bytes(1))
    assert s.settle() == [(1, 1, 1)]
    for share in (0.5, 1.0):
        whole = torch_bytes(2)
        s.write(name, whole[: int(len(whole) * share)])
        s.look()
    assert s.look(4.9) == 0
    assert s.settle() == [(1, 2, 1)]


@pytest.mark.parametrize("name", ["step_1.pt", "step_1/unet/model.pt"], ids=["file", "directory"])
def test_what_is_renamed_into_place_needs_no_quiet_time(scene, name):
    s = scene(events=True)
    s.look()
    place = s.root / name.split("/")[0]
    for revision in (1, 2):
        aside = s.write("." + name, torch_bytes(revision))
        await_new_time(aside)
        if revision == 2 and place.is_dir():
            shutil.rmtree(place)
        (s.root / f".{place.name}").replace(place)
        # Its own: those of the files in it may come late, after the tick before.
        wait_until(lambda: str(place) in s.hints._hints.renamed, seconds=5, what="the event")
        s.clock.advance(0.2)
        assert s.watcher.tick() == 1
        s.clock.advance(1)
    assert [(row["step"], row["revision"]) for row in s.snapshots()] == [(1, 1), (1, 2)]


def test_half_a_file_that_was_renamed_into_place_waits(scene):
    s = scene(events=True)
    s.look()
    aside = s.write(".step_1.pt", torch_bytes()[:-9])
    await_new_time(aside)
    aside.rename(s.root / "step_1.pt")
    wait_until(lambda: s.hints._hints.renamed, seconds=5, what="the event")
    assert s.look(20) == 0


def test_a_change_deep_inside_is_seen_by_its_event(scene):
    s = scene(events=True)
    path = s.write("step_1/a/b/c/model.bin")
    assert s.settle() == [(1, 1, 1)]
    s.look(3)
    s.hints.take()
    path.write_bytes(b"rewritten")
    wait_until(lambda: str(path) in s.hints._hints.touched, seconds=5, what="the event")
    s.clock.advance(0.2)
    s.watcher.tick()
    assert s.watcher.settling() == 1


def test_a_directory_that_grows_deep_inside_does_not_settle(scene):
    s = scene()
    s.write("step_1/model.bin")
    for n in range(4):
        s.write(f"step_1/a/b/{n}.bin")
        assert s.look(4) == 0
    assert s.look(6) == 1


def test_known_checkpoints_are_neither_read_nor_walked_at_each_rescan(scene, monkeypatch):
    s = scene()
    for step in range(1, 60):
        s.write(f"{step:03d}/unet/model.pt", torch_bytes())
        s.write(f"{step + 100}.pt", torch_bytes())
    assert len(s.settle()) == 118
    for _ in range(3):
        s.look(10)
    opened, walked = [], []
    everything = listing.everything
    monkeypatch.setattr(formats, "_open", opened.append)
    monkeypatch.setattr(listing, "everything", lambda path: walked.append(path) or everything(path))
    s.look(10)
    s.start()
    s.look(10)
    assert opened == []
    assert len(walked) <= 2 * 16


def test_a_directory_of_too_many_files_is_told_of_and_not_taken(scene, monkeypatch):
    monkeypatch.setattr(listing, "MOST_FILES", 2)
    s = scene()
    for n in range(3):
        s.write(f"step_1/{n}.bin")
    with structlog.testing.capture_logs() as logs:
        assert s.settle() == []
        assert s.settle() == []
    assert [line["reason"] for line in logs] == ["more than 2 files lie in it; name the checkpoints alone"]


def test_a_checkpoint_is_recorded_for_its_own_source(scene):
    s = scene()
    s.write("step_1.pt")
    assert s.settle() == [(1, 1, 1)]
    assert list(Ledger(s.db).newest(s.entry.source)) == [1]
    assert Ledger(s.db).newest(RUN.key) == {}
    assert time.time_ns() > Ledger(s.db).newest(s.entry.source)[1].newest_ns > 0


@pytest.mark.parametrize(
    ("names", "more"),
    [
        (["model-00001-of-00002.safetensors"], True),
        (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], True),
        (
            [
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "model.safetensors.index.json",
            ],
            False,
        ),
        (["unet/m-00001-of-00001.bin", "unet/m.bin.index.json", "vae/m-00001-of-00002.bin"], True),
        (["model.safetensors"], False),
    ],
)
def test_shards_without_their_siblings_or_their_index_are_unfinished(names: list[str], more: bool) -> None:
    assert formats._lacks_shards(set(names)) is more
