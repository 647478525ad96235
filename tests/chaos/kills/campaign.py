"""One campaign: a run that is let be, the same run under kills, and a comparison of all that they left."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.kills import history
from tests.chaos.kills.attacker import Attacker, Killed
from tests.chaos.kills.scene import Scene, scene
from tests.chaos.kills.script import Write, attacks, writes

_WRITES_A_KILL = 2
# Every fourth campaign has a network in it, whose features and reference are cached.
_WITH_NETWORK = 4


@dataclass(slots=True, kw_only=True)
class Outcome:
    """How a campaign went.

    passed: the points that the undisturbed run passed, each time it did. crashed: jobs that have taken a worker down.
    wrong: [] where all is well.
    """

    number: int
    passed: list[str] = field(default_factory=list)
    killed: list[Killed] = field(default_factory=list)
    not_reached: list[str] = field(default_factory=list)
    repeated: dict[str, int] = field(default_factory=dict)
    messages: int = 0
    alerts: int = 0
    rows: int = 0
    crashed: int = 0
    quarantined: int = 0
    killing_seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)


def run(number: int, *, seed: int, kills: int, folder: Path, uri: str) -> Outcome:
    """Do campaign `number` of a seed in a folder that does not exist yet, over the MLflow server at uri."""
    outcome = Outcome(number=number)
    turn, place = divmod(number, _WITH_NETWORK)
    network = place == _WITH_NETWORK - 1
    metrics = ["ssim", "fd_efficientnet_lite0"] if network else ["ssim"]
    rng = random.Random(f"{seed}/{number}")
    script = writes(rng, _WRITES_A_KILL * kills + 4)
    wanted = _undisturbed(outcome, folder, uri, metrics, script)
    if not outcome.wrong:
        plan = attacks(rng, kills, outcome.passed, seed=seed, turn=turn if network else number - turn)
        name = f"killed-{seed}-{number}"
        with scene(folder / "killed", uri=uri, experiment=name, metrics=metrics, script=script, pause=0.25) as killed:
            attacker = Attacker(killed, writes_a_kill=_WRITES_A_KILL)
            begun = time.monotonic()
            attacker.carry_out(plan, kills)
            outcome.killing_seconds = time.monotonic() - begun
            outcome.killed, outcome.not_reached = attacker.killed, attacker.not_reached
            outcome.wrong += attacker.wrong + killed.finish()
            _compare(outcome, killed, wanted)
    return outcome


def _undisturbed(
    outcome: Outcome, folder: Path, uri: str, metrics: list[str], script: Sequence[Write]
) -> history.History:
    """The history of a run that nobody disturbs. It must hold together by itself."""
    name = f"undisturbed-{folder.name}"
    with scene(folder / "undisturbed", uri=uri, experiment=name, metrics=metrics, script=script, pause=0.0) as quiet:
        trace = folder / "points"
        wrong = quiet.finish(f"trace {trace}")
        outcome.passed = trace.read_text().split()
        wrong += quiet.unlike_the_outbox()
        wrong += [line for told in quiet.told([]).values() for line in told.wrong]
        outcome.wrong += [f"undisturbed: {line}" for line in wrong]
        return quiet.history()


def _compare(outcome: Outcome, killed: Scene, wanted: history.History) -> None:
    found = killed.history()
    outcome.wrong += history.differences(wanted, found) + killed.unlike_the_outbox()
    for name, told in killed.told([kill.at for kill in outcome.killed if kill.target == "daemon"]).items():
        outcome.wrong += told.wrong
        outcome.repeated[name] = told.repeated
        outcome.messages += told.events
    log = (killed.job.folder / "daemon.log").read_text()
    if (start := log.find("Traceback")) >= 0:
        outcome.wrong.append(f"a traceback in the log: {log[start : start + 1500]}")
    outcome.alerts, outcome.rows = len(found["alerts"]), len(found["MLflow rows"])
    outcome.crashed = killed.ledger.rows("SELECT count(*) FROM jobs WHERE crashes")[0][0]
    outcome.quarantined = killed.ledger.rows("SELECT count(*) FROM jobs WHERE state = 'quarantined'")[0][0]
