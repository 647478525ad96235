"""Losses by hand, and what moves what."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metricwatch_wct.decoder import decode, decoders_of
from metricwatch_wct.losses import (
    DynamicLoss,
    ReconstructionLoss,
    Shares,
    StyleTransferLoss,
    gram,
    total_variation,
)


@pytest.fixture
def pictures(chance):
    output, content = torch.rand(2, 2, 3, 24, 32, generator=chance)
    return output, content, torch.rand(2, 3, 20, 28, generator=chance)


def test_a_gram_matrix_by_hand():
    maps = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])
    assert gram(maps).tolist() == [[[5 / 4, 11 / 4], [11 / 4, 25 / 4]]]


def test_total_variation_by_hand():
    one = torch.tensor([[0.0, 1.0], [0.5, 0.25]]).expand(1, 3, 2, 2)
    assert total_variation(one).item() == pytest.approx(3 * (1.0 + 0.25 + 0.5 + 0.75))
    assert total_variation(torch.cat([one, torch.zeros(1, 3, 2, 2)])).item() == pytest.approx(3 * 2.5 / 2)


def test_the_parts_are_what_numpy_makes_of_the_maps(encoder, pictures):
    output, content, style = pictures
    parts = StyleTransferLoss(encoder)(output, content, style)
    made, wanted, styled = ({k: v.double().numpy() for k, v in encoder(p).items()} for p in (output, content, style))
    content_loss = ((made["relu4_1"] - wanted["relu4_1"]) ** 2).mean()
    style_loss = 0.0
    for level in ("relu1_1", "relu2_1", "relu3_1", "relu4_1"):
        grams = [np.einsum("nchw,ndhw->ncd", m, m) / np.prod(m.shape[1:]) for m in (made[level], styled[level])]
        style_loss += ((grams[0] - grams[1]) ** 2).mean()
    assert parts.content.item() == pytest.approx(content_loss, rel=1e-4)
    assert parts.style.item() == pytest.approx(style_loss, rel=1e-4)
    assert parts.total.item() == pytest.approx(
        content_loss + 1e6 * style_loss + 1e-6 * parts.total_variation.item(), rel=1e-4
    )


def test_each_weight_counts_for_its_own_part(encoder, pictures):
    loss = StyleTransferLoss(encoder, content_weight=2.0, style_weight=30.0, tv_weight=0.5)
    parts = loss(*pictures)
    by_hand = 2 * parts.content + 30 * parts.style + 0.5 * parts.total_variation
    assert parts.total.item() == pytest.approx(by_hand.item(), rel=1e-6)


def test_a_picture_is_no_loss_away_from_itself(encoder, pictures):
    output, _, _ = pictures
    parts = StyleTransferLoss(encoder, tv_weight=0.0)(output, output, output)
    assert parts.total.item() == 0.0


def test_one_style_may_serve_the_whole_batch(encoder, pictures):
    output, content, style = pictures
    loss = StyleTransferLoss(encoder)
    repeated = loss(output, content, style[:1].expand(2, -1, -1, -1))
    assert loss(output, content, style[:1]).style.item() == pytest.approx(repeated.style.item(), rel=1e-6)


def test_gradients_flow_from_every_part_to_the_output(encoder, pictures):
    output, content, style = pictures
    for part in ("content", "style", "total_variation", "total"):
        leaf = output.clone().requires_grad_()
        getattr(StyleTransferLoss(encoder)(leaf, content, style), part).backward()
        assert bool(leaf.grad.isfinite().all())
        assert float(leaf.grad.abs().sum()) > 0


@pytest.mark.parametrize(("step", "shares"), [(0, (0.8, 0.2)), (25, (0.6, 0.35)), (100, (0.0, 0.8)), (150, (0.0, 0.8))])
def test_weights_follow_the_progress_of_training(encoder, pictures, step, shares):
    plain = StyleTransferLoss(encoder, content_weight=3.0, style_weight=500.0)
    parts = DynamicLoss(plain, total_steps=100)(*pictures, step=step)
    by_hand = shares[0] * 3 * parts.content + shares[1] * 500 * parts.style + 1e-6 * parts.total_variation
    assert parts.total.item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_a_resumed_job_goes_on_with_the_weights_of_its_step(encoder):
    through = DynamicLoss(StyleTransferLoss(encoder), total_steps=100)
    seen = [through.shares(step) for step in range(100)]
    resumed = DynamicLoss(StyleTransferLoss(encoder), total_steps=100)
    assert [resumed.shares(step) for step in range(60, 100)] == seen[60:]


def test_the_schedule_can_be_replaced(encoder):
    loss = DynamicLoss(StyleTransferLoss(encoder), total_steps=10, schedule=lambda p: Shares(content=p, style=1 - p))
    assert loss.shares(4) == (0.4, 0.6)


def test_a_training_without_steps_is_refused(encoder):
    with pytest.raises(ValueError, match="at least one step"):
        DynamicLoss(StyleTransferLoss(encoder), total_steps=0)


def test_the_reconstruction_loss_by_hand(encoder, pictures):
    output, picture, _ = pictures
    parts = ReconstructionLoss(encoder, "relu3_1", feature_weight=4.0)(output, picture)
    maps = [encoder(p)["relu3_1"] for p in (output, picture)]
    assert parts.pixels.item() == pytest.approx((output - picture).square().mean().item(), rel=1e-5)
    assert parts.features.item() == pytest.approx((maps[0] - maps[1]).square().mean().item(), rel=1e-5)
    assert parts.total.item() == pytest.approx(parts.pixels.item() + 4 * parts.features.item(), rel=1e-5)


def test_a_decoder_learns_to_reconstruct(encoder, pictures):
    _, picture, _ = pictures
    with torch.random.fork_rng():
        torch.manual_seed(0)
        decoders = decoders_of(["relu2_1"])
    optimizer = torch.optim.Adam(decoders.parameters(), lr=1e-3)
    maps = encoder(picture, "relu2_1")["relu2_1"]
    losses = []
    for _ in range(8):
        parts = ReconstructionLoss(encoder, "relu2_1")(
            decode(encoder, decoders["relu2_1"], maps, 24, 32), picture, maps
        )
        optimizer.zero_grad()
        parts.total.backward()
        optimizer.step()
        losses.append(parts.total.item())
    assert losses[-1] < 0.7 * losses[0]
