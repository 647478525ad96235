"""What metricwatch.yaml may say of the pictures that are drawn of evaluations."""

from __future__ import annotations

from typing import Any, Final

from pydantic import Field, field_validator

from metricwatch import catalog
from metricwatch.config.context import Section
from metricwatch.config.secrets import quoted

AUTO: Final = "auto"
NONE: Final = "none"


class PicturesConfig(Section):
    """What is drawn of an evaluation: so many of its samples, so many of these beside their partners, the samples
    nearest to the reference, a radar of all metrics.

    heat is the metric whose maps show where a sample departs from its content: auto (the most perceptual of those
    configured), none, or a metric's name. every: of the steps that are multiples of it alone, and of a run's first.
    """

    samples: int = Field(default=16, ge=0, le=64)
    compared: int = Field(default=4, ge=0, le=16)
    neighbours: int = Field(default=4, ge=0, le=16)
    heat: str = AUTO
    radar: bool = True
    every: int = Field(default=1, ge=1)

    @field_validator("heat", mode="before")
    @classmethod
    def _switched_off(cls, heat: Any) -> Any:
        # YAML reads `heat: off` as false.
        return NONE if heat is False else heat

    @field_validator("heat")
    @classmethod
    def _known_heat(cls, heat: str) -> str:
        if heat in {AUTO, NONE} or heat in (installed := catalog.names("metrics")):
            return heat
        known = (AUTO, NONE, *installed)
        raise ValueError(f"unknown metric {quoted(heat)}; {catalog.did_you_mean(heat, known)}")

    @property
    def looks(self) -> bool:
        """True where samples are to be looked at; a radar needs none."""
        return bool(self.samples or self.compared or self.neighbours)


NO_PICTURES: Final = PicturesConfig(samples=0, compared=0, neighbours=0, radar=False)


def switched(pictures: Any) -> Any:
    """`pictures: false` and `pictures: true` are short for nothing and for the defaults."""
    if isinstance(pictures, bool):
        return {} if pictures else NO_PICTURES.model_dump()
    return pictures
