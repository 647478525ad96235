"""The transform against a reference of its own kind: singular values of centred maps, in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metricwatch_wct import wct as module
from metricwatch_wct.wct import wct


def reference(content: np.ndarray, style: np.ndarray, tolerance: float = 1e-8) -> np.ndarray:
    """Li et al. 2017, section 3.2, by singular value decompositions of maps as matrices (C, places)."""

    def decomposed(maps: np.ndarray):
        mean = maps.mean(axis=1, keepdims=True)
        vectors, values, _ = np.linalg.svd((maps - mean) / np.sqrt(max(maps.shape[1] - 1, 1)), full_matrices=False)
        kept = values**2 > tolerance * max(values.max() ** 2, 1e-300)
        return mean, vectors[:, kept], values[kept]

    mean, vectors, values = decomposed(content)
    style_mean, style_vectors, style_values = decomposed(style)
    whitened = vectors @ ((vectors.T @ (content - mean)) / values[:, None])
    return style_vectors @ (style_values[:, None] * (style_vectors.T @ whitened)) + style_mean


def maps(chance: torch.Generator, channels: int, height: int, width: int, rank: int | None = None) -> torch.Tensor:
    """Maps with correlated channels and a mean, of a rank."""
    mixing = torch.randn(channels, rank or channels, generator=chance)
    sources = torch.randn(rank or channels, height * width, generator=chance)
    return (mixing @ sources + 3.0 * torch.randn(channels, 1, generator=chance)).view(channels, height, width)


def flat(tensor: torch.Tensor) -> np.ndarray:
    return tensor.flatten(1).double().numpy()


@pytest.mark.parametrize(
    ("size", "rank"),
    [((20, 17), None), ((20, 17), 5), ((3, 4), None), ((5, 5), 3)],
    ids=["full rank", "of low rank", "fewer places than channels", "fewer places and of low rank"],
)
def test_it_agrees_with_singular_value_decompositions(chance, size, rank):
    content, style = maps(chance, 24, *size, rank), maps(chance, 24, 11, 13)
    made = flat(wct(content, style))
    assert np.allclose(made, reference(flat(content), flat(style)), rtol=1e-4, atol=1e-3)


def test_the_result_has_the_mean_and_the_covariance_of_the_style(chance):
    content, style = maps(chance, 24, 20, 17), maps(chance, 24, 11, 13)
    made = wct(content, style)
    assert made.shape == content.shape
    assert made.dtype == content.dtype
    assert np.allclose(flat(made).mean(axis=1), flat(style).mean(axis=1), atol=1e-4)
    assert np.allclose(np.cov(flat(made)), np.cov(flat(style)), atol=1e-2, rtol=1e-3)


def test_content_of_low_rank_takes_the_covariance_that_its_directions_allow(chance):
    content, style = maps(chance, 12, 9, 9, rank=4), maps(chance, 12, 11, 13)
    made = wct(content, style)
    vectors, _, _ = np.linalg.svd(flat(content) - flat(content).mean(axis=1, keepdims=True))
    projection = vectors[:, :4] @ vectors[:, :4].T
    values, directions = np.linalg.eigh(np.cov(flat(style)))
    root = directions * np.sqrt(values) @ directions.T
    assert np.allclose(np.cov(flat(made)), root @ projection @ root, atol=1e-2, rtol=1e-3)
    assert np.allclose(flat(made).mean(axis=1), flat(style).mean(axis=1), atol=1e-4)


def test_flat_content_becomes_the_mean_of_the_style(chance):
    content, style = torch.full((24, 6, 7), 0.3), maps(chance, 24, 11, 13)
    made = flat(wct(content, style))
    assert np.allclose(made, np.broadcast_to(flat(style).mean(axis=1, keepdims=True), made.shape), atol=1e-5)


def test_flat_style_makes_everything_flat(chance):
    content, style = maps(chance, 24, 6, 7), torch.linspace(0, 1, 24).view(24, 1, 1).expand(24, 5, 5)
    made = wct(content, style)
    assert torch.allclose(made, style[:, :1, :1].expand_as(made), atol=1e-6)


def test_a_single_place_is_enough(chance):
    made = wct(maps(chance, 8, 1, 1), maps(chance, 8, 1, 1))
    assert bool(made.isfinite().all())


def test_alpha_blends_between_content_and_transform(chance):
    content, style = maps(chance, 24, 9, 8), maps(chance, 24, 11, 13)
    whole = wct(content, style)
    assert torch.equal(wct(content, style, alpha=0.0), content)
    assert torch.allclose(wct(content, style, alpha=0.3), 0.3 * whole + 0.7 * content, atol=1e-4)


def test_numbers_that_are_not_finite_come_out_as_nan_and_raise_nothing(chance):
    broken = maps(chance, 8, 5, 5)
    broken[2, 3, 3] = torch.inf
    assert bool(wct(broken, maps(chance, 8, 5, 5)).isnan().all())
    assert bool(wct(maps(chance, 8, 5, 5), broken).isnan().all())


def test_large_maps_are_worked_on_in_blocks_with_the_same_result(chance, monkeypatch):
    content, style = maps(chance, 24, 20, 17), maps(chance, 24, 11, 13)
    whole = wct(content, style, alpha=0.6)
    monkeypatch.setattr(module, "_BLOCK", 24 * 37)
    assert torch.allclose(wct(content, style, alpha=0.6), whole, atol=1e-5)


def test_maps_may_lie_in_memory_as_they_like(chance):
    content, style = maps(chance, 24, 20, 17), maps(chance, 24, 11, 13)
    moved = content[None].contiguous(memory_format=torch.channels_last)[0]
    assert torch.allclose(wct(moved, style), wct(content, style), atol=1e-5)
