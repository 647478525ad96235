"""metricwatch.snapshot: the watcher sees nothing or all of a step, and no loop's picture is lost or altered."""

from __future__ import annotations

import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing._internal.distributed.fake_pg import FakeStore
from torchvision.utils import save_image

import metricwatch
from metricwatch.errors import InputError
from metricwatch.hook import staging
from metricwatch.protocol import Evaluate
from metricwatch.records import Run
from metricwatch.watch.scan import Contents, look_into, scan
from metricwatch.worker.manifest import read_manifest
from metricwatch.worker.pairing import Pairing
from metricwatch.worker.samples import list_samples
from tests.support.entries import watch_entry

MARKERS = (".done", "_SUCCESS")
GREY = np.full((4, 6, 3), 100, np.uint8)


def watched(samples: Path) -> dict[int, Contents]:
    """What the daemon's watcher finds below the folder, by step."""
    found = scan(watch_entry(samples, Run(key="r", name="r"), markers=MARKERS))
    assert not found.ignored
    assert not found.clashes
    looked = {step: look_into(candidate, MARKERS) for step, candidate in found.candidates.items()}
    return {step: contents for step, contents in looked.items() if contents}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def partner(samples: Path, kind: str, **request: str) -> str:
    """The partner that the worker finds for the only image of step 1. Raises when it may not be used."""
    evaluate = Evaluate(job=1, path=str(samples / "step_000001"), **request)
    pairing = Pairing(list_samples(evaluate), evaluate)
    assert not pairing.open(kind)
    (item,) = pairing.items({kind})
    if item.missing:
        raise LookupError(item.missing[0])
    return item.partners[kind]


def test_the_watcher_sees_nothing_of_a_step_until_all_of_it_is_there(tmp_path):
    with metricwatch.snapshot(tmp_path / "samples", 100) as snapshot:
        snapshot.save("a", GREY)
        snapshot.save(7, GREY)
        assert watched(tmp_path / "samples") == {}
    contents = watched(tmp_path / "samples")[100]
    assert contents.images == 2
    assert contents.marked
    assert names(tmp_path / "samples") == ["step_000100"]
    assert names(tmp_path / "samples/step_000100") == [".done", "0007.png", "a.png"]
    assert snapshot.path == str(tmp_path / "samples/step_000100")


def test_an_exception_in_the_body_leaves_nothing(tmp_path):
    def broken_loop() -> None:
        with metricwatch.snapshot(tmp_path, 1) as snapshot:
            snapshot.save("a", GREY)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken_loop()
    assert names(tmp_path) == []


def test_a_body_that_saves_nothing_writes_nothing_and_says_so(tmp_path, caplog):
    with metricwatch.snapshot(tmp_path, 1) as snapshot:
        snapshot.save("a", GREY)
    with metricwatch.snapshot(tmp_path, 1):
        pass
    assert watched(tmp_path)[1].images == 1
    assert names(tmp_path) == ["step_000001"]
    assert "no images" in caplog.text


def test_a_killed_process_leaves_a_hidden_folder_that_the_same_steps_next_snapshot_removes(tmp_path):
    code = (
        "import os, signal, sys, numpy, metricwatch\n"
        "with metricwatch.snapshot(sys.argv[1], 100) as snapshot:\n"
        "    snapshot.save('a', numpy.zeros((4, 4, 3), 'uint8'))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path], check=False).returncode == -signal.SIGKILL
    (left,) = names(tmp_path)
    assert left.startswith(".step_000100.")
    assert left.endswith(".tmp")
    assert names(tmp_path / left) == ["a.png"]
    assert watched(tmp_path) == {}
    with metricwatch.snapshot(tmp_path, 10) as snapshot:
        snapshot.save("a", GREY)
    assert left in names(tmp_path)
    with metricwatch.snapshot(tmp_path, 100) as snapshot:
        snapshot.save("b", GREY)
    assert names(tmp_path) == ["step_000010", "step_000100"]


def test_what_a_living_process_or_one_of_another_machine_writes_is_left_until_it_is_old(tmp_path):
    parent, host = os.getppid(), staging._host()
    others = [tmp_path / f".step_000001.{writer}-00000000.tmp" for writer in (f"{host}-{parent}", "elsewhere-1")]
    for folder in others:
        folder.mkdir()
    with metricwatch.snapshot(tmp_path, 1) as snapshot:
        snapshot.save("a", GREY)
    assert all(folder.exists() for folder in others)
    for folder in others:
        os.utime(folder, (time.time() - 4000,) * 2)
    with metricwatch.snapshot(tmp_path, 1) as snapshot:
        snapshot.save("a", GREY)
    assert names(tmp_path) == ["step_000001"]


@pytest.mark.parametrize("by", ["exchange", "two renames"])
def test_a_step_that_is_there_is_replaced_as_a_whole(tmp_path, monkeypatch, by):
    if by == "two renames":
        monkeypatch.setattr(staging, "exchange", lambda *_: False)
    with metricwatch.snapshot(tmp_path, 1) as snapshot:
        snapshot.save("a", GREY, prompt="old")
    before = watched(tmp_path)[1].digest
    with metricwatch.snapshot(tmp_path, 1) as snapshot:
        snapshot.save("b", GREY)
        assert watched(tmp_path)[1].digest == before
    assert names(tmp_path / "step_000001") == [".done", "b.png"]
    assert names(tmp_path) == ["step_000001"]


def test_while_a_step_is_replaced_its_name_always_stands_for_something(tmp_path):
    if not can_exchange(tmp_path):
        pytest.skip("this file system cannot exchange names")
    with metricwatch.snapshot(tmp_path / "samples", 1) as snapshot:
        snapshot.save("a", GREY)
    done, missing = threading.Event(), []

    def look() -> None:
        while not done.is_set():
            if not os.path.exists(snapshot.path):
                missing.append(1)

    reader = threading.Thread(target=look)
    reader.start()
    for _ in range(40):
        with metricwatch.snapshot(tmp_path / "samples", 1) as again:
            again.save("a", GREY)
    done.set()
    reader.join()
    assert not missing


def can_exchange(folder: Path) -> bool:
    (folder / "one").mkdir()
    (folder / "two").mkdir()
    return staging.exchange(str(folder / "one"), str(folder / "two"))


def test_a_step_that_is_there_can_be_refused_before_any_image_is_made(tmp_path):
    with metricwatch.snapshot(tmp_path, 1, exist_ok=False) as snapshot:
        snapshot.save("a", GREY)
    with (
        pytest.raises(InputError, match=r"step_000001 exists already; give exist_ok=True"),
        metricwatch.snapshot(tmp_path, 1, exist_ok=False),
    ):
        pytest.fail("the body was run")


@pytest.mark.parametrize("exist_ok", [True, False])
def test_of_two_writers_of_a_step_the_later_wins_or_is_refused(tmp_path, exist_ok):
    def late() -> None:
        with metricwatch.snapshot(tmp_path, 2, exist_ok=exist_ok) as late:
            late.save("late", GREY)
            with metricwatch.snapshot(tmp_path, 2) as other:
                other.save("early", GREY)

    if exist_ok:
        late()
    else:
        with pytest.raises(InputError, match="exists already"):
            late()
    assert names(tmp_path / "step_000002") == [".done", "late.png" if exist_ok else "early.png"]
    assert names(tmp_path) == ["step_000002"]


def test_a_file_in_the_steps_place_is_not_replaced(tmp_path):
    (tmp_path / "step_000001").write_text("mine")
    with pytest.raises(InputError, match="is not a directory"), metricwatch.snapshot(tmp_path, 1):
        pytest.fail("the body was run")
    assert (tmp_path / "step_000001").read_text() == "mine"


def test_a_picture_that_finds_no_room_leaves_no_half_file_also_where_the_loop_goes_on(tmp_path):
    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    code = (
        "import sys, numpy, metricwatch\n"
        "with metricwatch.snapshot(sys.argv[1], 1) as snapshot:\n"
        "    try: snapshot.save('noise', numpy.random.rand(100, 100, 3))\n"
        "    except OSError as error: print(error.strerror)\n"
        "    snapshot.save('plain', numpy.zeros((100, 100, 3)))\n"
    )
    command = [sys.executable, "-c", code, tmp_path]
    run = subprocess.run(command, preexec_fn=limited, capture_output=True, text=True, check=True)
    assert run.stdout == "File too large\n"
    assert names(tmp_path / "step_000001") == [".done", "plain.png"]


def test_the_folders_have_the_rights_that_the_umask_gives(tmp_path):
    before = os.umask(0o027)
    try:
        with metricwatch.snapshot(tmp_path, 1) as snapshot:
            snapshot.save("a", GREY, content=GREY)
    finally:
        os.umask(before)
    folder = tmp_path / "step_000001"
    assert [oct(path.stat().st_mode & 0o777) for path in (folder, folder / "content")] == ["0o750"] * 2
    assert oct((folder / "a.png").stat().st_mode & 0o777) == "0o640"


# --- partners and prompts ----------------------------------------------------------------------------------


def test_partners_given_as_images_are_saved_in_the_set_and_found_by_the_worker(tmp_path):
    with metricwatch.snapshot(tmp_path, 1, suffix=".jpg") as snapshot:
        snapshot.save("a", GREY, content=GREY + 1, style=torch.zeros(1, 5, 5))
    assert watched(tmp_path)[1].images == 1
    assert (pixels(Path(partner(tmp_path, "content"))) == GREY + 1).all()
    assert pixels(Path(partner(tmp_path, "style"))).shape == (5, 5)
    assert names(tmp_path / "step_000001") == [".done", "a.jpg", "content", "manifest.jsonl", "style"]


def test_a_relative_partner_is_noted_relative_to_the_set_and_survives_a_move_of_both(tmp_path, monkeypatch):
    (tmp_path / "job/data").mkdir(parents=True)
    Image.fromarray(GREY).save(tmp_path / "job/data/photo.png")
    monkeypatch.chdir(tmp_path / "job")
    with metricwatch.snapshot("runs/samples", 1) as snapshot:
        snapshot.save("a", GREY, content="data/photo.png")
    (tmp_path / "job").rename(tmp_path / "elsewhere")
    samples, data = tmp_path / "elsewhere/runs/samples", tmp_path / "elsewhere/data"
    assert partner(samples, "content", content=str(data)) == str(data / "photo.png")
    with pytest.raises(LookupError, match=r"name its folder as pairs\.content"):
        partner(samples, "content")


def test_an_absolute_partner_is_noted_as_it_is(tmp_path):
    with metricwatch.snapshot(tmp_path, 1) as snapshot:
        snapshot.save("a.png", GREY, style=tmp_path / "style.png", prompt='a "harbour"\u2028in oil\n')
    entry = read_manifest(str(tmp_path / "step_000001/manifest.jsonl")).find("a.png")
    assert entry.style == str(tmp_path / "style.png")
    assert entry.prompt == 'a "harbour"\u2028in oil\n'
    assert entry.content is None


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"prompt": "half \ud800"}, "lone surrogate"),
        ({"prompt": 3}, "int, not text"),
        ({"prompt": "long" * 30_000}, "at most"),
        ({"content": "a\0b"}, "NUL"),
        ({"style": ""}, "the style path is empty"),
        ({"content": 3}, "a int is no image"),
    ],
)
def test_what_would_spoil_the_manifest_is_refused_and_leaves_no_picture(tmp_path, given, reason):
    with metricwatch.snapshot(tmp_path, 1) as snapshot:
        with pytest.raises(InputError, match=reason):
            snapshot.save("bad", GREY, **given)
        snapshot.save("good", GREY, prompt="fine")
    assert names(tmp_path / "step_000001") == [".done", "good.png", "manifest.jsonl"]
    read_manifest(str(tmp_path / "step_000001/manifest.jsonl"))


# --- names, steps, ranks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "a/b", "../a", ".hidden", "a\0b", "a\nb", "x" * 201, "\ud800", ".png", -1, True])
def test_a_name_that_is_no_safe_file_name_is_refused(tmp_path, name):
    with pytest.raises(InputError), metricwatch.snapshot(tmp_path, 1) as snapshot:
        snapshot.save(name, GREY)
    assert names(tmp_path) == []


def test_a_names_own_image_suffix_gives_way_and_other_dots_stay(tmp_path):
    with metricwatch.snapshot(tmp_path, 1) as snapshot:
        for name in ("a.WEBP", "b v1.5", "c.tmp"):
            snapshot.save(name, GREY)
    assert names(tmp_path / "step_000001") == [".done", "a.png", "b v1.5.png", "c.tmp.png"]
    assert watched(tmp_path)[1].images == 3


def test_two_images_of_one_stem_are_refused(tmp_path):
    with metricwatch.snapshot(tmp_path, 1) as snapshot:
        snapshot.save("a.png", GREY)
        with pytest.raises(InputError, match="'a' is in this snapshot"):
            snapshot.save("a.jpg", GREY)


@pytest.mark.parametrize("step", [-1, 10**18, 1.0, "1", True, None])
def test_a_step_that_the_watcher_would_not_read_is_refused(tmp_path, step):
    with pytest.raises(InputError, match="step"):
        metricwatch.snapshot(tmp_path, step)


@pytest.mark.parametrize("step", [0, np.int64(123), torch.tensor(1_234_567), 10**18 - 1])
def test_the_watcher_reads_the_step_that_was_written(tmp_path, step):
    with metricwatch.snapshot(tmp_path, step) as snapshot:
        snapshot.save("a", GREY)
    assert list(watched(tmp_path)) == [int(step)]


def test_only_rank_0_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with metricwatch.snapshot(tmp_path / "none", 1) as snapshot:
        snapshot.save("a", object())
    assert not snapshot.writes
    assert not (tmp_path / "none").exists()
    with metricwatch.snapshot(tmp_path / "some", 1, rank=0) as snapshot:
        snapshot.save("a", GREY)
    assert snapshot.writes
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(InputError, match="RANK is 'first'"):
        metricwatch.snapshot(tmp_path, 1)


def test_the_rank_that_torch_distributed_knows_counts_before_the_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=3, world_size=4)
    try:
        assert not metricwatch.snapshot(tmp_path, 1).writes
    finally:
        torch.distributed.destroy_process_group()
    assert metricwatch.snapshot(tmp_path, 1).writes


def test_saving_outside_of_the_with_block_is_refused(tmp_path):
    snapshot = metricwatch.snapshot(tmp_path, 1)
    with pytest.raises(InputError, match="outside of the snapshot's with block"):
        snapshot.save("a", GREY)
    with pytest.raises(InputError, match=r"'\.bmp': images are saved as \.png"):
        metricwatch.snapshot(tmp_path, 1, suffix=".bmp")


# --- pixels ------------------------------------------------------------------------------------------------


def saved(folder: Path, image: object) -> np.ndarray:
    with metricwatch.snapshot(folder, 1) as snapshot:
        snapshot.save("a", image)
    return pixels(folder / "step_000001/a.png")


def test_floating_tensors_are_rounded_as_torchvision_does(tmp_path):
    image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)) * 1.2 - 0.1
    save_image(image, tmp_path / "expected.png")
    assert (saved(tmp_path, image) == pixels(tmp_path / "expected.png")).all()


@pytest.mark.parametrize(
    "image",
    [
        torch.full((3, 4, 6), 100 / 255, dtype=torch.bfloat16).requires_grad_(),
        torch.full((3, 4, 6), 100 / 255, dtype=torch.float16),
        torch.full((6, 3, 4), 100, dtype=torch.uint8).permute(1, 2, 0),
        np.full((4, 6, 3), 100 / 255),
        GREY,
        GREY[::-1],
        Image.fromarray(GREY),
        Image.fromarray(GREY).convert("CMYK"),
    ],
)
def test_what_loops_hold_is_saved_as_it_looks(tmp_path, image):
    assert abs(saved(tmp_path, image).astype(int) - GREY).max() <= 1


@pytest.mark.parametrize("image", [GREY[:, :, 0], GREY[:, :, :1], torch.full((1, 4, 6), 100, dtype=torch.uint8)])
def test_one_channel_gives_a_grey_picture(tmp_path, image):
    assert (saved(tmp_path, image) == GREY[:, :, 0]).all()


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (torch.zeros(2, 3, 4, 4), r"of a batch: batch\[i\]"),
        (torch.zeros(4, 4, 3), r"give one image as \(3, H, W\)"),
        (np.zeros((3, 4, 4)), r"give one image as \(H, W, 3\)"),
        (np.zeros((4, 4, 3), np.int64), "an image of int64"),
        (torch.zeros(3, 4, 4, dtype=torch.bool), "an image of bool"),
        (np.zeros((0, 4, 3)), "no pixels"),
        (Image.new("F", (4, 4)), "mode F"),
        ([[1]], "a list is no image"),
    ],
)
def test_what_is_no_single_image_is_refused_with_what_to_give(tmp_path, image, reason):
    with pytest.raises(InputError, match=reason):
        saved(tmp_path, image)


def test_an_image_with_nan_is_saved_noted_in_the_manifest_and_warned_of_once(tmp_path, caplog):
    image = torch.full((3, 4, 6), 0.5)
    image[:, 0, 0], image[0, 0, 1], image[0, 0, 2] = torch.nan, torch.inf, -torch.inf
    with metricwatch.snapshot(tmp_path, 1) as snapshot:
        snapshot.save("a", image)
        snapshot.save("b", torch.full((3, 4, 6), torch.nan))
    picture = pixels(tmp_path / "step_000001/a.png")
    assert picture[0, :3].tolist() == [[0, 0, 0], [255, 128, 128], [0, 128, 128]]
    assert (pixels(tmp_path / "step_000001/b.png") == 0).all()
    manifest = tmp_path / "step_000001/manifest.jsonl"
    assert '{"image": "a.png", "non_finite": 5}' in manifest.read_text()
    assert read_manifest(str(manifest)).find("b.png")
    assert [record.getMessage().count("5 values are NaN") for record in caplog.records] == [1]


def test_values_of_another_range_are_warned_of_and_an_overshoot_is_not(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    saved(tmp_path, np.linspace(-0.2, 1.2, 48).reshape(4, 4, 3))
    assert not caplog.records
    saved(tmp_path, np.linspace(-1, 1, 48).reshape(4, 4, 3))
    assert "values from -1 to 1 were clamped" in caplog.text


def test_the_hook_imports_no_heavy_library(tmp_path):
    code = (
        "import sys, metricwatch\n"
        "assert 'numpy' not in sys.modules and 'PIL' not in sys.modules\n"
        "import numpy\n"
        "with metricwatch.snapshot(sys.argv[1], 1) as snapshot:\n"
        "    snapshot.save('a', numpy.zeros((4, 4, 3)), content=numpy.zeros((4, 4)), prompt='x')\n"
        "import metricwatch.callbacks\n"
        "heavy = {'torch', 'mlflow', 'pydantic', 'lightning', 'pytorch_lightning', 'transformers', 'structlog'}\n"
        "sys.exit(' '.join(heavy & set(sys.modules)) or 0)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    assert watched(tmp_path)[1].marked
