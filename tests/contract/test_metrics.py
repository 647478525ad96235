"""The built-in metrics keep the contract that plugins are held to."""

from __future__ import annotations

import numpy as np
import torch

from metricwatch.api import Batch
from metricwatch.metrics.frechet import FdEfficientNetLite0, Fid, FrechetDistance
from metricwatch.metrics.ssim import Ssim
from metricwatch.testing.metric import MetricContract
from tests.support.photos import crops


def features(metric: type[FrechetDistance], count: int, seed: int) -> Batch:
    numbers = np.random.default_rng(seed).gamma(0.5, 0.5, size=(count, metric.dimensions))
    return Batch(
        names=tuple(f"{index:03d}" for index in range(count)),
        images=(),
        features={metric.extractor: torch.from_numpy(numbers.astype(np.float32))},
    )


class TestFid(MetricContract):
    metric_class = Fid

    def images(self) -> Batch:
        return features(Fid, 9, seed=1)

    def reference_images(self) -> Batch:
        return features(Fid, 12, seed=2)


class TestFdEfficientNetLite0(MetricContract):
    metric_class = FdEfficientNetLite0

    def images(self) -> Batch:
        return features(FdEfficientNetLite0, 25, seed=3)

    def reference_images(self) -> Batch:
        return features(FdEfficientNetLite0, 30, seed=4)


class TestSsim(MetricContract):
    metric_class = Ssim

    def images(self) -> Batch:
        pictures = crops(8, side=48)
        tensors = [torch.from_numpy(picture.copy()).permute(2, 0, 1) for picture in pictures]
        partners = [torch.roll(tensor, 1, dims=2) for tensor in tensors]
        names = tuple(f"{index}" for index in range(len(tensors)))
        return Batch(names=names, images=tuple(tensors), content=tuple(partners))
