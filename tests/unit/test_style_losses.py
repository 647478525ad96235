"""Content and Gram losses on layers made up here, against their formulas in numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metricwatch.api import Batch, ConfigError, ScoreState, Value
from metricwatch.config.options import bind_options
from metricwatch.metrics import style
from metricwatch.metrics.style import (
    ContentLoss,
    GramOptions,
    GramStyleLoss,
    LayerLoss,
    StContentLoss,
    StGramStyleLoss,
)

CHANNELS = {"relu1_1": 8, "relu2_1": 12, "relu3_1": 16, "relu4_1": 24, "relu4_2": 24, "relu5_1": 32}
STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
Maps = dict[str, torch.Tensor]


def maps(count: int, seed: int, *, height: int = 6, width: int = 5) -> Maps:
    generator = torch.Generator().manual_seed(seed)
    return {
        layer: torch.randn((count, channels, height, width), generator=generator).relu()
        for layer, channels in CHANNELS.items()
    }


def batch_of(ours: Maps, theirs: Maps, side: int = 32) -> Batch:
    count = len(ours["relu1_1"])
    pictures = tuple(torch.zeros((3, side, side), dtype=torch.uint8) for _ in range(count))
    names = ("vgg16", "st-vgg16")
    return Batch(
        names=tuple(f"{index}" for index in range(count)),
        images=pictures,
        content=pictures,
        style=pictures,
        layers=dict.fromkeys(names, ours),
        content_layers=dict.fromkeys(names, theirs),
        style_layers=dict.fromkeys(names, theirs),
    )


def scores(metric: LayerLoss, *batches: Batch) -> dict[str, Value]:
    for batch in batches:
        metric.update(batch)
    return {value.key: value for value in metric.compute()}


def gatys(one: torch.Tensor, other: torch.Tensor) -> float:
    """E of a layer as the paper has it: sum (G - A)² / (4 N² M²) with G = F Fᵀ, for one picture (C, H, W)."""
    channels, places = one.shape[0], one.shape[1] * one.shape[2]
    first, second = (each.double().numpy().reshape(channels, places) for each in (one, other))
    return float(((first @ first.T - second @ second.T) ** 2).sum() / (4 * channels**2 * places**2))


def test_the_content_loss_is_the_mean_squared_difference() -> None:
    ours, theirs = maps(3, 1), maps(3, 2)
    each = [np.mean((ours["relu4_2"][row].double() - theirs["relu4_2"][row].double()).numpy() ** 2) for row in range(3)]
    value = scores(ContentLoss(), batch_of(ours, theirs))["content_loss"]
    assert value.value == pytest.approx(np.mean(each), rel=1e-12)
    assert value.stderr == pytest.approx(np.std(each, ddof=1) / np.sqrt(3), rel=1e-9)


def test_the_style_loss_of_a_layer_is_the_mean_squared_difference_of_gram_matrices() -> None:
    ours, theirs = maps(1, 1), maps(1, 2)
    found = scores(GramStyleLoss(), batch_of(ours, theirs))
    for layer in STYLE_LAYERS:
        channels, height, width = ours[layer].shape[1:]
        grams = [
            np.einsum("ihw,jhw->ij", each[layer][0].double().numpy(), each[layer][0].double().numpy())
            / (channels * height * width)
            for each in (ours, theirs)
        ]
        expected = np.mean((grams[0] - grams[1]) ** 2)
        assert found[f"gram_style_loss_{layer}"].value == pytest.approx(expected, rel=1e-6)


def test_without_the_channels_in_the_divisor_it_is_four_times_the_papers() -> None:
    ours, theirs = maps(1, 1), maps(1, 2)
    found = scores(GramStyleLoss(options=GramOptions(normalise="hw")), batch_of(ours, theirs))
    by_default = scores(GramStyleLoss(), batch_of(ours, theirs))
    for layer in STYLE_LAYERS:
        value = found[f"gram_style_loss_{layer}"].value
        assert value == pytest.approx(4 * gatys(ours[layer][0], theirs[layer][0]), rel=1e-6)
        assert value == pytest.approx(by_default[f"gram_style_loss_{layer}"].value * CHANNELS[layer] ** 2, rel=1e-12)


def test_the_style_loss_is_the_sum_over_layers() -> None:
    found = scores(GramStyleLoss(), batch_of(maps(4, 1), maps(4, 2)))
    assert set(found) == {"gram_style_loss", *(f"gram_style_loss_{layer}" for layer in STYLE_LAYERS)}
    parts = [found[f"gram_style_loss_{layer}"].value for layer in STYLE_LAYERS]
    assert found["gram_style_loss"].value == pytest.approx(sum(parts), rel=1e-12)


def test_style_does_not_ask_where_things_are_and_content_does() -> None:
    ours = maps(1, 1)
    moved = {layer: each.roll((2, 1), dims=(2, 3)) for layer, each in ours.items()}
    batch = batch_of(ours, moved)
    assert scores(GramStyleLoss(), batch)["gram_style_loss"].value == pytest.approx(0.0, abs=1e-25)
    content = scores(ContentLoss(), batch)["content_loss"].value
    assert content is not None
    assert content > 0.1


def test_content_is_that_of_the_content_partner_and_style_that_of_the_style_partner() -> None:
    ours, other = maps(2, 1), maps(2, 2)
    batch = replace(batch_of(ours, other), content_layers={"vgg16": ours})
    assert scores(ContentLoss(), batch)["content_loss"].value == 0.0
    assert scores(GramStyleLoss(), batch)["gram_style_loss"].value != 0.0
    batch = replace(batch_of(ours, other), style_layers={"vgg16": ours})
    assert scores(ContentLoss(), batch)["content_loss"].value != 0.0
    assert scores(GramStyleLoss(), batch)["gram_style_loss"].value == 0.0


def test_matrices_that_are_near_are_multiplied_in_double_precision() -> None:
    """In single precision, Gram matrices that differ in the seventh digit give no more than noise."""
    ours = maps(1, 1, height=64, width=64)
    ours = {layer: each + 100.0 for layer, each in ours.items()}
    theirs = {layer: each.clone() for layer, each in ours.items()}
    theirs["relu1_1"][0, 3, 5, 7] += 0.125
    value = scores(GramStyleLoss(options=GramOptions(normalise="hw")), batch_of(ours, theirs))["gram_style_loss"].value
    assert value == pytest.approx(4 * gatys(ours["relu1_1"][0], theirs["relu1_1"][0]), rel=1e-6)


@pytest.mark.parametrize("places", [1, 7, 4096])
@pytest.mark.parametrize("last", [False, True])
def test_the_order_in_memory_and_the_blocks_of_places_matter_no_more_than_rounding(
    places: int, last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(style, "_PLACES", places)
    ours, theirs = maps(2, 1), maps(2, 2)
    layout = torch.channels_last if last else torch.contiguous_format
    laid = [{layer: each.to(memory_format=layout) for layer, each in side.items()} for side in (ours, theirs)]
    found = scores(GramStyleLoss(options=GramOptions(normalise="hw")), batch_of(*laid))
    for layer in STYLE_LAYERS:
        expected = np.mean([4 * gatys(one, other) for one, other in zip(ours[layer], theirs[layer], strict=True)])
        assert found[f"gram_style_loss_{layer}"].value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("difference", [3e-4, 3e-3, 3e-2])
def test_what_rounding_leaves_of_a_small_difference_is_the_loss(difference: float) -> None:
    """Above the bound of what is multiplied in float64, and below it."""
    ours, noise = maps(1, 1, height=64, width=64), maps(1, 2, height=64, width=64)
    theirs = {layer: each + difference * noise[layer] for layer, each in ours.items()}
    found = scores(GramStyleLoss(options=GramOptions(normalise="hw")), batch_of(ours, theirs))
    for layer in STYLE_LAYERS:
        expected = 4 * gatys(ours[layer][0], theirs[layer][0])
        assert found[f"gram_style_loss_{layer}"].value == pytest.approx(expected, rel=2e-5)


@pytest.mark.parametrize("numbers", [1, 40, 97, 10_000])
def test_blocks_change_nothing(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the products in double precision, which here all are."""
    monkeypatch.setattr(style, "_NEAR", float("inf"))
    batch = batch_of(maps(2, 1), maps(2, 2))
    whole = scores(GramStyleLoss(), batch)["gram_style_loss"].value
    monkeypatch.setattr(style, "_BLOCK", numbers)
    assert scores(GramStyleLoss(), batch)["gram_style_loss"].value == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize(
    ("offline", "usual"), [(StContentLoss, ContentLoss), (StGramStyleLoss, GramStyleLoss)], ids=["content", "style"]
)
def test_the_offline_losses_are_the_same_on_another_network(offline: type[LayerLoss], usual: type[LayerLoss]) -> None:
    batch = batch_of(maps(3, 1), maps(3, 2))
    ours, theirs = scores(offline(), batch), scores(usual(), batch)
    assert set(ours) == {f"st_{key}" for key in theirs}
    for key, value in theirs.items():
        assert (ours[f"st_{key}"].value, ours[f"st_{key}"].stderr) == (value.value, value.stderr)
    assert offline.spec.layers == ("st-vgg16",)


@given(seed=st.integers(0, 10_000), count=st.integers(1, 4), exponent=st.integers(-8, 8))
def test_losses_are_zero_for_the_same_maps_symmetric_and_indifferent_to_batches(
    seed: int, count: int, exponent: int
) -> None:
    ours = {layer: each * 10.0**exponent for layer, each in maps(count, seed, height=3, width=2).items()}
    theirs = {layer: each * 10.0**exponent for layer, each in maps(count, seed + 1, height=3, width=2).items()}
    for metric in (ContentLoss, GramStyleLoss):
        batch = batch_of(ours, theirs)
        whole = scores(metric(), batch)
        assert whole == scores(metric(), batch_of(theirs, ours))
        apart = scores(metric(), *(batch.select([row]) for row in reversed(range(count))))
        same = scores(metric(), batch_of(ours, {layer: each.clone() for layer, each in ours.items()}))
        for key, value in whole.items():
            assert value.state is ScoreState.OK
            assert value.value is not None
            assert value.value >= 0
            assert apart[key].value == pytest.approx(value.value, rel=1e-12)
            assert same[key].value == 0.0


@pytest.mark.parametrize("metric", [ContentLoss, GramStyleLoss])
@pytest.mark.parametrize(("offline", "side"), [(False, 16), (True, 18)])
def test_pictures_too_small_for_the_network_are_left_out_and_named(
    metric: type[LayerLoss], offline: bool, side: int
) -> None:
    chosen = {ContentLoss: StContentLoss, GramStyleLoss: StGramStyleLoss}[metric] if offline else metric
    (small, *_) = scores(chosen(), batch_of(maps(1, 1), maps(1, 2), side - 1)).values()
    assert small.state is ScoreState.TOO_FEW_IMAGES
    assert small.detail == f"left out for a side under {side} pixels: 0"
    (enough, *_) = scores(chosen(), batch_of(maps(1, 1), maps(1, 2), side)).values()
    assert enough.state is ScoreState.OK


def test_a_map_that_is_not_finite_is_named_for_its_layer_and_the_sum() -> None:
    ours = maps(2, 1)
    ours["relu3_1"][1, 0, 0, 0] = float("inf")
    found = scores(GramStyleLoss(), batch_of(ours, maps(2, 2)))
    assert found["gram_style_loss"].detail == "gram_style_loss is not finite for 1"
    assert found["gram_style_loss_relu3_1"].state is ScoreState.NON_FINITE
    assert found["gram_style_loss_relu1_1"].state is ScoreState.OK


def test_a_normalisation_of_another_name_is_a_configuration_error() -> None:
    assert bind_options(GramOptions, {"normalise": "hw"}, "metrics.gram_style_loss") == GramOptions(normalise="hw")
    with pytest.raises(ConfigError, match=r"gram_style_loss\.normalise"):
        bind_options(GramOptions, {"normalise": "c"}, "metrics.gram_style_loss")
