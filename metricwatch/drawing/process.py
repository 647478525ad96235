"""Has curves drawn by a process of its own, which is gone afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from metricwatch.drawing.curve import Curve, Form
from metricwatch.errors import TemporaryError

_PATIENCE = timedelta(seconds=60)


def draw(curves: Sequence[Curve], form: Form = "png", *, patience: timedelta = _PATIENCE) -> list[bytes]:
    """One picture for each curve, as PNG or SVG files' content. Raises TemporaryError when it cannot be drawn."""
    raise TemporaryError(f"{len(curves)} curves as {form} within {patience}: drawing is not there yet")
