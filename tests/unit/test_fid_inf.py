"""The distance extrapolated to endless images: what it removes, what it costs, and when it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metricwatch.api import Batch, ExtractorInfo, ScoreState, Value
from metricwatch.metrics.frechet import Fid, FidInf, infinite_on_extractor, on_extractor
from metricwatch.metrics.frechet.distances import frechet_distances
from metricwatch.metrics.frechet.gaussian import Gaussian
from metricwatch.metrics.frechet.infinity import distances_by_size, extrapolate, images_needed

D = 32
SMALL = ExtractorInfo(name="small", key="small", dimensions=D)
Small = infinite_on_extractor(SMALL)


def spectrum(d: int, power: float) -> np.ndarray:
    widths = np.arange(1.0, d + 1) ** -power
    return widths / widths.sum() * 10.0


def others(widths: np.ndarray) -> np.ndarray:
    return widths * np.random.default_rng(0).uniform(0.5, 1.5, len(widths))


def gaussian_rows(n: int, seed: int, *, d: int = D, power: float = 1.0) -> np.ndarray:
    """A little off the reference of that spectrum in its mean and in every width."""
    widths = spectrum(d, power)
    rows = np.random.default_rng(seed).standard_normal((n, d))
    return (rows * np.sqrt(others(widths)) + 0.3 * np.sqrt(widths)).astype(np.float32)


def population(d: int = D, power: float = 1.0) -> tuple[Gaussian, float]:
    """The reference itself, known without noise, and the distance of endless images from it."""
    widths = spectrum(d, power)
    distance = 0.09 * widths.sum() + ((np.sqrt(others(widths)) - np.sqrt(widths)) ** 2).sum()
    return Gaussian(mu=np.zeros(d), sigma=np.diag(widths), root=np.diag(np.sqrt(widths)), n=0), float(distance)


def score(rows: np.ndarray, reference: Any, names: list[str] | None = None, cuts: tuple[int, ...] = ()) -> Value:
    metric = Small(reference)
    names = names or [f"{index:05d}" for index in range(len(rows))]
    for part, part_names in zip(np.split(rows, cuts), np.split(np.array(names), cuts), strict=True):
        metric.update(Batch(names=tuple(part_names.tolist()), features={"small": torch.from_numpy(part)}))
    (value,) = metric.compute()
    return value


@pytest.mark.parametrize(("d", "left", "wider"), [(100, 0.3, 1.5), (50, 0.12, 1.3), (25, 0.06, 1.2)])
@pytest.mark.parametrize("power", [0.0, 1.0])
def test_it_removes_most_of_the_bias_that_the_distance_has(d: int, left: float, wider: float, power: float) -> None:
    """At 2, 4 and 8 images a dimension, over 80 sets of 200; and its spread is not much wider than the distance's.

    Eigenvalues all equal (power 0) are the hardest case: the more directions, the larger the bias and its curvature.
    """
    reference, truth = population(d, power)
    arrays = reference.arrays()
    info = ExtractorInfo(name=f"of-{d}", key=f"of_{d}", dimensions=d)
    metrics = on_extractor(info)(arrays), infinite_on_extractor(info)(arrays)
    sets = [gaussian_rows(200, seed, d=d, power=power) for seed in range(80)]
    values = np.array([[metric.compare(rows)[0].value for metric in metrics] for rows in sets])
    bias, remaining = values.mean(axis=0) - truth
    spread, other_spread = values.std(axis=0, ddof=1)
    noise = spread / np.sqrt(len(values))
    print(f"bias {bias:.4f}, left {remaining / bias:+.3f} of it, spread {other_spread / spread:.3f} times as wide")
    assert bias > 5 * noise
    assert abs(remaining) <= left * bias + 2 * noise
    assert other_spread <= wider * spread


@pytest.mark.parametrize(("dimensions", "needed"), [(2048, 4096), (1280, 2560), (384, 768), (32, 200)])
def test_it_needs_two_images_a_dimension_and_two_hundred(dimensions: int, needed: int) -> None:
    assert images_needed(dimensions) == needed


def test_too_few_images_are_a_state_that_says_how_many_it_takes() -> None:
    arrays = population()[0].arrays()
    value = score(gaussian_rows(199, seed=1), arrays)
    assert (value.state, value.value, value.images) == (ScoreState.TOO_FEW_IMAGES, None, 199)
    assert value.detail == "extrapolating 32 dimensions needs 200 images, got 199"
    assert score(gaussian_rows(200, seed=1), arrays).state is ScoreState.OK


def test_identical_images_are_named_collapsed() -> None:
    value = score(np.tile(gaussian_rows(1, seed=3), (250, 1)), population()[0].arrays())
    assert (value.state, value.value) == (ScoreState.COLLAPSED, None)


@pytest.mark.parametrize("n", [200, 333])
def test_it_is_the_intercept_of_a_regression_over_fifteen_sizes(n: int) -> None:
    """Each size's distances computed anew from its images, fitted by numpy."""
    reference = population()[0]
    rows = gaussian_rows(n, seed=5)
    order = np.random.default_rng(2020).permutation(n)
    sizes = np.linspace(n / 2, n, 15).astype(int)
    means = []
    for size in sizes:
        subsets = (rows[np.sort(order[:size])], rows[np.sort(order[n - size :])])
        means.append(np.mean([frechet_distances(subset, reference).whole() for subset in subsets]))
    expected = np.polyfit(1.0 / sizes, means, 1)[1]
    assert score(rows, reference.arrays()).value == pytest.approx(expected, rel=1e-9)


def test_the_two_subsets_of_each_size_hold_every_image() -> None:
    """At half of the images they are two halves, so no image counts more than twice as much as another."""

    class Recording:
        def __init__(self) -> None:
            self.left_out: list[np.ndarray] = []

        def whole(self) -> float:
            return 1.0

        def without(self, group: np.ndarray) -> float:
            self.left_out.append(group)
            return 1.0

    recording = Recording()
    sizes, _ = distances_by_size(recording, 1.0, 240)
    assert (sizes[0], sizes[-1], len(sizes)) == (120, 240, 15)
    assert sorted(len(group) for group in recording.left_out) == sorted(2 * [240 - size for size in sizes[:-1]])
    for size in sizes[:-1]:
        first, second = (group for group in recording.left_out if len(group) == 240 - size)
        assert not set(first.tolist()) & set(second.tolist())


def test_a_line_without_scatter_is_found_exactly() -> None:
    sizes = np.linspace(100, 200, 15).astype(np.intp)
    line = extrapolate(sizes, 7.0 + 300.0 / sizes)
    assert line.intercept == pytest.approx(7.0, rel=1e-10)
    assert line.scatter_error == pytest.approx(0.0, abs=1e-9)


@settings(max_examples=10)
@given(data=st.data())
def test_order_and_batching_change_not_one_bit(data: st.DataObject) -> None:
    arrays = population()[0].arrays()
    rows = gaussian_rows(210, seed=9)
    names = [f"step{index:04d}" for index in range(210)]
    expected = score(rows, arrays, names)
    order = data.draw(st.permutations(range(210)))
    cuts = tuple(sorted(data.draw(st.sets(st.integers(1, 209), max_size=4))))
    assert score(rows[list(order)], arrays, [names[index] for index in order], cuts) == expected


def test_a_set_against_itself_is_not_far_from_zero() -> None:
    """The distance is 0 at once, without bias, and half of the set is off by chance alone: the line overshoots by that."""
    rows = gaussian_rows(300, seed=4)
    reference = Gaussian.from_features(rows)
    value = score(rows, reference.arrays())
    half = frechet_distances(rows[:150], reference).whole()
    assert value.state is ScoreState.OK
    assert value.value == pytest.approx(-half, rel=0.3)


def test_it_shares_the_references_statistics_with_the_distance_itself() -> None:
    assert FidInf.spec.statistics == Fid.spec.statistics == "moments"
    assert FidInf.spec.extractors == Fid.spec.extractors
    assert FidInf.spec.keys == ("fid_inf",)
    assert infinite_on_extractor(SMALL) is Small
    assert Small.spec.keys == ("fd_inf_small",)
    rows = gaussian_rows(40, seed=1)
    ours, theirs = Small().summarise(rows), on_extractor(SMALL)().summarise(rows)
    assert sorted(ours) == sorted(theirs)
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name])
