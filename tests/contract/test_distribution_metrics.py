"""The metrics that compare features with a reference's keep the contract that plugins are held to."""

from __future__ import annotations

import numpy as np
import torch

from metricwatch.api import Batch, ExtractorInfo, FeatureMetric
from metricwatch.metrics import frechet, kid, prdc
from metricwatch.testing.metric import MetricContract

OTHER = ExtractorInfo(name="other", key="other", dimensions=48)


def features(metric: type[FeatureMetric], count: int, seed: int) -> Batch:
    numbers = np.random.default_rng(seed).gamma(0.5, 0.5, size=(count, metric.dimensions))
    return Batch(
        names=tuple(f"{index:03d}" for index in range(count)),
        features={metric.extractor: torch.from_numpy(numbers.astype(np.float32))},
    )


class DistributionContract(MetricContract):
    sizes = (25, 30)

    def images(self) -> Batch:
        return features(self.metric_class, self.sizes[0], seed=1)

    def reference_images(self) -> Batch:
        return features(self.metric_class, self.sizes[1], seed=2)


class TestFid(DistributionContract):
    metric_class = frechet.Fid
    sizes = (9, 12)


class TestFdOnAnyExtractor(DistributionContract):
    metric_class = frechet.on_extractor(OTHER)


class TestFdInfOnAnyExtractor(DistributionContract):
    metric_class = frechet.infinite_on_extractor(OTHER)
    sizes = (200, 30)


class TestKid(DistributionContract):
    metric_class = kid.Kid


class TestKdOnAnyExtractor(DistributionContract):
    metric_class = kid.on_extractor(OTHER)


class TestPrdc(DistributionContract):
    metric_class = prdc.Prdc


class TestPrdcOnAnyExtractor(DistributionContract):
    metric_class = prdc.on_extractor(OTHER)
