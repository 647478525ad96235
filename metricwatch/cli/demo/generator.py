"""The stand-in for a network in training: a scripted restorer whose pictures improve, break and recover."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, ImageFilter

if TYPE_CHECKING:
    import numpy as np

STEPS_BETWEEN_SAMPLES = 100

# How much it has learnt, sample set by sample set. A plateau is never quite flat.
_PLATEAU = (0.985, 0.995, 0.98, 0.99, 0.985)
_BROKEN = (0.985, 0.985)
_RECOVERY = (0.80, 0.93, 0.985)
FEWEST_SAMPLE_SETS = 2 + len(_PLATEAU) + len(_BROKEN) + len(_RECOVERY)

# Standard deviations: of the blur in pixels, of the noise in grey levels.
_FIRST_BLUR, _LEAST_BLUR = 3.2, 0.45
_FIRST_NOISE, _LEAST_NOISE = 34.0, 5.0
_BROKEN_NOISE = 45.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Skill:
    """How well the restorer does at one step. learnt runs from 0 to 1; collapsed: its colours are gone."""

    step: int
    learnt: float
    collapsed: bool = False


def script(sample_sets: int) -> tuple[Skill, ...]:
    """The whole training: improvement, a plateau, an accident with the learning rate, recovery.

    sample_sets is at least FEWEST_SAMPLE_SETS; what it has more than that goes into the improvement.
    """
    improving = sample_sets - len(_PLATEAU) - len(_BROKEN) - len(_RECOVERY)
    learnt = [1.0 - (1.0 - number / improving) ** 1.5 for number in range(improving)]
    breaks = improving + len(_PLATEAU)
    broken = range(breaks, breaks + len(_BROKEN))
    return tuple(
        Skill(step=(number + 1) * STEPS_BETWEEN_SAMPLES, learnt=share, collapsed=number in broken)
        for number, share in enumerate((*learnt, *_PLATEAU, *_BROKEN, *_RECOVERY))
    )


def breaking_step(skills: Sequence[Skill]) -> int:
    """The step of the first sample set after the accident."""
    return next(skill.step for skill in skills if skill.collapsed)


def restore(picture: Image.Image, skill: Skill, chance: np.random.Generator) -> Image.Image:
    """What the restorer makes of a picture at this skill; chance supplies its noise."""
    import numpy as np

    missing = 1.0 - skill.learnt
    blur = _LEAST_BLUR + (_FIRST_BLUR - _LEAST_BLUR) * missing
    noise = _BROKEN_NOISE if skill.collapsed else _LEAST_NOISE + (_FIRST_NOISE - _LEAST_NOISE) * missing
    pixels = np.asarray(picture.filter(ImageFilter.GaussianBlur(blur)), dtype=np.float64)
    if skill.collapsed:
        grey = pixels.mean(axis=2, keepdims=True)
        pixels = 0.35 * grey + np.array([150.0, 60.0, 120.0]) * 0.65
    pixels = pixels + chance.normal(0.0, noise, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))
