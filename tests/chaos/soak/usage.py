"""What a process holds and has used, and how that grows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """After so many evaluations. Sizes in bytes; uss is what ending the process would give back."""

    evaluations: int
    rss: int
    pss: int
    uss: int
    files: int
    threads: int
    cpu_seconds: float


def usage(pid: int, evaluations: int) -> Usage:
    """Look at a process now. Raises FileNotFoundError or ProcessLookupError when it has ended."""
    proc = Path(f"/proc/{pid}")
    sizes: dict[str, int] = {}
    for line in (proc / "smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split()[:2]
        sizes[name] = int(value) * 1024
    fields = (proc / "stat").read_text().rpartition(")")[2].split()
    return Usage(
        evaluations=evaluations,
        rss=sizes["Rss:"],
        pss=sizes["Pss:"],
        uss=sizes["Private_Clean:"] + sizes["Private_Dirty:"],
        files=len(list((proc / "fd").iterdir())),
        threads=int(fields[17]),
        cpu_seconds=(int(fields[11]) + int(fields[12])) / _TICKS,
    )


def slope(samples: Sequence[Usage]) -> float:
    """Bytes of resident memory that each evaluation adds: the median over all pairs of samples.

    Not of private memory: pages of a library become private when the last process beside this one lets go of it. Theil and Sen's estimate: one garbage collection or arena more or less does not move it.
    """
    slopes = sorted(
        (later.rss - earlier.rss) / (later.evaluations - earlier.evaluations)
        for index, earlier in enumerate(samples)
        for later in samples[index + 1 :]
        if later.evaluations > earlier.evaluations
    )
    if not slopes:
        raise ValueError("a trend needs two samples")
    return slopes[len(slopes) // 2]


def after_warm_up(samples: Sequence[Usage], share: float) -> list[Usage]:
    """The samples without the first share of the evaluations: caches fill, libraries load, arenas are cut."""
    first, last = samples[0].evaluations, samples[-1].evaluations
    return [sample for sample in samples if sample.evaluations >= first + share * (last - first)]
