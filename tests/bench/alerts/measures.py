"""What is counted over the curves of a scenario, and how sure the counts are.

Every interval is a 95% one and takes the curves, not the evaluations, as what is independent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor, sqrt
from typing import Any

import numpy as np

from tests.bench.alerts.contenders import Firing, Verdict, firings
from tests.bench.alerts.curves import Case

_Z = 1.96
# Nothing seen in n trials: with 2.5% probability there were 3.69 to be seen (Poisson).
_UNSEEN = 3.69


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What one rule did on one curve.

    quiet evaluations are those at which no alert for the worse is right: all, or those before the event. false alerts
    begin there, and firing is how many of them fire for the worse. An event is found by an alert that begins within the
    scenario's time; delay is in evaluations, 0 for the very one that shows the event. One that fires already when the
    event happens tells nobody: busy, and not found. after counts all alerts for the worse since the event.
    """

    quiet: int
    false: int
    firing: int
    better: int
    evaluations: int
    event: bool = False
    busy: bool = False
    delay: int | None = None
    after: int = 0


def tally(case: Case, verdicts: Sequence[Verdict], within: int | None) -> Tally:
    """Count one curve."""
    alerts = firings(verdicts)
    worse = [alert for alert in alerts if alert.direction == "worse"]
    quiet = len(verdicts) if case.onset is None else case.onset
    before = [alert for alert in worse if alert.start < quiet]
    counted = Tally(
        quiet=quiet,
        false=len(before),
        firing=sum(min(alert.end, quiet) - alert.start for alert in before),
        better=sum(alert.direction == "better" for alert in alerts),
        evaluations=len(verdicts),
    )
    if case.onset is None or within is None:
        return counted
    return _with_event(counted, worse, case.onset, within)


def _with_event(counted: Tally, worse: Sequence[Firing], onset: int, within: int) -> Tally:
    after = [alert.start - onset for alert in worse if alert.start >= onset]
    return Tally(
        quiet=counted.quiet,
        false=counted.false,
        firing=counted.firing,
        better=counted.better,
        evaluations=counted.evaluations,
        event=True,
        busy=any(alert.start < onset < alert.end for alert in worse),
        delay=after[0] if after and after[0] < within else None,
        after=len(after),
    )


def measured(tallies: Iterable[Tally]) -> dict[str, Any]:
    """All measures over curves, ready for JSON. found, delay and the like are None where nothing happened."""
    counted = list(tallies)
    events = [each for each in counted if each.event]
    delays = sorted(each.delay for each in events if each.delay is not None)
    return {
        "curves": len(counted),
        "quiet_evaluations": sum(each.quiet for each in counted),
        "false_per_1000": _rate([each.false for each in counted], [each.quiet for each in counted]),
        "firing_per_1000": _rate([each.firing for each in counted], [each.quiet for each in counted]),
        "better_per_1000": _rate([each.better for each in counted], [each.evaluations for each in counted]),
        "found": _share(len(delays), len(events)) if events else None,
        "busy": _share(sum(each.busy for each in events), len(events)) if events else None,
        "delay": _quantile(delays, 0.5) if delays else None,
        "delay_p90": _quantile(delays, 0.9) if delays else None,
        "alerts_per_event": _rate([each.after for each in events], [1] * len(events), per=1) if events else None,
    }


def _rate(counts: Sequence[int], exposures: Sequence[int], per: int = 1000) -> dict[str, float]:
    """A ratio of sums over curves, with the linearised error of a ratio (Cochran, Sampling Techniques, 6.3)."""
    y, x = np.array(counts, dtype=float), np.array(exposures, dtype=float)
    ratio = y.sum() / x.sum()
    if not y.any():
        return _interval(0.0, 0.0, _UNSEEN / x.sum(), per)
    error = sqrt(len(y) * np.sum((y - ratio * x) ** 2) / max(len(y) - 1, 1)) / x.sum()
    return _interval(ratio, max(0.0, ratio - _Z * error), ratio + _Z * error, per)


def _share(hits: int, trials: int) -> dict[str, float]:
    """A binomial share with Wilson's interval."""
    share, z2 = hits / trials, _Z**2 / trials
    centre = (share + z2 / 2) / (1 + z2)
    half = _Z * sqrt(share * (1 - share) / trials + z2 / (4 * trials)) / (1 + z2)
    return _interval(share, max(0.0, centre - half), min(1.0, centre + half))


def _quantile(ordered: Sequence[int], q: float) -> dict[str, float]:
    """A quantile with the order statistics that bound it (binomial, by the normal approximation)."""
    n = len(ordered)
    half = _Z * sqrt(n * q * (1 - q))
    low, high = max(0, floor(n * q - half) - 1), min(n - 1, ceil(n * q + half) - 1)
    at = ordered[min(n - 1, ceil(n * q) - 1)]
    return _interval(at, ordered[min(low, n - 1)], ordered[max(high, 0)])


def _interval(value: float, low: float, high: float, per: int = 1) -> dict[str, float]:
    return {"value": float(value * per), "low": float(low * per), "high": float(high * per)}
