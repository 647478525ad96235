"""A reference set as a Gaussian: its moments, from features or from a user's statistics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from metricwatch.api import Arrays, InputError

Float64 = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]

# Rows that are converted to double precision at a time: 17 MB for 2048 dimensions.
ROWS = 1024


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

    @classmethod
    def from_features(cls, features: Float32) -> Self:
        """Of features (n, d), n >= 2, which are only read."""
        n, d = features.shape
        mu = features.mean(axis=0, dtype=np.float64)
        if n <= d // 4:
            # The thin factor gives the root in a tenth of the time of a d x d eigenvalue problem.
            factor = (features.astype(np.float64) - mu) / np.sqrt(n - 1)
            _, values, vectors = np.linalg.svd(factor, full_matrices=False)
            return cls(mu=mu, sigma=factor.T @ factor, root=(vectors.T * values) @ vectors, n=n)
        sigma = np.zeros((d, d))
        for start in range(0, n, ROWS):
            rows = features[start : start + ROWS].astype(np.float64) - mu
            sigma += rows.T @ rows
        sigma /= n - 1
        return cls(mu=mu, sigma=sigma, root=_symmetric_root(sigma), n=n)

    @classmethod
    def from_users(cls, arrays: Arrays, *, key: str, extractor: str, dimensions: int) -> Self:
        """Of pytorch-fid's own files: mu (d,) and sigma (d, d), and n where it is there (else 0: unknown).

        Raises InputError, beginning with key, that names the array which is missing or cannot be used.
        """
        for name, shape in (("mu", (dimensions,)), ("sigma", (dimensions, dimensions))):
            if name not in arrays:
                raise InputError(f"{key}: statistics hold no array {name!r}; found: {', '.join(sorted(arrays))}")
            array = arrays[name]
            if array.shape != shape:
                raise InputError(
                    f"{key}: array {name!r} has shape {array.shape}, but {extractor} features need {shape}"
                )
            if not np.issubdtype(array.dtype, np.floating) or not np.isfinite(array).all():
                raise InputError(f"{key}: array {name!r} ({array.dtype}) must be of finite floating-point numbers")
        sigma = arrays["sigma"].astype(np.float64)
        # float32 files are welcome: their rounding is below this bound.
        if float(np.abs(sigma - sigma.T).max()) > 1e-5 * float(np.abs(sigma).max()):
            raise InputError(f"{key}: array 'sigma' is not symmetric, so it is no covariance")
        sigma = (sigma + sigma.T) / 2.0
        known = arrays.get("n")
        n = int(known) if known is not None and known.shape == () and np.issubdtype(known.dtype, np.integer) else 0
        root = _symmetric_root(sigma, tolerance=1e-4, key=key)
        return cls(mu=arrays["mu"].astype(np.float64), sigma=sigma, root=root, n=n)

    def arrays(self) -> Arrays:
        """As arrays: mu (d,), sigma (d, d), root (d, d), all float64, and n (int64, no dimensions)."""
        return {"mu": self.mu, "sigma": self.sigma, "root": self.root, "n": np.asarray(self.n, dtype=np.int64)}

    @property
    def rank(self) -> int:
        """The most that the rank of sigma can be."""
        d = len(self.mu)
        return min(d, self.n - 1) if self.n else d


def _symmetric_root(sigma: Float64, *, tolerance: float = 1e-6, key: str = "") -> Float64:
    """The positive semi-definite A with A @ A = sigma. Raises InputError when sigma has negative eigenvalues."""
    values, vectors = np.linalg.eigh(sigma)
    if values[0] < -tolerance * max(values[-1], 0.0) - np.finfo(np.float64).tiny:
        where = f"{key}: array " if key else ""
        raise InputError(f"{where}'sigma' has negative eigenvalues (down to {values[0]:.3g}), so it is no covariance")
    root: Float64 = (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T
    return root
