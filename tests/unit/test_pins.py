"""A checkpoint that is being read stays, whatever the trainer does meanwhile."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from metricwatch import listing
from metricwatch.errors import InputError, TemporaryError
from metricwatch.protocol import Evaluate, Sampling
from metricwatch.worker import pins
from metricwatch.worker.pins import pinned
from metricwatch.worker.progress import Progress
from metricwatch.worker.samples import ChangedError, GoneError


def file_request(path: Path, pins: Path) -> Evaluate:
    digest = listing.fingerprint(listing.entries(str(path.parent), [path.name]))
    sampling = Sampling(use="painter", pins=str(pins))
    return Evaluate(job=7, path=str(path.parent), members=(path.name,), digest=digest, sampling=sampling)


def tree_request(path: Path, pins: Path) -> Evaluate:
    digest = listing.fingerprint(listing.tree(str(path)))
    return Evaluate(job=7, path=str(path), digest=digest, sampling=Sampling(use="painter", pins=str(pins)))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoints" / "step_000100.pt"
    path.parent.mkdir()
    path.write_bytes(b"weights")
    return path


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoints" / "checkpoint-100"
    (path / "unet").mkdir(parents=True)
    (path / "model_index.json").write_text("{}")
    (path / "unet" / "a.safetensors").write_bytes(b"aaa")
    (path / ".metadata").write_bytes(b"index")
    return path


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A folder on another file system, where no link to the checkpoint can be made."""
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("no second file system here")
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    yield folder / "pins"
    shutil.rmtree(folder)


def test_a_pinned_file_can_be_read_after_the_trainer_removed_it(checkpoint: Path, tmp_path: Path) -> None:
    with pinned(file_request(checkpoint, tmp_path / "pins"), Progress()) as pin:
        assert os.stat(pin.path).st_ino == checkpoint.stat().st_ino
        checkpoint.unlink()

        assert Path(pin.path).read_bytes() == b"weights"
        assert Path(pin.path).name == pin.name == "step_000100.pt"
        pin.check()

    assert not list((tmp_path / "pins").iterdir())


def test_a_pinned_directory_stays_whole_while_the_trainer_removes_it(sharded: Path, tmp_path: Path) -> None:
    with pinned(tree_request(sharded, tmp_path / "pins"), Progress()) as pin:
        shutil.rmtree(sharded)

        assert sorted(entry.name for entry in listing.tree(pin.path)) == [
            ".metadata",
            "model_index.json",
            "unet/a.safetensors",
        ]
        assert pin.copied == 0


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_where_no_link_can_be_made_it_is_copied(kind: str, checkpoint: Path, sharded: Path, elsewhere: Path) -> None:
    request = file_request(checkpoint, elsewhere) if kind == "file" else tree_request(sharded, elsewhere)

    with pinned(request, Progress()) as pin:
        assert pin.copied == (7 if kind == "file" else 10)
        shutil.rmtree(checkpoint.parent)
        pin.check()

    assert not list(elsewhere.iterdir())


def test_a_checkpoint_that_was_removed_before_is_gone(checkpoint: Path, sharded: Path, tmp_path: Path) -> None:
    requests = [file_request(checkpoint, tmp_path / "pins"), tree_request(sharded, tmp_path / "pins")]
    checkpoint.unlink()
    shutil.rmtree(sharded)

    for request in requests:
        with pytest.raises(GoneError, match="was removed before it was scored"), pinned(request, Progress()):
            pass


def test_a_folder_of_checkpoints_that_is_away_may_come_back(checkpoint: Path, sharded: Path, tmp_path: Path) -> None:
    requests = [file_request(checkpoint, tmp_path / "pins"), tree_request(sharded, tmp_path / "pins")]
    shutil.rmtree(checkpoint.parent)

    for request in requests:
        with pytest.raises(TemporaryError, match="is its file system mounted"), pinned(request, Progress()):
            pass


def test_a_directory_that_is_being_removed_has_changed_and_is_not_read(sharded: Path, tmp_path: Path) -> None:
    request = tree_request(sharded, tmp_path / "pins")
    (sharded / "unet" / "a.safetensors").unlink()

    with pytest.raises(ChangedError, match="has changed since it settled"), pinned(request, Progress()):
        pass


def test_writing_into_a_linked_file_is_noticed(checkpoint: Path, tmp_path: Path) -> None:
    with pinned(file_request(checkpoint, tmp_path / "pins"), Progress()) as pin:
        checkpoint.write_bytes(b"other weights")

        with pytest.raises(ChangedError, match="was written to while it was read"):
            pin.check()


def test_a_link_in_place_of_the_file_is_followed(checkpoint: Path, tmp_path: Path) -> None:
    link = checkpoint.with_name("step_000200.pt")
    link.symlink_to(checkpoint.name)

    with pinned(file_request(link, tmp_path / "pins"), Progress()) as pin:
        checkpoint.unlink()

        assert Path(pin.path).read_bytes() == b"weights"


def test_what_a_killed_worker_left_is_removed(checkpoint: Path, tmp_path: Path) -> None:
    left = tmp_path / "pins" / "job-3" / "step_000050.pt"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"ten gigabytes")

    with pinned(file_request(checkpoint, tmp_path / "pins"), Progress()):
        assert not left.exists()


def test_a_pin_folder_that_cannot_be_made_is_told(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "pins").write_text("not a folder")

    with pytest.raises(InputError, match="cannot"), pinned(file_request(checkpoint, tmp_path / "pins"), Progress()):
        pass


def test_pins_may_be_a_link_to_another_disk(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "pins").symlink_to(tmp_path / "elsewhere")

    for _ in range(2):
        with pinned(file_request(checkpoint, tmp_path / "pins"), Progress()) as pin:
            assert Path(pin.path).read_bytes() == b"weights"

    assert (tmp_path / "pins").is_symlink()
    assert not list((tmp_path / "elsewhere").iterdir())


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "checkpoints" / "step_000100.pt"
    pipe.parent.mkdir()
    os.mkfifo(pipe)

    with (
        pytest.raises(InputError, match="not a regular file"),
        pinned(file_request(pipe, tmp_path / "pins"), Progress()),
    ):
        pass


def test_a_copy_leaves_room_for_others(checkpoint: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pins, "_RESERVE", 10**18)
    request = file_request(checkpoint, elsewhere)

    with pytest.raises(TemporaryError, match="no room to copy"), pinned(request, Progress()):
        pass
    with pytest.raises(InputError, match="no room to copy"), pinned(replace(request, patient=False), Progress()):
        pass


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ETIMEDOUT])
def test_a_disk_that_stumbles_is_tried_again(
    number: int, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", stumble)

    with pytest.raises(TemporaryError, match="now"), pinned(file_request(checkpoint, tmp_path / "pins"), Progress()):
        pass


def test_of_a_directory_all_files_are_pinned_and_only_its_own_must_stay(sharded: Path, tmp_path: Path) -> None:
    (sharded / "classes.txt").write_text("cat")
    request = tree_request(sharded, tmp_path / "pins")
    (sharded / "notes.md").write_text("later")

    with pinned(request, Progress()) as pin:
        assert (Path(pin.path) / "classes.txt").read_text() == "cat"


def test_a_directory_of_which_only_folders_are_left_is_gone(sharded: Path, tmp_path: Path) -> None:
    request = tree_request(sharded, tmp_path / "pins")
    for path in (path for path in sharded.rglob("*") if path.is_file()):
        path.unlink()

    with pytest.raises(GoneError), pinned(request, Progress()):
        pass


def test_what_others_keep_beside_our_pins_stays(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "pins" / "theirs").mkdir(parents=True)

    with pinned(file_request(checkpoint, tmp_path / "pins"), Progress()):
        pass

    assert [path.name for path in (tmp_path / "pins").iterdir()] == ["theirs"]
