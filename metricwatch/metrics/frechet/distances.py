"""Fréchet distances of a set, and of parts of it, to one reference, and the noise in them.

For feature means m, r and covariances Σ, Σr (Dowson & Landau 1982; Heusel et al. 2017, arXiv:1706.08500):

    d² = |m - r|² + tr Σ + tr Σr - 2 tr (Σ Σr)^½

The last term is the sum of the square roots of the eigenvalues of A Σ A, A being the symmetric square root of
Σr: one symmetric eigenvalue problem instead of a general matrix square root.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from .gaussian import ROWS, Float32, Float64, Gaussian

Rows = npt.NDArray[np.intp]
Result = TypeVar("Result")

JACKKNIFE_GROUPS = 20
# Deleting one image must leave the two that a covariance needs.
_JACKKNIFE_MINIMUM = 3
_THREADS = 8


class FrechetDistances(Protocol):
    """The distances of one set, and of the set without some of its rows, to one reference.

    without() needs two rows left. It may be called from several threads at once.
    """

    def whole(self) -> float: ...
    def without(self, group: Rows) -> float: ...


class GramDistances:
    """Through the n x n matrix X Σr Xᵀ, X being the centred features: for n <= d.

    The matrix is formed once; leaving rows out is a submatrix of it, centred anew.
    """

    def __init__(self, features: Float32, reference: Gaussian) -> None:
        rows = features.astype(np.float64)
        self._mean = rows.mean(axis=0)
        self._rows = rows - self._mean
        self._norms = np.einsum("ij,ij->i", self._rows, self._rows)
        self._gram = self._rows @ reference.sigma @ self._rows.T
        self._reference = reference

    def whole(self) -> float:
        return self.without(np.empty(0, dtype=np.intp))

    def without(self, group: Rows) -> float:
        kept = np.delete(np.arange(len(self._rows)), group)
        # The rows sum to zero, so what is left sums to minus what was taken.
        shift = -self._rows[group].sum(axis=0) / len(kept)
        gram = self._gram[np.ix_(kept, kept)]
        means = gram.mean(axis=0)
        gram = gram - means[:, None] - means[None, :] + means.mean()
        scatter = self._norms[kept].sum() - len(kept) * shift @ shift
        return _distance(self._mean + shift, scatter, gram, len(kept), self._reference)


class CovarianceDistances:
    """Through the d x d matrix A Σ A: for n > d. Double-precision copies are made of what is left out only."""

    def __init__(self, features: Float32, reference: Gaussian) -> None:
        self._features = features
        self._reference = reference
        self._mean = features.mean(axis=0, dtype=np.float64)
        blocks = np.array_split(np.arange(len(features)), -(-len(features) // ROWS))
        self._scatter, self._product = 0.0, np.zeros_like(reference.sigma)
        # So many at a time as there are threads: each holds a matrix of its own.
        for some in _batched(blocks, _threads()):
            for scatter, product in _on_each(self._sums, some):
                self._scatter += scatter
                self._product += product

    def _project(self, index: Rows) -> tuple[Float64, Float64]:
        rows = self._features[index].astype(np.float64) - self._mean
        return rows, rows @ self._reference.root

    def _sums(self, index: Rows) -> tuple[float, Float64]:
        """Sum of squares and A Xᵀ X A of the centred rows X of this index."""
        scatter, product = 0.0, np.zeros_like(self._reference.sigma)
        for start in range(0, len(index), ROWS):
            rows, projected = self._project(index[start : start + ROWS])
            scatter += float(np.einsum("ij,ij->", rows, rows))
            product += projected.T @ projected
        return scatter, product

    def whole(self) -> float:
        return _distance(self._mean, self._scatter, self._product, len(self._features), self._reference)

    def without(self, group: Rows) -> float:
        kept = len(self._features) - len(group)
        shift = (self._mean * len(group) - self._features[group].sum(axis=0, dtype=np.float64)) / kept
        projected_shift = shift @ self._reference.root
        scatter, product = self._sums(group)
        # In place: each of these matrices takes 34 MB for 2048 dimensions, and several threads make them at once.
        np.subtract(self._product, product, out=product)
        product -= np.outer(projected_shift, kept * projected_shift)
        scatter = self._scatter - scatter - kept * float(shift @ shift)
        return _distance(self._mean + shift, scatter, product, kept, self._reference)


def _distance(mean: Float64, scatter: float, product: Float64, n: int, reference: Gaussian) -> float:
    """The distance from sums over n rows: product has the non-zero eigenvalues of (n - 1) A Σ A."""
    eigenvalues = np.linalg.eigvalsh(product)
    # Beyond the rank only rounding is left, and its square root would be 1e8 times larger than itself.
    rank = min(n - 1, reference.rank, len(eigenvalues))
    nuclear = np.sqrt(np.clip(eigenvalues[len(eigenvalues) - rank :], 0.0, None) / (n - 1)).sum()
    gap = mean - reference.mu
    value = gap @ gap + scatter / (n - 1) + np.trace(reference.sigma) - 2.0 * nuclear
    # A squared distance: what lies below zero is rounding.
    return max(0.0, float(value))


def frechet_distances(features: Float32, reference: Gaussian) -> FrechetDistances:
    """The cheaper of the two ways for features (n, d), n >= 2, which are only read. They agree to 1e-10 relative."""
    n, d = features.shape
    return GramDistances(features, reference) if n <= d else CovarianceDistances(features, reference)


def without_each(distances: FrechetDistances, groups: Sequence[Rows]) -> Float64:
    """The distance without each of the groups, several at a time. Keeps all of numpy's BLAS to one thread meanwhile."""
    return np.array(_on_each(distances.without, groups))


def _on_each(work: Callable[[Rows], Result], groups: Sequence[Rows]) -> list[Result]:
    """work() of each, several at a time, with numpy's BLAS kept to one thread."""
    # LAPACK leaves Python's lock alone, and one eigenvalue problem a core beats all cores on one problem. With threads
    # of its own in each of them, BLAS spins: on a machine that is busy it then takes up to thirty times as long.
    with _blas().limit(limits=1, user_api="blas"), ThreadPoolExecutor(min(len(groups), _threads())) as pool:
        return list(pool.map(work, groups))


def _threads() -> int:
    return max(1, min(os.cpu_count() or 1, _THREADS))


def _batched(groups: Sequence[Rows], size: int) -> Iterator[Sequence[Rows]]:
    return (groups[start : start + size] for start in range(0, len(groups), size))


@cache
def _blas() -> Any:
    """A threadpoolctl.ThreadpoolController, which takes milliseconds to find the libraries."""
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

    return ThreadpoolController()


def jackknife_error(distances: FrechetDistances, whole: float, n: int) -> float | None:
    """Standard error of the distance by deleting a group at a time, or None for fewer than three rows.

    Groups are drawn, the same ones each time: files often go round the classes, and every twentieth row may be of one
    class. Their sizes may differ by one, so pseudo-values are weighted as in Busing, Meijer & van der Leeden (1999),
    Statistics and Computing 9; the 1/n bias of the distance cancels in them.
    From twenty groups, the interval of whole ± 2.093 errors (Student's t, 19 degrees of freedom) holds the expected
    distance of n images, which is not that of endless images, 95 times in 100.
    """
    if n < _JACKKNIFE_MINIMUM:
        return None
    count = min(JACKKNIFE_GROUPS, n)
    drawn = np.random.default_rng(n).permutation(n)
    groups = [np.sort(drawn[first::count]) for first in range(count)]
    without = without_each(distances, groups)
    share = n / np.array([len(group) for group in groups])
    pseudo = share * whole - (share - 1.0) * without
    centre = count * whole - ((1.0 - 1.0 / share) * without).sum()
    return float(np.sqrt(np.mean((pseudo - centre) ** 2 / (share - 1.0))))
