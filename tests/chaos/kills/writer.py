"""The training job of a campaign."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence

from tests.chaos.kills.ledger import Progress
from tests.chaos.kills.script import Write
from tests.support.job import Job
from tests.support.photos import write_crops

IMAGES = 4
_AHEAD = 5
_PATIENCE_SECONDS = 0.03


class Writer:
    """Writes a script's sample sets at a random pace from a thread, each moved in whole.

    It is never more than a few sets ahead of the scores, nor further in its script than it was allowed to be.
    """

    def __init__(self, job: Job, script: Sequence[Write], progress: Callable[[], Progress], *, pause: float) -> None:
        self._job = job
        self._script = script
        self._progress = progress
        self._pause = pause
        self._pace = random.Random(len(script))
        self._allowed = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self.written = 0
        self.failure: BaseException | None = None

    def start(self) -> None:
        self._thread.start()

    def allow(self, count: int) -> None:
        """Let it come so far in its script; what was allowed before stays allowed."""
        self._allowed = max(self._allowed, count)

    def allow_more(self, count: int) -> None:
        self.allow(self._allowed + count)

    def allow_all(self) -> None:
        self.allow(len(self._script))

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def done(self) -> bool:
        if self.failure is not None:
            raise AssertionError("the writer failed") from self.failure
        return self.written == len(self._script)

    def _run(self) -> None:
        try:
            for number, item in enumerate(self._script):
                if not self._may_write(number, item):
                    return
                self._write(item)
                self.written = number + 1
                if item.rewrite and not self._until(lambda: self._scored() == self.written):
                    return
                self._stop.wait(self._pace.uniform(0, self._pause))
        except BaseException as error:  # noqa: BLE001 - raised again by whoever asks whether it is done
            self.failure = error

    def _may_write(self, number: int, item: Write) -> bool:
        ahead = 0 if item.rewrite else _AHEAD
        return self._until(lambda: number < self._allowed and number - self._scored() <= ahead)

    def _scored(self) -> int:
        progress = self._progress()
        return progress.snapshots - progress.open_jobs

    def _until(self, ready: Callable[[], bool]) -> bool:
        while not ready():
            if self._stop.wait(_PATIENCE_SECONDS):
                return False
        return True

    def _write(self, item: Write) -> None:
        name = f"step_{item.step:06d}"
        folder = write_crops(self._job.folder / "writing" / name, IMAGES, side=96, seed=2, blur=item.blur)
        (folder / ".done").touch()
        target = self._job.samples / name
        if item.rewrite:
            target.rename(self._job.folder / "writing" / f"{name}.{self.written}")
        folder.rename(target)
