"""metricwatch plugins list: what is installed, without importing any of it."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """List the installed plugins: kind, name, the package that brings it, and where it lives."""
    from dataclasses import asdict

    from metricwatch import catalog
    from metricwatch.cli import console

    found = catalog.plugins()
    if as_json:
        console.print_json({"plugins": [asdict(plugin) for plugin in found]})
        return
    console.print_table(
        ["kind", "name", "package", "version", "target"],
        [
            [plugin.kind.removesuffix("s"), _shown(plugin.name), plugin.package, plugin.version, plugin.target]
            for plugin in found
        ],
    )


def _shown(name: str) -> str:
    """A family has a name for each extractor; `weights list` shows their keys."""
    return f"{name}<extractor>" if name.endswith("_") else name
