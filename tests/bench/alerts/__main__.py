"""Alert rules on synthetic curves of which the truth is known: python -m tests.bench.alerts [--json] [--out FILE]

The same seed gives the same curves and numbers, whatever --jobs. Progress goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tests.bench.alerts import report
from tests.bench.alerts.campaign import campaign


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seed", type=int, default=0, help="the first curve's; each curve has one of its own")
    options.add_argument("--curves", type=int, default=200, help="of each scenario")
    options.add_argument("--length", type=int, default=120, help="evaluations a curve")
    options.add_argument("--windows", type=int, default=1_000_000, help="of noise, for beyond_noise")
    options.add_argument("--jobs", type=int, default=1, help="processes")
    options.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    options.add_argument("--out", type=Path, help="also write the JSON document to this file")
    options.add_argument("--details", action="store_true", help="also a table for each scenario, with 95%% intervals")
    chosen = options.parse_args()

    def progress(done: int, of: int) -> None:
        tenths = 10 * done // of
        if tenths > 10 * (done - 1) // of:
            print(f"{10 * tenths}% of the curves", file=sys.stderr, flush=True)

    document = campaign(
        seed=chosen.seed,
        curves=chosen.curves,
        length=chosen.length,
        windows=chosen.windows,
        jobs=chosen.jobs,
        progress=progress,
    )
    if chosen.out is not None:
        chosen.out.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if chosen.json:
        print(json.dumps(document, ensure_ascii=False))
        return
    print(f"{chosen.curves} curves of {chosen.length} evaluations a scenario, seed {chosen.seed}\n")
    print("False alerts per 1,000 evaluations at which none is right; events found, median delay in evaluations:\n")
    print(report.compact(document))
    print("False alerts per 1,000 evaluations where nothing happens, by noise:\n")
    print(report.by_noise(document))
    print("Standard errors that noise alone exceeds within a window:\n")
    print(report.windows(document))
    if chosen.details:
        print(report.details(document))


if __name__ == "__main__":
    main()
