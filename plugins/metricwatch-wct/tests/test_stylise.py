"""The order of the levels, and what a picture hangs on."""

from __future__ import annotations

import pytest
import torch

from metricwatch_wct.decoder import decode, decoders_of
from metricwatch_wct.stylise import stylise
from metricwatch_wct.wct import wct


@pytest.fixture(scope="module")
def decoders():
    with torch.random.fork_rng():
        torch.manual_seed(2)
        made = decoders_of(["relu1_1", "relu2_1", "relu3_1"])
    return made.requires_grad_(requires_grad=False)


def test_it_goes_from_coarse_to_fine_and_clamps_in_between(encoder, decoders, chance):
    content, style = torch.rand(3, 32, 40, generator=chance), torch.rand(3, 24, 28, generator=chance)
    current = content
    for level in ("relu3_1", "relu2_1", "relu1_1"):
        maps = encoder(current[None].clamp(0, 1), level)[level][0]
        target = encoder(style[None], level)[level][0]
        current = decode(encoder, decoders[level], wct(maps, target, alpha=0.7)[None], 32, 40)[0]
    (made,) = stylise(encoder, decoders, [content], [style], alpha=0.7)
    assert torch.allclose(made, current, atol=1e-5)


def test_alpha_0_reconstructs_the_content(encoder, decoders, chance):
    content, style = torch.rand(3, 32, 40, generator=chance), torch.rand(3, 24, 28, generator=chance)
    coarse = {"relu3_1": decoders["relu3_1"]}
    (made,) = stylise(encoder, coarse, [content], [style], alpha=0.0)
    maps = encoder(content[None], "relu3_1")["relu3_1"]
    assert torch.allclose(made, decode(encoder, coarse["relu3_1"], maps, 32, 40)[0], atol=1e-5)


def test_pictures_of_many_sizes_do_not_matter_to_each_other(encoder, decoders, chance):
    content = [torch.rand(3, *size, generator=chance) for size in ((32, 40), (21, 19), (50, 16))]
    style = [torch.rand(3, *size, generator=chance) for size in ((24, 28), (17, 60), (9, 9))]
    together = stylise(encoder, decoders, content, style)
    singly = [stylise(encoder, decoders, [one], [other])[0] for one, other in zip(content, style, strict=True)]
    assert [picture.shape for picture in together] == [picture.shape for picture in content]
    assert all(torch.equal(one, other) for one, other in zip(together, singly, strict=True))


def test_black_on_white_is_finite(encoder, decoders):
    (made,) = stylise(encoder, decoders, [torch.zeros(3, 32, 32)], [torch.ones(3, 32, 32)])
    assert bool(made.isfinite().all())


def test_a_content_without_a_style_is_refused(encoder, decoders):
    with pytest.raises(ValueError, match="shorter"):
        stylise(encoder, decoders, [torch.zeros(3, 32, 32)], [])
