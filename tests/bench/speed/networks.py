"""Pictures that are decoded to features: each library's Inception on the same batch of uint8."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from metricwatch import extractors
from metricwatch.protocol import Configure
from metricwatch.worker.device_state import set_precision
from metricwatch.worker.engines import build_engine, set_up
from metricwatch.worker.engines.devices import obstacle_to
from metricwatch.worker.images import decode
from metricwatch.worker.networks import load
from tests.bench.speed.material import Material

PEER = "pytorch-fid"
# uint8 (N, 3, h, w) in main memory to features (N, 2048) there.
Side = Callable[[Tensor], np.ndarray]
# The same function of the same pixels but for rounding: relative to the largest feature.
_EXACT = 1e-3


def batches(samples: Path, size: int, most: int) -> list[Tensor]:
    """The first pictures, in batches, in main memory (pinned where a GPU is to fetch them)."""
    paths = sorted(samples.iterdir())[:most]
    pixels = np.stack([decode(path.read_bytes(), 10**8) for path in paths])
    whole = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    if torch.cuda.is_available():
        whole = whole.pin_memory()
    return list(whole.split(size))


def sides(material: Material, device: torch.device, engines: Sequence[str]) -> dict[str, Side]:
    """The libraries, as they run by default, and our engines: those that this machine cannot run are left out."""
    found: dict[str, Side] = {
        PEER: _pytorch_fid(device),
        "clean-fid": _clean_fid(device),
        "torch-fidelity": _torch_fidelity(material, device),
        "torchmetrics": _torchmetrics(material, device),
    }
    for name in engines:
        # Without rounding to TF32 there is but one eager.
        for precision in ("exact",) if (name, device.type) == ("eager", "cpu") else ("exact", "fast"):
            side = _ours(name, precision, material, device)
            if side is not None:
                found[f"metricwatch {name}, {precision}"] = side
    return found


def seconds(side: Side, over: Sequence[Tensor]) -> float:
    """How long all batches take, until their features are in main memory."""
    started = time.perf_counter()
    for batch in over:
        side(batch)
    return time.perf_counter() - started


def checked(found: dict[str, Side], batch: Tensor) -> dict[str, float]:
    """By side, the largest difference to pytorch-fid's features, relative to their largest.

    Raises AssertionError where exact is not: torch-fidelity and torchmetrics resize as TensorFlow did, and differ.
    """
    expected = found[PEER](batch)
    scale = np.abs(expected).max()
    apart = {}
    for name, side in found.items():
        features = side(batch)
        assert features.shape == expected.shape, f"{name} gives features of shape {features.shape}"
        apart[name] = float(np.abs(features - expected).max() / scale)
        assert not name.endswith(", exact") or apart[name] < _EXACT, f"{name} is {apart[name]:.2g} off"
    return apart


def _pytorch_fid(device: torch.device) -> Side:
    from pytorch_fid.inception import InceptionV3

    network = InceptionV3([InceptionV3.BLOCK_INDEX_BY_DIM[2048]]).to(device).eval()

    @torch.no_grad()
    def side(batch: Tensor) -> np.ndarray:
        # Its data set hands over ToTensor()'s floats.
        floats = batch.float().div(255).to(device)
        return np.asarray(network(floats)[0].squeeze(3).squeeze(2).cpu().numpy())

    return _with_tf32(side)


def _clean_fid(device: torch.device) -> Side:
    from cleanfid.features import feature_extractor
    from cleanfid.fid import get_batch_features
    from cleanfid.resize import build_resizer

    model = feature_extractor("pytorch_inception", device=device, use_dataparallel=False)
    resize = build_resizer("legacy_pytorch")

    def side(batch: Tensor) -> np.ndarray:
        # Its data set resizes one picture after another, in worker processes.
        resized = [torch.from_numpy(resize(picture.permute(1, 2, 0).numpy())).permute(2, 0, 1) for picture in batch]
        return np.asarray(get_batch_features(torch.stack(resized), model, device))

    return _with_tf32(side)


def _torch_fidelity(material: Material, device: torch.device) -> Side:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    network = FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=str(material.weights))
    network.to(device).eval()

    @torch.no_grad()
    def side(batch: Tensor) -> np.ndarray:
        return np.asarray(network(batch.to(device))[0].cpu().numpy())

    return _with_tf32(side)


def _torchmetrics(material: Material, device: torch.device) -> Side:
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=2048, feature_extractor_weights_path=str(material.weights))
    network = metric.inception.to(device).eval()

    @torch.no_grad()
    def side(batch: Tensor) -> np.ndarray:
        return np.asarray(network(batch.to(device)).cpu().numpy())

    return _with_tf32(side)


def _with_tf32(side: Side) -> Side:
    """With PyTorch's own settings, which are not the worker's."""

    def whole(batch: Tensor) -> np.ndarray:
        set_precision("fast")
        torch.backends.cuda.matmul.allow_tf32 = False
        return side(batch)

    return whole


def _ours(name: str, precision: str, material: Material, device: torch.device) -> Side | None:
    """None where this machine cannot run it, or the network does not prove itself that way."""
    if obstacle_to(name, device):
        return None
    spec = extractors.find("inception-v3")
    set_up(Configure(engine=name, device=device.type, precision=precision))
    network = load(spec, str(material.weights))
    engine = build_engine(name, spec, network, "pytorch-fid", device, precision=precision)

    def side(batch: Tensor) -> np.ndarray:
        set_precision(precision)
        return np.asarray(engine.features(list(batch.to(device, non_blocking=True))).cpu())

    side(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
    return side if engine.name == name else None
