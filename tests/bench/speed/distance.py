"""The Fréchet distance of features to a reference of full rank, from the features on."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from metricwatch.metrics.frechet.distances import frechet_distances, jackknife_error
from metricwatch.metrics.frechet.gaussian import Gaussian

PEER = "pytorch-fid"
_WITH_ERROR = "metricwatch with its standard error"
_TOLERANCE = 1e-3


def sides(features: np.ndarray, reference: Path) -> dict[str, Callable[[], float]]:
    """By library, seconds for one distance of features (n, 2048), float32; all start with the statistics in memory.

    What metricwatch keeps with them, the root of the covariance, is computed once for a reference and is not counted.
    Raises AssertionError when a distance is not pytorch-fid's.
    """
    with np.load(reference) as arrays:
        mu, sigma = arrays["mu"], arrays["sigma"]
        gaussian = Gaussian.from_users(
            {"mu": mu, "sigma": sigma}, key="fid", extractor="inception-v3", dimensions=mu.size
        )
    expected: list[float] = []

    def timed(compute: Callable[[], float]) -> Callable[[], float]:
        def side() -> float:
            started = time.perf_counter()
            value = compute()
            seconds = time.perf_counter() - started
            expected.append(value)
            assert abs(value - expected[0]) <= _TOLERANCE * expected[0], f"{value} is not {expected[0]}"
            return seconds

        return side

    def ours(*, error: bool) -> float:
        distances = frechet_distances(features, gaussian)
        value = distances.whole()
        if error:
            jackknife_error(distances, value, len(features))
        return value

    def statistics() -> tuple[np.ndarray, np.ndarray]:
        return np.mean(features, axis=0), np.cov(features, rowvar=False)

    return {
        PEER: timed(lambda: _pytorch_fid(*statistics(), mu, sigma)),
        "clean-fid": timed(lambda: _clean_fid(*statistics(), mu, sigma)),
        "torch-fidelity": timed(lambda: _torch_fidelity(*statistics(), mu, sigma)),
        "torchmetrics": timed(lambda: _torchmetrics(features, mu, sigma)),
        "metricwatch": timed(lambda: ours(error=False)),
        _WITH_ERROR: timed(lambda: ours(error=True)),
    }


def _pytorch_fid(mean: np.ndarray, covariance: np.ndarray, mu: np.ndarray, sigma: np.ndarray) -> float:
    from pytorch_fid.fid_score import calculate_frechet_distance

    return float(calculate_frechet_distance(mean, covariance, mu, sigma))


def _clean_fid(mean: np.ndarray, covariance: np.ndarray, mu: np.ndarray, sigma: np.ndarray) -> float:
    from cleanfid.fid import frechet_distance

    return float(frechet_distance(mean, covariance, mu, sigma))


def _torch_fidelity(mean: np.ndarray, covariance: np.ndarray, mu: np.ndarray, sigma: np.ndarray) -> float:
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    first = {"mu": mean.astype(np.float64), "sigma": covariance}
    return float(fid_statistics_to_metric(first, {"mu": mu, "sigma": sigma}, verbose=False)[KEY_METRIC_FID])


def _torchmetrics(features: np.ndarray, mu: np.ndarray, sigma: np.ndarray) -> float:
    import torch
    from torchmetrics.image.fid import _compute_fid

    rows = torch.from_numpy(features).double()
    n = len(rows)
    mean = rows.mean(dim=0)
    covariance = (rows.T @ rows - n * mean[:, None] @ mean[None, :]) / (n - 1)
    return float(_compute_fid(mean, covariance, torch.from_numpy(mu), torch.from_numpy(sigma)))
