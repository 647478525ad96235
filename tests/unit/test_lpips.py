"""LPIPS on layers made up here; against the packages' own networks in tests/integration/test_parity_paired.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lpips import LPIPS, NetLinLayer, normalize_tensor, spatial_average

from metricwatch.api import Batch, InputError, MissingWeightsError, ScoreState, Value
from metricwatch.metrics import lpips
from metricwatch.metrics.lpips import HeadsFile, LearnedPerceptualDistance, Lpips, LpipsVgg, StLpips

CHANNELS = {Lpips: (64, 192, 384, 256, 256), LpipsVgg: (64, 128, 256, 512, 512), StLpips: (64, 128, 256, 512, 512)}
METRICS = tuple(CHANNELS)


def maps(metric: type[LearnedPerceptualDistance], count: int, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        layer: torch.randn((count, channels, 7, 5), generator=generator).relu()
        for layer, channels in zip(metric.layers, CHANNELS[metric], strict=True)
    }


def batch_of(
    metric: type[LearnedPerceptualDistance],
    ours: dict[str, torch.Tensor],
    theirs: dict[str, torch.Tensor],
    side: int = 40,
) -> Batch:
    count = len(next(iter(ours.values())))
    pictures = tuple(torch.zeros((3, side, side), dtype=torch.uint8) for _ in range(count))
    return Batch(
        names=tuple(f"{index}" for index in range(count)),
        images=pictures,
        content=pictures,
        layers={metric.extractor: ours},
        content_layers={metric.extractor: theirs},
    )


def score(metric: type[LearnedPerceptualDistance], *batches: Batch) -> Value:
    scoring = metric()
    for batch in batches:
        scoring.update(batch)
    (value,) = scoring.compute()
    return value


@pytest.mark.parametrize("metric", METRICS)
def test_it_is_what_the_packages_own_functions_give(metric: type[LearnedPerceptualDistance]) -> None:
    ours, theirs = maps(metric, 4, 1), maps(metric, 4, 2)
    tensors = torch.load(metric.heads_file.locate(), map_location="cpu", weights_only=True)
    expected = torch.zeros(4)
    for index, layer in enumerate(metric.layers):
        head = NetLinLayer(ours[layer].shape[1], use_dropout=True).eval()
        head.load_state_dict({"model.1.weight": tensors[f"lin{index}.model.1.weight"]})
        with torch.inference_mode():
            difference = (normalize_tensor(ours[layer]) - normalize_tensor(theirs[layer])) ** 2
            expected += spatial_average(head(difference), keepdim=False).flatten()
    found = [row[0] for row in metric().measure(batch_of(metric, ours, theirs))]
    assert found == pytest.approx(expected.tolist(), abs=1e-6)
    assert min(found) > 0.1


@pytest.mark.parametrize(("metric", "net"), [(Lpips, "alex"), (LpipsVgg, "vgg")])
def test_the_heads_are_those_that_lpips_uses_by_default(metric: type[LearnedPerceptualDistance], net: str) -> None:
    theirs = LPIPS(net=net, pnet_rand=True, verbose=False)
    for ours, head in zip(lpips._heads(metric.heads_file, "cpu"), theirs.lins, strict=True):
        torch.testing.assert_close(ours, head.model[1].weight.detach().flatten(), rtol=0, atol=0)


@pytest.mark.parametrize("metric", METRICS)
def test_what_is_the_same_has_no_distance(metric: type[LearnedPerceptualDistance]) -> None:
    ours = maps(metric, 3, 1)
    value = score(metric, batch_of(metric, ours, {layer: each.clone() for layer, each in ours.items()}))
    assert (value.value, value.stderr, value.state) == (0.0, 0.0, ScoreState.OK)


@pytest.mark.parametrize("metric", METRICS)
def test_image_and_partner_may_be_exchanged(metric: type[LearnedPerceptualDistance]) -> None:
    ours, theirs = maps(metric, 3, 1), maps(metric, 3, 2)
    assert score(metric, batch_of(metric, ours, theirs)) == score(metric, batch_of(metric, theirs, ours))


def test_the_strength_of_a_place_does_not_matter() -> None:
    ours, theirs = maps(Lpips, 3, 1), maps(Lpips, 3, 2)
    strong = {layer: 8 * each for layer, each in theirs.items()}
    expected = score(Lpips, batch_of(Lpips, ours, theirs)).value
    assert score(Lpips, batch_of(Lpips, ours, strong)).value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_layers_without_any_answer_give_a_number(metric: type[LearnedPerceptualDistance]) -> None:
    ours = maps(metric, 2, 1)
    silent = {layer: torch.zeros_like(each) for layer, each in ours.items()}
    assert score(metric, batch_of(metric, silent, silent)).value == 0.0
    value = score(metric, batch_of(metric, ours, silent))
    assert value.state is ScoreState.OK
    assert value.value is not None
    assert value.value > 0


@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 4),
    exponent=st.integers(-12, 12),
    sparsity=st.floats(0, 1),
)
def test_any_maps_give_a_distance_that_neither_batching_nor_order_changes(
    seed: int, count: int, exponent: int, sparsity: float
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def some() -> dict[str, torch.Tensor]:
        return {
            layer: torch.randn((count, channels, 2, 3), generator=generator).relu()
            * (torch.rand((count, 1, 2, 3), generator=generator) >= sparsity)
            * 10.0**exponent
            for layer, channels in zip(Lpips.layers, CHANNELS[Lpips], strict=True)
        }

    batch = batch_of(Lpips, some(), some())
    whole = score(Lpips, batch)
    assert whole.state is ScoreState.OK
    assert whole.value is not None
    assert whole.value >= 0
    apart = score(Lpips, *(batch.select([row]) for row in reversed(range(count))))
    assert apart.value == pytest.approx(whole.value, rel=1e-12)


@pytest.mark.parametrize(("metric", "side"), [(Lpips, 31), (LpipsVgg, 16), (StLpips, 18)])
def test_pictures_too_small_for_the_network_are_left_out_and_named(
    metric: type[LearnedPerceptualDistance], side: int
) -> None:
    small = batch_of(metric, maps(metric, 1, 1), maps(metric, 1, 2), side - 1)
    value = score(metric, small)
    assert (value.state, value.detail) == (
        ScoreState.TOO_FEW_IMAGES,
        f"left out for a side under {side} pixels: 0",
    )
    assert score(metric, batch_of(metric, maps(metric, 1, 1), maps(metric, 1, 2), side)).state is ScoreState.OK


def test_a_map_that_is_not_finite_is_a_named_state() -> None:
    ours, theirs = maps(Lpips, 3, 1), maps(Lpips, 3, 2)
    ours["relu3"][1, 0, 0, 0] = float("nan")
    value = score(Lpips, batch_of(Lpips, ours, theirs))
    assert (value.state, value.detail) == (ScoreState.NON_FINITE, "lpips is not finite for 1")


def test_without_partners_there_is_a_named_state() -> None:
    (value,) = Lpips().compute()
    assert (value.state, value.detail) == (ScoreState.NO_PAIRS, "no image came with a content partner")


def test_a_missing_package_is_named_with_the_command_that_brings_it() -> None:
    nowhere = HeadsFile(package="no_such_package", path="weights/heads.pth", distribution="no-such-package")
    with pytest.raises(MissingWeightsError, match=r"heads\.pth .* pip install no-such-package"):
        nowhere.locate()


def test_a_damaged_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_heads").mkdir()
    (tmp_path / "broken_heads" / "__init__.py").touch()
    (tmp_path / "broken_heads" / "heads.pth").write_bytes(b"no tensors")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"heads\.pth is damaged .* pip install --force-reinstall broken-heads"):
        lpips._heads(HeadsFile(package="broken_heads", path="heads.pth", distribution="broken-heads"), "cpu")


# --- maps --------------------------------------------------------------------------------------------------


def test_maps_are_what_the_package_gives_in_space() -> None:
    """Its own network, with random weights, through its own preparation."""
    theirs = LPIPS(net="alex", pnet_rand=True, spatial=True, verbose=False).eval()
    generator = torch.Generator().manual_seed(0)
    images, content = torch.randint(0, 256, (2, 2, 3, 75, 90), generator=generator, dtype=torch.uint8)
    inputs = [pictures / 127.5 - 1 for pictures in (images, content)]
    with torch.inference_mode():
        expected = theirs(*inputs)[:, 0]
        ours, others = (dict(zip(Lpips.layers, theirs.net(theirs.scaling_layer(each)), strict=True)) for each in inputs)
    found = Lpips().maps(
        Batch(
            names=("0", "1"),
            images=tuple(images),
            content=tuple(content),
            layers={"alexnet": ours},
            content_layers={"alexnet": others},
        )
    )
    torch.testing.assert_close(torch.stack(list(found)), expected, rtol=0, atol=1e-5)
    assert float(expected.mean()) > 0.01


@pytest.mark.parametrize("metric", METRICS)
def test_the_mean_of_a_map_is_near_the_score(metric: type[LearnedPerceptualDistance]) -> None:
    batch = batch_of(metric, maps(metric, 3, 1), maps(metric, 3, 2))
    scores = [row[0] for row in metric().measure(batch)]
    means = [float(values.mean()) for values in metric().maps(batch)]
    assert means == pytest.approx(scores, rel=0.05)
    assert [tuple(values.shape) for values in metric().maps(batch)] == [(40, 40)] * 3


def test_a_map_is_warm_at_the_place_that_differs() -> None:
    ours = maps(Lpips, 1, 1)
    theirs = {layer: each.clone() for layer, each in ours.items()}
    for each in theirs.values():
        each[..., 0, 4] = each[..., 0, 4].flip(1)
    (values,) = Lpips().maps(batch_of(Lpips, ours, theirs))
    assert float(values[:4, 36:].min()) > 10 * float(values[20:, :20].max())
    assert float(values[:4, 36:].min()) > 0.1


def test_heads_are_read_without_importing_the_packages() -> None:
    code = """
import sys
from metricwatch.metrics import lpips
for metric in (lpips.Lpips, lpips.LpipsVgg, lpips.StLpips):
    assert len(lpips._heads(metric.heads_file, "cpu")) == 5
sys.exit(" ".join({"lpips", "stlpips_pytorch", "IPython", "torchvision"} & set(sys.modules)) or 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
