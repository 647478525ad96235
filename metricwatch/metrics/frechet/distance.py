"""The Fréchet distance as a metric, on Inception-v3 (FID) and on any other extractor."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from metricwatch.api import Arrays, ExtractorInfo, FeatureMetric, Metric, MetricSpec, Value

from .distances import frechet_distances, jackknife_error
from .gaussian import Float32, Gaussian


class FrechetDistance(FeatureMetric):
    """Fréchet distance on one extractor. Keeps all features (float32, n x d): memory grows with n.

    The standard error is that of the distance at this number of images, None for fewer than three; the bias in the
    number of images is no part of it. A reference's statistics are mu (d,), sigma (d, d; ddof 1), root (d, d), all
    float64, and n (int64, no dimensions); a user's own need mu and sigma, as pytorch-fid saves them.
    """

    def compare(self, features: Float32) -> Sequence[Value]:
        assert self.reference is not None  # noqa: S101 - compute() has seen to it
        n = len(features)
        distances = frechet_distances(features, Gaussian.from_arrays(self.reference))
        value = distances.whole()
        return [Value(key=self.spec.keys[0], value=value, images=n, stderr=jackknife_error(distances, value, n))]

    def summarise(self, features: Float32) -> Arrays:
        return Gaussian.from_features(features).arrays()

    @classmethod
    def complete_statistics(cls, arrays: Arrays) -> Arrays:
        return Gaussian.from_users(
            arrays, key=cls.spec.keys[0], extractor=cls.extractor, dimensions=cls.dimensions
        ).arrays()


def frechet_spec(key: str, extractor: str) -> MetricSpec:
    """The spec of a metric that compares with the moments of a reference's features."""
    return MetricSpec(
        keys=(key,),
        higher_is_better=False,
        extractors=(extractor,),
        needs=frozenset({"reference"}),
        statistics="moments",
        reads_images=False,
    )


class Fid(FrechetDistance):
    """FID: the distance on Inception-v3's pool3 with the FID weights."""

    extractor = "inception-v3"
    dimensions = 2048
    spec = frechet_spec("fid", extractor)


@cache
def on_extractor(info: ExtractorInfo) -> type[Metric]:
    """The distance on another extractor's pooled features: never comparable with FID."""

    class OnExtractor(FrechetDistance):
        extractor = info.name
        dimensions = info.dimensions
        spec = frechet_spec(f"fd_{info.key}", info.name)

    return OnExtractor
