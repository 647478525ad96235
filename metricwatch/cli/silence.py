"""metricwatch silence: tell nobody of some alerts for a while. Works while the daemon runs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from metricwatch.config.matchers import Matcher
    from metricwatch.config.schema import Config
    from metricwatch.store.db import Database
    from metricwatch.store.silences import Silence

_DEFAULT_DURATION = timedelta(hours=1)

Matchers = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="MATCHERS",
        help="""severity=critical, run=~"debug-.*", team!=vision. A first word alone is the rule's name.""",
    ),
]
ConfigFile = Annotated[Path | None, typer.Option("-c", "--config", help="The configuration file.")]


def add_command(
    matchers: Matchers = None,
    config: ConfigFile = None,
    comment: Annotated[str, typer.Option("--comment", help="Why. People see it in `status`.")] = "",
    author: Annotated[str | None, typer.Option("--author", help="Who; by default the user's name.")] = None,
    duration: Annotated[
        str | None, typer.Option("--duration", metavar="TIME", help="For how long, 2h or 3d; by default 1h.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="Until when, as 2026-05-01T07:00 (local time).")
    ] = None,
    start: Annotated[str | None, typer.Option("--start", metavar="TIME", help="From when on; by default now.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every alert, instead of matchers.")] = False,
) -> None:
    """Tell nobody of the alerts that match all matchers, for a while. Prints the id of the silence.

    What still fires when the silence ends is told then.
    """
    from metricwatch.cli import console
    from metricwatch.clock import SystemClock
    from metricwatch.config.loader import load_config
    from metricwatch.store import lock
    from metricwatch.store.db import Database
    from metricwatch.store.silences import Silences
    from metricwatch.store.told import AlertReceivers

    loaded = load_config(config)
    if everything == bool(matchers):
        raise typer.BadParameter(
            "either matchers or --all: which alerts?" if matchers else "says which alerts; for every alert say --all",
            param_hint="MATCHERS",
        )
    if not comment.strip():
        raise typer.BadParameter("says why: others will ask", param_hint="--comment")
    now = SystemClock().now()
    begins, ends = _times(now, duration, until, start)
    db = Database.open_beside(loaded.state)
    try:
        wanted = _parsed(matchers or [], loaded, db)
        unknown = _unknown(wanted, loaded, db)
        silences = Silences(db)
        number = silences.add(
            [str(matcher) for matcher in wanted],
            author=_one_line(author or _user()),
            comment=_one_line(comment),
            starts=begins,
            ends=ends,
            now=now,
        )
        covered = [alert for alert in AlertReceivers(db).firing() if silences.get(number).covers(alert.labels)]
    finally:
        db.close()
    print(number)
    names = ", ".join(f"{alert.rule} of {alert.labels['run']}" for alert in covered)
    count = "1 alert that fires now" if len(covered) == 1 else f"{len(covered)} alerts that fire now"
    fires = f"{count}: {names}" if covered else "no alert that fires now"
    screen = console.messages()
    for warning in unknown:
        screen.print(console.visible(f"warning: {warning}"), soft_wrap=True)
    screen.print(console.visible(f"from {_local(begins)} until {_local(ends)}; it covers {fires}"), soft_wrap=True)
    if not lock.owner(loaded.state):
        screen.print("no daemon runs: the next one will heed it")


def list_command(
    matchers: Matchers = None,
    config: ConfigFile = None,
    expired: Annotated[bool, typer.Option("--expired", help="Also those that are over.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Show the silences that hold or are to come; with matchers those whose own matchers fit them."""
    from metricwatch.cli import console
    from metricwatch.clock import SystemClock
    from metricwatch.config.loader import load_config
    from metricwatch.store.db import Database
    from metricwatch.store.silences import Silences

    loaded = load_config(config)
    now = SystemClock().now()
    db = Database.open_readonly(loaded.state)
    try:
        wanted = _parsed(matchers or [], loaded, db)
        found = [
            silence
            for silence in Silences(db).all()
            if (expired or silence.state(now) != "expired") and _fits(silence, wanted)
        ]
    finally:
        db.close()
    if as_json:
        console.print_json({"silences": [_document(silence, now) for silence in found]})
    elif not found:
        console.messages().print("no silence" if expired else "no silence holds or is to come")
    else:
        console.print_table(
            ["id", "state", "matchers", "from", "until", "author", "comment"],
            [
                [
                    str(silence.id),
                    silence.state(now),
                    " ".join(silence.matchers) or "(every alert)",
                    _local(silence.starts_at),
                    _local(silence.ends_at),
                    silence.author,
                    silence.comment,
                ]
                for silence in found
            ],
        )


def expire_command(
    numbers: Annotated[list[int] | None, typer.Argument(metavar="ID", help="As `silence list` shows.")] = None,
    config: ConfigFile = None,
    everything: Annotated[bool, typer.Option("--all", help="All that hold or are to come.")] = False,
) -> None:
    """End silences now. What fires is told then."""
    from metricwatch.cli import console
    from metricwatch.clock import SystemClock
    from metricwatch.config.loader import load_config
    from metricwatch.errors import InputError
    from metricwatch.store.db import Database
    from metricwatch.store.silences import Silences

    if everything == bool(numbers):
        raise typer.BadParameter("either ids or --all: which silences?", param_hint="ID")
    loaded = load_config(config)
    now = SystemClock().now()
    db = Database.open_beside(loaded.state)
    try:
        silences = Silences(db)
        there = {silence.id: silence for silence in silences.all()}
        open_ones = [number for number, silence in there.items() if silence.state(now) != "expired"]
        for number in numbers or ():
            if number not in there:
                shown = ", ".join(map(str, open_ones)) or "none"
                raise InputError(f"no silence {number}; those that hold or are to come: {shown}")
        chosen = open_ones if everything else [number for number in numbers or () if number in open_ones]
        for number in chosen:
            silences.expire(number, now)
    finally:
        db.close()
    over = sorted(set(numbers or ()) - set(chosen))
    screen = console.messages()
    if over:
        screen.print(f"over already: {', '.join(map(str, over))}")
    screen.print(f"ended: {', '.join(map(str, chosen))}" if chosen else "there was nothing to end")


def _parsed(texts: Sequence[str], config: Config, db: Database) -> list[Matcher]:
    """The matchers that were typed. Raises InputError for what cannot be read or names what no alert has."""
    from metricwatch import catalog
    from metricwatch.config.matchers import contradiction, labels_of_rules, parse_matcher, refuse_unknown_value
    from metricwatch.errors import InputError

    labels = set(labels_of_rules([rule.model_dump(by_alias=True) for rule in config.rules]))
    rules = {rule.name for rule in config.rules}
    for row in db.read("SELECT DISTINCT rule FROM alerts"):
        rules.add(row["rule"])
    found = []
    for position, text in enumerate(texts):
        named = f'alertname="{text}"' if position == 0 and not set(text) & set('=!~"') else text
        try:
            matcher = parse_matcher(named)
        except ValueError as error:
            raise InputError(f"matcher {position + 1}: {error}") from None
        if matcher.label not in labels:
            raise InputError(f"no alert has a label {matcher.label!r}; {catalog.did_you_mean(matcher.label, labels)}")
        if matcher.label == "alertname" and matcher.operator == "=" and matcher.value not in rules:
            hint = catalog.did_you_mean(matcher.value, rules) if rules else "the configuration has no rules"
            raise InputError(f"no rule is named {matcher.value!r}; {hint}")
        try:
            refuse_unknown_value(matcher)
        except ValueError as error:
            raise InputError(f"matcher {position + 1}: {error}") from None
        found.append(matcher)
    if (pair := contradiction(found)) is not None:
        raise InputError(f"{pair[0]} and {pair[1]} can never both hold: no alert would match")
    return found


def _unknown(wanted: Sequence[Matcher], config: Config, db: Database) -> list[str]:
    """What a person should know of matchers on a run or metric that nobody has heard of: it may still come."""
    from metricwatch import catalog
    from metricwatch.config.secrets import quoted

    known = {
        "run": {row["name"] for row in db.read("SELECT name FROM runs")},
        "metric": {rule.metric for rule in config.rules}
        | {row["metric"] for row in db.read("SELECT DISTINCT metric FROM alerts")},
    }
    found = []
    for matcher in wanted:
        names = known.get(matcher.label, set()) - {""}
        if matcher.label in known and matcher.operator == "=" and matcher.value and matcher.value not in names:
            hint = f"; {catalog.did_you_mean(matcher.value, names)}" if names else ""
            found.append(f"no {matcher.label} named {quoted(matcher.value)} is known so far{hint}")
    return found


def _times(now: datetime, duration: str | None, until: str | None, start: str | None) -> tuple[datetime, datetime]:
    from metricwatch.config.quantities import parse_duration

    if duration is not None and until is not None:
        raise typer.BadParameter("either --duration or --until", param_hint="--until")
    begins = now if start is None else _moment(start, "--start")
    if until is not None:
        ends = _moment(until, "--until")
    else:
        try:
            ends = begins + (_DEFAULT_DURATION if duration is None else parse_duration(duration))
        except (ValueError, OverflowError) as error:
            raise typer.BadParameter(str(error), param_hint="--duration") from None
    if ends <= begins:
        raise typer.BadParameter(f"it would end at {_local(ends)}, before it begins", param_hint="--until")
    if ends <= now:
        raise typer.BadParameter(f"it would be over since {_local(ends)}", param_hint="--until")
    return begins, ends


def _moment(text: str, option: str) -> datetime:
    """A moment as ISO 8601; without a zone it is local time."""
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        example = datetime.now().astimezone().strftime("%Y-%m-%dT%H:%M")
        raise typer.BadParameter(f"must be a moment such as {example}", param_hint=option) from None


def _local(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def _fits(silence: Silence, wanted: Sequence[Matcher]) -> bool:
    """As amtool filters: the silence has, for each label asked for, a matcher whose value is right."""
    own = silence.meaning or ()
    return all(any(mine.label == ask.label and ask.holds(mine.value) for mine in own) for ask in wanted)


def _document(silence: Silence, now: datetime) -> dict[str, Any]:
    return {
        "id": silence.id,
        "state": silence.state(now),
        "matchers": list(silence.matchers),
        "author": silence.author,
        "comment": silence.comment,
        "created_at": silence.created_at.isoformat(),
        "starts_at": silence.starts_at.isoformat(),
        "ends_at": silence.ends_at.isoformat(),
    }


def _one_line(text: str) -> str:
    from metricwatch.config.context import refuse_strange_text
    from metricwatch.config.secrets import may_hold_secret
    from metricwatch.errors import InputError

    try:
        refuse_strange_text(text)
    except ValueError as error:
        raise InputError(f"the comment or the author {error}") from None
    if may_hold_secret(text):
        raise InputError(
            "the comment or the author looks like an address or credentials, which may be secret, and everybody "
            "reads it in `status`; say it in words"
        )
    return " ".join(text.split())


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "somebody"
