"""The play: MLflow, Slack and mail servers, a training job, and metricwatch itself watching it."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Self

from metricwatch.cli import console
from metricwatch.cli.demo.catchers import Inbox, MailCatcher, SlackCatcher
from metricwatch.cli.demo.configuration import KEPT, write_configuration
from metricwatch.cli.demo.curve import curve, gaps, missing_pictures
from metricwatch.cli.demo.folder import RUN_NAME, DemoFolder
from metricwatch.cli.demo.messages import CHANNELS, Message
from metricwatch.cli.demo.pictures import DataSet, write_data_set
from metricwatch.cli.demo.play import Play
from metricwatch.cli.demo.processes import Child, shown
from metricwatch.cli.demo.screen import Progress, Screen
from metricwatch.cli.demo.tracking import History, TrackedRun, TrackingServer
from metricwatch.errors import MetricwatchError

_LOOK_SECONDS = 1.0
_RUN_ID_SECONDS = 60.0
# Nothing saved, scored or sent for so long: something hangs. Torch takes a while to load on a busy machine.
_STALL_SECONDS = 180.0
# All is scored: what has not been sent by then will not be.
_LAST_WORDS_SECONDS = 20.0
_ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How it went, as far as it went. history is what MLflow holds; problems is empty when all is as it should be.

    run_page is the page of the run without the server's address.
    """

    run_id: str
    run_page: str
    history: History
    messages: tuple[Message, ...]
    problems: tuple[str, ...]
    seconds: float


class Stage:
    """Everything that runs. A context manager: leaving it stops every process, whatever happened."""

    def __init__(self, folder: DemoFolder, play: Play) -> None:
        self.folder = folder
        self.play = play
        self.inbox = Inbox()
        self._exits = ExitStack()
        self._began = time.monotonic()
        self._gave_up = False
        self._server: TrackingServer
        self._run: TrackedRun
        self._trainer: Child
        self._daemon: Child

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if any(exc):
            # The terminal may be what has gone.
            with suppress(OSError):
                console.messages().print("stopping what the demo started ...")
        # A second Ctrl-C must not leave half of it running.
        before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, *_ENDING_SIGNALS)}
        try:
            self._exits.close()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @property
    def run_page(self) -> str:
        """Where MLflow shows the run while it is up."""
        return f"{self._server.uri}{self._run.page}"

    def set_up(self, screen: Screen) -> None:
        """Prepare the data and start everything. Raises MetricwatchError saying what did not start, and its log."""
        folder, play = self.folder, self.play
        screen.phase("cutting pictures out of photographs")
        data = DataSet(
            training=folder / folder.training_inside,
            content=folder / folder.content_inside,
            style=folder / folder.style_inside,
            reference=folder / folder.reference_inside,
        )
        write_data_set(data, contents=play.contents, seed=play.seed)
        screen.phase("starting an MLflow server")
        self._server = TrackingServer(folder)
        self._exits.callback(self._server.process.stop)
        slack, mail = SlackCatcher(self.inbox), MailCatcher(self.inbox)
        self._exits.callback(slack.close)
        self._exits.callback(mail.close)
        write_configuration(
            folder,
            tracking_uri=self._server.uri,
            webhook_url=slack.url,
            smtp_port=mail.port,
            steps=play.last_step,
        )
        screen.phase("starting the training job")
        self._trainer = self._start("the training job", "training", self._trainer_command())
        run_id = self._await_run_id()
        screen.phase("starting metricwatch")
        command = ["-m", "metricwatch", "run", "-c", str(folder.config_inside)]
        self._daemon = self._start("metricwatch", "daemon", command)
        self._run = TrackedRun(self._server.uri, run_id)

    def watch(self, screen: Screen, check: Callable[[], None]) -> None:
        """Show what happens until everything that should has, or nothing has for a long time; check() at each look.

        Raises MetricwatchError when a process ends that should not.
        """
        seen: tuple[int, int, int] = (0, 0, 0)
        moved = time.monotonic()
        while time.monotonic() - moved < _STALL_SECONDS:
            check()
            for child in (self._server.process, self._trainer, self._daemon):
                child.require_alive()
            if self._daemon.status is not None:
                raise self._daemon.ended_badly()
            history, messages = self._run.history(), self.inbox.messages()
            written = self.folder.written_steps()
            points = curve(history, messages)
            screen.show(
                Progress(
                    run_page=self.run_page,
                    checkpoints=len(self.play.steps),
                    written=written,
                    scored=points,
                    messages=messages,
                    seconds=time.monotonic() - self._began,
                )
            )
            now = (len(written), len(points), len(messages))
            if now != seen:
                seen, moved = now, time.monotonic()
            elif (
                self._trainer.status is not None
                and len(points) == len(self.play.steps)
                # One quiet look more: the last messages follow each other closely. What should not have happened
                # gets no better by waiting.
                and (time.monotonic() - moved > _LAST_WORDS_SECONDS or not any(self._missing(history, messages)))
            ):
                return
            time.sleep(_LOOK_SECONDS)
        self._gave_up = True

    def finish(self) -> Ending:
        """Stop the training job and metricwatch, then read from MLflow what they left there."""
        trainer, daemon = self._trainer.stop(), self._daemon.stop()
        history, messages = self._run.history(), self.inbox.messages()
        problems = list(self._missing(history, messages))
        if self._gave_up:
            problems.insert(0, f"nothing was saved, scored or sent for {_STALL_SECONDS:.0f} s, so the demo gave up")
        for child, status in ((self._trainer, trainer), (self._daemon, daemon)):
            if status:
                problems.append(f"{child.what} ended with status {status} instead of 0 (log: {shown(child.log)})")
        return Ending(
            run_id=self._run.id,
            run_page=self._run.page,
            history=history,
            messages=tuple(messages),
            problems=tuple(problems),
            seconds=time.monotonic() - self._began,
        )

    # --- the parts -----------------------------------------------------------------------------------------

    def _start(self, what: str, log: str, command: list[str]) -> Child:
        child = Child(what, [sys.executable, *command], folder=self.folder.root, log=self.folder.log(log))
        self._exits.callback(child.stop)
        return child

    def _trainer_command(self) -> list[str]:
        folder, play = self.folder, self.play
        return [
            # The example that the package of the sampler brings: it knows nothing of metricwatch.
            *("-m", "metricwatch_wct.example_training", "--tracking-uri", self._server.uri),
            *("--experiment", "demo", "--run-name", RUN_NAME, "--run-id-file", str(folder.run_id_inside)),
            *("--pictures", str(folder.training_inside), "--checkpoints", str(folder.checkpoints_inside)),
            *("--steps", str(play.last_step), "--save-every", str(play.save_every)),
            *("--accident-at", str(play.accident_at), "--accident", "10", "--seconds-per-step", str(play.seconds)),
            *("--encoder", "st-vgg16", "--seed", str(play.seed), "--threads", "1"),
        ]

    def _await_run_id(self) -> str:
        file = self.folder / self.folder.run_id_inside
        end = time.monotonic() + _RUN_ID_SECONDS
        while not file.is_file():
            if self._trainer.status is not None:
                raise self._trainer.ended_badly()
            if time.monotonic() > end:
                raise MetricwatchError(
                    f"demo: the training job has not written its run id within {_RUN_ID_SECONDS:.0f} s; "
                    f"its log is {shown(self._trainer.log)}"
                )
            time.sleep(0.1)
        return file.read_text(encoding="utf-8").strip()

    def _missing(self, history: History, messages: list[Message]) -> Iterator[str]:
        """What has not happened, or should not have."""
        play = self.play
        yield from gaps(history, play.steps, sound=[step for step in play.steps if step < play.breaks_at])
        yield from missing_pictures(self._run.pictures(), play.steps, KEPT)
        for channel in CHANNELS:
            here = [message for message in messages if message.channel == channel]
            critical = [message for message in here if message.fired_critical]
            for message in critical:
                if message.step is None or message.step < play.breaks_at:
                    yield (
                        f"a critical alert came by {channel} for step {message.step}, "
                        f"before the accident that shows at step {play.breaks_at}"
                    )
            if not critical:
                yield f"no critical alert came by {channel}, though training broke at step {play.accident_at}"


@contextmanager
def ends_on_signals() -> Iterator[Callable[[], None]]:
    """Let SIGTERM and SIGHUP end the demo as Ctrl-C does, so that nothing it started stays behind.

    Yields a check that ends it if it was told to and goes on all the same: a library that swallows every exception
    while it is imported swallows this one, too.
    """
    told: list[int] = []

    def leave(number: int, _frame: object) -> None:
        told.append(number)
        check()

    def check() -> None:
        if told:
            raise SystemExit(128 + told[0])

    before = {number: signal.signal(number, leave) for number in _ENDING_SIGNALS}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
