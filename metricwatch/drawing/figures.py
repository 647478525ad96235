"""What pictures of an evaluation show: samples, samples beside their partners, all metrics at once, lookalikes.

The files that they name are PNGs on this machine; one that cannot be read is drawn as an empty frame.
"""

from __future__ import annotations

from dataclasses import dataclass

from metricwatch.drawing.curve import Curve
from metricwatch.records import Compared, KeptSample, Lookalike


@dataclass(frozen=True, slots=True, kw_only=True)
class ContactSheet:
    """The samples of one step in a grid, in the order given, each with its name."""

    title: str
    samples: tuple[KeptSample, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A row for each sample: content, style, output, and the heat over the output. Columns that no row has are left
    off.

    heat_of names the metric of the heat, heat_most is the value of its hottest colour.
    """

    title: str
    rows: tuple[Compared, ...]
    heat_of: str = ""
    heat_most: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoke:
    """One metric of a radar: its value at this step (None: it has none), the best and the worst so far that compare
    with it, and its value at the best step.
    """

    key: str
    value: float | None
    best: float
    worst: float
    higher_is_better: bool
    at_best_step: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Radar:
    """All metrics of one step, each from the worst so far (centre) to the best so far (rim), beside those of the best
    step so far by best_by; best_step None where that is this step or there is none.
    """

    title: str
    step: int
    spokes: tuple[Spoke, ...]
    best_step: int | None = None
    best_by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookalikes:
    """A row for each sample: the sample, then its nearest images of the reference with their distances.

    A distance of at most usual_distance (None: not known) is marked: so near are images of the reference to each other.
    """

    title: str
    rows: tuple[Lookalike, ...]
    space: str = ""
    searched: int = 0
    usual_distance: float | None = None


Figure = ContactSheet | Comparison | Radar | Lookalikes
Drawing = Curve | Figure
