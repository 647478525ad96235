"""One daemon with every notifier, whose servers repeat the secrets they were sent: nothing that it leaves behind has one."""

from __future__ import annotations

import base64
import json
import re
import signal
import sqlite3
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit
from urllib.request import urlopen

import pytest
import typer

from metricwatch.cli import check, notify
from metricwatch.cli.status import command as status_command
from metricwatch.config.loader import load_config
from metricwatch.errors import ConfigError, MetricwatchError
from metricwatch.store import backups
from tests.support.canaries import CANARIES, SPELLINGS, leaks
from tests.support.faulty import HANG_UP, HttpServer, MailServer, Reply, http_server, mail_server
from tests.support.job import Daemon, Job, wait_until
from tests.support.mlflow_server import MlflowServer
from tests.support.ports import free_port


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_secret_would_be_found_in_every_spelling(spelling: str) -> None:
    for name, secret in CANARIES.items():
        assert leaks(f"\0some row{SPELLINGS[spelling](secret)}\xff".encode()).keys() == {name}


def test_what_is_no_secret_is_not_taken_for_one() -> None:
    assert leaks("webhook: HTTP 503: ****** is slow; slack: answered something other than ok" * 100) == {}


# --- the night ---------------------------------------------------------------------------------------------

# The first word of a path says what is answered, the second how the secrets are spelled in that.
FATES: dict[str, int] = {"later": 503, "gone": 404, "lies": 200, "breaks": 0}


class Echoes:
    """Answers every request with the secrets that came with it, in the spelling that its path names."""

    def __init__(self) -> None:
        self.told: dict[str, set[str]] = defaultdict(set)
        self._next = 0

    def http(self, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        sent = f"{path} {unquote(path)} {[*headers.values()]} {body.decode()}"
        login = re.search(r"Basic ([\w+/=]+)", str(headers.get("Authorization")))
        sent += base64.b64decode(login[1]).decode() if login else ""
        fate, spelling = [*path.strip("/").split("/"), ""][:2]
        if fate == "breaks":
            return HANG_UP
        said = self.said(sent, spelling)
        # Slack's API and many others say so in a 200.
        body_said = json.dumps({"ok": False, "error": said}, ensure_ascii=False) if fate == "lies" else f"no: {said}"
        return Reply(status=FATES[fate], body=body_said, taken=False)

    def smtp(self, spelling: str, code: str) -> Callable[[str], str]:
        return lambda said: f"{code} no: {self.said(base64.b64decode(said).decode(), spelling)}"

    def said(self, sent: str, spelling: str) -> str:
        came = [name for name, secret in CANARIES.items() if secret in sent or json.dumps(secret)[1:-1] in sent]
        for name in came:
            self.told[name].add(spelling)
        return " ".join(SPELLINGS[spelling](CANARIES[name]) for name in came)


@dataclass(slots=True, kw_only=True)
class Left:
    """What a night left behind, by what it is. told: which secrets the servers repeated, and in which spellings."""

    told: dict[str, set[str]]
    log: str
    texts: dict[str, str | bytes] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)


def receivers(http: HttpServer, mails: Mapping[str, MailServer]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    place = urlsplit(http.url).netloc
    words = list(SPELLINGS)

    def each(kind: str, fates: str, make: Callable[[str], dict[str, Any]]) -> None:
        for number, fate in enumerate(fates.split()):
            spelling = words[(number + len(found)) % len(words)]
            found[f"{kind}-{number}"] = make(f"{fate}/{spelling}")

    key = CANARIES["routing key"]
    path, hook = CANARIES["slack path"], CANARIES["hook path"]
    login = f"mw:{quote(CANARIES['apprise password'], safe='')}"
    basic = {"username": "u", "password": CANARIES["basic password"]}
    many = "later gone lies later gone lies later gone lies breaks"
    each("slack", many, lambda way: {"use": "slack", "webhook_url": f"{http.url}/{way}/{path}"})
    each(
        "bot",
        "lies later",
        lambda way: {
            "use": "slack",
            "bot_token": CANARIES["bot token"],
            "channel": "C1",
            "api_url": f"{http.url}/{way}/api/",
        },
    )
    each(
        "bearer",
        many,
        lambda way: {"use": "webhook", "url": f"{http.url}/{way}/{hook}", "bearer_token": CANARIES["bearer token"]},
    )
    each(
        "basic",
        many,
        lambda way: {
            "use": "webhook",
            "url": f"{http.url}/{way}/{hook}",
            **basic,
            "headers": {"X-Key": CANARIES["header value"]},
        },
    )
    each("pager", many, lambda way: {"use": "pagerduty", "routing_key": key, "url": f"{http.url}/{way}/x"})
    each("apprise", "later", lambda way: {"use": "apprise", "url": f"json://{login}@{place}/{way}/{hook}"})
    for name, mail in mails.items():
        found[f"mail-{name}"] = {
            "use": "email",
            "host": "127.0.0.1",
            "port": mail.port,
            "starttls": False,
            "username": "mw",
            "password": CANARIES["smtp password"],
            "from": "mw@example.org",
            "to": ["ml@example.org"],
        }
    return found


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory, tracking_server: MlflowServer) -> Left:
    """The life of one daemon at its most talkative, killed so that its write-ahead log stays, and all commands after it."""
    echoes = Echoes()
    found = Left(told=echoes.told, log="")
    later, gone = {"AUTH": echoes.smtp("raw", "454")}, {"AUTH": echoes.smtp("base64", "535")}
    with http_server(echoes.http) as http, mail_server(usual=later) as first, mail_server(usual=gone) as second:
        job = make_job(
            tmp_path_factory.mktemp("night"), tracking_server, receivers(http, {"later": first, "gone": second})
        )
        daemon = job.start("--debug", METRICWATCH_DEBUG="1")
        try:
            for step, blur in ((1000, 0), (2000, 3)):
                job.write_step(step, blur=blur)
            wait_until(lambda: everybody_tried(daemon, job), what="two tries of what may be tried again")
            found.texts["command lines"] = command_lines(daemon.process.pid)
            port = job.config["telemetry"]["port"]
            for page in ("-/healthy", "metrics"):
                with urlopen(f"http://127.0.0.1:{port}/{page}", timeout=5) as answer:
                    found.texts[page] = answer.read()
            wait_until(lambda: history_is_there(tracking_server), what="the page of alerts beside the run")
            daemon.stop(signal.SIGKILL)
        finally:
            daemon.end()
        found.log = daemon.log
        found.texts["status"] = spoken(lambda: status_command(job.file))
        found.texts["status --json"] = spoken(lambda: status_command(job.file, as_json=True))
        found.texts["check"] = spoken(lambda: check.command(job.file))
        for name in job.config["notify"]:
            # Of each kind what is refused for now, for good, and in a 200.
            if int(name.partition("-")[2].replace("later", "0").replace("gone", "1")) > 2:
                continue
            found.texts[f"notify test {name}"] = spoken(lambda name=name: notify.command(name, config=job.file))
    document = json.loads(str(found.texts["status --json"]))
    found.reasons = {row["receiver"]: row["reason"] for row in document["notifications"]}
    for file in (*files_of(job), *files_of(tracking_server)):
        found.texts[str(file)] = file.read_bytes()
    ledger = job.folder / "state" / "ledger.sqlite3"
    # The daemon made one at its start. This is the one that it would have made a day later.
    copy = backups.make(ledger, datetime.now(UTC))
    found.texts[str(copy)] = copy.read_bytes()
    for file in job.folder.rglob("*.sqlite3"):
        found.texts[f"rows of {file.name}"] = rows_of(file)
    return found


def make_job(folder: Path, tracking: MlflowServer, notifiers: dict[str, Any]) -> Job:
    login = f"mw:{quote(CANARIES['mlflow password'], safe='')}"
    return Job(
        folder / "job",
        tracking.uri.replace("://", f"://{login}@"),
        "no-secrets",
        rules=[{"name": "moved", "metric": "ssim", "moves": "10%", "across": 2}],
        route={"group_wait": 0, "group_interval": 0, "fallback": "slack-0"},
        telemetry={"port": free_port()},
        notify=notifiers,
    )


def everybody_tried(daemon: Daemon, job: Job) -> bool:
    log = daemon.log
    failed = log.count("event=notification.failed")
    return (
        all(
            log.count(f"logger=metricwatch.alerts.stage notifier={name} ") >= 2
            or f"event=notification.failed logger=metricwatch.alerts.stage notifier={name} " in log
            for name in job.config["notify"]
        )
        and failed > 0
    )


def history_is_there(tracking: MlflowServer) -> bool:
    return any(tracking.folder.rglob("alerts.html"))


def files_of(place: Job | MlflowServer) -> list[Path]:
    """All but the configuration itself, and pictures of photos."""
    return [
        path
        for path in place.folder.rglob("*")
        if path.is_file() and path.suffix not in {".yaml", ".png", ".webp", ".jpg"}
    ]


def command_lines(pid: int) -> bytes:
    """Of the daemon and its worker, as everybody on the machine may read them."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    children = [child for task in tasks for child in (task / "children").read_text().split()]
    return b"\n".join(Path(f"/proc/{each}/cmdline").read_bytes() for each in (pid, *children))


def rows_of(file: Path) -> str:
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as db:
        tables = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return "\n".join(repr(row) for table in tables for row in db.execute(f'SELECT * FROM "{table}"'))


def spoken(command: Callable[[], None]) -> str:
    """What a command prints, with the whole chain of what it raises, as --debug shows it."""
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        try:
            command()
        except MetricwatchError:
            traceback.print_exc()
        except (typer.Exit, SystemExit):
            pass
    return out.getvalue() + err.getvalue()


def test_the_servers_repeated_every_secret_in_many_spellings(left: Left) -> None:
    assert left.told.keys() == CANARIES.keys() - {"mlflow password"}
    assert set().union(*left.told.values()) >= {"raw", "percent", "json", "unicode", "base64"}
    # Their words were shown, all but the secrets.
    assert sum("******" in reason for reason in left.reasons.values()) >= 15
    assert "******" in left.log


def test_nothing_that_a_daemon_leaves_behind_holds_a_secret(left: Left) -> None:
    kinds = {Path(name).name.partition("-")[0] for name in left.texts}
    assert {"ledger.sqlite3", "ledger", "worker.log", "daemon.log", "mlflow.db", "alerts.html"} <= kinds, kinds
    assert any(name.endswith("ledger.sqlite3-wal") and text for name, text in left.texts.items())
    found = {name: leak for name, text in left.texts.items() if (leak := leaks(text))}
    assert found == {}


# --- a secret in the wrong place ---------------------------------------------------------------------------

GOOD: dict[str, dict[str, Any]] = {
    "slack": {"use": "slack", "webhook_url": "https://hooks.example.org/x", "timeout": 5},
    "bot": {"use": "slack", "bot_token": "xoxb-1", "channel": "C1", "api_url": "https://slack.example.org/api/"},
    "hook": {"use": "webhook", "url": "https://a.example.org/x", "bearer_token": "t", "max_alerts": 2, "ca_file": "ca"},
    "basic": {"use": "webhook", "url": "https://a.example.org/x", "username": "u", "password": "p", "headers": {"X": "y"}},
    "pager": {"use": "pagerduty", "routing_key": "a" * 32, "url": "https://a.example.org/x", "severities": ["info"]},
    "mail": {"use": "email", "host": "a.example.org", "port": 25, "from": "a@example.org", "to": ["b@example.org"],
             "username": "u", "password": "p", "tls": True},
    "apprise": {"use": "apprise", "url": "json://a.example.org", "body_format": "text"},
}  # fmt: skip
ADDRESSES = ("https://mw:{}@a.example.org/x", "https://a.example.org/services/{}", "smtp://mw:{}@a.example.org")


def misplaced(options: Mapping[str, Any], secret: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The options of a receiver with the secret where it does not belong, and where that is."""
    for key in options:
        if key != "use":
            yield f"{key}", {**options, key: secret}
            yield f"[{key}]", {**options, key: [secret]}
            yield f"{{{key}}}", {**options, key: {secret: secret}}
            yield f"misspelt {key}", {**options, f"{key}x": secret}
    yield "use", {**options, "use": secret}


def complaint(file: Path, document: str) -> str:
    """What reading a configuration says, with all that led to it; "" when it is taken."""
    file.write_text(document)
    try:
        load_config(file)
    except ConfigError as error:
        return f"{error}\n" + "".join(traceback.format_exception(error))
    return ""


def test_a_configuration_with_a_secret_in_the_wrong_place_is_refused_without_it(tmp_path: Path) -> None:
    found, complaints = {}, 0
    secret = CANARIES["smtp password"]
    for written in (secret, *(address.format(secret) for address in ADDRESSES)):
        for name, options in GOOD.items():
            for place, wrong in misplaced(options, written):
                if place == "use" and written == secret:
                    # The name of a plugin is quoted: nothing tells a bare word there from one.
                    continue
                config = {
                    "tracking": {"uri": "http://127.0.0.1:1"},
                    "watch": [{"run": {"name": "night"}, "samples": "a/*"}],
                    "metrics": ["ssim"],
                    "notify": {"x": wrong},
                }
                said = complaint(tmp_path / "c.yaml", json.dumps(config))
                complaints += bool(said)
                if leak := leaks(said):
                    found[f"{name} {place} {written[:12]}"] = (leak, said[:300])
    assert found == {}
    assert complaints > 300


@pytest.mark.parametrize("line", ['"{}', "[{}", "{}: {}: {}", "- {}\n  x: y", "!secret {}", "*{}", "%{}"])
def test_a_configuration_that_is_no_yaml_is_refused_without_the_secret_in_it(tmp_path: Path, line: str) -> None:
    said = complaint(
        tmp_path / "c.yaml", "notify:\n  x:\n    password: " + line.replace("{}", CANARIES["basic password"])
    )
    assert "c.yaml" in said
    assert leaks(said) == {}
