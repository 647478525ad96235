"""The Fréchet distance against scipy's matrix square root, and the laws that it obeys."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metricwatch.api import Batch, ExtractorInfo, InputError, ScoreState, Value
from metricwatch.metrics.frechet import Fid, on_extractor
from metricwatch.metrics.frechet.distances import (
    CovarianceDistances,
    GramDistances,
    frechet_distances,
    jackknife_error,
)
from metricwatch.metrics.frechet.gaussian import Gaussian

D = 24
SMALL = ExtractorInfo(name="small", key="small", dimensions=D)
# The metric on an extractor of 24 dimensions: everything but the size is the real thing.
Small = on_extractor(SMALL)


def gaussian_rows(n: int, seed: int, shift: float = 0.0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    mixing = np.eye(D) + 0.2 * np.random.default_rng(99).standard_normal((D, D))
    return (generator.standard_normal((n, D)) @ mixing + shift).astype(np.float32)


def batch(rows: np.ndarray, names: list[str] | None = None) -> Batch:
    names = names or [f"{index:05d}" for index in range(len(rows))]
    return Batch(names=tuple(names), features={"small": torch.from_numpy(rows)})


def statistics(rows: np.ndarray) -> Any:
    metric = Small()
    metric.update(batch(rows))
    return metric.statistics()


def score(rows: np.ndarray, reference: Any) -> Value:
    metric = Small(reference)
    metric.update(batch(rows))
    (value,) = metric.compute()
    return value


def by_scipy(rows: np.ndarray, reference: np.ndarray) -> float:
    """The formula as pytorch-fid writes it."""
    first, second = rows.astype(np.float64), reference.astype(np.float64)
    mean, other_mean = first.mean(axis=0), second.mean(axis=0)
    sigma, other_sigma = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    root = scipy.linalg.sqrtm(sigma @ other_sigma)
    gap = mean - other_mean
    return float(gap @ gap + np.trace(sigma) + np.trace(other_sigma) - 2 * np.trace(root.real))


@pytest.mark.parametrize("n", [40, 200, 5000])
def test_it_equals_scipys_square_root_where_that_is_well_conditioned(n: int) -> None:
    rows, reference = gaussian_rows(n, seed=1, shift=0.3), gaussian_rows(400, seed=2)
    assert score(rows, statistics(reference)).value == pytest.approx(by_scipy(rows, reference), rel=1e-10)


@pytest.mark.parametrize("n", [2, 3, 8, D])
def test_it_equals_scipy_with_fewer_images_than_dimensions(n: int) -> None:
    """The square root of a singular product is known to about eight digits only, by scipy that is."""
    rows, reference = gaussian_rows(n, seed=1), gaussian_rows(400, seed=2)
    assert score(rows, statistics(reference)).value == pytest.approx(by_scipy(rows, reference), rel=1e-5)


@settings(max_examples=40)
@given(n=st.integers(2, 80), seed=st.integers(0, 2**32 - 1), shift=st.floats(-2, 2))
def test_the_two_ways_agree_and_so_do_their_jackknives(n: int, seed: int, shift: float) -> None:
    """Below, at and above the number of dimensions, to ten digits (the rank is known, so no noise counts)."""
    reference = Gaussian.from_arrays(statistics(gaussian_rows(300, seed=5)))
    rows = gaussian_rows(n, seed=seed, shift=shift)
    gram, covariance = GramDistances(rows, reference), CovarianceDistances(rows, reference)
    whole = gram.whole()
    assert covariance.whole() == pytest.approx(whole, rel=1e-10)
    first, second = jackknife_error(gram, whole, n), jackknife_error(covariance, whole, n)
    assert first == second if first is None else first == pytest.approx(second, rel=1e-6, abs=1e-8)


@settings(max_examples=30)
@given(n=st.integers(2, 60), seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([1e-6, 1.0, 1e6]))
def test_a_set_is_at_distance_zero_from_itself(n: int, seed: int, scale: float) -> None:
    """Never negative, never NaN, and small against the spread of the set."""
    rows = gaussian_rows(n, seed=seed) * np.float32(scale)
    value = score(rows, statistics(rows))
    assert value.state is ScoreState.OK
    assert value.value is not None
    assert 0.0 <= value.value <= 1e-6 * float(np.trace(np.cov(rows, rowvar=False)))


def test_identical_images_are_named_collapsed() -> None:
    """Ten times the same picture: the distance would be a number, and would say nothing."""
    value = score(np.tile(gaussian_rows(1, seed=3), (10, 1)), statistics(gaussian_rows(50, seed=2)))
    assert (value.state, value.value, value.images) == (ScoreState.COLLAPSED, None, 10)
    assert "all 10 images have the same features" in value.detail


@settings(max_examples=30)
@given(n=st.integers(2, 60), seed=st.integers(0, 2**32 - 1), scale=st.floats(0.01, 100.0))
def test_the_distance_turns_moves_and_scales_with_the_features(n: int, seed: int, scale: float) -> None:
    """Rotating and moving both sets changes nothing; a factor comes out as its square, of the error too."""
    rows, reference = gaussian_rows(n, seed=seed, shift=0.5), gaussian_rows(80, seed=5)
    expected = score(rows, statistics(reference))
    turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((D, D)))[0]

    def changed(features: np.ndarray) -> np.ndarray:
        return ((features @ turn + 3.0) * scale).astype(np.float32)

    found = score(changed(rows), statistics(changed(reference)))
    assert found.value == pytest.approx(expected.value * scale**2, rel=1e-4)
    if n > 2:
        assert found.stderr == pytest.approx(expected.stderr * scale**2, rel=1e-3)


def test_scoring_leaves_the_features_as_they_are() -> None:
    """Other metrics read the same memory."""
    rows, reference = gaussian_rows(60, seed=1), gaussian_rows(50, seed=2)
    before = rows.copy(), reference.copy()
    score(rows, statistics(reference))
    np.testing.assert_array_equal(rows, before[0])
    np.testing.assert_array_equal(reference, before[1])


def test_the_same_extractor_gives_the_same_class_and_another_another() -> None:
    assert on_extractor(ExtractorInfo(name="small", key="small", dimensions=D)) is Small
    other = on_extractor(ExtractorInfo(name="dinov2-vits14", key="dinov2", dimensions=384))
    assert other.spec.keys == ("fd_dinov2",)
    assert other.spec.extractors == ("dinov2-vits14",)
    assert Fid.spec.keys == ("fid",)
    assert {Fid.spec.statistics, other.spec.statistics} == {"moments"}
    assert not Fid.spec.reads_images


@settings(max_examples=30)
@given(n=st.integers(3, 60), data=st.data())
def test_order_batching_and_merging_change_not_one_bit(n: int, data: st.DataObject) -> None:
    reference = statistics(gaussian_rows(100, seed=5))
    rows = gaussian_rows(n, seed=n)
    names = [f"step{index:04d}" for index in range(n)]
    expected = score_named(rows, names, reference, cuts=[])
    order = data.draw(st.permutations(range(n)))
    cuts = sorted(data.draw(st.sets(st.integers(1, n - 1), max_size=4)))
    shuffled, shuffled_names = rows[list(order)], [names[index] for index in order]
    assert score_named(shuffled, shuffled_names, reference, cuts) == expected
    left, right = Small(reference), Small(reference)
    middle = data.draw(st.integers(0, n))
    left.update(batch(shuffled[:middle], shuffled_names[:middle]))
    right.update(batch(shuffled[middle:], shuffled_names[middle:]))
    left.merge(right)
    assert left.compute()[0] == expected


def score_named(rows: np.ndarray, names: list[str], reference: Any, cuts: list[int]) -> Value:
    metric = Small(reference)
    for part, part_names in zip(np.split(rows, cuts), np.split(np.array(names), cuts), strict=True):
        metric.update(batch(part, part_names.tolist()))
    (value,) = metric.compute()
    return value


def test_images_that_share_a_name_may_come_in_any_order() -> None:
    """0001.png and 0001.jpg have one stem."""
    reference, rows = statistics(gaussian_rows(100, seed=5)), gaussian_rows(30, seed=6)
    names = [f"{index // 2}" for index in range(30)]
    backwards = score_named(rows[::-1].copy(), names[::-1], reference, [])
    assert backwards == score_named(rows, names, reference, [])


@pytest.mark.parametrize(("n", "dimensions_more"), [(18, True), (150, False)])
def test_the_standard_error_is_the_spread_over_repetitions(n: int, dimensions_more: bool) -> None:
    """Drawn 300 times from one distribution, the scores spread as the jackknife says, within a third."""
    reference = Gaussian.from_arrays(statistics(gaussian_rows(1000, seed=1)))
    values, errors = [], []
    for seed in range(300):
        rows = gaussian_rows(n, seed=1000 + seed, shift=0.5)
        distances = frechet_distances(rows, reference)
        assert isinstance(distances, GramDistances) == dimensions_more
        values.append(distances.whole())
        errors.append(jackknife_error(distances, values[-1], n))
    assert np.mean(errors) == pytest.approx(np.std(values, ddof=1), rel=0.34)


class BiasedConstant:
    """Distances without any noise, only the 1/n bias that the Fréchet distance has."""

    def __init__(self, n: int) -> None:
        self._n = n

    def whole(self) -> float:
        return 5.0 + 100.0 / self._n

    def without(self, group: np.ndarray) -> float:
        return 5.0 + 100.0 / (self._n - len(group))


@pytest.mark.parametrize("n", [3, 20, 39, 64])
def test_the_standard_error_does_not_mistake_bias_for_noise(n: int) -> None:
    """39 images make groups of one and two: without weights the bias would differ between them."""
    distances = BiasedConstant(n)
    assert jackknife_error(distances, distances.whole(), n) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(("n", "group"), [(10, [0, 3, 4]), (70, [0, 3, 4]), (3000, list(range(1, 3000, 2)))])
def test_a_distance_without_a_group_is_that_of_the_others(n: int, group: list[int]) -> None:
    reference = Gaussian.from_arrays(statistics(gaussian_rows(300, seed=5)))
    rows = gaussian_rows(n, seed=7)
    expected = frechet_distances(np.delete(rows, group, axis=0), reference).whole()
    assert frechet_distances(rows, reference).without(np.array(group)) == pytest.approx(expected, rel=1e-10)


def test_two_images_have_a_score_but_no_standard_error() -> None:
    value = score(gaussian_rows(2, seed=1), statistics(gaussian_rows(50, seed=2)))
    assert value.state is ScoreState.OK
    assert value.stderr is None


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_images_are_a_named_state(n: int) -> None:
    value = score(gaussian_rows(n, seed=1), statistics(gaussian_rows(50, seed=2)))
    assert (value.state, value.value, value.images) == (ScoreState.TOO_FEW_IMAGES, None, n)
    assert "needs 2 images" in value.detail


def test_features_that_are_not_finite_name_their_images() -> None:
    rows = gaussian_rows(12, seed=1)
    rows[3, 0], rows[7, 5] = np.nan, np.inf
    value = score(rows, statistics(gaussian_rows(50, seed=2)))
    assert (value.state, value.value) == (ScoreState.NON_FINITE, None)
    assert "00003, 00007" in value.detail


def test_a_reference_that_is_not_finite_is_refused() -> None:
    rows = gaussian_rows(12, seed=1)
    rows[3, 0] = np.nan
    with pytest.raises(InputError, match="00003"):
        statistics(rows)


def test_a_reference_of_one_image_is_refused() -> None:
    with pytest.raises(InputError, match="at least 2 readable images, got 1"):
        statistics(gaussian_rows(1, seed=1))


@pytest.mark.parametrize("n", [2, 5, D, 50, 5000])
def test_statistics_have_the_documented_form(n: int) -> None:
    rows = gaussian_rows(n, seed=1)
    arrays = statistics(rows)
    assert sorted(arrays) == ["mu", "n", "root", "sigma"]
    assert int(arrays["n"]) == n
    np.testing.assert_allclose(arrays["mu"], rows.mean(axis=0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(arrays["sigma"], np.cov(rows.astype(np.float64), rowvar=False), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(arrays["root"] @ arrays["root"], arrays["sigma"], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(arrays["root"], arrays["root"].T, atol=1e-12)


def test_a_users_mu_and_sigma_give_the_same_score_as_the_images() -> None:
    reference, rows = gaussian_rows(200, seed=1), gaussian_rows(60, seed=2)
    arrays = statistics(reference)
    completed = Small.complete_statistics({"mu": arrays["mu"], "sigma": arrays["sigma"]})
    assert int(completed["n"]) == 0
    assert score(rows, completed).value == pytest.approx(score(rows, arrays).value, rel=1e-10)


def test_statistics_in_single_precision_are_accepted() -> None:
    arrays = statistics(gaussian_rows(200, seed=1))
    single = {name: arrays[name].astype(np.float32) for name in ("mu", "sigma")}
    assert score(gaussian_rows(60, seed=2), Small.complete_statistics(single)).state is ScoreState.OK


GOOD = {"mu": np.zeros(D), "sigma": np.eye(D)}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mu": np.zeros(D)}, "no array 'sigma'; found: mu"),
        ({**GOOD, "mu": np.zeros(2048)}, r"'mu' has shape \(2048,\), but small features need \(24,\)"),
        ({**GOOD, "sigma": np.eye(D)[:5]}, r"'sigma' has shape \(5, 24\)"),
        ({**GOOD, "sigma": np.full((D, D), np.nan)}, "finite"),
        ({**GOOD, "mu": np.array(["a"] * D)}, "finite floating-point"),
        ({**GOOD, "sigma": np.triu(np.ones((D, D)))}, "not symmetric"),
        ({**GOOD, "sigma": -np.eye(D)}, "fd_small: array 'sigma' has negative eigenvalues"),
    ],
)
def test_unusable_statistics_are_refused_by_name(arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Small.complete_statistics(arrays)
