"""Every rule on every curve: the work, in pieces that several processes may share."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from tests.bench.alerts.contenders import CONTENDERS
from tests.bench.alerts.curves import SCENARIOS, draw
from tests.bench.alerts.measures import Tally, measured, tally
from tests.bench.alerts.windows import chances

_CURVES_A_PIECE = 10
# The place of a scenario, the first seed, and the one after the last.
_Piece = tuple[int, int, int, int]
_Tallies = dict[tuple[str, str], list[Tally]]


def campaign(
    *,
    seed: int,
    curves: int,
    length: int,
    windows: int,
    jobs: int = 1,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> dict[str, Any]:
    """All results as one document, ready for JSON. Only elapsed_seconds depends on the machine."""
    began = time.monotonic()
    pieces = [
        (place, first, min(first + _CURVES_A_PIECE, seed + curves), length)
        for place in range(len(SCENARIOS))
        for first in range(seed, seed + curves, _CURVES_A_PIECE)
    ]
    tallies: _Tallies = defaultdict(list)
    for done, found in enumerate(_results(pieces, jobs), start=1):
        for key, part in found.items():
            tallies[key].extend(part)
        progress(done, len(pieces))
    return {
        "seed": seed,
        "curves": curves,
        "length": length,
        "rules": [each.name for each in CONTENDERS],
        "scenarios": {each.name: {"story": each.story, "within": each.within} for each in SCENARIOS},
        "results": [{"scenario": name, "rule": rule, **measured(part)} for (name, rule), part in tallies.items()],
        "windows": chances(windows, seed),
        "elapsed_seconds": round(time.monotonic() - began, 1),
    }


def _results(pieces: Sequence[_Piece], jobs: int) -> Iterable[_Tallies]:
    if jobs == 1:
        yield from map(_work, pieces)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(_work, pieces)


def _work(piece: _Piece) -> _Tallies:
    place, first, end, length = piece
    scenario = SCENARIOS[place]
    found: _Tallies = {(scenario.name, contender.name): [] for contender in CONTENDERS}
    for seed in range(first, end):
        case = draw(scenario, seed, length)
        for contender in CONTENDERS:
            counted = tally(case, contender.judge(case.series), scenario.within)
            found[scenario.name, contender.name].append(counted)
    return found
