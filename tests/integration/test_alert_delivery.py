"""One night's alert through every notifier while its server fails, and while the daemon is killed twice: what arrived."""

from __future__ import annotations

import json
import signal
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from metricwatch.cli.status import command as status_command
from tests.support.faulty import HANG_UP, HttpServer, MailServer, Reply, http_server, mail_server, refusal
from tests.support.job import Daemon, Job, wait_until
from tests.support.ports import free_port

# What is said to the first requests to each path, in this order; "ok" to all others.
FAULTS: dict[str, list[Reply]] = {
    "/services/team": [refusal(429, "slow down", retry_after="1"), HANG_UP, Reply(), refusal(503, "overloaded")],
    # The half that is missing is the server's answer: the message is there, and the sender cannot know it.
    "/hook": [
        refusal(500, "boom"),
        Reply(body='{"status": "success"}', cut=True),
        Reply(),
        Reply(body='{"status": "error"}', taken=False),
    ],
    "/v2/enqueue": [refusal(429, '{"status": "throttle"}'), Reply(silent_for=0.9)],
}
EVENTS = ("firing", "resolved")
FAILING = ("team", "hook", "pager")
PAGED = Reply(status=202, body='{"status": "success"}')


@dataclass(frozen=True, slots=True, kw_only=True)
class Night:
    """What reached the servers; status as it was after the first kill, and in the end."""

    http: HttpServer
    mail: MailServer
    killed: dict[str, Any]
    ended: dict[str, Any]
    log: str

    def row(self, receiver: str, event: str, status: str = "ended") -> dict[str, Any]:
        (found,) = [
            row
            for row in getattr(self, status)["notifications"]
            if row["receiver"] == receiver and row["event"] == event
        ]
        return found


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Night]:
    """Three sample sets: the second fires a rule, the third resolves it while the first messages still fail."""
    faults = {path: iter(replies) for path, replies in FAULTS.items()}
    asked: dict[str, int] = defaultdict(int)

    def answer(path: str, _headers: object, _body: bytes) -> Reply:
        asked[path] += 1
        return next(faults.get(path, iter(())), PAGED if path == "/v2/enqueue" else Reply())

    held, let_go = threading.Event(), threading.Event()

    def hold(_said: str) -> None:
        """The mail is taken; before that is said the daemon dies."""
        held.set()
        let_go.wait(20)

    scripts = [{"banner": "421 too busy"}, {"end": "451 try again"}, {}, {"half": None}, {"end": hold}]
    with http_server(answer) as http, mail_server(scripts) as mail:
        job = make_job(tmp_path_factory.mktemp("night"), http, mail)
        daemons: list[Daemon] = []
        try:
            daemons.append(job.start())
            job.write_step(1000)
            job.write_step(2000, blur=3)
            wait_until(
                lambda: all(asked[path] for path in FAULTS) and mail.sessions, what="a first try of each message"
            )
            job.write_step(3000, blur=3)
            # A kill between "taken" and its mark would have the message come twice, as it may: here none is on its way.
            wait_until(lambda: waiting(daemons[-1].log), what="the first messages kept back, the last ones of two sent")
            kill(daemons[-1])
            killed = status(job)
            daemons.append(job.start())
            assert held.wait(30), daemons[-1].log[-2000:]
            wait_until(lambda: daemons[-1].log.count("event=notification.sent") >= 11, what="all but that mail marked")
            kill(daemons[-1])
            let_go.set()
            daemons.append(job.start())
            wait_until(lambda: daemons[-1].log.count("event=notification.sent") >= 12, what="the last mail marked")
            assert daemons[-1].stop() == 0
            yield Night(http=http, mail=mail, killed=killed, ended=status(job), log=daemons[-1].log)
        finally:
            let_go.set()
            for daemon in daemons:
                daemon.end()


def make_job(folder: Path, http: HttpServer, mail: MailServer) -> Job:
    slack = {"use": "slack"}
    return Job(
        folder / "job",
        # Nobody listens there: people hear of it all the same.
        f"http://127.0.0.1:{free_port()}",
        "delivery",
        rules=[{"name": "moved", "metric": "ssim", "moves": "10%", "across": 2}],
        route={
            "group_wait": 0,
            "group_interval": 0,
            "receivers": ["team", "left", "right", "mail", "hook", "pager"],
            "fallback": "spare",
        },
        notify={
            "team": {**slack, "webhook_url": f"{http.url}/services/team"},
            "left": {**slack, "webhook_url": f"{http.url}/services/shared"},
            "right": {**slack, "webhook_url": f"{http.url}/services/shared"},
            "mail": {
                "use": "email",
                "host": "127.0.0.1",
                "port": mail.port,
                "starttls": False,
                "from": "mw@example.org",
                "to": ["ml@example.org"],
            },
            "hook": {"use": "webhook", "url": f"{http.url}/hook"},
            "pager": {
                "use": "pagerduty",
                "routing_key": "0123456789abcdef" * 2,
                "url": f"{http.url}/v2/enqueue",
                "timeout": 0.5,
            },
            "spare": {"use": "webhook", "url": f"{http.url}/spare"},
        },
    )


def waiting(log: str) -> bool:
    failed = [
        log.count(f"event=notification.postponed logger=metricwatch.alerts.stage notifier={name} ") for name in FAILING
    ]
    return min(failed) >= 2 and "notifier=mail reason" in log and log.count("event=notification.sent") >= 4


def kill(daemon: Daemon) -> None:
    assert daemon.stop(signal.SIGKILL) == -signal.SIGKILL


def status(job: Job) -> dict[str, Any]:
    with redirect_stdout(StringIO()) as screen:
        status_command(job.file, as_json=True)
    document = json.loads(screen.getvalue())
    assert isinstance(document, dict)
    return document


def bodies(night: Night, path: str) -> list[dict[str, Any]]:
    return [json.loads(item.body) for item in night.http.taken(path)]


def slack_events(night: Night, path: str) -> list[str]:
    return [body["text"].partition("]")[0].removeprefix("[") for body in bodies(night, path)]


def test_slack_gets_each_message_once_after_429_a_lost_connection_and_503(night: Night) -> None:
    assert slack_events(night, "/services/team") == ["critical", "resolved"]
    assert [item.reply.status for item in night.http.at("/services/team")] == [429, 0, 200, 503, 200]
    first, second, third, *_ = (item.moment for item in night.http.at("/services/team"))
    # What the server asks for, then the second step of the doubling pause.
    assert 1 <= second - first < 3.5
    assert third - second >= 4
    assert (night.row("team", "firing")["attempts"], night.row("team", "resolved")["attempts"]) == (3, 2)


def test_two_receivers_of_one_webhook_send_it_at_most_a_message_a_second(night: Night) -> None:
    posted = night.http.at("/services/shared")
    assert sorted(slack_events(night, "/services/shared")) == ["critical"] * 2 + ["resolved"] * 2
    assert min(later.moment - earlier.moment for earlier, later in pairwise(posted)) >= 1
    for name in ("left", "right"):
        assert [night.row(name, event)["attempts"] for event in EVENTS] == [1, 1]


def test_mail_comes_once_and_twice_under_one_id_where_its_answer_died_with_the_daemon(night: Night) -> None:
    received = night.mail.received
    assert [mail.session for mail in received] == [1, 2, 4, 5]
    assert [(mail.answer or "no answer")[:3] for mail in received] == ["451", "250", "no ", "250"]
    refused, firing, unanswered, resolved = (mail.mail for mail in received)
    assert refused["Message-ID"] == firing["Message-ID"]
    assert unanswered["Message-ID"] == resolved["Message-ID"] != firing["Message-ID"]
    assert [str(mail["Subject"]).partition("]")[0] for mail in (firing, resolved)] == ["[critical", "[resolved"]
    # The session that died in the middle of the mail is tried again in 2 s; of the killed daemon's nothing is known.
    assert night.row("mail", "resolved")["attempts"] == 2
    assert night.row("mail", "firing")["attempts"] in {2, 3}


def test_a_webhook_gets_a_message_twice_only_where_its_answer_was_cut(night: Night) -> None:
    assert [item.reply.status for item in night.http.at("/hook")] == [500, 200, 200, 200]
    unanswered, firing = bodies(night, "/hook")
    # Its words may differ by then ("It is over by now."): it is the fingerprint that names it.
    assert unanswered["alerts"][0]["fingerprint"] == firing["alerts"][0]["fingerprint"]
    assert unanswered["status"] == firing["status"] == "firing"
    assert night.row("hook", "firing")["attempts"] == 3


def test_what_a_webhook_refuses_in_a_200_goes_to_the_stand_in_once_and_says_so(night: Night) -> None:
    (told,) = bodies(night, "/spare")
    (alert,) = told["alerts"]
    assert (told["status"], told["receiver"]) == ("resolved", "spare")
    reason = 'webhook: answered HTTP 200 but says: {"status": "error"}'
    assert alert["annotations"]["note"] == f"sent in place of hook, which refused it: {reason}"
    assert alert["fingerprint"] == bodies(night, "/hook")[0]["alerts"][0]["fingerprint"]
    failed = night.row("hook", "resolved")
    assert (failed["state"], failed["attempts"], failed["reason"]) == ("failed", 1, reason)
    assert night.row("spare", "resolved")["instead_of"] == failed["id"]
    (hook,) = (item for item in night.ended["receivers"] if item["receiver"] == "hook")
    assert (hook["failed"], hook["last_failure"]) == (1, reason)


def test_pages_of_one_incident_share_a_key_and_the_one_that_was_not_answered_comes_again(night: Night) -> None:
    events = bodies(night, "/v2/enqueue")
    assert [event["event_action"] for event in events] == ["trigger", "trigger", "resolve"]
    assert len({event["dedup_key"] for event in events}) == 1
    assert night.row("pager", "firing")["attempts"] == 3


def test_status_says_what_waits_and_why_also_of_a_daemon_that_was_killed(night: Night) -> None:
    assert night.killed["daemon"] is None
    known = {
        "team": "slack: the connection broke (RemoteDisconnected); the message may have arrived",
        "hook": "webhook: the connection broke (IncompleteRead); the message may have arrived",
        "pager": "pagerduty: no answer within 0.5 s; the message may have arrived",
    }
    rows = {name: night.row(name, "firing", "killed") for name in FAILING}
    # On a busy machine the third try of one may have come before the kill.
    waiting = {name: row for name, row in rows.items() if row["state"] == "pending"}
    assert waiting
    for name, row in waiting.items():
        assert row["attempts"] == 2
        assert row["reason"].startswith(known[name])
    assert night.row("mail", "firing", "killed")["reason"].partition(": refused: ")[2][:3] in {"421", "451"}
    assert {row["state"] for row in night.killed["notifications"]} == {"pending", "sent"}


def test_nothing_is_lost_and_nothing_waits_in_the_end(night: Night) -> None:
    states = {(row["receiver"], row["event"]): row["state"] for row in night.ended["notifications"]}
    told = {(name, event): "sent" for name in ("team", "left", "right", "mail", "hook", "pager") for event in EVENTS}
    assert states == {**told, ("hook", "resolved"): "failed", ("spare", "resolved"): "sent"}
    assert all(item["pending"] == 0 for item in night.ended["receivers"])
    assert "Traceback" not in night.log
