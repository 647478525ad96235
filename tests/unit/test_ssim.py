"""SSIM against scikit-image on photographs."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from skimage.metrics import structural_similarity

from metricwatch.api import Batch, ScoreState, Value
from metricwatch.metrics import ssim
from metricwatch.metrics.ssim import Ssim
from tests.support.photos import crops, originals


def tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def score(pictures: list[np.ndarray], partners: list[np.ndarray]) -> Value:
    metric = Ssim()
    metric.update(
        Batch(
            names=tuple(f"{index}" for index in range(len(pictures))),
            images=tuple(tensor(picture) for picture in pictures),
            content=tuple(tensor(partner) for partner in partners),
        )
    )
    (value,) = metric.compute()
    return value


def by_skimage(picture: np.ndarray, partner: np.ndarray) -> float:
    return float(
        structural_similarity(
            picture,
            partner,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=255,
            channel_axis=2,
        )
    )


def blurred(picture: np.ndarray, radius: float) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius)))


def noisy(picture: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 20, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("index", range(4))
def test_it_equals_skimage_on_photographs(index: int) -> None:
    picture = originals()[index]
    for partner in (blurred(picture, 2.0), noisy(picture), 255 - picture):
        assert score([picture], [partner]).value == pytest.approx(by_skimage(picture, partner), abs=1e-5)


def test_it_equals_skimage_in_bright_flat_regions() -> None:
    """Where single precision loses the variance between two large numbers."""
    flat = np.full((64, 64, 3), 255, np.uint8)
    striped = flat.copy()
    striped[::2] = 254
    assert score([flat], [striped]).value == pytest.approx(by_skimage(flat, striped), abs=1e-5)


def test_it_equals_skimage_on_the_smallest_picture_with_a_window() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.integers(0, 256, (2, 11, 11, 3), dtype=np.uint8)
    assert score([first], [second]).value == pytest.approx(by_skimage(first, second), abs=1e-5)


def test_a_picture_is_wholly_similar_to_itself() -> None:
    picture = crops(1, side=64)[0]
    assert score([picture], [picture]).value == pytest.approx(1.0, abs=1e-12)


def test_the_score_is_the_mean_over_images_with_its_standard_error() -> None:
    pictures = crops(6, side=64)
    partners = [blurred(picture, radius) for radius, picture in enumerate(pictures, start=1)]
    each = [by_skimage(picture, partner) for picture, partner in zip(pictures, partners, strict=True)]
    value = score(pictures, partners)
    assert value.images == 6
    assert value.value == pytest.approx(np.mean(each), abs=1e-5)
    assert value.stderr == pytest.approx(np.std(each, ddof=1) / np.sqrt(6), abs=1e-5)


def test_one_image_has_no_standard_error() -> None:
    picture = crops(1, side=64)[0]
    assert score([picture], [noisy(picture)]).stderr is None


def test_pictures_without_room_for_a_window_are_left_out_and_named() -> None:
    small, picture = crops(1, side=10)[0], crops(1, side=64)[0]
    value = score([small, picture], [small, picture])
    assert (value.state, value.images) == (ScoreState.OK, 1)
    assert value.detail == "left out for a side under 11 pixels: 0"


def test_small_pictures_alone_are_a_named_state() -> None:
    small = crops(1, side=10)[0]
    value = score([small], [small])
    assert (value.state, value.value) == (ScoreState.TOO_FEW_IMAGES, None)
    assert "under 11 pixels" in value.detail


def test_without_partners_there_is_a_named_state() -> None:
    (value,) = Ssim().compute()
    assert (value.state, value.value) == (ScoreState.NO_PAIRS, None)


# --- maps --------------------------------------------------------------------------------------------------


def map_of(picture: np.ndarray, partner: np.ndarray) -> np.ndarray:
    batch = Batch(names=("0",), images=(tensor(picture),), content=(tensor(partner),))
    (values,) = Ssim().maps(batch)
    return values.numpy()


def test_a_map_is_what_skimage_sees_at_each_place() -> None:
    picture = np.ascontiguousarray(crops(1, side=64)[0][:, :49])
    partner = noisy(picture)
    _, everywhere = structural_similarity(
        picture,
        partner,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        channel_axis=2,
        full=True,
    )
    values = map_of(picture, partner)
    assert values.shape == (64, 49)
    np.testing.assert_allclose(values[5:-5, 5:-5], 1 - everywhere.mean(axis=2)[5:-5, 5:-5], atol=1e-5)


def test_the_border_of_a_map_repeats_the_nearest_place_that_has_a_window() -> None:
    picture = crops(1, side=40)[0]
    values = map_of(picture, noisy(picture))
    np.testing.assert_array_equal(values[:5, 5:-5], np.broadcast_to(values[5, 5:-5], (5, 30)))
    np.testing.assert_array_equal(values[:, -5:], np.broadcast_to(values[:, -6:-5], (40, 5)))


def test_a_map_is_warm_where_the_picture_was_changed_and_cold_elsewhere() -> None:
    picture = crops(1, side=96)[0]
    changed = picture.copy()
    changed[10:30, 60:80] = 255 - changed[10:30, 60:80]
    values = map_of(changed, picture)
    assert values[15:25, 65:75].mean() > 0.5
    assert values[45:, :].max() < 1e-6


def test_the_smallest_picture_with_a_window_has_a_map_of_its_size() -> None:
    first, second = np.random.default_rng(0).integers(0, 256, (2, 11, 11, 3), dtype=np.uint8)
    values = map_of(first, second)
    assert values.shape == (11, 11)
    assert values[0, 0] == pytest.approx(1 - by_skimage(first, second), abs=1e-5)


def test_tiles_leave_no_seam_in_a_map(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = np.random.default_rng(0).integers(0, 256, (2, 43, 60, 3), dtype=np.uint8)
    whole = map_of(first, second)
    monkeypatch.setattr(ssim, "_TILE", 16)
    np.testing.assert_allclose(map_of(first, second), whole, atol=1e-6)


# --- memory ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(23, 60), (60, 23), (26, 26), (27, 11), (58, 43)])
def test_tiles_change_nothing(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes that tiles of 16 windows fill exactly, nearly, and by one row more."""
    generator = np.random.default_rng(0)
    picture, partner = generator.integers(0, 256, (2, *size, 3), dtype=np.uint8)
    whole = score([picture], [partner]).value
    monkeypatch.setattr(ssim, "_TILE", 16)
    assert score([picture], [partner]).value == pytest.approx(whole, abs=1e-12)


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units")
def test_a_large_picture_takes_little_more_memory_than_its_pixels() -> None:
    """Five maps in float64 of nine million pixels, all at once, took 4500 MB."""
    code = """
import resource, torch
from metricwatch.metrics.ssim import _similarity
rss = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
picture = torch.randint(0, 256, (3, 3000, 3000), dtype=torch.uint8)
partner = torch.randint(0, 256, (3, 3000, 3000), dtype=torch.uint8)
_similarity(picture[:, :64, :64], partner[:, :64, :64])
before = rss()
_similarity(picture, partner)
print(rss() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 260
