"""What benchmarks share: where they ran, how repeated runs are summed up, and how results are written."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where a benchmark ran. cores are those that this process may use; memory is the machine's, in bytes.

    accelerator is the name of the first CUDA device, "" where there is none or nobody asked. packages maps the names of
    distributions to their versions, "" for one that is not installed.
    """

    processor: str
    cores: int
    memory: int
    system: str
    python: str
    accelerator: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def here(cls, packages: Sequence[str] = (), *, accelerator: bool = False) -> Self:
        """This machine. With accelerator, torch is imported to ask for the name of a GPU."""
        return cls(
            processor=_processor(),
            cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            system=f"{platform.system()} {platform.machine()}",
            python=platform.python_version(),
            accelerator=_accelerator() if accelerator else "",
            packages={name: _version(name) for name in packages},
        )

    def line(self) -> str:
        """One line for people."""
        parts = (self.processor, f"{self.cores} cores", f"{self.memory / 2**30:.0f} GiB", self.accelerator)
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """What repeated runs came to. The unit is the caller's."""

    median: float
    least: float
    most: float
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Of at least one value."""
        return cls(median=statistics.median(values), least=min(values), most=max(values), runs=len(values))

    def per(self, amount: float) -> Spread:
        """Seconds for so many pieces as pieces a second."""
        return Spread(median=amount / self.median, least=amount / self.most, most=amount / self.least, runs=self.runs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """The values of each side, round by round: values[side][round]."""

    values: Mapping[str, Sequence[float]]

    def spread(self, side: str) -> Spread:
        return Spread.of(self.values[side])

    def spreads(self) -> dict[str, Spread]:
        return {side: Spread.of(values) for side, values in self.values.items()}

    def ratio(self, above: str, below: str) -> Spread:
        """How many times the one is the other, round by round: what slows a whole round down falls out."""
        pairs = zip(self.values[above], self.values[below], strict=True)
        return Spread.of([over / under for over, under in pairs])


def repeated(
    sides: Mapping[str, Callable[[], float]],
    rounds: int,
    *,
    progress: Callable[[str], None] = lambda _line: None,
) -> Rounds:
    """Run each side once a round, rounds times: A B A B. Every other round begins at the other end: A B, B A.

    A side gives what it measured. progress hears of each run.
    """
    values: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(rounds):
        order = list(sides) if number % 2 == 0 else list(reversed(list(sides)))
        for side in order:
            value = sides[side]()
            values[side].append(value)
            progress(f"round {number + 1} of {rounds}: {side}: {value:.4g}")
    return Rounds(values=values)


def interleaved(sides: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, Spread]:
    """The spread of each side, measured as by repeated()."""
    return repeated(sides, rounds).spreads()


def on_terminal(line: str) -> None:
    """Progress for who watches: to stderr when that is a terminal, else nowhere."""
    if sys.stderr.isatty():
        print(line, file=sys.stderr, flush=True)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, markdown: bool = False) -> str:
    """A plain table; the first column to the left, the others to the right."""
    if markdown:
        lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)
    widths = [max(len(line[column]) for line in (head, *rows)) for column in range(len(head))]
    return "".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        + "\n"
        for line in (head, *rows)
    )


def write_json(path: Path, machine: Machine, results: Mapping[str, Any]) -> None:
    """One document: the machine's facts and the results, in which dataclasses become objects."""
    document = {"machine": asdict(machine), **results}
    text = json.dumps(document, indent=1, ensure_ascii=False, default=asdict)
    path.write_text(text + "\n", encoding="utf-8")


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _accelerator() -> str:
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
