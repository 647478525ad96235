"""Files that were made to hurt: nothing is executed, nothing blows up, and the good ones beside them are scored."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from metricwatch import extractors
from metricwatch.errors import InputError
from metricwatch.metrics import lpips
from metricwatch.protocol import Evaluate, Result
from metricwatch.records import Evaluation, ScoreState
from metricwatch.worker import networks
from metricwatch.worker.containers import UnusableImageError
from metricwatch.worker.images import decode
from tests.support import hostile
from tests.support.photos import write_crops
from tests.support.weights import write_clip_folder, write_dinov2_folder
from tests.support.worker_client import WorkerClient

LIMIT = 4_000_000
# 16 bytes a pixel, and what the largest file's pieces take while they are counted.
MOST_BYTES = 16 * LIMIT + 130_000_000
MOST_SECONDS = 10 + LIMIT / 5_000_000
# What is in the way of the picture is never looked at.
HARMLESS = {"png-surplus", "tiff-strip", "gif-comment"}
# Prints, for each bomb and liar, what became of it, the seconds and the bytes that took.
MEASURE = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
from metricwatch.worker import images
from tests.support import hostile

def peak():
    status = open("/proc/self/status").read()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])

for name, make in {**hostile.BOMBS, **hostile.LIARS}.items():
    content = make()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # begin a new peak
    before, started = peak(), time.thread_time()
    try:
        outcome = "decoded to %d x %d" % images.decode(content, int(sys.argv[1])).shape[:2]
    except images.UnusableImageError as error:
        outcome = str(error)
    print(json.dumps([name, outcome, time.thread_time() - started, peak() - before]), flush=True)
"""


@pytest.fixture(scope="module")
def measured() -> dict[str, tuple[str, float, int]]:
    """Outcome, seconds and bytes of each bomb and liar, decoded one after the other by one process."""
    if not os.path.exists("/proc/self/clear_refs"):
        pytest.skip("only Linux tells the peak of a process's memory anew")
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(LIMIT)], stdout=subprocess.PIPE, text=True, timeout=300, check=False
    )
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert run.returncode == 0, f"after {lines[-1:]} it ended with {run.returncode}"
    return {name: (outcome, seconds, size) for name, outcome, seconds, size in lines}


@pytest.mark.parametrize("name", [*hostile.BOMBS, *hostile.LIARS])
def test_a_bomb_or_liar_costs_little_memory_and_time(measured: dict[str, tuple[str, float, int]], name: str) -> None:
    outcome, seconds, size = measured[name]
    assert outcome.startswith("decoded to ") == (name in HARMLESS), outcome
    assert is_one_line(outcome)
    assert size < MOST_BYTES, f"{size / 1e6:.0f} MB: {outcome}"
    assert seconds < MOST_SECONDS


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("BMP", {}),
        ("PPM", {}),
        ("WEBP", {"lossless": True}),
        ("GIF", {}),
    ],
)
def test_a_file_cut_at_any_byte_is_refused_unless_all_pixels_are_there(kind: str, options: dict[str, object]) -> None:
    picture = hostile.picture(14, 11)
    whole = hostile.encoded(picture.quantize() if kind == "GIF" else picture, kind, **options)
    expected = decode(whole, LIMIT)
    reasons = []
    for length in range(len(whole)):
        try:
            pixels = decode(whole[:length], LIMIT)
        except UnusableImageError as error:
            reasons.append(str(error))
        else:
            np.testing.assert_array_equal(pixels, expected, err_msg=f"cut at {length} of {len(whole)}")
    assert len(reasons) > len(whole) / 2
    assert all(map(is_one_line, reasons))


# --- a directory of them -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def worker() -> Iterator[WorkerClient]:
    """One for all: it survives each of these tests."""
    client = WorkerClient()
    yield client
    client.kill()


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write_crops(tmp_path / "good", 5, side=48, seed=3)


def score(worker: WorkerClient, path: Path, **request: object) -> Evaluation:
    reply = worker.evaluate(Evaluate(job=1, path=str(path), metrics=("ssim",), **request))
    assert isinstance(reply, Result), reply
    return reply.evaluation


def test_among_strangers_and_special_files_the_good_ones_are_scored(
    worker: WorkerClient, good: Path, tmp_path: Path
) -> None:
    content = write_crops(tmp_path / "content", 5, side=48, seed=4)
    alone = score(worker, good, content=str(content))
    witness = tmp_path / "executed"
    strangers = hostile.strangers(witness)
    for name, data in strangers.items():
        (good / f"{name}.png").write_bytes(data)
    hostile.write_special(good)
    among = score(worker, good, content=str(content))
    assert (among.images, among.scores[0].images) == (5, 5)
    assert among.scores[0].value == alone.scores[0].value
    assert {Path(item.path).stem for item in among.skipped} == set(strangers)
    assert all(is_one_line(item.reason) for item in among.skipped)
    assert not witness.exists()


def test_partners_that_are_no_files_are_refused_by_name(worker: WorkerClient, good: Path) -> None:
    """A manifest may name anything; opening some of it would wait, or read, for ever."""
    samples = write_crops(good.parent / "samples", 8, side=48, seed=5)
    special = sorted(hostile.write_special(samples))
    lines = [{"image": f"{row:04d}.png", "content": name} for row, name in enumerate([*special, "0000.png"])]
    (samples / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = score(worker, samples)
    assert (found.images, found.scores[0].images) == (8, 1)
    reasons = {Path(item.path).name: item.reason for item in found.skipped}
    for row, name in enumerate(special):
        assert name in reasons[f"{row:04d}.png"]
    assert all(map(is_one_line, reasons.values()))


@pytest.mark.parametrize("broken", [False, True])
def test_a_file_may_have_any_name_that_the_system_allows(worker: WorkerClient, tmp_path: Path, broken: bool) -> None:
    samples, content = tmp_path / "samples", tmp_path / "content"
    samples.mkdir()
    content.mkdir()
    data = hostile.encoded(hostile.picture(), "PNG")
    for name in (*hostile.NAMES, b"plain.png"):
        (samples / os.fsdecode(name)).write_bytes(data if not broken or name == b"plain.png" else b"broken")
        (content / os.fsdecode(name)).write_bytes(data)
    found = score(worker, samples, content=str(content))
    assert found.scores[0].value == pytest.approx(1.0)
    assert found.scores[0].images == (1 if broken else 1 + len(hostile.NAMES))
    names = {os.path.basename(os.fsencode(item.path)) for item in found.skipped}
    assert names == (set(hostile.NAMES) if broken else set())
    (content / os.fsdecode(hostile.NAMES[0])).write_bytes(b"broken")
    (content / os.fsdecode(hostile.NAMES[2])).unlink()
    found = score(worker, samples, content=str(content))
    assert all(is_one_line(item.reason) for item in found.skipped)
    assert is_one_line(found.scores[0].detail)


def test_where_nothing_can_be_read_the_reason_is_one_line(worker: WorkerClient, tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "new\nline\x1b[31m.png").write_bytes(b"broken")
    reply = worker.evaluate(Evaluate(job=1, path=str(tmp_path / "samples"), metrics=("ssim",), content=str(tmp_path)))
    assert not isinstance(reply, Result)
    assert is_one_line(reply.reason)


# --- what executes when it is opened carelessly --------------------------------------------------------------


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[Path]:
    """A file that appears when a payload was executed."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists()


def payload_of(kind: str, witness: Path) -> bytes:
    file = io.BytesIO()
    if kind == "pickle":
        return pickle.dumps(hostile.Payload(witness))
    content = {"weight": hostile.Payload(witness)}
    torch.save(content, file, _use_new_zipfile_serialization=kind == "torch archive")
    return file.getvalue()


def test_the_payload_does_execute_when_it_is_let(tmp_path: Path) -> None:
    """Or all the others here would prove nothing."""
    for number, kind in enumerate(("pickle", "torch archive", "old torch file")):
        left = tmp_path / str(number)
        data = io.BytesIO(payload_of(kind, left))
        pickle.load(data) if kind == "pickle" else torch.load(data, weights_only=False)
        assert left.exists()


@pytest.mark.parametrize("kind", ["pickle", "torch archive", "old torch file"])
@pytest.mark.parametrize(
    "extractor", ["inception-v3", "efficientnet-lite0", "alexnet", "vgg16", "st-vgg16", "art-inception-v3"]
)
def test_weights_are_never_executed(tmp_path: Path, witness: Path, extractor: str, kind: str) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(payload_of(kind, witness))
    with pytest.raises(InputError, match=extractor):
        networks.load(extractors.find(extractor), str(path))


@pytest.mark.parametrize("kind", ["pickle", "torch archive"])
@pytest.mark.parametrize(
    ("extractor", "write"), [("clip-vit-b-32", write_clip_folder), ("dinov2-vits14", write_dinov2_folder)]
)
def test_a_model_folder_is_never_executed(
    tmp_path: Path, witness: Path, extractor: str, write: Callable[[Path], Path], kind: str
) -> None:
    folder = write(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(payload_of(kind, witness))
    with pytest.raises(InputError, match=extractor):
        networks.load(extractors.find(extractor), str(folder))


def test_code_in_a_model_folder_is_never_executed(tmp_path: Path, witness: Path) -> None:
    folder = write_dinov2_folder(tmp_path / "model")
    (folder / "modeling.py").write_text(f"open({str(witness)!r}, 'w')\nclass Net: ...\n")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "modeling.Net"}}))
    networks.load(extractors.find("dinov2-vits14"), str(folder))


@pytest.mark.parametrize("kind", ["pickle", "torch archive"])
def test_the_heads_of_lpips_are_never_executed(
    tmp_path: Path, witness: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    package = tmp_path / "hostile_heads"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "heads.pth").write_bytes(payload_of(kind, witness))
    monkeypatch.syspath_prepend(str(tmp_path))
    file = lpips.HeadsFile(package="hostile_heads", path="heads.pth", distribution="hostile-heads")
    with pytest.raises(InputError, match="is damaged"):
        lpips._heads(file, "cpu")


def test_statistics_with_objects_are_never_executed(worker: WorkerClient, good: Path, witness: Path) -> None:
    reference = good.parent / "reference.npz"
    np.savez(reference, mu=np.array([hostile.Payload(witness)], dtype=object), sigma=np.eye(3))
    request = Evaluate(
        job=1, path=str(good), metrics=("fd_efficientnet_lite0", "ssim"), reference=str(reference), content=str(good)
    )
    reply = worker.evaluate(request)
    assert isinstance(reply, Result), reply
    distance, similarity = reply.evaluation.scores
    assert distance.state is ScoreState.FAILED
    assert "not a readable .npz file" in distance.detail
    assert similarity.value == pytest.approx(1.0)


def is_one_line(text: str) -> bool:
    return text.isprintable()


def test_mutated_files_break_neither_reader(full_size: bool, seed: int, tmp_path: Path) -> None:
    """`python -m tests.chaos.fuzz_readers` in small."""
    size = ["--seconds", "180"] if full_size else ["--seconds", "60", "--executions", "4000"]
    run = subprocess.run(
        [sys.executable, "-m", "tests.chaos.fuzz_readers", *size, "--seed", str(seed), "--folder", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    print(run.stdout)
    assert run.returncode == 0, f"{run.stdout}{run.stderr[-2000:]}"
    # Mutations that only ever refuse, or never, try nothing.
    assert all(f" {outcome}" in run.stdout for outcome in ("picture read", "picture refused", "manifest refused"))
