"""ArtFID from features and layers made up here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from metricwatch.api import Batch, ExtractorInfo, InputError, ScoreState, Value
from metricwatch.metrics.art_fid import ArtFid
from metricwatch.metrics.frechet import on_extractor
from metricwatch.metrics.lpips import Lpips

ART = "art-inception-v3"
CHANNELS = {"relu1": 64, "relu2": 192, "relu3": 384, "relu4": 256, "relu5": 256}


def features(count: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).gamma(0.5, 0.5, size=(count, 2048)).astype(np.float32))


def maps(count: int, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {layer: torch.randn((count, size, 3, 4), generator=generator).relu() for layer, size in CHANNELS.items()}


def images(count: int, *, side: int = 64) -> Batch:
    pictures = tuple(torch.zeros((3, side, side), dtype=torch.uint8) for _ in range(count))
    return Batch(
        names=tuple(f"{index}" for index in range(count)),
        images=pictures,
        content=pictures,
        features={ART: features(count, 1)},
        layers={"alexnet": maps(count, 1)},
        content_layers={"alexnet": maps(count, 2)},
    )


def styles(count: int = 9) -> Batch:
    """A reference's images: features alone."""
    return Batch(names=tuple(f"style {index}" for index in range(count)), features={ART: features(count, 3)})


def against(reference: Batch, *batches: Batch) -> Value:
    collecting = ArtFid()
    collecting.update(reference)
    metric = ArtFid(collecting.statistics())
    for batch in batches:
        metric.update(batch)
    (value,) = metric.compute()
    return value


def frechet_distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """By the singular values of the product of the centred features, which scipy's matrix root approximates."""
    first, second = one.double().numpy(), other.double().numpy()
    gap = first.mean(axis=0) - second.mean(axis=0)
    first = (first - first.mean(axis=0)) / np.sqrt(len(first) - 1)
    second = (second - second.mean(axis=0)) / np.sqrt(len(second) - 1)
    root = np.linalg.svd(first @ second.T, compute_uv=False).sum()
    return float(gap @ gap + (first**2).sum() + (second**2).sum() - 2 * root)


def test_it_is_the_product_of_content_and_style() -> None:
    batch, reference = images(6), styles()
    lpips = np.mean([row[0] for row in Lpips().measure(batch)])
    expected = (1 + lpips) * (1 + frechet_distance(batch.features[ART], reference.features[ART]))
    value = against(reference, batch)
    assert value.value == pytest.approx(expected, rel=1e-9)
    assert (value.key, value.images) == ("art_fid", 6)


def test_its_error_is_the_delta_methods_for_correlated_parts() -> None:
    batch, reference = images(6), styles()
    content, style = Lpips(), ArtFid()._style
    style.update(reference)
    style = type(style)(style.statistics())
    for part in (content, style):
        part.update(batch)
    (one,), (other,) = content.compute(), style.compute()
    assert one.value is not None
    assert one.stderr is not None
    assert other.value is not None
    assert other.stderr is not None
    value = against(reference, batch)
    assert value.stderr == pytest.approx((1 + other.value) * one.stderr + (1 + one.value) * other.stderr, rel=1e-9)


def test_two_images_have_a_score_without_an_error() -> None:
    """The Fréchet distance has no error before three images."""
    value = against(styles(), images(2))
    assert value.value is not None
    assert value.stderr is None


def test_what_keeps_content_and_style_wholly_has_the_lowest_score() -> None:
    batch = images(6)
    batch = replace(batch, content_layers=batch.layers)
    assert against(replace(batch, layers={}, content=(), content_layers={}), batch).value == pytest.approx(
        1.0, abs=1e-6
    )


def test_its_statistics_are_those_of_the_distance_on_the_same_extractor() -> None:
    whole = ArtFid()
    distance = type(whole._style)
    assert ArtFid.spec.statistics == distance.spec.statistics
    assert ArtFid.spec.extractors == distance.spec.extractors
    alone = distance()
    for metric in (whole, alone):
        metric.update(styles())
    kept, expected = whole.statistics(), alone.statistics()
    assert set(kept) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(kept[name], array)


def test_without_a_reference_it_says_so_under_its_own_key() -> None:
    metric = ArtFid()
    metric.update(images(4))
    (value,) = metric.compute()
    assert (value.key, value.state, value.value) == ("art_fid", ScoreState.NO_REFERENCE, None)
    assert value.detail.startswith("fd_art_inception_v3: ")


def test_without_pairs_it_says_so_under_its_own_key() -> None:
    value = against(styles())
    assert (value.key, value.state) == ("art_fid", ScoreState.NO_PAIRS)
    assert value.detail == "lpips: no image came with a content partner"


def test_one_image_is_too_few() -> None:
    value = against(styles(), images(1))
    assert (value.key, value.state) == ("art_fid", ScoreState.TOO_FEW_IMAGES)


def test_pictures_too_small_for_lpips_count_in_neither_part() -> None:
    small = replace(images(2, side=30), names=("small 0", "small 1"))
    expected = against(styles(), images(5))
    value = against(styles(), images(5), small)
    assert (value.value, value.images) == (expected.value, 5)
    assert value.detail == "left out for a side under 31 pixels: small 0, small 1"


def test_small_style_pictures_count_in_the_reference() -> None:
    reference = styles()
    tiny = tuple(torch.zeros((3, 8, 8), dtype=torch.uint8) for _ in range(len(reference)))
    assert against(replace(reference, images=tiny), images(5)) == against(reference, images(5))


def test_a_users_own_statistics_are_completed_or_refused() -> None:
    reference = styles()
    rows = reference.features[ART].double().numpy()
    own = {"mu": rows.mean(axis=0), "sigma": np.cov(rows, rowvar=False)}
    metric = ArtFid(ArtFid.complete_statistics(own))
    metric.update(images(5))
    (value,) = metric.compute()
    assert value.value == pytest.approx(against(reference, images(5)).value, rel=1e-6)
    with pytest.raises(InputError, match="no array 'sigma'"):
        ArtFid.complete_statistics({"mu": own["mu"]})


def test_the_parts_are_the_metrics_that_users_see_alone() -> None:
    metric = ArtFid()
    assert type(metric._content) is Lpips
    assert type(metric._style) is on_extractor(ExtractorInfo(name=ART, key="art_inception_v3", dimensions=2048))
