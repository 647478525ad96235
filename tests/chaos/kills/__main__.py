"""python -m tests.chaos.kills --kills 1000 --seed 0 --parallel 2"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from tests.chaos.kills.series import run_series


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.kills", description="Kill anything, any time.")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parallel", type=int, default=2, help="campaigns at the same time: one a core")
    parser.add_argument("--each", type=int, default=25, help="kills a campaign")
    parser.add_argument("--campaign", type=int, help="do only this one, as a failed series has named it")
    parser.add_argument("--folder", type=Path, help="where to work; default: a new one for temporary files")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="metricwatch-kills-"))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"in {folder}", flush=True)
    whole = range(-(-arguments.kills // arguments.each))
    report = run_series(
        whole if arguments.campaign is None else [arguments.campaign],
        seed=arguments.seed,
        folder=folder,
        parallel=arguments.parallel,
        each=arguments.each,
        say=lambda line: print(line, flush=True),
    )
    print(json.dumps(report.document(), indent=2))
    raise SystemExit(1 if report.wrong else 0)


main()
