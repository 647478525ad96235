"""Campaigns side by side over one MLflow server, and what is reported of them all."""

from __future__ import annotations

import json
import shutil
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.kills.campaign import Outcome, run
from tests.chaos.kills.script import AFTER_A_CRASH
from tests.support.mlflow_server import mlflow_server


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a whole series of campaigns came to."""

    seed: int
    outcomes: list[Outcome]
    seconds: float

    @property
    def kills(self) -> int:
        return sum(len(outcome.killed) for outcome in self.outcomes)

    @property
    def wrong(self) -> list[str]:
        return [f"campaign {outcome.number}: {line}" for outcome in self.outcomes for line in outcome.wrong]

    @property
    def never_killed_at(self) -> set[str]:
        """The points that undisturbed runs passed and at which nothing was ever killed."""
        passed = {point for outcome in self.outcomes for point in outcome.passed} | set(AFTER_A_CRASH)
        return passed - {kill.point for outcome in self.outcomes for kill in outcome.killed}

    def document(self) -> dict[str, Any]:
        killed = [kill for outcome in self.outcomes for kill in outcome.killed]
        return {
            "seed": self.seed,
            "campaigns": len(self.outcomes),
            "kills": self.kills,
            "seconds": round(self.seconds),
            "seconds_per_kill": round(self.seconds / max(1, self.kills), 2),
            "kills_by_kind": dict(Counter(f"{kill.kind} ({kill.target})" for kill in killed).most_common()),
            "kills_by_point": dict(sorted(Counter(kill.point for kill in killed if kill.point).items())),
            "never_killed_at": sorted(self.never_killed_at),
            "not_reached": dict(Counter(point for outcome in self.outcomes for point in outcome.not_reached)),
            "mlflow_rows": sum(outcome.rows for outcome in self.outcomes),
            "alerts": sum(outcome.alerts for outcome in self.outcomes),
            "messages": sum(outcome.messages for outcome in self.outcomes),
            "messages_repeated": dict(sum((Counter(outcome.repeated) for outcome in self.outcomes), Counter())),
            "jobs_that_took_a_worker_down": sum(outcome.crashed for outcome in self.outcomes),
            "quarantined": sum(outcome.quarantined for outcome in self.outcomes),
            "wrong": self.wrong,
        }


def run_series(
    campaigns: Iterable[int], *, each: int, seed: int, folder: Path, parallel: int, say: Callable[[str], None] = print
) -> Report:
    """Run campaigns, by their numbers, of `each` kills. The folders of those that failed are kept."""
    begun = time.monotonic()
    with mlflow_server(folder) as server, ThreadPoolExecutor(parallel) as pool:

        def one(number: int) -> Outcome:
            place = folder / f"campaign-{number}"
            try:
                outcome = run(number, seed=seed, kills=each, folder=place, uri=server.uri)
            except Exception:  # noqa: BLE001 - the others go on, and the report tells it
                outcome = Outcome(number=number, wrong=[traceback.format_exc()])
            if not outcome.wrong:
                shutil.rmtree(place)
            result = "; ".join(outcome.wrong)[:2000] if outcome.wrong else "equal"
            per_kill = outcome.killing_seconds / max(1, len(outcome.killed))
            say(f"campaign {number} of seed {seed}: {len(outcome.killed)} kills, {per_kill:.1f} s each: {result}")
            return outcome

        outcomes = list(pool.map(one, campaigns))
    report = Report(seed=seed, outcomes=outcomes, seconds=time.monotonic() - begun)
    (folder / "report.json").write_text(json.dumps(report.document(), indent=2))
    return report
