"""The whitening and colouring transform of Li et al. 2017, "Universal Style Transfer via Feature Transforms"."""

from __future__ import annotations

import torch
from torch import Tensor

# Variances below this part of the largest are rounding of float32 maps, or directions that the map does not have.
TOLERANCE = 1e-8
# Numbers that are float64 at a time: 32 MB, however large the picture.
_BLOCK = 1 << 22


def wct(content: Tensor, style: Tensor, *, alpha: float = 1.0, tolerance: float = TOLERANCE) -> Tensor:
    """The content's map with the style's mean and covariance: (C, H, W) and (C, h, w), any sizes, to (C, H, W).

    F being the content's map as a C x (H·W) matrix and S the style's, each with its mean over places (m, s) and its
    covariance over places (ddof 1), decomposed as E D Eᵀ:

        T = Es Ds^½ Esᵀ · Ec Dc^-½ Ecᵀ · (F - m) + s
        result = alpha · T + (1 - alpha) · F

    Means, covariances, decompositions and products are float64; the result has the content's type and device. The
    signs and the order of eigenvectors, which differ between machines, cancel in E D Eᵀ: the result is deterministic up
    to rounding.

    Variances up to `tolerance` times the largest are dropped, with their directions: flat maps and those with fewer
    places than channels give finite results. T always has the style's mean. With P projecting on the directions that
    the content kept, T's covariance is Σs^½ P Σs^½: the style's own, Σs, where the content has all directions, and
    nothing where it is flat. alpha = 0 gives the content itself. Numbers that are not finite give NaN everywhere.
    """
    if alpha == 0.0:
        return content
    centre, whitening = _statistics(content, -0.5, tolerance)
    mean, colouring = _statistics(style, 0.5, tolerance)
    matrix = alpha * (colouring @ whitening)
    shift = alpha * mean - matrix @ centre
    result = content.new_empty((int(content.shape[0]), int(content.shape[1] * content.shape[2])))
    for source, target in zip(_blocks(content), _blocks(result), strict=True):
        exact = source.to(torch.float64)
        target.copy_(torch.addmm(shift[:, None] + (1.0 - alpha) * exact, matrix, exact))
    return result.view(content.shape)


def _statistics(maps: Tensor, power: float, tolerance: float) -> tuple[Tensor, Tensor]:
    """The mean (C) and the covariance to a power (C, C) of maps (C, H, W), on the directions that are kept. Float64."""
    channels, places = int(maps.shape[0]), int(maps.shape[1] * maps.shape[2])
    mean = maps.new_zeros(channels, dtype=torch.float64)
    for block in _blocks(maps):
        mean += block.sum(dim=1, dtype=torch.float64)
    mean /= places
    if not bool(mean.isfinite().all()):
        # A decomposition would raise; a broken model is to be seen, not to stop the show.
        return mean, maps.new_full((channels, channels), torch.nan, dtype=torch.float64)
    if places < channels:
        # The matrix of places has the same variances and is the smaller one: F V D^-½ are its eigenvectors.
        centred = (maps.flatten(1).to(torch.float64) - mean[:, None]) / max(places - 1, 1) ** 0.5
        variances, vectors = torch.linalg.eigh(centred.T @ centred)
        kept = _kept(variances, tolerance)
        variances, vectors = variances[kept], centred @ vectors[:, kept] * variances[kept].rsqrt()
    else:
        covariance = maps.new_zeros((channels, channels), dtype=torch.float64)
        for block in _blocks(maps):
            centred = block.to(torch.float64) - mean[:, None]
            covariance.addmm_(centred, centred.T)
        variances, vectors = torch.linalg.eigh(covariance / max(places - 1, 1))
        kept = _kept(variances, tolerance)
        variances, vectors = variances[kept], vectors[:, kept]
    return mean, vectors * variances.pow(power) @ vectors.T


def _kept(variances: Tensor, tolerance: float) -> Tensor:
    """Which of the variances, in ascending order, count."""
    return variances > tolerance * variances[-1].clamp_min(torch.finfo(variances.dtype).tiny)


def _blocks(maps: Tensor) -> tuple[Tensor, ...]:
    """Views (C, n) of a map (C, H, W) or (C, n), one after the other."""
    return torch.split(maps.flatten(1), max(1, _BLOCK // int(maps.shape[0])), dim=1)
