"""The Fréchet distance between the features of two image sets, with a standard error.

For feature means m, r and covariances Σ, Σr (Dowson & Landau 1982; Heusel et al. 2017, arXiv:1706.08500):

    d² = |m - r|² + tr Σ + tr Σr - 2 tr (Σ Σr)^½

The last term is the sum of the square roots of the eigenvalues of A Σ A, A being the symmetric square root of
Σr: one symmetric eigenvalue problem instead of a general matrix square root.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self

import numpy as np
import numpy.typing as npt

from metricwatch.api import Arrays, Batch, InputError, Metric, MetricSpec, ScoreState, Value

Float64 = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]

JACKKNIFE_GROUPS = 20
# Deleting one image must leave the two that a covariance needs.
_JACKKNIFE_MINIMUM = 3
_NAMED = 5
_THREADS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaussian:
    """A reference set as its mean (d,), covariance (d, d; ddof 1), the root A with A @ A = sigma, and its size.

    n is 0 where the number of images is not known (a user's own statistics).
    """

    mu: Float64
    sigma: Float64
    root: Float64
    n: int

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        return cls(
            mu=np.asarray(arrays["mu"], dtype=np.float64),
            sigma=np.asarray(arrays["sigma"], dtype=np.float64),
            root=np.asarray(arrays["root"], dtype=np.float64),
            n=int(np.asarray(arrays["n"])),
        )

    @property
    def rank(self) -> int:
        """The most that the rank of sigma can be."""
        d = len(self.mu)
        return min(d, self.n - 1) if self.n else d


class FrechetDistances(Protocol):
    """The distances of one set, and of the set without some of its rows, to one reference."""

    def whole(self) -> float: ...
    def without(self, group: npt.NDArray[np.intp]) -> float: ...


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

    def without(self, group: npt.NDArray[np.intp]) -> float:
        kept = np.delete(np.arange(len(self._rows)), group)
        # The rows sum to zero, so what is left sums to minus what was taken.
        shift = -self._rows[group].sum(axis=0) / len(kept)
        gram = self._gram[np.ix_(kept, kept)]
        means = gram.mean(axis=0)
        gram = gram - means[:, None] - means[None, :] + means.mean()
        scatter = self._norms[kept].sum() - len(kept) * shift @ shift
        return _distance(self._mean + shift, scatter, gram, len(kept), self._reference)


class CovarianceDistances:
    """Through the d x d matrix A Σ A: for n > d. Double-precision copies are made group by group."""

    def __init__(self, features: Float32, reference: Gaussian) -> None:
        self._features = features
        self._reference = reference
        self._mean = features.mean(axis=0, dtype=np.float64)
        self._scatter = 0.0
        self._product = np.zeros_like(reference.sigma)
        for start in range(0, len(features), 4096):
            rows, projected = self._project(np.arange(start, min(start + 4096, len(features))))
            self._scatter += float(np.einsum("ij,ij->", rows, rows))
            self._product += projected.T @ projected

    def _project(self, index: npt.NDArray[np.intp]) -> tuple[Float64, Float64]:
        rows = self._features[index].astype(np.float64) - self._mean
        return rows, rows @ self._reference.root

    def whole(self) -> float:
        return _distance(self._mean, self._scatter, self._product, len(self._features), self._reference)

    def without(self, group: npt.NDArray[np.intp]) -> float:
        rows, projected = self._project(group)
        kept = len(self._features) - len(group)
        shift = -rows.sum(axis=0) / kept
        projected_shift = shift @ self._reference.root
        product = self._product - projected.T @ projected - kept * np.outer(projected_shift, projected_shift)
        scatter = self._scatter - float(np.einsum("ij,ij->", rows, rows)) - kept * shift @ shift
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
    """The cheaper of the two ways for features (n, d), n >= 2. They agree to 1e-10 relative."""
    n, d = features.shape
    return GramDistances(features, reference) if n <= d else CovarianceDistances(features, reference)


def jackknife_error(distances: FrechetDistances, whole: float, n: int) -> float | None:
    """Standard error of the distance by deleting a group at a time, or None for fewer than three rows.

    Groups take every twentieth row. Their sizes may differ by one, so pseudo-values are weighted as in Busing,
    Meijer & van der Leeden (1999), Statistics and Computing 9; the 1/n bias of the distance cancels in them.
    """
    if n < _JACKKNIFE_MINIMUM:
        return None
    count = min(JACKKNIFE_GROUPS, n)
    groups = [np.arange(first, n, count) for first in range(count)]
    # LAPACK leaves Python's lock alone, and one eigenvalue problem a core beats all cores on one problem.
    with ThreadPoolExecutor(max_workers=min(count, os.cpu_count() or 1, _THREADS)) as pool:
        without = np.array(list(pool.map(distances.without, groups)))
    share = n / np.array([len(group) for group in groups])
    pseudo = share * whole - (share - 1.0) * without
    centre = count * whole - ((1.0 - 1.0 / share) * without).sum()
    return float(np.sqrt(np.mean((pseudo - centre) ** 2 / (share - 1.0))))


class FrechetDistance(Metric):
    """Fréchet distance on one extractor. Keeps all features (float32, n x d): memory grows with n.

    Images are put in the order of their names first, so that neither batching nor arrival changes a bit.
    """

    extractor: ClassVar[str]
    dimensions: ClassVar[int]

    def __init__(self, reference: Arrays | None = None) -> None:
        super().__init__(reference)
        self._names: list[str] = []
        self._blocks: list[Float32] = []

    def update(self, batch: Batch) -> None:
        if not len(batch):
            return
        features = batch.features[self.extractor].detach().float().cpu().numpy().copy()
        if features.shape != (len(batch), self.dimensions):
            raise InputError(
                f"{self.spec.keys[0]}: features of {self.extractor!r} have shape {features.shape}, "
                f"expected {(len(batch), self.dimensions)}"
            )
        self._names.extend(batch.names)
        self._blocks.append(features)

    def merge(self, other: Self) -> None:
        self._names.extend(other._names)
        self._blocks.extend(other._blocks)

    def compute(self) -> Sequence[Value]:
        n = len(self._names)
        key = self.spec.keys[0]
        if self.reference is None:
            return [_without_value(key, n, ScoreState.NO_REFERENCE, "no reference set was given to compare with")]
        if n < 2:  # noqa: PLR2004
            return [_without_value(key, n, ScoreState.TOO_FEW_IMAGES, f"a covariance needs 2 images, got {n}")]
        names, features = self._ordered()
        if bad := list(_non_finite(names, features)):
            detail = f"features of {self.extractor!r} are not finite for {_listed(bad)}"
            return [_without_value(key, n, ScoreState.NON_FINITE, detail)]
        distances = frechet_distances(features, Gaussian.from_arrays(self.reference))
        value = distances.whole()
        return [Value(key=key, value=value, images=n, stderr=jackknife_error(distances, value, n))]

    def statistics(self) -> Arrays:
        """Arrays mu (d,), sigma (d, d), root (d, d), all float64, and n (int64, no dimensions)."""
        n = len(self._names)
        if n < 2:  # noqa: PLR2004
            raise InputError(f"{self.spec.keys[0]}: a reference needs at least 2 readable images, got {n}")
        names, features = self._ordered()
        if bad := list(_non_finite(names, features)):
            raise InputError(
                f"{self.spec.keys[0]}: features of {self.extractor!r} are not finite for the reference's {_listed(bad)}"
            )
        mu, sigma, root = _moments(features)
        return {"mu": mu, "sigma": sigma, "root": root, "n": np.asarray(n, dtype=np.int64)}

    @classmethod
    def complete_statistics(cls, arrays: Arrays) -> Arrays:
        """Accept pytorch-fid's own files: mu (d,) and sigma (d, d), and n where it is there (else 0: unknown)."""
        d = cls.dimensions
        key = cls.spec.keys[0]
        for name, shape in (("mu", (d,)), ("sigma", (d, d))):
            if name not in arrays:
                raise InputError(f"{key}: statistics hold no array {name!r}; found: {', '.join(sorted(arrays))}")
            array = arrays[name]
            if array.shape != shape:
                raise InputError(
                    f"{key}: array {name!r} has shape {array.shape}, but {cls.extractor} features need {shape}"
                )
            if not np.issubdtype(array.dtype, np.floating) or not np.isfinite(array).all():
                raise InputError(f"{key}: array {name!r} ({array.dtype}) must be of finite floating-point numbers")
        mu = arrays["mu"].astype(np.float64)
        sigma = arrays["sigma"].astype(np.float64)
        scale = float(np.abs(sigma).max())
        # float32 files are welcome: their rounding is below this bound.
        if float(np.abs(sigma - sigma.T).max()) > 1e-5 * scale:
            raise InputError(f"{key}: array 'sigma' is not symmetric, so it is no covariance")
        sigma = (sigma + sigma.T) / 2.0
        known = arrays.get("n")
        n = int(known) if known is not None and known.shape == () and np.issubdtype(known.dtype, np.integer) else 0
        root = _symmetric_root(sigma, tolerance=1e-4)
        return {"mu": mu, "sigma": sigma, "root": root, "n": np.asarray(n, dtype=np.int64)}

    def _ordered(self) -> tuple[list[str], Float32]:
        """Names and features (n, d) sorted by name; images that share a name by their features' sum."""
        features = np.concatenate(self._blocks)
        order = np.lexsort((features.sum(axis=1), np.array(self._names)))
        return [self._names[index] for index in order], features[order]


class Fid(FrechetDistance):
    """FID: Inception-v3 pool3, pytorch-fid's preprocessing."""

    extractor = "inception-v3"
    dimensions = 2048
    spec = MetricSpec(
        keys=("fid",),
        higher_is_better=False,
        extractors=("inception-v3",),
        needs=frozenset({"reference"}),
        protocol="pytorch-fid",
    )


class FdEfficientNetLite0(FrechetDistance):
    """The same distance on EfficientNet-Lite0's pooled features: never comparable with FID."""

    extractor = "efficientnet-lite0"
    dimensions = 1280
    spec = MetricSpec(
        keys=("fd_efficientnet_lite0",),
        higher_is_better=False,
        extractors=("efficientnet-lite0",),
        needs=frozenset({"reference"}),
        protocol="imagenet-224",
    )


def _moments(features: Float32) -> tuple[Float64, Float64, Float64]:
    """Mean, covariance (ddof 1) and its symmetric root of features (n, d), n >= 2."""
    n, d = features.shape
    mu = features.mean(axis=0, dtype=np.float64)
    if n <= d // 4:
        # The thin factor gives the root in a tenth of the time of a d x d eigenvalue problem.
        factor = (features.astype(np.float64) - mu) / np.sqrt(n - 1)
        _, values, vectors = np.linalg.svd(factor, full_matrices=False)
        return mu, factor.T @ factor, (vectors.T * values) @ vectors
    sigma = np.zeros((d, d))
    for start in range(0, n, 4096):
        rows = features[start : start + 4096].astype(np.float64) - mu
        sigma += rows.T @ rows
    sigma /= n - 1
    return mu, sigma, _symmetric_root(sigma)


def _symmetric_root(sigma: Float64, *, tolerance: float = 1e-6) -> Float64:
    """The positive semi-definite A with A @ A = sigma. Raises InputError when sigma has negative eigenvalues."""
    values, vectors = np.linalg.eigh(sigma)
    if values[0] < -tolerance * max(values[-1], 0.0) - np.finfo(np.float64).tiny:
        raise InputError(f"'sigma' has negative eigenvalues (down to {values[0]:.3g}), so it is no covariance")
    root: Float64 = (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T
    return root


def _without_value(key: str, images: int, state: ScoreState, detail: str) -> Value:
    return Value(key=key, value=None, images=images, state=state, detail=detail)


def _non_finite(names: Sequence[str], features: Float32) -> Iterator[str]:
    finite = np.isfinite(features).all(axis=1)
    return (names[int(row)] for row in np.flatnonzero(~finite))


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
