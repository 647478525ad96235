"""Which step a checkpoint's name means, which files a checkpoint consists of, and what its format tells of itself."""

from __future__ import annotations

import json
import os
import zipfile

import pytest

from metricwatch import listing
from metricwatch.watch import formats
from metricwatch.watch.checkpoints import Checkpoints
from metricwatch.watch.formats import Evidence, last_written
from metricwatch.watch.layouts import checkpoint_step_of, step_by
from metricwatch.watch.scan import concerns


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("epoch=3-step=1000.ckpt", 1000),
        ("epoch=3-step=1000-v1.ckpt", 1000),
        ("epoch=12-val_loss=0.31.ckpt", 12),
        ("epoch_10_psnr_31.pt", 10),
        ("step_100.pt", 100),
        ("G_1000.pth", 1000),
        ("resnet50_001000.pt", 1000),
        ("ema_0.9999_050000.pt", 50000),
        ("checkpoint_0010.pth.tar", 10),
        ("model.1000", 1000),
        ("step_1000", 1000),
        ("model_1000.pt2", 1000),
        ("last.ckpt", None),
        ("last-v1.ckpt", None),
        ("best_val_0.91.pt", None),
    ],
)
def test_a_checkpoint_file_gives_its_step(name, step):
    assert checkpoint_step_of(name, False) == step


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("checkpoint-500", 500),
        ("iter_0000500", 500),
        ("global_step1000", 1000),
        ("sd_xl_1.0-500", 500),
        ("step_100.ckpt", 100),
        ("final", None),
    ],
)
def test_a_checkpoint_directory_gives_its_step(name, step):
    assert checkpoint_step_of(name, True) == step


def test_the_users_own_pattern_wins_over_that_of_checkpoints():
    assert step_by(r"kimg(?P<step>\d+)", checkpoint_step_of)("net-kimg25-epoch_3.pkl", False) == 25


@pytest.mark.parametrize(
    ("name", "belongs", "is_being_written"),
    [
        ("model.safetensors", True, False),
        ("unet/config.json", True, False),
        ("model/.metadata", True, False),
        (".metadata.tmp", False, True),
        ("unet/model.safetensors.part", False, True),
        (".model.pt.Xy12", False, True),
        ("rank0.tmp/model.pt", False, True),
        (".done", False, False),
        ("_SUCCESS", False, False),
        (".git/config", False, False),
        ("train.log", False, False),
        ("events.out.tfevents.17.host", False, False),
        ("eval_results.txt", False, False),
        ("README.md", False, False),
        ("validation/img_0.PNG", False, False),
        ("metrics.csv", False, False),
        ("report.html", False, False),
        ("curves.pdf", False, False),
        ("vocab.txt", True, False),
        ("text_encoder/merges.txt", True, False),
        ("tokenizer_2/special.txt", True, False),
        ("added_tokens.txt", True, False),
        ("spiece.model", True, False),
        ("tokenizer/README.md", False, False),
        ("tokenizer/.vocab.txt.Xy12", False, True),
    ],
)
def test_a_checkpoint_consists_of_its_finished_files_alone(name, belongs, is_being_written):
    assert listing.belongs(name) is belongs
    assert listing.is_being_written(name) is is_being_written


def test_a_tree_follows_linked_files_and_no_linked_folders(tmp_path):
    (tmp_path / "blob").write_bytes(b"12345")
    root = tmp_path / "checkpoint-1"
    (root / "unet").mkdir(parents=True)
    (root / "unet" / "model.bin").symlink_to(tmp_path / "blob")
    (root / "around").symlink_to(root)
    (root / "gone.bin").symlink_to(tmp_path / "nowhere")
    os.mkfifo(root / "pipe")
    (root / ".metadata").write_bytes(b"index")
    assert [(entry.name, entry.size) for entry in listing.tree(str(root))] == [(".metadata", 5), ("unet/model.bin", 5)]


def test_a_tree_of_more_files_than_any_checkpoint_has_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "MOST_FILES", 3)
    for n in range(3):
        (tmp_path / f"{n}").touch()
    assert len(listing.tree(str(tmp_path))) == 3
    (tmp_path / "more").mkdir()
    with pytest.raises(OSError, match="more than 3 files"):
        listing.tree(str(tmp_path))


def safetensors(data: bytes, *, metadata: str = "", declared: int | None = None) -> bytes:
    header = {"__metadata__": {"note": metadata}, "w": {"dtype": "U8", "shape": [1], "data_offsets": [0, len(data)]}}
    text = json.dumps(header).encode()
    return (len(text) if declared is None else declared).to_bytes(8, "little") + text + data


def write(folder, name, data) -> list[listing.FileEntry]:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return listing.tree(str(folder))


@pytest.mark.parametrize("missing", [0, 1, 40, 90, 10_000])
def test_a_file_of_safetensors_is_complete_to_the_byte(tmp_path, missing):
    """The header is longer than a chunk, and speaks of offsets in its metadata."""
    whole = safetensors(b"x" * 50, metadata='"data_offsets":[0,9999999]' * 60_000)
    parts = write(tmp_path, "m.safetensors", whole[: len(whole) - missing])
    assert Evidence().of_more_to_come(str(tmp_path), parts) is bool(missing)


def test_offsets_are_found_wherever_a_chunk_of_the_header_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "_CHUNK", 5)
    assert not Evidence().of_more_to_come(str(tmp_path), write(tmp_path, "m.safetensors", safetensors(b"x" * 1234)))


@pytest.mark.parametrize(
    ("name", "data", "more"),
    [
        ("m.safetensors", bytes(1000), True),
        ("m.safetensors", b"", True),
        ("m.safetensors", safetensors(b"", declared=200_000_000), False),
        ("m.safetensors", b"\xff" * 100, False),
        ("m.pt", b"", True),
        ("m.pt", b"PK\x03\x04" + b"w" * 200_000, True),
        ("m.pt", b"PK\x03\x04" + b"PK\x05\x06" * 10 + b"w" * 200, True),
        ("m.pt", b"PK\x03\x04" + b"PK\x05\x06" + bytes(18) + b"another zip inside", True),
        ("m.pt", b"\x80\x02 an old pickle", False),
        ("optimizer", b"", False),
        ("m.safetensors.index.json", b'{"weight_map": {"a": "m-1.saf', False),
        ("m.safetensors.index.json", b'{"weight_map": {"a": "m-1.safetensors"}}', True),
        ("m.safetensors.index.json", b'{"weight_map": {"a": "/etc/x", "b": "../x", "c": 3, "d": ""}}', False),
        ("m.bin.index.json", b"[" * 100_000, False),
        ("m.bin.index.json", b'{"weight_map": []}', False),
        ("__0_0.distcp", b"x", True),
        ("model/__0_0.distcp", b"x", True),
    ],
)
def test_what_a_file_says_of_more_to_come(tmp_path, name, data, more):
    assert Evidence().of_more_to_come(str(tmp_path), write(tmp_path, name, data)) is more


def test_an_index_is_content_when_its_shards_are_there(tmp_path):
    write(tmp_path, "unet/m.bin.index.json", b'{"weight_map": {"a": "m-1.bin", "b": "m-2.bin"}}')
    evidence = Evidence()
    assert evidence.of_more_to_come(str(tmp_path), write(tmp_path, "unet/m-1.bin", b"1"))
    assert evidence.of_more_to_come(str(tmp_path), write(tmp_path, "m-2.bin", b"2"))
    assert not evidence.of_more_to_come(str(tmp_path), write(tmp_path, "unet/m-2.bin", b"2"))


@pytest.mark.parametrize("comment", [b"", b"a comment", b"c" * 65_535])
def test_a_zip_with_a_comment_is_complete(tmp_path, comment):
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("data.pkl", b"x")
        archive.comment = comment
    assert not Evidence().of_more_to_come(str(tmp_path), listing.tree(str(tmp_path)))


def test_what_stays_is_read_once_and_what_grows_again(tmp_path, monkeypatch):
    opened = []
    open_file = formats._open
    monkeypatch.setattr(formats, "_open", lambda path: opened.append(os.path.basename(path)) or open_file(path))
    evidence = Evidence()
    write(tmp_path, "a.pt", b"old")
    for data in (b"PK\x03\x04", b"PK\x03\x04", b"PK\x03\x04more"):
        parts = write(tmp_path, "b.pt", data)
        os.utime(tmp_path / "b.pt", ns=(len(data), len(data)))
        assert evidence.of_more_to_come(str(tmp_path), listing.tree(str(tmp_path)))
    assert len(parts) == 2
    assert opened == ["a.pt", "b.pt", "b.pt"]


def test_a_pipe_or_a_file_that_went_is_no_sign_of_anything(tmp_path):
    os.mkfifo(tmp_path / "m.pt")
    parts = [listing.FileEntry(name=name, size=9, mtime_ns=0) for name in ("m.pt", "gone.safetensors")]
    assert not Evidence().of_more_to_come(str(tmp_path), parts)


@pytest.mark.parametrize(
    ("folder", "tracker", "says", "names_it"),
    [
        ("global_step1000", "latest", "global_step1000", True),
        ("global_step1000", "latest", "global_step2000\n", False),
        ("iter_0000500", "latest_checkpointed_iteration.txt", "500", True),
        ("iter_0000500", "latest_checkpointed_iteration.txt", "1000", False),
        ("iter_0000500", "latest_checkpointed_iteration.txt", "release", False),
    ],
)
def test_a_tracker_speaks_for_the_checkpoint_that_it_names(tmp_path, folder, tracker, says, names_it):
    parts = write(tmp_path / folder, "model.pt", b"x")
    (tmp_path / tracker).write_text(says)
    assert [entry.name for entry in last_written(str(tmp_path / folder), parts)] == [tracker] * names_it


def test_a_last_file_counts_in_the_checkpoints_own_folder_and_once_something_is_in_it(tmp_path):
    write(tmp_path, "unet/model_index.json", b"{}")
    write(tmp_path, "meta.pt", b"{}")
    assert last_written(str(tmp_path), write(tmp_path, "trainer_state.json", b"")) == []
    found = last_written(str(tmp_path), write(tmp_path, ".metadata", b"index"))
    assert [entry.name for entry in found] == [".metadata", "meta.pt"]


@pytest.mark.parametrize("name", ["a.pt", "a.ckpt", "a.safetensors", "step_100", "a.1000", "a.pth.tar", "a.pkl"])
def test_any_file_may_be_a_checkpoint(name):
    assert Checkpoints().is_file(name)


@pytest.mark.parametrize("name", ["train.log", "100.png", "events.out.tfevents.17.host", "latest", "args_3.json"])
def test_what_lies_beside_checkpoints_is_none(name):
    assert not Checkpoints().is_file(name)


@pytest.mark.parametrize("name", ["tmp-checkpoint-500", "500.orbax-checkpoint-tmp-17", "step_1.pt.tmp", ".step_1.pt"])
def test_a_name_in_the_making_is_no_step(name):
    assert Checkpoints().is_temporary(name)
    assert not Checkpoints().is_temporary("checkpoint-500")


def test_events_at_any_depth_concern_a_checkpoint():
    assert concerns("/runs/*/ckpt/*", "/runs/a/ckpt/500/unet/deep/x.bin", deep=True)
    assert not concerns("/runs/*/ckpt/*", "/runs/a/logs/500/unet/deep/x.bin", deep=True)
    assert not concerns("/runs/*/ckpt/*", "/runs/a/ckpt", deep=True)
