"""metricwatch notify test: find out whether a message reaches people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    name: Annotated[str, typer.Argument(help="A receiver under `notify:` of the configuration.")],
    config: Annotated[Path | None, typer.Option("-c", "--config", help="The configuration file.")] = None,
) -> None:
    """Send a test message to one receiver, now and once."""
    from metricwatch import catalog
    from metricwatch.alerts.message import compose
    from metricwatch.cli import console
    from metricwatch.clock import SystemClock
    from metricwatch.config.loader import load_config
    from metricwatch.errors import ConfigError
    from metricwatch.records import Alert, AlertState, WindowPoint

    loaded = load_config(config)
    receiver = loaded.notify.get(name)
    if receiver is None:
        hint = catalog.did_you_mean(name, loaded.notify) if loaded.notify else "the file names no receiver"
        raise ConfigError(f"{loaded.file.name}: notify: no receiver {name!r}; {hint}")
    values = (31.0, 30.4, 30.1, 33.9, 36.2)
    window = tuple(WindowPoint(step=1000 * (i + 1), value=value, stderr=0.4) for i, value in enumerate(values))
    example = Alert(
        id=0,
        run="test",
        rule="fid-moved",
        metric="fid",
        direction="worse",
        severity="critical",
        state=AlertState.FIRING,
        fired_step=5000,
        change=(36.2 - 30.1) / 31.0,
        threshold=0.1,
        window=window,
        moved=(window[2], window[4]),
    )
    now = SystemClock().now()
    notifier = catalog.load_notifier(receiver.use)(receiver.options)
    try:
        notifier.send(
            compose(
                number=int(now.timestamp()),
                event="test",
                alert=example,
                run_name=loaded.watch[0].target.name,
                run_url=None,
                created_at=now,
            )
        )
    finally:
        notifier.close()
    console.results().print(f"{name}: the test message was taken")
