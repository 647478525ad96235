"""metricwatch notify test: find out whether a message reaches people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from metricwatch.records import Alert


def command(
    name: Annotated[str, typer.Argument(help="A receiver under `notify:` of the configuration.")],
    config: Annotated[Path | None, typer.Option("-c", "--config", help="The configuration file.")] = None,
) -> None:
    """Send a test message to one receiver, now and once, with a picture where the receiver takes one."""
    from metricwatch import catalog
    from metricwatch.alerts.message import compose
    from metricwatch.cli import console
    from metricwatch.clock import SystemClock
    from metricwatch.config.loader import load_config
    from metricwatch.errors import ConfigError, MetricwatchError, PermanentError
    from metricwatch.watch.fan_out import entries_now

    loaded = load_config(config)
    receiver = loaded.notify.get(name)
    if receiver is None:
        hint = catalog.did_you_mean(name, loaded.notify) if loaded.notify else "the file names no receiver"
        raise ConfigError(f"{loaded.file.name}: notify: no receiver {name!r}; {hint}")
    example = _example()
    now = SystemClock().now()
    run_name = (entries_now(loaded.watch) or loaded.watch)[0].target.name
    notifier = catalog.load_notifier(receiver.use)(receiver.options)
    try:
        notifier.send(
            compose(
                number=int(now.timestamp()),
                event="test",
                alert=example,
                run_name=run_name,
                run_url=None,
                created_at=now,
                picture=_picture(example, run_name) if notifier.takes_pictures else None,
                receiver=name,
            )
        )
    except MetricwatchError as error:
        raise PermanentError(f"notify.{name}: {error}") from None
    finally:
        notifier.close()
    console.results().print(f"{name}: the test message was taken")


def _example() -> Alert:
    from metricwatch.records import Alert, AlertState, WindowPoint

    values = (31.0, 30.4, 30.1, 33.9, 36.2)
    window = tuple(WindowPoint(step=1000 * (i + 1), value=value, stderr=0.4) for i, value in enumerate(values))
    return Alert(
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


def _picture(alert: Alert, run_name: str) -> bytes | None:
    """The example's curve. What keeps it from being drawn would cost the picture of a real message as well: say so."""
    from metricwatch.alerts.composition import span_of
    from metricwatch.cli import console
    from metricwatch.drawing.curve import Curve
    from metricwatch.drawing.process import draw
    from metricwatch.errors import TemporaryError

    title = f"{alert.metric} of {run_name}: an example"
    try:
        return draw([Curve(title=title, key=alert.metric, points=alert.window, spans=(span_of(alert),))])[0]
    except TemporaryError as error:
        console.messages().print(f"without its picture, which cannot be drawn: {error}", soft_wrap=True)
        return None
