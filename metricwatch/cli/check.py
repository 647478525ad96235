"""metricwatch check: says whether the daemon could work with this configuration, here and now."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    config: Annotated[
        Path | None, typer.Option("-c", "--config", help="The configuration file. [default: metricwatch.yaml]")
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Ask no server; weights that would be downloaded are errors.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Check the configuration and everything it names. Leaves with 78 when anything is an error."""
    import os
    from collections import Counter
    from dataclasses import asdict

    from metricwatch.cli import console
    from metricwatch.cli.findings import inspect
    from metricwatch.cli.folders import count
    from metricwatch.cli.levels import Finding, Level
    from metricwatch.config import load_config
    from metricwatch.errors import ConfigError

    findings = []
    try:
        read = load_config(config)
    except ConfigError as error:
        findings += [Finding(level=Level.ERROR, item="configuration", detail=line) for line in str(error).splitlines()]
    else:
        findings.append(Finding(level=Level.OK, item="configuration", detail=str(read.file)))
        findings += inspect(read, os.environ, offline=offline)

    counts = Counter(finding.level for finding in findings)
    failed = counts[Level.ERROR] > 0
    if as_json:
        console.print_json({"ok": not failed, "findings": [asdict(finding) for finding in findings]})
    else:
        console.print_table(
            None,
            [[finding.level, finding.item, finding.detail] for finding in findings],
            styles={Level.OK: "green", Level.WARNING: "yellow", Level.ERROR: "bold red"},
        )
    summary = ", ".join(
        count(counts[level], level, "ok" if level is Level.OK else None) for level in Level if counts[level]
    )
    console.messages().print(summary)
    if failed:
        raise typer.Exit(ConfigError.exit_code)
