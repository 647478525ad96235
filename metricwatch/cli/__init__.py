"""The metricwatch command, one file a command.

A command module holds `def command(...)` and imports what is heavy inside it, so that `metricwatch --help` stays
quick. To add one, import its module and add a line to _assemble().
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

import metricwatch
from metricwatch.cli import (
    backfill,
    best,
    check,
    demo,
    export,
    init,
    notify,
    plugins,
    replay,
    report,
    restore,
    retry,
    rules,
    run,
    score,
    silence,
    status,
    weights,
)
from metricwatch.cli.logs import LogFormat
from metricwatch.errors import MetricwatchError

INTERRUPTED = 130
FAILED = 1
_STDERR = 2


class _Frame(TyperGroup):
    """Turns what a command raises into a message and an exit code: never a bare traceback."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        # The message of an internal error says "run again with --debug": it must work at the end of the line too.
        end = args.index("--") if "--" in args else len(args)
        if "--debug" in args[:end]:
            args = ["--debug", *(item for item in args[:end] if item != "--debug"), *args[end:]]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except MetricwatchError as error:
            _leave(str(error), error.exit_code, debug=_debug(ctx))
        except OSError as error:
            if error.errno == errno.EPIPE:
                _leave_quietly()
            _leave(_describe(error), FAILED, debug=_debug(ctx))
        except KeyboardInterrupt:
            raise SystemExit(INTERRUPTED) from None
        except Exception as error:
            # typer's own, a usage error for one, know how to show themselves.
            if type(error).__module__.partition(".")[0] in {"typer", "click"}:
                raise
            _leave(
                f"internal error: {_describe(error)}; run again with --debug for the details",
                FAILED,
                debug=_debug(ctx),
            )
        return result


def main() -> NoReturn:
    """Run the command line. Leaves with 0 done, 1 failed, 2 usage, 78 bad configuration, 130 interrupted."""
    _ready_streams()
    try:
        app(prog_name="metricwatch")
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    raise SystemExit(0)


def _ready_streams() -> None:
    """Make stdout and stderr usable, whatever the caller did to them."""
    # Of descriptors 0 to 2 none may stay free: the next file opened, a database perhaps, would become stderr.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        pass
    os.close(descriptor)
    # Python has None for a stream that was closed.
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - open until the end
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A file name that is no text, or an ASCII terminal, must not cost the result.
            stream.reconfigure(errors="backslashreplace")


def _assemble() -> typer.Typer:
    frame = _group("Scores a training job's samples, logs the curves and says when quality moves.", cls=_Frame)
    frame.callback()(_options)

    frame.command("backfill")(backfill.command)
    frame.command("best")(best.command)
    frame.command("check")(check.command)
    frame.command("demo")(demo.command)
    frame.command("export")(export.command)
    frame.command("init")(init.command)
    frame.command("replay")(replay.command)
    frame.command("report")(report.command)
    frame.command("restore")(restore.command)
    frame.command("retry")(retry.command)
    frame.command("run")(run.command)
    frame.command("score")(score.command)
    frame.command("status")(status.command)

    notify_group = _group("The receivers of alerts.")
    notify_group.command("test")(notify.command)
    frame.add_typer(notify_group, name="notify")

    plugins_group = _group("The installed metrics, samplers, sinks and notifiers.")
    plugins_group.command("list")(plugins.command)
    frame.add_typer(plugins_group, name="plugins")

    rules_group = _group("The rules that raise alerts.")
    rules_group.command("test")(rules.check_command)
    frame.add_typer(rules_group, name="rules")

    silence_group = _group("Which alerts nobody is told of for a while.")
    silence_group.command("add")(silence.add_command)
    silence_group.command("list")(silence.list_command)
    silence_group.command("expire")(silence.expire_command)
    frame.add_typer(silence_group, name="silence")

    weights_group = _group("The weights of feature extractors.")
    weights_group.command("list")(weights.list_command)
    weights_group.command("fetch")(weights.fetch_command)
    weights_group.command("verify")(weights.verify_command)
    frame.add_typer(weights_group, name="weights")
    return frame


def _group(help_text: str, cls: type[TyperGroup] = TyperGroup) -> typer.Typer:
    return typer.Typer(
        cls=cls,
        help=help_text,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"metricwatch {metricwatch.__version__}")
        raise typer.Exit


def _options(
    ctx: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version and leave.", callback=_show_version, is_eager=True)
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks and log more (also METRICWATCH_DEBUG=1).")
    ] = False,
    log_format: Annotated[
        LogFormat, typer.Option("--log-format", help="How log lines on stderr look; auto: by whether it is a terminal.")
    ] = LogFormat.AUTO,
) -> None:
    from metricwatch.cli import logs

    ctx.meta["metricwatch.debug"] = debug
    logs.set_up(log_format, debug=_debug(ctx))


def _debug(ctx: Any) -> bool:
    return bool(ctx.meta.get("metricwatch.debug")) or os.environ.get("METRICWATCH_DEBUG", "0") not in {"", "0"}


def _describe(error: BaseException) -> str:
    """The error on one line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _leave(message: str, code: int, *, debug: bool) -> NoReturn:
    if debug:
        import traceback

        traceback.print_exc()
    from metricwatch.cli.console import visible

    for line in message.rstrip("\n").split("\n"):
        print(f"metricwatch: {visible(line)}", file=sys.stderr)
    raise SystemExit(code)


def _leave_quietly() -> NoReturn:
    # The reader has gone. Python would complain once more when it flushes on exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(FAILED)


app = _assemble()
