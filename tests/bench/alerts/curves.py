"""Curves like a FID's, with noise like a FID's, of which it is known what happened and when."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from metricwatch.records import ScoreState
from metricwatch.rules.observations import Observation

# What a run that has settled scores. Only the fixed bound of `above` depends on it.
LEVEL = 50.0
IMAGES = 1000
# FID(N) = FID(infinity) + c/N about: with c of 300 a run's FID at 1,000 images is 30% above its limit.
BIAS = 300.0
# A jackknife over twenty groups: its variance has 19 degrees of freedom, so an error is off by 16% itself.
FREEDOM = 19

Shape = Callable[[np.random.Generator, int, int], np.ndarray]
Counts = Callable[[int], np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What happens to a run, and how well it is measured.

    noise is the standard deviation of one score that comes from its images, as a fraction of the value (at 1,000 images;
    it falls with the root of their number); restless the same for what the training itself does from one evaluation to
    the next, of which no standard error knows. within: an alert for the worse is right, and in time, if it comes within
    so many evaluations of what happened; None where nothing worth an alert happens.
    """

    name: str
    story: str
    shape: Shape
    noise: float
    within: int | None = None
    restless: float = 0.0
    tails: Literal["normal", "heavy"] = "normal"
    counts: Counts = lambda length: np.full(length, IMAGES)
    missing: float = 0.0
    errors_known: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One curve of a scenario. onset is the index of the first evaluation that differs, None where none does."""

    series: tuple[Observation, ...]
    onset: int | None


def draw(scenario: Scenario, seed: int, length: int) -> Case:
    """The curve of a seed: the same for every rule, whatever other scenarios there are."""
    rng = np.random.default_rng([seed, zlib.crc32(scenario.name.encode())])
    onset = int(rng.integers(round(0.4 * length), round(0.6 * length)))
    images = scenario.counts(length)
    bias = (1 + BIAS / images) / (1 + BIAS / IMAGES)
    truth = LEVEL * scenario.shape(rng, length, onset) * bias * (1 + scenario.restless * rng.standard_normal(length))
    spread = scenario.noise * np.sqrt(IMAGES / images) * truth
    # Student's t with three degrees of freedom has a variance of three.
    chance = rng.standard_normal(length) if scenario.tails == "normal" else rng.standard_t(3, length) / np.sqrt(3)
    values = truth + spread * chance
    errors = spread * np.sqrt(rng.chisquare(FREEDOM, length) / FREEDOM)
    missing = rng.random(length) < scenario.missing
    series = tuple(
        Observation(
            id=i + 1,
            step=1000 * (i + 1),
            value=None if missing[i] else float(values[i]),
            images=int(images[i]),
            higher_is_better=False,
            stderr=float(errors[i]) if scenario.errors_known and not missing[i] else None,
            series="a",
            state=ScoreState.FAILED if missing[i] else ScoreState.OK,
        )
        for i in range(length)
    )
    return Case(series=series, onset=None if scenario.within is None else onset)


def _flat(_rng: np.random.Generator, length: int, _onset: int) -> np.ndarray:
    return np.ones(length)


def _decay(start: float, share: float) -> Shape:
    """From start times the level towards it; the distance falls to 1/e in this share of the run."""
    return lambda _rng, length, _onset: 1 + (start - 1) * np.exp(-np.arange(length) / (share * length))


def _wave(amplitude: float) -> Shape:
    def shape(rng: np.random.Generator, length: int, _onset: int) -> np.ndarray:
        period, phase = rng.integers(6, 13), rng.uniform(0, 2 * np.pi)
        return 1 + amplitude * np.sin(2 * np.pi * np.arange(length) / period + phase)

    return shape


def _break(size: float) -> Shape:
    return lambda _rng, length, onset: np.where(np.arange(length) < onset, 1.0, 1 + size)


def _spike(size: float) -> Shape:
    return lambda _rng, length, onset: np.where(np.arange(length) == onset, 1 + size, 1.0)


def _drift(rate: float) -> Shape:
    return lambda _rng, length, onset: (1 + rate) ** np.clip(np.arange(length) - onset + 1, 0, None)


def _stepped(length: int) -> np.ndarray:
    """1,000, 900, 5,000 and again 1,000 images, a quarter of the run each."""
    return np.repeat([1000, 900, 5000, 1000], -(-length // 4))[:length]


def _alternating(length: int) -> np.ndarray:
    return np.where(np.arange(length) % 2, 900, 1000)


SCENARIOS = (
    *(
        Scenario(name=f"flat, noise {noise:.1%}", story="nothing happens", shape=_flat, noise=noise)
        for noise in (0.005, 0.01, 0.1 / 6, 0.02, 0.025, 0.1 / 3, 0.04)
    ),
    Scenario(name="flat, heavy tails", story="noise of 2%, t(3)", shape=_flat, noise=0.02, tails="heavy"),
    Scenario(name="flat, restless", story="2% of sampling, 3% of training", shape=_flat, noise=0.02, restless=0.03),
    Scenario(name="flat, no errors", story="noise of 4%, unknown", shape=_flat, noise=0.04, errors_known=False),
    Scenario(name="flat, gaps", story="noise of 4%, 5% missing", shape=_flat, noise=0.04, missing=0.05),
    Scenario(name="improving", story="from 8 times the level, all along", shape=_decay(8, 1 / 3), noise=0.02),
    Scenario(name="plateau", story="from 4 times the level, soon there", shape=_decay(4, 1 / 15), noise=0.02),
    *(
        Scenario(name=f"waves ±{size:.0%}", story="period 6 to 12, noise of 1%", shape=_wave(size), noise=0.01)
        for size in (0.02, 0.05, 0.08)
    ),
    Scenario(name="other N, steps", story="1000, 900, 5000, 1000 images", shape=_flat, noise=0.01, counts=_stepped),
    Scenario(name="other N, each time", story="1000, 900, 1000 …", shape=_flat, noise=0.01, counts=_alternating),
    *(
        Scenario(
            name=f"break +{size:.0%}, noise {noise:.0%}", story="stays", shape=_break(size), noise=noise, within=10
        )
        for size in (0.12, 0.20, 0.50)
        for noise in (0.01, 0.04)
    ),
    *(
        Scenario(
            name=f"break +20%, {missing:.0%} gaps",
            story="noise of 1%, scores that failed",
            shape=_break(0.2),
            noise=0.01,
            within=10,
            missing=missing,
        )
        for missing in (0.05, 0.20)
    ),
    Scenario(
        name="break +20%, no errors",
        story="noise of 1%, unknown",
        shape=_break(0.2),
        noise=0.01,
        within=10,
        errors_known=False,
    ),
    Scenario(
        name="break +50%, other N each time",
        story="1000, 900, 1000 … images, noise of 1%",
        shape=_break(0.5),
        noise=0.01,
        within=10,
        counts=_alternating,
    ),
    Scenario(name="spike +20%", story="one evaluation, noise of 1%", shape=_spike(0.2), noise=0.01, within=10),
    *(
        Scenario(
            name=f"drift {rate:.1%}, noise {noise:.0%}",
            story="worse by that at each evaluation",
            shape=_drift(rate),
            noise=noise,
            within=40,
        )
        for rate in (0.005, 0.01, 0.02, 0.03)
        for noise in (0.01, 0.04)
    ),
)
