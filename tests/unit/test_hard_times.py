"""What goes wrong for one metric, one picture or one moment stays with it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from metricwatch import catalog
from metricwatch.api import Batch, Metric, MetricSpec, ScoreState, Value
from metricwatch.errors import TemporaryError
from metricwatch.metrics.lpips import StLpips
from metricwatch.worker import batches, images
from metricwatch.worker.engines import EagerEngine
from metricwatch.worker.reference_cache import ReferenceCache
from tests.support.photos import write_crops
from tests.unit.test_evaluate import FD, Bench, age, only


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    return write_crops(tmp_path / "samples", 6, side=48, seed=3)


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    return age(write_crops(tmp_path / "reference", 7, side=48, seed=4))


# --- a network -----------------------------------------------------------------------------------------------


def test_a_network_that_fails_ends_its_own_metrics_only(
    samples: Path, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def broken(self: EagerEngine, images: Sequence[torch.Tensor]) -> torch.Tensor:
        tries.append(len(images))
        raise RuntimeError("cuDNN said no")

    evaluation = Bench().evaluate(samples, FD, "ssim", reference=reference, content=samples)
    assert {score.state for score in evaluation.scores} == {ScoreState.OK}
    monkeypatch.setattr(EagerEngine, "features", broken)
    evaluation = Bench().evaluate(samples, FD, "ssim", reference=reference, content=samples)
    assert only(evaluation, FD).state is ScoreState.FAILED
    assert only(evaluation, FD).detail == "RuntimeError: cuDNN said no"
    assert only(evaluation, "ssim").value == pytest.approx(1.0)
    assert len(tries) == 1, "what has failed is not tried again with the next batch"


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("no room"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_without_any_room_the_job_waits_as_long_as_it_may_and_goes_on_without_the_metric_then(
    samples: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(self: EagerEngine, images: torch.Tensor) -> object:
        raise error

    monkeypatch.setattr(EagerEngine, "layers", full)
    request = {"content": samples}
    with pytest.raises(TemporaryError, match="st-vgg16: there is no room even for one image"):
        Bench().evaluate(samples, "st_lpips", "ssim", **request)
    evaluation = Bench().evaluate(samples, "st_lpips", "ssim", patient=False, **request)
    assert only(evaluation, "st_lpips").state is ScoreState.FAILED
    assert "no room even for one image" in only(evaluation, "st_lpips").detail
    assert only(evaluation, "ssim").state is ScoreState.OK


def test_pictures_whose_maps_take_too_much_memory_are_left_out_and_named(
    samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (200, 100)).save(samples / "large.png")
    monkeypatch.setitem(batches._MOST_LAYER_PIXELS, "cpu", 2 * 100 * 200 - 1)
    evaluation = Bench().evaluate(samples, "st_lpips", "ssim", content=samples)
    score = only(evaluation, "st_lpips")
    assert (score.state, score.images) == (ScoreState.OK, 6)
    assert score.detail == "left out for 100 x 200 pixels, whose maps would take too much memory: large"
    assert only(evaluation, "ssim").images == 7
    for path in samples.iterdir():
        if path.name != "large.png":
            path.unlink()
    score = only(Bench().evaluate(samples, "st_lpips", "ssim", content=samples), "st_lpips")
    assert (score.state, score.images) == (ScoreState.TOO_FEW_IMAGES, 0)
    assert "large" in score.detail


def test_a_style_that_many_share_goes_through_the_network_once_a_batch(samples: Path, tmp_path: Path) -> None:
    write_crops(tmp_path / "style", 1, side=48, seed=9)
    lines = [{"image": f"{index:04d}.png", "style": "../style/0000.png"} for index in range(6)]
    (samples / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)))
    shared = Bench().evaluate(samples, "st_gram_style_loss", style=tmp_path / "style")
    assert shared.work["decodes"] == 7
    # Batches of 5 and 1.
    assert shared.work["passes st-vgg16"] == 6 + 2
    for index in range(1, 6):
        shutil.copy(tmp_path / "style" / "0000.png", tmp_path / "style" / f"{index:04d}.png")
    (samples / "manifest.jsonl").unlink()
    alone = Bench().evaluate(samples, "st_gram_style_loss", style=tmp_path / "style")
    for one, other in zip(shared.scores, alone.scores, strict=True):
        assert one.value == pytest.approx(other.value, rel=1e-5)


# --- a plugin ------------------------------------------------------------------------------------------------


class Odd(Metric):
    """Returns whatever the test put there. Its second key does not begin with its name."""

    spec = MetricSpec(keys=("odd", "second"), higher_is_better=True)
    returned: object = ()

    def update(self, batch: Batch) -> None: ...

    def merge(self, other: object) -> None: ...

    def compute(self) -> Sequence[Value]:
        return type(self).returned  # type: ignore[return-value]


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> type[Odd]:
    load = catalog.load_metric
    monkeypatch.setattr(catalog, "load_metric", lambda name: Odd if name == "odd" else load(name))
    return Odd


GOOD = (Value(key="odd", value=1.0, images=6), Value(key="second", value=2, images=6))


@pytest.mark.parametrize(
    ("returned", "complaint"),
    [
        ((), "has said nothing of odd, second"),
        ((GOOD[0],), "has said nothing of second"),
        ((("odd", 1.0), GOOD[1]), "must return values, not tuple"),
        ((Value(key="odd", value="much", images=6), GOOD[1]), "is no score"),
        ((Value(key="odd", value=1.0, images=None), GOOD[1]), "is no score"),
        ((Value(key="odd", value=1.0, images=6, stderr="a"), GOOD[1]), "is no score"),
        (None, "TypeError"),
    ],
)
def test_a_metric_that_returns_nonsense_fails_alone(
    odd: type[Odd], samples: Path, returned: object, complaint: str
) -> None:
    odd.returned = returned
    evaluation = Bench().evaluate(samples, "odd", "ssim", content=samples)
    assert {score.key: score.state for score in evaluation.scores} == {
        "odd": ScoreState.FAILED,
        "second": ScoreState.FAILED,
        "ssim": ScoreState.OK,
    }
    assert complaint in only(evaluation, "odd").detail


def test_a_value_that_is_not_finite_is_a_named_state_and_its_neighbour_stands(odd: type[Odd], samples: Path) -> None:
    odd.returned = (Value(key="odd", value=float("nan"), images=6), GOOD[1])
    evaluation = Bench().evaluate(samples, "odd")
    assert only(evaluation, "odd").state is ScoreState.NON_FINITE
    assert only(evaluation, "second").value == 2.0


# --- a reference ---------------------------------------------------------------------------------------------


def fails_once(path: Path, error: OSError) -> Callable[[str, int], bytes]:
    read = images.read
    told = SimpleNamespace(times=0)

    def once(name: str, max_pixels: int) -> bytes:
        if name == str(path) and not told.times:
            told.times += 1
            raise images.UnusableImageError(f"{images.READ_ERROR}: {error.strerror}")
        return read(name, max_pixels)

    return once


def test_a_disk_that_stumbles_once_does_not_spoil_the_statistics_for_good(
    samples: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = only(Bench().evaluate(samples, FD, reference=reference), FD)
    stumble = fails_once(reference / "0003.png", OSError(5, "Input/output error"))
    monkeypatch.setattr("metricwatch.worker.pictures.read", stumble)
    bench = Bench(tmp_path / "cache")
    with pytest.raises(TemporaryError, match=r"0003.png cannot be read: Input/output error"):
        bench.evaluate(samples, FD, reference=reference)
    found = only(bench.evaluate(samples, FD, reference=reference), FD)
    assert found.value == pytest.approx(expected.value, rel=1e-6)
    assert found.series == expected.series


def test_a_reference_replaced_by_a_copy_of_equal_size_and_time_is_noticed(
    samples: Path, reference: Path, tmp_path: Path
) -> None:
    """As `cp --preserve` and `rsync -a` do: of pictures without compression all have one size."""
    for path in sorted(reference.iterdir()):
        Image.open(path).save(path.with_suffix(".bmp"))
        path.unlink()
    age(reference)
    first = only(Bench(tmp_path / "cache").evaluate(samples, FD, reference=reference), FD)
    target = reference / "0000.bmp"
    size = target.stat().st_size
    Image.fromarray(np.zeros((48, 48, 3), np.uint8)).save(target)
    age(reference)
    assert target.stat().st_size == size
    second = only(Bench(tmp_path / "cache").evaluate(samples, FD, reference=reference), FD)
    assert second.value != first.value
    assert second.provenance["reference_digest"] != first.provenance["reference_digest"]


def test_a_reference_image_that_is_left_out_is_another_reference(samples: Path, reference: Path) -> None:
    """One over the limit of pixels: the files are the same, the statistics are not."""
    Image.fromarray(np.zeros((300, 300, 3), np.uint8)).save(age(reference) / "large.png")
    age(reference)
    whole = only(Bench().evaluate(samples, FD, reference=reference), FD)
    part = only(Bench(max_pixels=10_000).evaluate(samples, FD, reference=reference), FD)
    assert whole.value != pytest.approx(part.value)
    assert whole.provenance["reference_digest"] != part.provenance["reference_digest"]


def test_kept_statistics_do_not_grow_without_end(tmp_path: Path) -> None:
    cache = ReferenceCache(str(tmp_path), lambda *_, **__: None, most_bytes=100_000)
    (tmp_path / ".old.npz.1.tmp").write_bytes(b"left by a killed worker")
    age(tmp_path)
    for number in range(10):
        cache.save(f"s{number}", {"numbers": np.zeros(4000)})
        assert cache.load(f"s{number}") is not None
        if number >= 1:
            assert cache.load("s0") is not None, "it is asked for all the time"
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept >= {"s0.npz", "s9.npz"}
    assert len(kept) == 3


def test_kept_statistics_with_any_byte_wrong_are_right_or_absent(tmp_path: Path) -> None:
    lines: list[str] = []
    cache = ReferenceCache(str(tmp_path), lambda _level, event, /, **_: lines.append(event))
    arrays = {"mu": np.arange(20.0), "sigma": np.eye(5)}
    cache.save("s", arrays)
    cache.remember_digest("i", "0123456789abcdef")
    for name in ("s.npz", "seen-i.json"):
        file = tmp_path / name
        good = file.read_bytes()
        for place in range(len(good)):
            bad = bytearray(good)
            bad[place] ^= 1 << place % 8
            file.write_bytes(bad)
            found = cache.load("s")
            if found is not None:
                assert found.keys() == arrays.keys()
                assert all((found[key] == arrays[key]).all() for key in arrays)
            assert cache.digest_of("i") in {None, "0123456789abcdef"}
        file.write_bytes(good)
    assert cache.load("s") is not None
    assert cache.digest_of("i") == "0123456789abcdef"
    assert set(lines) == {"kept reference statistics are damaged: computing them anew"}


# --- no room for a moment ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("network", MemoryError()),
        ("maps", torch.cuda.OutOfMemoryError("no room")),
        ("pictures", torch.cuda.OutOfMemoryError("no room")),
        ("measuring", MemoryError()),
    ],
)
def test_a_batch_that_finds_no_room_is_halved_and_gives_the_same_scores(
    samples: Path, reference: Path, monkeypatch: pytest.MonkeyPatch, place: str, error: Exception
) -> None:
    request = {"reference": reference, "content": samples.parent / "content"}
    write_crops(samples.parent / "content", 6, side=48, seed=5)
    expected = Bench().evaluate(samples, FD, "st_lpips", **request)
    owner, name = {
        "network": (EagerEngine, "features"),
        "maps": (EagerEngine, "layers"),
        "pictures": (batches.BatchMaker, "_tensors"),
        "measuring": (StLpips, "measure"),
    }[place]
    real = getattr(owner, name)
    sizes: list[int] = []

    def cramped(self: object, pictures: object) -> object:
        sizes.append(len(pictures))
        if len(pictures) > (4 if place == "maps" else 2):
            raise error
        return real(self, pictures)

    monkeypatch.setattr(owner, name, cramped)
    found = Bench().evaluate(samples, FD, "st_lpips", **request)
    assert max(sizes) > 4, "it was tried as a whole first"
    for one, other in zip(found.scores, expected.scores, strict=True):
        assert (one.images, one.state) == (6, ScoreState.OK)
        assert one.value == pytest.approx(other.value, rel=1e-5)


class Decoder:
    """Decodes as ever but for one file, for which memory is lacking so many times."""

    def __init__(self, path: Path, times: int) -> None:
        self._content = path.read_bytes()
        self.left = times

    def __call__(self, content: bytes, max_pixels: int) -> images.Pixels:
        if content == self._content and self.left:
            self.left -= 1
            raise MemoryError
        return images.decode(content, max_pixels)


def test_a_picture_that_finds_no_room_once_is_decoded_when_there_is(
    samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Bench().evaluate(samples, "ssim", content=samples)
    decoder = Decoder(samples / "0003.png", 1)
    monkeypatch.setattr("metricwatch.worker.pictures.decode", decoder)
    found = Bench().evaluate(samples, "ssim", content=samples)
    assert (decoder.left, found.images, found.skipped) == (0, 6, ())
    assert found.scores[0].value == expected.scores[0].value


def test_a_picture_without_room_is_waited_for_and_left_out_in_the_end(
    samples: Path, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left out at once, the score would be of other images than the one before."""
    decoder = Decoder(samples / "0003.png", 1000)
    monkeypatch.setattr("metricwatch.worker.pictures.decode", decoder)
    with pytest.raises(TemporaryError, match=r"0003.png: there is no memory to decode it"):
        Bench().evaluate(samples, "ssim", content=samples)
    found = Bench().evaluate(samples, "ssim", content=samples, patient=False)
    assert [(Path(item.path).name, item.reason) for item in found.skipped] == [
        ("0003.png", "there is no memory to decode it")
    ]
    assert found.images == 5


def test_a_reference_is_never_made_without_a_picture_that_found_no_room(
    samples: Path, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metricwatch.worker.pictures.decode", Decoder(reference / "0003.png", 1000))
    request = {"reference": reference, "content": samples}
    with pytest.raises(TemporaryError, match="no memory to decode"):
        Bench().evaluate(samples, FD, "ssim", **request)
    found = Bench().evaluate(samples, FD, "ssim", **request, patient=False)
    assert only(found, FD).state is ScoreState.FAILED
    assert only(found, FD).detail == f"the reference image {reference / '0003.png'}: there is no memory to decode it"
    assert only(found, "ssim").state is ScoreState.OK
