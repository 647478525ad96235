"""One run from its first sample set to its last: the job, its writer, its receivers, and what is left in the end."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.kills import history, messages
from tests.chaos.kills.ledger import LedgerReader
from tests.chaos.kills.receivers import Receivers, receivers
from tests.chaos.kills.script import Write
from tests.chaos.kills.victim import Victim
from tests.chaos.kills.writer import Writer
from tests.support.job import Job

_FINISH_SECONDS = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A run in an experiment of its own."""

    job: Job
    ledger: LedgerReader
    writer: Writer
    receivers: Receivers

    def finish(self, fault: str = "") -> list[str]:
        """Let a daemon do everything that is left, and stop it; returns what went wrong."""
        victim = Victim(self.job, fault)
        try:
            self.writer.allow_all()
            if not victim.watch(self._finished, seconds=_FINISH_SECONDS):
                how = "is alive" if victim.alive else f"ended with status {victim.process.returncode}"
                return [f"not finished: {self.writer.written} sets written, {self.ledger.progress()}; the daemon {how}"]
            victim.process.send_signal(signal.SIGTERM)
            status = victim.process.wait(timeout=30)
            return [f"stopped with status {status}"] if status else []
        finally:
            victim.kill()

    def _finished(self) -> bool:
        progress = self.ledger.progress()
        return self.writer.done and progress.snapshots == self.writer.written and progress.idle

    def history(self) -> history.History:
        """Everything that ledger and MLflow hold, without times."""
        tracking = self.job.config["tracking"]
        return history.collect(self.ledger, tracking["uri"], tracking["experiment"])

    def unlike_the_outbox(self) -> list[str]:
        tracking = self.job.config["tracking"]
        return history.unlike_the_outbox(self.ledger, tracking["uri"], tracking["experiment"])

    def told(self, kills: Sequence[float]) -> dict[str, messages.Told]:
        """What each receiver got, when the daemon was killed at these times."""
        return {
            name: messages.judge(name, messages.expected(self.ledger, name), arrivals, kills)
            for name, arrivals in self.receivers.arrivals.items()
        }


@contextmanager
def scene(
    folder: Path, *, uri: str, experiment: str, metrics: list[str], script: Sequence[Write], pause: float
) -> Iterator[Scene]:
    """Set a job up in a new folder, with its writer at work: up to `pause` seconds go by between two sample sets."""
    with receivers() as found:
        job = Job(
            folder,
            uri,
            experiment,
            metrics=metrics,
            rules=[{"name": metric, "metric": metric, "moves": "10%", "across": 3} for metric in metrics],
            notify=found.settings,
            # A message is about one alert, so that it can be told which; and nobody waits.
            route={"group_by": ["..."], "group_wait": 0, "group_interval": 0},
            # One thread: two campaigns share two cores, and sums come out the same every time.
            worker={"threads": 1},
        )
        job.config["watch"][0]["settle"] = "200ms"
        job.write_config()
        ledger = LedgerReader(folder / "state" / "ledger.sqlite3")
        writer = Writer(job, script, ledger.progress, pause=pause)
        writer.start()
        try:
            yield Scene(job=job, ledger=ledger, writer=writer, receivers=found)
        finally:
            writer.stop()
