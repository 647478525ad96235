"""metricwatch rules test: whether rules say of written-down series what they are expected to say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from metricwatch.replaying.checks import Outcome


def check_command(
    files: Annotated[list[Path], typer.Argument(help="Files of tests, as deploy/rules-test.yaml.", metavar="FILE...")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Test rules against series written down in files. Leaves with 1 when a test fails, 78 when a file is wrong."""
    from metricwatch.cli import console
    from metricwatch.errors import ConfigError
    from metricwatch.replaying.cases import read_cases
    from metricwatch.replaying.checks import run_cases

    read, problems = [], []
    for file in files:
        try:
            read.append(read_cases(file))
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))
    outcomes = {cases.name: list(run_cases(cases)) for cases in read}
    failed = sum(bool(outcome.failures) for found in outcomes.values() for outcome in found)
    passed = sum(map(len, outcomes.values())) - failed
    if as_json:
        files_shown = [{"file": name, "tests": [_document(item) for item in found]} for name, found in outcomes.items()]
        console.print_json({"ok": not failed, "passed": passed, "failed": failed, "files": files_shown})
    else:
        for name, found in outcomes.items():
            _show(name, found)
    if failed:
        raise typer.Exit(1)


def _document(outcome: Outcome) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "name": outcome.case.name,
        "run": outcome.case.run,
        "ok": not outcome.failures,
        "failures": [asdict(failure) for failure in outcome.failures],
    }


def _show(name: str, outcomes: list[Outcome]) -> None:
    from metricwatch.cli import console

    screen = console.results()
    for outcome in outcomes:
        if outcome.failures:
            screen.print(f"{name}: {outcome.case.name}: FAILED (run {outcome.case.run})", soft_wrap=True)
        for failure in outcome.failures:
            screen.print(f"  {failure.rule}: expected {failure.expected}", soft_wrap=True)
            screen.print(f"  {' ' * len(failure.rule)}  got      {failure.got}", soft_wrap=True)
            screen.print(f"    {failure.around}", soft_wrap=True)
    failed = sum(bool(outcome.failures) for outcome in outcomes)
    counts = [f"{len(outcomes) - failed} passed", *([f"{failed} failed"] if failed else [])]
    screen.print(f"{name}: {', '.join(counts)}", soft_wrap=True)
