"""What a picture of a curve shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from metricwatch.records import Direction, Severity, WindowPoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The steps during which an alert fired; until None: it does still. It began to be seen in window."""

    rule: str
    severity: Severity
    direction: Direction
    fired: int
    until: int | None = None
    window: tuple[WindowPoint, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One metric of one run: its values in the order of steps (a band of ± 2 standard errors where they are known),
    the alerts on it, and bounds to draw as lines. gaps are steps that have no value.

    compact: small and without a legend, to stand beside many others.
    """

    title: str
    key: str
    points: tuple[WindowPoint, ...]
    spans: tuple[Span, ...] = ()
    bounds: tuple[float, ...] = ()
    gaps: tuple[int, ...] = ()
    compact: bool = False


Form = Literal["png", "svg"]
