"""metricwatch restore: put a backup in the place of a ledger that is damaged or gone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    config: Annotated[Path | None, typer.Option("-c", "--config", help="The configuration file.")] = None,
    backup: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="The backup to use. Default: the newest one.")
    ] = None,
) -> None:
    """Go on from a backup of the ledger. The file that is there is kept beside it, under another name.

    What was scored since the backup was made is scored, and logged, a second time.
    """
    from metricwatch.cli import console
    from metricwatch.clock import SystemClock
    from metricwatch.config.loader import load_config
    from metricwatch.errors import InputError
    from metricwatch.store import backups
    from metricwatch.store.lock import DaemonLock

    state = load_config(config).state
    if not state.is_dir():
        raise InputError(f"{state}: there is no such state folder, so there is no ledger to restore")
    with DaemonLock(state):
        chosen = backup or backups.newest(state)
        if chosen is None:
            raise InputError(f"{state / backups.FOLDER}: there is no backup here; name one with --from FILE")
        aside = backups.restore(state, chosen, SystemClock().now())
    screen = console.messages()
    screen.print(f"the ledger is now as it was in {chosen}", soft_wrap=True)
    screen.print("what was scored since then is scored, and logged, once more")
    if aside is not None:
        screen.print(f"what was there is kept as {aside}", soft_wrap=True)
