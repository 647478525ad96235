"""What a person sees while the demo runs: a live view at a terminal, one line an event elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from metricwatch.cli import console
from metricwatch.cli.demo.configuration import COMPOSITE, METRIC
from metricwatch.cli.demo.curve import CurvePoint
from metricwatch.cli.demo.messages import Message

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

_BLOCKS = "▁▂▃▄▅▆▇█"
_MESSAGES_SHOWN = 8
_STYLES = {"critical": "bold red", "info": "cyan", "resolved": "green"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far training and scoring have come. run_page is where MLflow shows the run."""

    run_page: str
    checkpoints: int
    written: Sequence[int]
    scored: Sequence[CurvePoint]
    messages: Sequence[Message]
    seconds: float


class Screen(Protocol):
    """phase() says what is being prepared; show() may be called as often as one likes."""

    def phase(self, text: str) -> None: ...

    def show(self, progress: Progress) -> None: ...


@contextmanager
def screen() -> Iterator[Screen]:
    """A screen on stderr, so that stdout holds the outcome alone."""
    output = console.messages()
    if not output.is_terminal:
        yield _Lines(output)
        return
    from rich.live import Live
    from rich.text import Text

    with Live(Text(""), console=output, transient=True, refresh_per_second=8) as live:
        yield _View(live)


def score_text(point: CurvePoint) -> str:
    """One step's scores on one line."""
    error = "" if point.distance_stderr is None else f" ± {point.distance_stderr:.1f}"
    distance = "collapsed" if point.distance is None else f"{point.distance:.1f}{error}"
    return f"{COMPOSITE} {point.composite:.3f}, {METRIC} {distance}"


class _Lines:
    def __init__(self, output: Console) -> None:
        self._output = output
        self._written: set[int] = set()
        self._scored: set[int] = set()
        self._messages = 0

    def phase(self, text: str) -> None:
        self._output.print(f"{text} ...")

    def show(self, progress: Progress) -> None:
        for step in progress.written:
            if step not in self._written:
                self._written.add(step)
                self._output.print(f"training: saved the checkpoint of step {step}")
        for point in progress.scored:
            if point.step not in self._scored:
                self._scored.add(point.step)
                self._output.print(f"metricwatch: step {point.step}: {score_text(point)}")
        for message in progress.messages[self._messages :]:
            self._output.print(f"{message.channel}: {message.title}")
        self._messages = len(progress.messages)


class _View:
    def __init__(self, live: Live) -> None:
        self._live = live

    def phase(self, text: str) -> None:
        from rich.spinner import Spinner

        self._live.update(Spinner("dots", text=text))

    def show(self, progress: Progress) -> None:
        self._live.update(_view(progress))


def _view(progress: Progress) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_row("MLflow", Text(progress.run_page, overflow="fold"))
    for name, steps in (("training", progress.written), ("metricwatch", [point.step for point in progress.scored])):
        what = "saved" if name == "training" else "scored"
        line = Table.grid(padding=(0, 2))
        at = f", at step {steps[-1]}" if steps else ""
        line.add_row(
            ProgressBar(total=progress.checkpoints, completed=len(steps), width=32),
            f"{len(steps)} of {progress.checkpoints} checkpoints {what}{at}",
        )
        grid.add_row(name, line)
    if progress.scored:
        grid.add_row("scores", Text(f"{sparkline([point.composite for point in progress.scored])}", style="bold"))
        grid.add_row("", score_text(progress.scored[-1]))
    for number, message in enumerate(progress.messages[-_MESSAGES_SHOWN:]):
        text = f"{message.received_at:%H:%M:%S}  {message.channel:6}  {message.title}"
        grid.add_row("" if number else "alerts", Text(text, style=_STYLES.get(message.kind, "")))
    grid.add_row("", Text(f"{progress.seconds:.0f} s; Ctrl-C stops everything", style="dim"))
    return grid


def sparkline(values: Sequence[float]) -> str:
    """The values as a row of blocks, the lowest and the highest value spanning their height."""
    low, high = min(values), max(values)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((value - low) * scale)] for value in values)
