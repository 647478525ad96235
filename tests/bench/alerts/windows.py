"""How many standard errors noise alone moves a metric within a window: what beyond_noise must exceed.

A rule of mode range picks the two evaluations, of across * (across - 1) / 2 pairs, that lie farthest apart. Their
difference is no draw from a normal distribution but the range of several, which follows the studentised range (Tukey
1949): its quantiles over the root of two are what beyond_noise is compared with. Here the errors are estimates too.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.bench.alerts.curves import FREEDOM

ACROSS = (2, 3, 5, 10, 20)
_MULTIPLES = (2.0, 3.0, 4.0)
_CHANCES = (0.05, 0.01, 0.001)
_AT_ONCE = 100_000


def chances(windows: int, seed: int) -> list[dict[str, Any]]:
    """For windows of noise: how often 2, 3 and 4 standard errors are exceeded, and what is once in 20, 100 and 1,000.

    `any` looks at movements both ways, `worse` at those for the worse only; net compares the last with the first.
    """
    rows = []
    for across in ACROSS:
        found = _multiples(across, windows, np.random.default_rng([seed, across]))
        rows.extend(
            {
                "across": across,
                "mode": mode,
                "direction": direction,
                "exceeded": {f"{multiple:g}": float(np.mean(values > multiple)) for multiple in _MULTIPLES},
                "needed": {f"{chance:g}": float(np.quantile(values, 1 - chance)) for chance in _CHANCES},
            }
            for (mode, direction), values in found.items()
        )
    return rows


def _multiples(across: int, windows: int, rng: np.random.Generator) -> dict[tuple[str, str], np.ndarray]:
    parts: dict[tuple[str, str], list[np.ndarray]] = {}
    for start in range(0, windows, _AT_ONCE):
        size = (min(_AT_ONCE, windows - start), across)
        values = rng.standard_normal(size)
        errors = np.sqrt(rng.chisquare(FREEDOM, size) / FREEDOM)
        net = (values[:, -1] - values[:, 0]) / np.hypot(errors[:, -1], errors[:, 0])
        up, down = _largest_rise(values, errors), _largest_rise(-values, errors)
        for key, part in {
            ("range", "any"): np.maximum(up, down),
            ("range", "worse"): up,
            ("net", "any"): np.abs(net),
            ("net", "worse"): net,
        }.items():
            parts.setdefault(key, []).append(part)
    return {key: np.concatenate(part) for key, part in parts.items()}


def _largest_rise(values: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """The largest rise from an earlier to a later value of each row, in standard errors of that very difference."""
    rows = np.arange(len(values))
    best = np.full(len(values), -np.inf)
    multiple = np.zeros(len(values))
    lowest = np.zeros(len(values), dtype=int)
    for at in range(1, values.shape[1]):
        lowest = np.where(values[:, at - 1] < values[rows, lowest], at - 1, lowest)
        rise = values[:, at] - values[rows, lowest]
        multiple = np.where(rise > best, rise / np.hypot(errors[:, at], errors[rows, lowest]), multiple)
        best = np.maximum(best, rise)
    return multiple
