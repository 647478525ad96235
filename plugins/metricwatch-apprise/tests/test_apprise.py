"""The notifier on real servers of the loopback interface: a receiver of apprise's own JSON, one like Slack, and SMTP."""

from __future__ import annotations

import base64
import json
import logging
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from email import message_from_bytes, policy
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from metricwatch_apprise import AppriseNotifier, AppriseOptions
from pytest_httpserver import HTTPServer
from werkzeug import Response

from metricwatch import catalog
from metricwatch.api import ConfigError, Secret, TemporaryError, WindowPoint
from metricwatch.testing import samples
from metricwatch.testing.notifier import NotifierContract, chain_of, png

PATH = "/hooks/hunter2"


def address(server: HTTPServer, path: str = PATH) -> str:
    return f"json://mw:hunter2@{server.host}:{server.port}{path}"


def notifier_for(url: str, **options: Any) -> AppriseNotifier:
    return AppriseNotifier(AppriseOptions(url=Secret(url), **options))


@pytest.fixture
def receiver(httpserver: HTTPServer) -> HTTPServer:
    httpserver.expect_request(PATH, method="POST").respond_with_data("")
    return httpserver


def bodies(server: HTTPServer) -> list[dict[str, Any]]:
    return [json.loads(request.get_data()) for request, _ in server.log]


class TestAppriseNotifier(NotifierContract):
    notifier = AppriseNotifier

    @pytest.fixture
    def options(self, receiver: HTTPServer) -> Any:
        return AppriseOptions(url=Secret(address(receiver)))

    @pytest.fixture
    def unreachable_options(self) -> Any:
        return AppriseOptions(url=Secret("json://mw:hunter2@127.0.0.1:1/hooks/hunter2"), timeout=2)

    @pytest.fixture
    def inbox(self, httpserver: HTTPServer) -> Callable[[], Sequence[str]]:
        return lambda: [f"{body['title']}\n{body['message']}" for body in bodies(httpserver)]


# --- the message -------------------------------------------------------------------------------------------


def test_a_message_has_a_line_for_each_alert_a_table_and_a_link(receiver: HTTPServer) -> None:
    notices = [
        samples.notice(about=samples.alert(points_seen=samples.window(2))),
        samples.notice("resolved", about=samples.alert(alert_id=8, rule="kid-moved", metric="kid", resolved=True)),
    ]
    sent = samples.notification(notices=notices, note="sent through another receiver")
    notifier_for(address(receiver)).send(sent)
    (body,) = bodies(receiver)
    assert body["title"] == sent.title
    assert body["type"] == "failure"
    assert body["message"].splitlines() == [
        "sent through another receiver",
        "",
        sent.summary,
        "",
        "● fid got worse by 17% on night-run (rule fid-moved, fid, step 5000, worse, critical)",
        "✓ fid is back within 10% on night-run (rule kid-moved, kid, step 7000, worse, critical)",
        "",
        "step  fid",
        "1000  20 ± 0.21",
        "2000  20.8 ± 0.21",
        "",
        samples.RUN_URL,
    ]


def test_a_long_window_keeps_both_ends(receiver: HTTPServer) -> None:
    window = [WindowPoint(step=index, value=index / 7) for index in range(1000)]
    notifier_for(address(receiver)).send(samples.notification(about=samples.alert(points_seen=window)))
    rows = bodies(receiver)[0]["message"].splitlines()
    assert {"   0  0", "   5  0.714286", "   …", " 994  142", " 999  142.714"} <= set(rows)
    assert " 993  141.857" not in rows


@pytest.mark.parametrize(("event", "kind"), [("resolved", "success"), ("reminder", "failure"), ("test", "info")])
def test_the_kind_of_a_message_is_told(receiver: HTTPServer, event: Any, kind: str) -> None:
    notifier_for(address(receiver)).send(samples.notification(event))
    assert bodies(receiver)[0]["type"] == kind


@pytest.mark.parametrize(
    ("form", "shown"),
    [
        ("markdown", [r"- ● a\_b \[x\](http://evil.example) \<b\>", "    step  fid", f"<{samples.RUN_URL}>"]),
        ("html", ["<li>● a_b [x](http://evil.example) &lt;b&gt;", "<pre>step  fid", f'<a href="{samples.RUN_URL}">']),
    ],
)
def test_no_text_becomes_markup(receiver: HTTPServer, form: Any, shown: Sequence[str]) -> None:
    hostile = "a_b [x](http://evil.example) <b>"
    notifier_for(address(receiver) + f"?format={form}", body_format=form).send(
        samples.notification(title=hostile, summary=hostile)
    )
    (body,) = bodies(receiver)
    for part in shown:
        assert part in body["message"]


def test_curves_go_along_where_the_service_takes_them(receiver: HTTPServer) -> None:
    pictures = [png(), None, b"", b"broken", png(16, 16), png(), png(), png()]
    notices = [
        samples.notice(about=samples.alert(alert_id=number, metric="fd_../a b"), picture=picture)
        for number, picture in enumerate(pictures)
    ]
    notifier_for(address(receiver)).send(samples.notification(notices=notices))
    attached = bodies(receiver)[0]["attachments"]
    assert [item["filename"] for item in attached] == [f"fd_.._a_b-{number}.png" for number in (1, 5, 6, 7)]
    assert {item["mimetype"] for item in attached} == {"image/png"}
    assert base64.b64decode(attached[1]["base64"]) == png(16, 16)


@pytest.mark.parametrize(("most", "texts", "last"), [(1500, 3, True), (300, 1, False)])
def test_a_long_text_is_split_and_a_very_long_one_for_a_telephone_is_cut(
    receiver: HTTPServer, monkeypatch: pytest.MonkeyPatch, most: int, texts: int, last: bool
) -> None:
    monkeypatch.setattr("apprise.plugins.custom_json.NotifyJSON.body_maxlen", most)
    notices = [samples.notice(about=samples.alert(alert_id=number, rule="r" * 60)) for number in range(25)]
    notifier_for(address(receiver)).send(samples.notification(notices=notices))
    told = [body["message"] for body in bodies(receiver)]
    assert len(told) == texts
    assert ("and 5 more" in "".join(told)) is last


@dataclass
class Mailbox:
    port: int
    mails: list[Any]

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        self.mails.append(message_from_bytes(envelope.content, policy=policy.default))
        return "250 taken"


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    running = Mailbox(port, [])
    controller = Controller(running, hostname="127.0.0.1", port=port)
    controller.start()
    yield running
    controller.stop()


def test_mail_has_the_text_and_the_curve(mailbox: Mailbox) -> None:
    url = f"mailto://127.0.0.1:{mailbox.port}/?from=mw@example.org&to=ml@example.org&mode=insecure"
    sent = samples.notification(notices=[samples.notice(picture=png())])
    notifier_for(url).send(sent)
    (mail,) = mailbox.mails
    assert mail["Subject"] == sent.title
    (picture,) = [part for part in mail.walk() if part.get_content_type() == "image/png"]
    assert picture.get_payload(decode=True) == png()
    text = mail.get_body(("html", "plain")).get_content()
    assert "night-run (rule fid-moved, fid, step 5000" in text


# --- faults ------------------------------------------------------------------------------------------------


def test_only_the_address_that_failed_is_asked_again(httpserver: HTTPServer) -> None:
    answers = iter([500, 200, 200])
    httpserver.expect_request("/good").respond_with_data("")
    httpserver.expect_request("/bad").respond_with_handler(lambda request: Response("", next(answers)))
    notifier = notifier_for(f"{address(httpserver, '/bad')}\n  {address(httpserver, '/good')}\n")
    with pytest.raises(TemporaryError, match=r"1 of 2 addresses did not take the message: JSON \(number 1\)") as raised:
        notifier.send(samples.notification())
    assert "hunter2" not in chain_of(raised.value)
    notifier.send(samples.notification())
    assert [request.path for request, _ in httpserver.log] == ["/bad", "/good", "/bad"]
    notifier.send(samples.notification(notification_id=12))
    assert [request.path for request, _ in httpserver.log[3:]] == ["/bad", "/good"]


def test_a_slow_service_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"json://127.0.0.1:{silent.getsockname()[1]}/hunter2"
        with pytest.raises(TemporaryError):
            notifier_for(url, timeout=0.3).send(samples.notification())


def test_no_address_is_logged_at_any_level(httpserver: HTTPServer, caplog: pytest.LogCaptureFixture) -> None:
    httpserver.expect_request(PATH).respond_with_data("", status=500)
    handlers = logging.getLogger("apprise").filters[:]
    for url in (address(httpserver), "json://mw:hunter2@127.0.0.1:1/hunter2", "hunter2://hunter2"):
        with caplog.at_level(logging.DEBUG), pytest.raises((TemporaryError, ConfigError)):
            notifier_for(url).send(samples.notification())
    assert not [record for record in caplog.records if "hunter2" in record.getMessage() and record.name != "werkzeug"]
    assert logging.getLogger("apprise").filters == handlers, "the loggers are as they were"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "url is empty"),
        (" \n", "url is empty"),
        ("hunter2", "address number 1;"),
        ("hunter2://hunter2", "address number 1;"),
        ("json://127.0.0.1/ slack://hunter2", r"address number 2 \(slack://\);"),
    ],
)
def test_an_address_that_apprise_does_not_know_is_a_configuration_error(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        notifier_for(url)
    assert "hunter2" not in chain_of(raised.value)


@pytest.mark.parametrize("seconds", [0, -1, 601, float("nan")])
def test_an_impossible_timeout_is_a_configuration_error(seconds: float) -> None:
    with pytest.raises(ConfigError, match="timeout must be above 0"):
        AppriseOptions(url=Secret("json://127.0.0.1/"), timeout=seconds)


def test_metricwatch_finds_it() -> None:
    assert catalog.load_notifier("apprise") is AppriseNotifier
