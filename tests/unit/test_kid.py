"""The kernel distance against its definition, and the laws that it obeys."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metricwatch.api import Batch, ExtractorInfo, InputError, ScoreState, Value
from metricwatch.metrics import kid
from metricwatch.metrics.kid import Kid, on_extractor

D = 24
Small = on_extractor(ExtractorInfo(name="small", key="small", dimensions=D))


def features(n: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).gamma(1.0, 0.4, size=(n, D)) + shift).astype(np.float32)


def batch(rows: np.ndarray, names: list[str] | None = None) -> Batch:
    names = names or [f"{index:05d}" for index in range(len(rows))]
    return Batch(names=tuple(names), features={"small": torch.from_numpy(rows)})


def statistics(rows: np.ndarray) -> Any:
    metric = Small()
    metric.update(batch(rows))
    return metric.statistics()


def score(rows: np.ndarray, reference: Any, names: list[str] | None = None, cuts: tuple[int, ...] = ()) -> Value:
    metric = Small(reference)
    names = names or [f"{index:05d}" for index in range(len(rows))]
    for part, part_names in zip(np.split(rows, cuts), np.split(np.array(names), cuts), strict=True):
        metric.update(batch(part, part_names.tolist()))
    (value,) = metric.compute()
    return value


def kernel(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (one.astype(np.float64) @ other.astype(np.float64).T / one.shape[1] + 1.0) ** 3


def by_definition(rows: np.ndarray, reference: np.ndarray) -> float:
    own, theirs, mixed = kernel(rows, rows), kernel(reference, reference), kernel(rows, reference)
    n, m = mixed.shape
    within = (own.sum() - np.trace(own)) / (n * (n - 1)) + (theirs.sum() - np.trace(theirs)) / (m * (m - 1))
    return float(within - 2.0 * mixed.mean())


def variance_by_counting(rows: np.ndarray, reference: np.ndarray) -> float:
    """The estimate from its words: means over all pairs of pairs that share one image, two, and none."""
    n = len(rows)
    means = kernel(rows, reference).mean(axis=1)
    pairs = kernel(rows, rows) - means[:, None] - means[None, :]
    pairs -= np.mean([pairs[i, j] for i, j in permutations(range(n), 2)])
    both = np.mean([pairs[i, j] ** 2 for i, j in permutations(range(n), 2)])
    one = np.mean([pairs[i, j] * pairs[i, k] for i, j, k in permutations(range(n), 3)])
    none = np.mean([pairs[i, j] * pairs[k, m] for i, j, k, m in permutations(range(n), 4)])
    first, second = max(0.0, one - none), max(0.0, both - none)
    return float((4 * (n - 2) * first + 2 * second) / (n * (n - 1)))


@pytest.mark.parametrize(("n", "m"), [(2, 2), (3, 50), (40, 40), (50, 7)])
def test_it_is_the_unbiased_kernel_distance_of_sets_of_any_size(n: int, m: int) -> None:
    rows, reference = features(n, seed=1, shift=0.05), features(m, seed=2)
    assert score(rows, statistics(reference)).value == pytest.approx(by_definition(rows, reference), rel=1e-10)


@settings(max_examples=25)
@given(n=st.integers(4, 9), m=st.integers(2, 30), seed=st.integers(0, 2**32 - 1), shift=st.floats(0.0, 0.5))
def test_the_squared_error_is_its_definition(n: int, m: int, seed: int, shift: float) -> None:
    rows, reference = features(n, seed, shift), features(m, seed + 1)
    value = score(rows, statistics(reference))
    assert value.stderr is not None
    assert value.stderr**2 == pytest.approx(variance_by_counting(rows, reference), rel=1e-6, abs=1e-15)


def test_the_size_of_the_tiles_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """One tile, whole tiles, and tiles with a rest at the end."""
    rows, reference = features(60, seed=1), features(45, seed=2)
    expected = score(rows, statistics(reference))
    for size in (1, 7, 15, 20):
        monkeypatch.setattr(kid, "_ROWS", size)
        found = score(rows, statistics(reference))
        assert found.value == pytest.approx(expected.value, rel=1e-10)
        assert found.stderr == pytest.approx(expected.stderr, rel=1e-9)


def test_a_small_distance_of_large_features_keeps_its_digits() -> None:
    """Kernels of 400,000 and a distance of 3: float32 would be left with two digits of it."""
    rows, reference = features(200, seed=1, shift=8.0), features(200, seed=2, shift=8.0)
    value = score(rows, statistics(reference)).value
    assert kernel(rows, reference).mean() > 1e5 * abs(value)
    assert value == pytest.approx(by_definition(rows, reference), rel=1e-8)


@settings(max_examples=30)
@given(n=st.integers(2, 50), seed=st.integers(0, 2**32 - 1))
def test_a_set_and_itself_give_the_bias_that_unbiasedness_costs(n: int, seed: int) -> None:
    """-(2/n) (mean k(x, x) - mean k(x, x')): never above 0, never NaN, and 0 only for endless images."""
    rows = features(n, seed)
    own = kernel(rows, rows)
    expected = -2.0 / n * (np.trace(own) / n - (own.sum() - np.trace(own)) / (n * (n - 1)))
    value = score(rows, statistics(rows))
    assert value.state is ScoreState.OK
    assert value.value == pytest.approx(expected, rel=1e-9)
    assert value.value <= 0.0


@settings(max_examples=30)
@given(n=st.integers(4, 50), seed=st.integers(0, 2**32 - 1))
def test_turning_both_sets_changes_nothing(n: int, seed: int) -> None:
    rows, reference = features(n, seed, shift=0.3), features(30, seed=5)
    turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((D, D)))[0]
    expected = score(rows, statistics(reference))
    found = score((rows @ turn).astype(np.float32), statistics((reference @ turn).astype(np.float32)))
    assert found.value == pytest.approx(expected.value, rel=1e-4)
    assert found.stderr == pytest.approx(expected.stderr, rel=1e-3)


@settings(max_examples=30)
@given(n=st.integers(4, 60), data=st.data())
def test_order_batching_and_merging_change_not_one_bit(n: int, data: st.DataObject) -> None:
    reference = statistics(features(40, seed=5))
    rows = features(n, seed=n)
    names = [f"step{index:04d}" for index in range(n)]
    expected = score(rows, reference, names)
    order = list(data.draw(st.permutations(range(n))))
    cuts = tuple(sorted(data.draw(st.sets(st.integers(1, n - 1), max_size=4))))
    shuffled, shuffled_names = rows[order], [names[index] for index in order]
    assert score(shuffled, reference, shuffled_names, cuts) == expected
    left, right = Small(reference), Small(reference)
    middle = data.draw(st.integers(0, n))
    left.update(batch(shuffled[:middle], shuffled_names[:middle]))
    right.update(batch(shuffled[middle:], shuffled_names[middle:]))
    left.merge(right)
    assert left.compute()[0] == expected


def test_scoring_leaves_the_features_as_they_are() -> None:
    """Other metrics read the same memory."""
    rows, reference = features(60, seed=1), features(50, seed=2)
    before = rows.copy(), reference.copy()
    score(rows, statistics(reference))
    np.testing.assert_array_equal(rows, before[0])
    np.testing.assert_array_equal(reference, before[1])


@pytest.mark.parametrize("n", [2, 3])
def test_fewer_than_four_images_have_a_score_but_no_standard_error(n: int) -> None:
    value = score(features(n, seed=1), statistics(features(20, seed=2)))
    assert value.state is ScoreState.OK
    assert value.stderr is None


def test_states_have_names() -> None:
    reference = statistics(features(20, seed=2))
    assert score(features(1, seed=1), reference).state is ScoreState.TOO_FEW_IMAGES
    assert "needs 2 images, got 1" in score(features(1, seed=1), reference).detail
    assert score(np.tile(features(1, seed=1), (9, 1)), reference).state is ScoreState.COLLAPSED
    broken = features(9, seed=1)
    broken[4, 3] = np.nan
    value = score(broken, reference)
    assert (value.state, value.value) == (ScoreState.NON_FINITE, None)
    assert "00004" in value.detail


def test_statistics_are_the_features_and_their_own_kernel_sum() -> None:
    rows = features(33, seed=1)
    arrays = statistics(rows)
    assert sorted(arrays) == ["features", "kernel_sum"]
    np.testing.assert_array_equal(arrays["features"], rows)
    own = kernel(rows, rows)
    assert float(arrays["kernel_sum"]) == pytest.approx(own.sum() - np.trace(own), rel=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_a_users_features_are_accepted_and_their_kernel_sum_is_computed_anew(dtype: type) -> None:
    reference, rows = features(33, seed=1).astype(dtype), features(20, seed=2)
    completed = Small.complete_statistics({"features": reference, "kernel_sum": np.asarray(1e9), "mu": np.zeros(3)})
    expected = score(rows, statistics(reference.astype(np.float32)))
    assert score(rows, completed) == expected


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mu": np.zeros(D), "sigma": np.eye(D)}, r"kd_small: statistics hold no array 'features'; found: mu, sigma.*"),
        ({"features": np.zeros((9, 2048))}, r"'features' has shape \(9, 2048\), but small features need \(N, 24\)"),
        ({"features": np.zeros((1, D))}, "at least 2"),
        ({"features": np.zeros(D)}, r"has shape \(24,\)"),
        ({"features": np.full((9, D), np.inf)}, "finite"),
        ({"features": np.zeros((9, D), dtype=np.int64)}, "floating-point"),
    ],
)
def test_unusable_statistics_are_refused_by_name(arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Small.complete_statistics(arrays)


def test_the_specs_are_those_of_kid_and_of_any_extractor() -> None:
    assert Kid.spec.keys == ("kid",)
    assert (Kid.extractor, Kid.dimensions) == ("inception-v3", 2048)
    assert Small.spec.keys == ("kd_small",)
    assert on_extractor(ExtractorInfo(name="small", key="small", dimensions=D)) is Small
    assert not Kid.spec.reads_images
