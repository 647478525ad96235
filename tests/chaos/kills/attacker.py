"""Starts daemons and kills them, as a plan says."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tests.chaos.kills.ledger import Progress
from tests.chaos.kills.scene import Scene
from tests.chaos.kills.script import AFTER_A_CRASH, Attack, Kind
from tests.chaos.kills.victim import Victim

_REACH_SECONDS = 60.0
_IDLE_SECONDS = 0.7
_GRANTS = 2
_WORKER_SECONDS = 30.0
_LEASE_SECONDS = 3.0
_RECOVERY_SECONDS = 120.0
_RECOVERIES = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Killed:
    """One process that was ended by SIGKILL, when, and at which point where it did it itself."""

    kind: str
    target: str
    at: float
    point: str = ""


class Attacker:
    """Carries out one attack after the other, each on a fresh daemon, and keeps the books.

    A worker is left in peace while a job is open that has taken one down already: the second time it would rightly
    be quarantined.
    """

    def __init__(self, scene: Scene, *, writes_a_kill: int) -> None:
        self._scene = scene
        self._writes_a_kill = writes_a_kill
        self._chance = random.Random(0)
        self.killed: list[Killed] = []
        self.not_reached: list[str] = []
        self.wrong: list[str] = []

    def carry_out(self, plan: Sequence[Attack], most: int) -> None:
        """Attack until `most` kills are done; some attacks are more than one."""
        for planned in plan:
            if len(self.killed) >= most:
                return
            self._scene.writer.allow(self._writes_a_kill * (len(self.killed) + 1))
            spared = planned.in_the_worker and self._progress().crashes
            attack = replace(planned, kind=Kind.DAEMON, point="") if spared else planned
            victim = Victim(self._scene.job, f"kill {attack.point} {attack.nth}" if attack.point else "")
            try:
                self._carry_out(victim, attack)
                status = victim.process.poll()
                if status not in {None, -signal.SIGKILL}:
                    self.wrong.append(f"a daemon ended by itself with status {status}:\n{victim.log[-1500:]}")
            finally:
                victim.kill()
            victim.wait_for_orphans()

    def _carry_out(self, victim: Victim, attack: Attack) -> None:
        match attack.kind:
            case Kind.POINT:
                if attack.point in AFTER_A_CRASH:
                    self._kill_worker(victim, attack)
                self._await_point(victim, attack)
            case Kind.DAEMON:
                self._kill_daemon(victim, attack.kind, attack.delay)
            case Kind.WORKER | Kind.WORKER_AT_WORK:
                if self._kill_worker(victim, attack) and self._chance.random() < _RECOVERIES:
                    self._await_recovery(victim)
                self._kill_daemon(victim, "daemon, after its worker", attack.then)
            case Kind.BOTH:
                victim.wait(attack.delay)
                if self._progress().crashes == 0 and victim.signal_worker(signal.SIGKILL):
                    self._note(attack.kind, "worker")
                self._kill_daemon(victim, attack.kind, 0.0)
            case Kind.AGAIN:
                self._kill_daemon(victim, attack.kind, attack.delay)
                again = Victim(self._scene.job)
                self._kill_daemon(again, attack.kind, attack.then)
                again.wait_for_orphans()

    def _await_point(self, victim: Victim, attack: Attack) -> None:
        """Wait until the process has killed itself; where it does not come to the point, kill the daemon anyway."""
        idle_since = time.monotonic()
        grants = _GRANTS

        def worker_died() -> bool:
            return attack.in_the_worker and "worker.died" in victim.log

        def nothing_left() -> bool:
            nonlocal idle_since, grants
            if not self._idle(victim):
                idle_since = time.monotonic()
            elif grants and time.monotonic() - idle_since > _IDLE_SECONDS:
                # More work may lead there.
                grants -= 1
                idle_since = time.monotonic()
                self._scene.writer.allow_more(1)
            return time.monotonic() - idle_since > _IDLE_SECONDS

        victim.watch(lambda: worker_died() or nothing_left(), seconds=_REACH_SECONDS)
        if not victim.alive:
            self._note(attack.kind, "daemon", attack.point)
        elif worker_died():
            self._note(attack.kind, "worker", attack.point)
            self._kill_daemon(victim, "daemon, after its worker", attack.then)
        else:
            self.not_reached.append(attack.point)
            self._kill_daemon(victim, "daemon, its point not reached", 0.0)

    def _kill_daemon(self, victim: Victim, kind: str, delay: float) -> None:
        victim.wait(delay)
        if victim.alive:
            victim.kill()
            self._note(kind, "daemon")

    def _kill_worker(self, victim: Victim, attack: Attack) -> bool:
        """Kill the worker, unless there is none or one more crash would be one too many."""
        victim.watch(lambda: victim.worker() is not None, seconds=_WORKER_SECONDS)
        if attack.kind is Kind.WORKER:
            victim.wait(attack.delay)
        else:
            # A job takes milliseconds: stop the worker first, then wait until it is given one.
            victim.watch(lambda: "worker.ready" in victim.log, seconds=_WORKER_SECONDS)
            victim.signal_worker(signal.SIGSTOP)
            self._scene.writer.allow_more(1)
            victim.watch(lambda: self._progress().leased > 0, seconds=_LEASE_SECONDS)
        if self._progress().crashes or not victim.signal_worker(signal.SIGKILL):
            victim.signal_worker(signal.SIGCONT)
            return False
        self._note(attack.kind, "worker")
        return True

    def _await_recovery(self, victim: Victim) -> None:
        """The daemon must go on by itself: another worker comes, and what was written gets scored."""
        if not victim.watch(lambda: self._progress().open_jobs == 0, seconds=_RECOVERY_SECONDS) and victim.alive:
            self.wrong.append(f"work was not taken up again after a worker's kill: {self._progress()}")

    def _idle(self, victim: Victim) -> bool:
        progress = self._progress()
        return progress.idle and progress.snapshots == self._scene.writer.written and "daemon.started" in victim.log

    def _progress(self) -> Progress:
        return self._scene.ledger.progress()

    def _note(self, kind: str, target: str, point: str = "") -> None:
        self.killed.append(Killed(kind=str(kind), target=target, at=time.monotonic(), point=point))
