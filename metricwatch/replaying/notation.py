"""Series on one line, in the notation of Prometheus's rule tests."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from metricwatch import catalog
from metricwatch.config.secrets import quoted
from metricwatch.records import ScoreState

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_ITEM = re.compile(
    rf"(?:(?P<start>{_NUMBER}|[+-]?inf|nan)(?:(?P<step>[+-](?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?=x))?"
    r"|(?P<missing>_)|(?P<state>[a-z][a-z_]*?))(?:x(?P<times>\d+))?",
    re.ASCII,
)
_STATES = tuple(state.value for state in ScoreState if state is not ScoreState.OK)
# Far more evaluations than a run has, and few enough for any machine's memory.
MOST = 100_000


@dataclass(frozen=True, slots=True)
class Item:
    """One evaluation: a finite value, or a state that says why there is none."""

    value: float | None
    state: ScoreState = ScoreState.OK


def parse_series(text: str) -> list[Item | None]:
    """The evaluations that a text stands for, None where there is none. White space stands between items.

    30          a value (nan and inf: an evaluation that is non_finite)
    30x4        a value and 4 further ones like it
    30+0.5x4    30 and 4 further ones, each 0.5 above the one before: 30 30.5 31 31.5 32; 30-0.5x4 falls
    _  _x4      no evaluation, 4 times none
    collapsed   an evaluation without value, in that state; collapsedx4: and 4 further ones

    Raises ValueError for what is none of these, and for more than 100,000 evaluations.
    """
    series: list[Item | None] = []
    for word in text.split():
        found = _ITEM.fullmatch(word)
        if found is None:
            raise ValueError(f"{quoted(word)} is neither a value, nor a+bxN, nor _ , nor a score's state; {_HINT}")
        # The first digits of a number that Python would refuse to read are far too many as well.
        times = int((found["times"] or "0")[:9])
        if len(series) + times >= MOST:
            raise ValueError(f"{quoted(word)} makes more than {MOST:,} evaluations")
        series += _items(found, times)
    if not series:
        raise ValueError(f"holds no evaluation; {_HINT}")
    return series


_HINT = "write for example 30 30.2x3 36+0.5x5 _x2 nan collapsed"


def _items(found: re.Match[str], times: int) -> list[Item | None]:
    if found["missing"]:
        return [None] * (times if found["times"] else 1)
    if found["state"]:
        if found["state"] not in _STATES:
            raise ValueError(f"unknown state {quoted(found['state'])}; {catalog.did_you_mean(found['state'], _STATES)}")
        return [Item(None, ScoreState(found["state"]))] * (times + 1)
    start, step = float(found["start"]), float(found["step"] or 0)
    values = (start + step * place for place in range(times + 1))
    return [Item(value) if math.isfinite(value) else Item(None, ScoreState.NON_FINITE) for value in values]
