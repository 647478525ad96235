"""The base of metrics that compare the features of a whole set with those of a reference."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from metricwatch.api.metric import Arrays, Batch, Metric, Value
from metricwatch.api.per_image import listed
from metricwatch.errors import InputError
from metricwatch.records import ScoreState

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Float32 = npt.NDArray[np.float32]

# Differences below this share of the largest feature are rounding: the same image in another place of a batch.
_ROUNDING = 1e-5


class FeatureMetric(Metric):
    """Keeps all features of one extractor (float32, N x D) and compares them at the end: memory grows with N.

    Images are put in the order of their names first, so that neither batching nor arrival changes a bit.
    """

    extractor: ClassVar[str]
    dimensions: ClassVar[int]
    # What a score takes at the least, and why.
    minimum: ClassVar[int] = 2
    minimum_reason: ClassVar[str] = "a covariance needs 2 images"

    def __init__(self, reference: Arrays | None = None, options: Any = None) -> None:
        super().__init__(reference, options)
        self._names: list[str] = []
        self._blocks: list[Float32] = []

    @abstractmethod
    def compare(self, features: Float32) -> Sequence[Value]:
        """The scores of features (N, D), N >= minimum, finite, not all the same; self.reference is there."""

    @abstractmethod
    def summarise(self, features: Float32) -> Arrays:
        """The statistics of a reference's features (N, D), N >= minimum, finite."""

    def update(self, batch: Batch) -> None:
        if not len(batch):
            return
        features = batch.features[self.extractor].detach().float().cpu().numpy()
        if features.shape != (len(batch), self.dimensions):
            raise InputError(
                f"{self.spec.keys[0]}: features of {self.extractor!r} have shape {features.shape}, "
                f"expected {(len(batch), self.dimensions)}"
            )
        self._names.extend(batch.names)
        self._blocks.append(features)

    def merge(self, other: Self) -> None:
        self._names.extend(other._names)
        self._blocks.extend(other._blocks)

    def compute(self) -> Sequence[Value]:
        n = len(self._names)
        if self.reference is None:
            return self.without_value(ScoreState.NO_REFERENCE, "no reference set was given to compare with")
        if n < self.minimum:
            return self.without_value(ScoreState.TOO_FEW_IMAGES, f"{self.minimum_reason}, got {n}")
        names, features = self._ordered()
        if bad := _non_finite(names, features):
            detail = f"features of {self.extractor!r} are not finite for {listed(bad)}"
            return self.without_value(ScoreState.NON_FINITE, detail)
        if _collapsed(features):
            detail = f"all {n} images have the same features on {self.extractor!r}"
            return self.without_value(ScoreState.COLLAPSED, detail)
        return self.compare(features)

    def without_value(self, state: ScoreState, detail: str) -> list[Value]:
        """All keys in this state."""
        n = len(self._names)
        return [Value(key=key, value=None, images=n, state=state, detail=detail) for key in self.spec.keys]

    def statistics(self) -> Arrays:
        n = len(self._names)
        if n < self.minimum:
            raise InputError(f"{self.spec.keys[0]}: a reference needs at least {self.minimum} readable images, got {n}")
        names, features = self._ordered()
        if bad := _non_finite(names, features):
            raise InputError(
                f"{self.spec.keys[0]}: features of {self.extractor!r} are not finite for the reference's {listed(bad)}"
            )
        return self.summarise(features)

    @classmethod
    def given_features(cls, arrays: Arrays, reason: str) -> Float32:
        """The array features (M, D) of a user's own statistics, as float32.

        Raises InputError when it is not there (reason says why it must be), or is no array of M >= minimum images.
        """
        import numpy as np

        key = cls.spec.keys[0]
        if "features" not in arrays:
            raise InputError(
                f"{key}: statistics hold no array 'features'; found: {', '.join(sorted(arrays))}. {reason}: "
                f"give the reference as images, or save its features (N, {cls.dimensions})"
            )
        features = arrays["features"]
        if features.ndim != 2 or features.shape[1] != cls.dimensions or len(features) < cls.minimum:  # noqa: PLR2004
            raise InputError(
                f"{key}: array 'features' has shape {features.shape}, but {cls.extractor} features need "
                f"(N, {cls.dimensions}) with N of at least {cls.minimum}"
            )
        if not np.issubdtype(features.dtype, np.floating) or not np.isfinite(features).all():
            raise InputError(f"{key}: array 'features' ({features.dtype}) must be of finite floating-point numbers")
        return features.astype(np.float32)

    def _ordered(self) -> tuple[list[str], Float32]:
        """Names and features (N, D) sorted by name; images that share a name by their features' sum."""
        import numpy as np

        features = np.concatenate(self._blocks)
        order = np.lexsort((features.sum(axis=1), np.array(self._names)))
        return [self._names[index] for index in order], features[order]


def _non_finite(names: Sequence[str], features: Float32) -> list[str]:
    import numpy as np

    finite = np.isfinite(features).all(axis=1)
    return [names[int(row)] for row in np.flatnonzero(~finite)]


def _collapsed(features: Float32) -> bool:
    import numpy as np

    spread = float((features.max(axis=0) - features.min(axis=0)).max())
    return spread <= _ROUNDING * float(np.abs(features).max())
