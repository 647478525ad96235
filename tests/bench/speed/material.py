"""What all sides of a comparison get: the same photographs, weights and reference statistics."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.bench.pipeline.pictures import write_photographs
from tests.support.weights import INCEPTION_FILE, write_inception_weights

DIMENSIONS = 2048
# Enough rows for a covariance of full rank.
_ROWS = 2 * DIMENSIONS
_BATCH = 32


@dataclass(frozen=True, slots=True)
class Material:
    """Folders and files: PNGs, another folder of as many, a TORCH_HOME with Inception, and an .npz of mu and sigma."""

    samples: Path
    others: Path
    torch_home: Path
    weights: Path
    reference: Path

    @classmethod
    def write(cls, folder: Path, images: int, *, side: int) -> Material:
        """Stand-in weights of the real architecture: what the network answers is meaningless, what it takes is not."""
        weights = folder / "torch" / "hub" / "checkpoints" / INCEPTION_FILE
        weights.parent.mkdir(parents=True)
        write_inception_weights(weights)
        reference = folder / "reference.npz"
        samples = write_photographs(folder / "samples", images, side=side, seed=3)
        write_reference(reference, samples, weights)
        return cls(
            samples=samples,
            others=write_photographs(folder / "others", images, side=side, seed=4),
            torch_home=folder / "torch",
            weights=weights,
            reference=reference,
        )


def write_reference(path: Path, samples: Path, weights: Path) -> None:
    """Statistics of full rank, centred and scaled as the network's features of a few pictures are."""
    import torch

    from metricwatch import extractors
    from metricwatch.worker.engines import build_engine
    from metricwatch.worker.images import decode
    from metricwatch.worker.networks import load

    spec = extractors.find("inception-v3")
    engine = build_engine("eager", spec, load(spec, str(weights)), "pytorch-fid", torch.device("cpu"))
    few = sorted(samples.iterdir())[:_BATCH]
    pictures = [torch.from_numpy(decode(each.read_bytes(), 10**8).copy()).permute(2, 0, 1) for each in few]
    found = np.asarray(engine.features(pictures), dtype=np.float64)
    features = like_features(_ROWS, seed=0) * found.std() + found.mean(axis=0)
    np.savez(path, mu=features.mean(axis=0), sigma=np.cov(features, rowvar=False))


def like_features(rows: int, *, seed: int) -> np.ndarray:
    """Random features (rows, 2048), float32, with variances that fall off as those of photographs do."""
    random = np.random.default_rng(seed)
    scale = 1.0 / (1.0 + np.arange(DIMENSIONS)) ** 0.5
    mix = np.linalg.qr(np.random.default_rng(17).standard_normal((DIMENSIONS, DIMENSIONS)))[0]
    features: np.ndarray = ((random.standard_normal((rows, DIMENSIONS)) * scale) @ mix).astype(np.float32)
    return features
