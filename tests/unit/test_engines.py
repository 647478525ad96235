"""Engines: each says what eager says, or is refused with the number; the fastest one is taken."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from metricwatch import extractors
from metricwatch.errors import ConfigError
from metricwatch.protocol import Configure
from metricwatch.worker import networks
from metricwatch.worker.device_state import exactly, undisturbed
from metricwatch.worker.engines import EagerEngine, Engine, build_engine, proven, set_up
from metricwatch.worker.engines.forward import Forward
from metricwatch.worker.networks import Network
from tests.support.photos import crops

CPU = torch.device("cpu")


class Said:
    """A log that remembers."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, str]]] = []

    def __call__(self, _level: str, event: str, /, **fields: str) -> None:
        self.lines.append((event, fields))


@pytest.fixture(scope="module")
def inception(inception_weights: Path) -> Network:
    return networks.load(extractors.find("inception-v3"), str(inception_weights))


@pytest.fixture(scope="module")
def pictures() -> list[Tensor]:
    return [torch.from_numpy(each.copy()).permute(2, 0, 1) for each in crops(5, side=96, seed=3)]


def engine_of(name: str, network: Network, said: Said, precision: str = "exact") -> Engine:
    spec = extractors.find("inception-v3")
    return build_engine(name, spec, network, "pytorch-fid", CPU, precision=precision, log=said)


@pytest.fixture(scope="module")
def expected(inception: Network, pictures: list[Tensor]) -> Tensor:
    return engine_of("eager", inception, Said()).features(pictures)


@pytest.mark.parametrize("name", ["folded", "openvino"])
def test_a_faster_way_gives_the_features_of_the_plain_one(
    name: str, inception: Network, pictures: list[Tensor], expected: Tensor
) -> None:
    said = Said()
    engine = engine_of(name, inception, said)
    found = engine.features(pictures)
    assert engine.name == name
    assert engine.passes == len(pictures)
    assert float((found - expected).abs().max() / expected.square().mean().sqrt()) < 1e-4
    assert [event for event, _ in said.lines] == ["engine proved"]
    # The result is the caller's own: the next batch leaves it as it is.
    kept = found.clone()
    engine.features(pictures[::-1])
    assert torch.equal(found, kept)


def test_auto_takes_openvino_on_a_cpu_and_folds_where_that_is_missing(
    inception: Network, pictures: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of("auto", inception, Said())
    assert engine.name == "eager", "nothing was asked of it yet"
    engine.features(pictures[:1])
    assert engine.name == "openvino"
    monkeypatch.setitem(sys.modules, "openvino", None)
    said = Said()
    engine = engine_of("auto", inception, said)
    engine.features(pictures[:1])
    assert engine.name == "folded"
    assert [event for event, _ in said.lines] == ["engine proved"]


@pytest.fixture
def untrue(monkeypatch: pytest.MonkeyPatch) -> None:
    """A way that computes in bfloat16."""

    def prepare(pooled: nn.Module, _example: Tensor, _precision: str) -> Forward:
        def forward(pixels: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                features: Tensor = pooled(pixels)
            return features.float()

        return forward

    monkeypatch.setattr(proven, "WAYS", {**proven.WAYS, "openvino": prepare})


@pytest.mark.usefixtures("untrue")
def test_a_way_that_says_something_else_is_refused_with_the_number(
    inception: Network, pictures: list[Tensor], expected: Tensor
) -> None:
    said = Said()
    engine = engine_of("openvino", inception, said)
    assert torch.equal(engine.features(pictures), expected)
    assert engine.name == "eager"
    event, fields = said.lines[0]
    assert event == "engine refused"
    assert "over 1e-04" in fields["reason"]


def test_fast_features_lie_near_the_exact_ones(inception: Network, pictures: list[Tensor], expected: Tensor) -> None:
    said = Said()
    engine = engine_of("auto", inception, said, "fast")
    found = engine.features(pictures)
    assert engine.name == "openvino"
    assert said.lines[0][1]["precision"] == "fast"
    furthest = float((found - expected).abs().max() / expected.square().mean().sqrt())
    assert furthest < 0.1
    # A processor with bfloat16 rounds, one without computes exactly.
    assert (furthest > 1e-4) == (float(said.lines[0][1]["difference"]) > 1e-4)


def test_a_network_that_rounding_harms_is_run_exactly_the_same_way(
    inception: Network, pictures: list[Tensor], expected: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare(pooled: nn.Module, _example: Tensor, precision: str) -> Forward:
        def forward(pixels: Tensor) -> Tensor:
            features: Tensor = pooled(pixels)
            return features * (1.5 if precision == "fast" else 1.0)

        return forward

    monkeypatch.setattr(proven, "WAYS", {**proven.WAYS, "openvino": prepare})
    said = Said()
    engine = engine_of("openvino", inception, said, "fast")
    assert torch.allclose(engine.features(pictures), expected)
    assert engine.name == "openvino"
    assert [(event, fields["precision"]) for event, fields in said.lines] == [
        ("engine refused", "fast"),
        ("engine proved", "exact"),
    ]
    assert "over 1e-01" in said.lines[0][1]["reason"]


@pytest.mark.parametrize(("precision", "rounded"), [("exact", False), ("fast", True)])
def test_only_fast_lets_a_gpu_round_float32(precision: str, *, rounded: bool) -> None:
    with undisturbed():
        set_up(Configure(device="cpu", precision=precision))
        assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == (rounded, rounded)
        with exactly():
            assert not torch.backends.cudnn.allow_tf32
            assert not torch.backends.cuda.matmul.allow_tf32
        assert torch.backends.cudnn.allow_tf32 == rounded


def test_a_network_that_cannot_be_run_a_way_is_run_plainly(inception: Network, pictures: list[Tensor]) -> None:
    class Plain(nn.Module):
        def forward(self, pixels: Tensor) -> Tensor:
            return pixels.mean(dim=(2, 3))

    module = Plain()
    said = Said()
    engine = engine_of("folded", replace(inception, pooled=module, modules=(module,)), said)
    assert engine.features(pictures).shape == (5, 3)
    assert engine.name == "eager"
    assert said.lines[0][1]["reason"] == "it has no batch norms to fold"


@pytest.mark.parametrize(
    ("configure", "reason"),
    [
        (Configure(device="cpu", engine="tensorrt"), "it runs on cuda only"),
        (Configure(device="cpu", engine="warp"), "is unknown; known: auto, eager"),
    ],
)
def test_an_engine_that_cannot_be_had_here_is_a_clear_error(configure: Configure, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        set_up(configure)


def test_openvino_that_is_not_installed_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from metricwatch.worker.engines import devices

    monkeypatch.setattr(devices, "find_spec", lambda _package: None)
    with pytest.raises(ConfigError, match=r"openvino is not installed: pip install 'metricwatch\[cpu\]'"):
        set_up(Configure(device="cpu", engine="openvino"))


@pytest.mark.skipif(
    "openvino_telemetry" in sys.modules and sys.modules["openvino_telemetry"] is not None,
    reason="another test has loaded it",
)
def test_openvino_tells_nobody_of_a_conversion(inception: Network, pictures: list[Tensor]) -> None:
    engine_of("openvino", inception, Said()).features(pictures[:1])
    assert sys.modules["openvino_telemetry"] is None


def test_layers_and_the_name_stay_the_plain_ones(inception: Network) -> None:
    engine = engine_of("auto", inception, Said())
    assert isinstance(engine, EagerEngine)
    assert engine.name == "eager"
