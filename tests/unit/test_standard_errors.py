"""Standard errors against the truth: sets drawn again and again, and how often the interval holds the expected score.

The expected score is the mean over all replicates, at that number of images and for that reference: the bias in the
number of images is a separate thing. Of 400 intervals that hold it 95 times in 100, between 367 and 393 do so in all
but a few cases of 1,000 (three binomial standard deviations: 91.7% to 98.3%).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from metricwatch.api import ExtractorInfo, FeatureMetric, Value
from metricwatch.metrics import frechet, kid, prdc
from metricwatch.metrics.frechet.distances import CovarianceDistances, GramDistances, frechet_distances
from metricwatch.metrics.frechet.gaussian import Gaussian

REPLICATES = 400
LOWEST, HIGHEST = 0.917, 0.983
# Student's t with 19 degrees of freedom for twenty groups; the normal distribution for the mean over many images.
T_19, NORMAL = 2.093, 1.960


def drawn(n: int, d: int, seed: int, *, shift: float = 0.0) -> np.ndarray:
    """Skewed, correlated features, some directions wider than others: mean 0.4 and deviation 0.3, as Inception's are."""
    mixing = np.random.default_rng(99).standard_normal((d, d)) / np.sqrt(np.arange(1, d + 1))[:, None]
    mixing *= 0.3 * np.sqrt(d / (mixing**2).sum())
    skewed = (np.random.default_rng(seed).gamma(2.0, 1.0, size=(n, d)) - 2.0) / np.sqrt(2.0)
    return (0.4 + shift + skewed @ mixing).astype(np.float32)


def metric_of(family: Callable[[ExtractorInfo], type], d: int, reference: np.ndarray) -> FeatureMetric:
    metric_class = family(ExtractorInfo(name=f"of-{d}", key=f"of_{d}", dimensions=d))
    return metric_class(metric_class().summarise(reference))


def replicates(
    metric: FeatureMetric, n: int, d: int, *, key: int = 0, shift: float = 0.1
) -> tuple[np.ndarray, np.ndarray]:
    """Values and standard errors of independent sets of n."""
    found: list[Value] = [metric.compare(drawn(n, d, seed, shift=shift))[key] for seed in range(1, REPLICATES + 1)]
    return np.array([each.value for each in found]), np.array([each.stderr for each in found])


def held(values: np.ndarray, errors: np.ndarray, quantile: float) -> float:
    share = float(np.mean(np.abs(values - values.mean()) <= quantile * errors))
    print(f"held {share:.3f}; errors are {errors.mean() / values.std(ddof=1):.3f} of the spread")
    return share


@pytest.mark.parametrize(("n", "d", "way"), [(60, 64, GramDistances), (200, 32, CovarianceDistances)])
def test_the_frechet_jackknifes_interval_holds_the_expected_distance(n: int, d: int, way: type) -> None:
    reference = drawn(500, d, seed=0)
    assert isinstance(frechet_distances(drawn(n, d, seed=1), Gaussian.from_features(reference)), way)
    values, errors = replicates(metric_of(frechet.on_extractor, d, reference), n, d)
    assert LOWEST <= held(values, errors, T_19) <= HIGHEST


def test_the_extrapolated_distances_interval_holds_its_expectation() -> None:
    values, errors = replicates(metric_of(frechet.infinite_on_extractor, 32, drawn(500, 32, seed=0)), 200, 32)
    assert LOWEST <= held(values, errors, T_19) <= HIGHEST


@pytest.mark.parametrize("n", [60, 200])
def test_kids_interval_holds_the_expected_distance(n: int) -> None:
    values, errors = replicates(metric_of(kid.on_extractor, 64, drawn(300, 64, seed=0)), n, 64, shift=0.2)
    assert LOWEST <= held(values, errors, NORMAL) <= HIGHEST


@pytest.mark.parametrize(("n", "shift", "highest"), [(20, 0.2, 1.1), (100, 0.2, 1.1), (20, 0.0, 1.8), (100, 0.0, 1.4)])
def test_kids_squared_error_is_the_variance(n: int, shift: float, highest: float) -> None:
    """Without bias when the sets differ. When they do not, a negative part is taken as 0: never too small."""
    d = 16
    metric = metric_of(kid.on_extractor, d, drawn(200, d, seed=0))
    values, errors = [], []
    for seed in range(1, 3001):
        (value,) = metric.compare(drawn(n, d, seed, shift=shift))
        values.append(value.value)
        errors.append(value.stderr)
    assert min(errors) > 0.0
    ratio = np.mean(np.square(errors)) / np.var(values, ddof=1)
    print(ratio)
    assert 0.9 <= ratio <= highest


@pytest.mark.parametrize(("key", "name"), [(0, "precision"), (2, "density")])
def test_the_interval_of_precision_and_density_holds_their_expectation(key: int, name: str) -> None:
    metric = metric_of(prdc.on_extractor, 16, drawn(150, 16, seed=0))
    assert metric.spec.keys[key].startswith(name)
    values, errors = replicates(metric, 100, 16, key=key, shift=0.1)
    assert 0.2 < values.mean() < 0.9
    assert LOWEST <= held(values, errors, NORMAL) <= HIGHEST


@pytest.mark.parametrize("n", [45, 150, 250])
def test_coverages_error_is_rather_too_large_than_too_small(n: int) -> None:
    """Up to twice: leaving a group out empties more balls than another draw would."""
    values, errors = replicates(metric_of(prdc.on_extractor, 16, drawn(150, 16, seed=0)), n, 16, key=3)
    held(values, errors, T_19)
    print(values.mean())
    assert 0.95 * values.std(ddof=1) <= errors.mean() <= 2.0 * values.std(ddof=1)


@pytest.mark.parametrize(("family", "key"), [(frechet.on_extractor, 0), (prdc.on_extractor, 3)])
def test_an_error_does_not_depend_on_the_files_going_round_the_classes(family: Callable[..., type], key: int) -> None:
    """Twenty files a round of ten classes: a group of every twentieth row would hold one class alone."""
    n, d = 400, 8
    centres = 2.0 * np.random.default_rng(5).standard_normal((10, d))
    metric = metric_of(family, d, np.concatenate([drawn(50, d, seed=i) + centre for i, centre in enumerate(centres)]))
    rounds = drawn(n, d, seed=77) + np.tile(centres, (n // 10, 1))
    shuffled = rounds[np.random.default_rng(3).permutation(n)]
    in_rounds, at_random = (metric.compare(rows.astype(np.float32))[key].stderr for rows in (rounds, shuffled))
    assert 0.5 < in_rounds / at_random < 2
