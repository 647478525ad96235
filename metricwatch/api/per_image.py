"""The base of metrics that give each image numbers of its own, whose means are the scores."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from metricwatch.api.metric import Arrays, Batch, Metric, Value
from metricwatch.records import ScoreState

if TYPE_CHECKING:
    from torch import Tensor

_NAMED = 5


class PerImageMetric(Metric):
    """Scores are means over images, with the standard error of the mean (None for fewer than two images).

    What measure() gives depends on the image, its partners, its prompt and the options alone, so the worker may keep
    it and not ask again. Memory: one number an image and key.
    """

    # Set by a metric that implements maps(): the value that is drawn as the hottest.
    hottest: ClassVar[float | None] = None

    def __init__(self, reference: Arrays | None = None, options: Any = None) -> None:
        super().__init__(reference, options)
        self._rows: list[tuple[str, tuple[float, ...]]] = []
        self.left_out: dict[str, list[str]] = {}

    @abstractmethod
    def measure(self, batch: Batch) -> Sequence[Sequence[float]]:
        """N rows with one number for each of spec.keys. Numbers that are not finite are reported as such."""

    def maps(self, batch: Batch) -> Sequence[Tensor]:  # noqa: ARG002 - for those who need it
        """N maps (h, w), float32, of where each image departs from its content; [] for a metric that has none.

        0 where they are alike, larger where they are not, whatever the direction of the score. h and w are the image's
        or smaller: maps are drawn over the picture. Called for a few images, with what measure() is given.
        """
        return []

    def obstacle(self, height: int, width: int) -> str:  # noqa: ARG002 - for those who need it
        """Why images of this size cannot be measured, as in "a side under 11 pixels"; "" when they can."""
        return ""

    def update(self, batch: Batch) -> None:
        usable = batch.select(self.usable(batch))
        if len(usable):
            self.take(usable.names, self.measure(usable))
            self.attend(usable)

    def usable(self, batch: Batch) -> list[int]:
        """The places of the images that can be measured. The others are left out, and named in the scores' detail."""
        if not batch.images:
            return list(range(len(batch)))
        kept = []
        for row, image in enumerate(batch.images):
            if reason := self.obstacle(int(image.shape[-2]), int(image.shape[-1])):
                self.leave_out(batch.names[row], reason)
            else:
                kept.append(row)
        return kept

    def leave_out(self, name: str, reason: str) -> None:
        """Note an image that is not measured, and why, as in "a side under 11 pixels"."""
        self.left_out.setdefault(reason, []).append(name)

    def take(self, names: Sequence[str], rows: Sequence[Sequence[float]]) -> None:
        """Take in what measure() gave for the images of these names, now or earlier."""
        for name, row in zip(names, rows, strict=True):
            self._rows.append((name, tuple(float(number) for number in row)))

    def attend(self, batch: Batch) -> None:
        """See the features (not the pictures) of images that were taken. For a metric that is more than a mean."""

    def merge(self, other: Self) -> None:
        self._rows.extend(other._rows)
        for reason, names in other.left_out.items():
            self.left_out.setdefault(reason, []).extend(names)

    def compute(self) -> Sequence[Value]:
        detail = "; ".join(
            f"left out for {reason}: {listed(sorted(names))}" for reason, names in sorted(self.left_out.items())
        )
        if not self._rows:
            return [self._nothing(key, detail) for key in self.spec.keys]
        return [self._mean(column, key, detail) for column, key in enumerate(self.spec.keys)]

    def _nothing(self, key: str, detail: str) -> Value:
        partners = [kind for kind in ("content", "style", "prompt") if kind in self.spec.needs]
        if detail or not partners:
            state, detail = ScoreState.TOO_FEW_IMAGES, detail or "no image was seen"
        else:
            wanted = " and a ".join(f"{kind} partner" if kind != "prompt" else kind for kind in partners)
            state, detail = ScoreState.NO_PAIRS, f"no image came with a {wanted}"
        return Value(key=key, value=None, images=0, state=state, detail=detail)

    def _mean(self, column: int, key: str, detail: str) -> Value:
        n = len(self._rows)
        numbers = [row[column] for _, row in self._rows]
        if bad := sorted(name for name, row in self._rows if not math.isfinite(row[column])):
            detail = f"{key} is not finite for {listed(bad)}"
            return Value(key=key, value=None, images=n, state=ScoreState.NON_FINITE, detail=detail)
        # fsum is exact, so the order of arrival changes nothing.
        mean = math.fsum(numbers) / n
        stderr = None
        if n > 1:
            stderr = math.sqrt(math.fsum((number - mean) ** 2 for number in numbers) / (n - 1) / n)
        return Value(key=key, value=mean, images=n, stderr=stderr, detail=detail)


def listed(names: Sequence[str]) -> str:
    """A few names of many, as details show them."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
