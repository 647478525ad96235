"""python -m tests.chaos.soak: run a soak against an MLflow server of its own and report what grows."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from tests.chaos.soak.run import Phase, Soak, soak
from tests.chaos.soak.usage import Usage, after_warm_up, slope
from tests.support.mlflow_server import mlflow_server

# A leak of 2 kB an evaluation is 2 MB in a thousand; what flat processes show is well below half of it.
BOUND_BYTES = 1500
WARM_UP = 0.3
# What fills once and stays: SQLite's page cache of 2 MB, the allocator's arenas.
CACHES_BYTES = 3_000_000


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description=__doc__)
    parser.add_argument("--evaluations", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary directory")
    parser.add_argument("--bound", type=float, default=BOUND_BYTES, help="bytes of memory an evaluation may add")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-", dir=options.folder) as name:
        folder = Path(name)
        start = time.monotonic()
        with mlflow_server(folder) as server:
            found = soak(folder / "job", server.uri, options.evaluations, seed=options.seed, say=_say)
    print(report(found))
    print(f"took {time.monotonic() - start:.0f} s")
    grown = leaks(found, options.bound)
    print("\n".join(grown) or f"flat: below {options.bound:g} bytes an evaluation")
    return 1 if grown or found.repeated or found.evaluations != options.evaluations else 0


def leaks(found: Soak, bound: float, warm_up: float = WARM_UP) -> list[str]:
    """What grew by more than bound bytes an evaluation, or took more files or threads, after the warm-up."""
    grown = []
    for phase, following in pairwise(found.phases):
        # The daemon knows the steps on disk, some 1.5 kB each with their watches. A fresh one on the same ledger does.
        kept = (phase.daemon[-1].rss - following.daemon[0].rss - CACHES_BYTES) / phase.evaluations
        trend = slope(after_warm_up(phase.worker, warm_up))
        for name, samples, added in (("daemon", phase.daemon, kept), ("worker", phase.worker, trend)):
            where = f"{name}, {'+'.join(phase.metrics)}"
            if added > bound:
                grown.append(f"{where}: {added:.0f} bytes an evaluation are not given back")
            for what in ("files", "threads"):
                counts = [getattr(sample, what) for sample in after_warm_up(samples, warm_up)]
                third = max(1, len(counts) // 3)
                if min(counts[-third:]) > max(counts[:third]):
                    grown.append(f"{where}: {what} grow from {counts[0]} to {counts[-1]}")
    return grown


def report(found: Soak) -> str:
    total = f"{found.evaluations} evaluations, {found.rows} rows in MLflow, {found.repeated} of them repeated"
    lines = [f"{total}, {found.ledger_bytes:.0f} bytes of ledger an evaluation"]
    for phase, following in pairwise(found.phases):
        rate = phase.evaluations / phase.seconds
        first, last = 1000 * phase.cpu(0.0, 0.2), 1000 * phase.cpu(0.8, 1.0)
        lines.append(f"{'+'.join(phase.metrics)}: {rate:.1f} evaluations/s, daemon CPU an evaluation:")
        lines.append(f"  {first:.1f} ms in the first fifth, {last:.1f} ms in the last")
        lines += [*_lines("daemon", phase), *_lines("worker", phase)]
        lines.append(f"  a fresh daemon on the same ledger: {following.daemon[0].rss / 1e6:.2f} MB of rss")
    return "\n".join(lines)


def _lines(name: str, phase: Phase) -> list[str]:
    samples: list[Usage] = getattr(phase, name)
    lines = [f"  {name:7}   at   rss MB   pss MB   uss MB  files  threads"]
    for share in (0.1, 0.5, 1.0):
        seen = samples[round(share * (len(samples) - 1))]
        sizes = "".join(f"{value / 1e6:9.2f}" for value in (seen.rss, seen.pss, seen.uss))
        lines.append(f"          {share:4.0%}{sizes}{seen.files:7}{seen.threads:9}")
    trend = slope(after_warm_up(samples, WARM_UP))
    lines.append(f"          {trend / 1000:+.3f} MB of rss in 1,000 evaluations after the first {WARM_UP:.0%}")
    return lines


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
