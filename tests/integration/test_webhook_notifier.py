"""The webhook notifier against real HTTP servers: what it posts, and what it makes of every answer."""

import base64
import json
import logging
import ssl
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from metricwatch import catalog
from metricwatch.api import AlertState, ConfigError, Notifier, PermanentError, Secret, TemporaryError
from metricwatch.config.options import bind_options
from metricwatch.testing import samples
from metricwatch.testing.notifier import NotifierContract, chain_of
from tests.support.rude_server import rude_server
from tests.support.smtp_server import make_certificate

WebhookNotifier = catalog.load_notifier("webhook")
PATH = "/hooks/T000/hunter2?key=swordfish"
SECRETS = ("hunter2", "swordfish", "opensesame", "b3blbnNlc2FtZ")  # the last: Base64 of the one before


def notifier_for(url: str, **options: Any) -> Notifier:
    return WebhookNotifier(WebhookNotifier.Options(url=Secret(url), **{"timeout": 5.0, **options}))


@pytest.fixture
def receiver(httpserver: HTTPServer) -> HTTPServer:
    httpserver.expect_request("/hooks/T000/hunter2", method="POST").respond_with_data("")
    return httpserver


@pytest.fixture
def notifier(receiver: HTTPServer) -> Notifier:
    return notifier_for(receiver.url_for(PATH))


def posted(server: HTTPServer) -> dict[str, Any]:
    ((request, _),) = server.log
    body = json.loads(request.get_data())
    assert isinstance(body, dict)
    return body


class TestWebhookNotifier(NotifierContract):
    notifier = WebhookNotifier

    @pytest.fixture
    def options(self, receiver: HTTPServer) -> Any:
        return WebhookNotifier.Options(url=Secret(receiver.url_for(PATH)), bearer_token=Secret("opensesame"))

    @pytest.fixture
    def unreachable_options(self) -> Any:
        return WebhookNotifier.Options(
            url=Secret(f"http://127.0.0.1:1{PATH}"), bearer_token=Secret("opensesame"), timeout=2
        )

    @pytest.fixture
    def inbox(self, httpserver: HTTPServer) -> Any:
        return lambda: [json.dumps(json.loads(request.get_data()), ensure_ascii=False) for request, _ in httpserver.log]


# --- the message -------------------------------------------------------------------------------------------


def test_a_message_has_the_form_of_alertmanager(notifier, receiver):
    fired = datetime(2026, 1, 2, 3, 0, 0, 250_000, tzinfo=UTC)
    about = changed(samples.alert(), fired_at=fired)
    sent = samples.notification(about=about)
    notifier.send(sent)
    body = posted(receiver)
    fingerprint = body["alerts"][0].pop("fingerprint")
    assert len(fingerprint) == 16
    assert int(fingerprint, 16)
    labels = {
        "alertname": "fid-moved",
        "run": "night-run",
        "metric": "fid",
        "severity": "critical",
        "direction": "worse",
        "kind": "moves",
    }
    annotations = {
        "summary": sent.title,
        "description": sent.summary,
        "value": "23.3972 ± 0.21",
        "step": "5000",
        "change": "+17% (threshold 10%)",
        "event": "firing",
    }
    assert body == {
        "version": "4",
        "groupKey": '{}:{run="night-run"}',
        "truncatedAlerts": 0,
        "status": "firing",
        "receiver": "team",
        "groupLabels": {"run": "night-run"},
        "commonLabels": labels,
        "commonAnnotations": annotations,
        "externalURL": samples.RUN_URL,
        "alerts": [
            {
                "status": "firing",
                "labels": labels,
                "annotations": annotations,
                "startsAt": "2026-01-02T03:00:00.250Z",
                "endsAt": "0001-01-01T00:00:00Z",
                "generatorURL": samples.RUN_URL,
            }
        ],
    }
    ((request, _),) = receiver.log
    assert request.headers["Content-Type"] == "application/json"


def changed(alert: Any, **values: Any) -> Any:
    import dataclasses

    return dataclasses.replace(alert, **values)


def test_recovery_says_when_where_and_at_what_value(notifier, receiver):
    ended = datetime(2026, 1, 2, 9, 0, 0, tzinfo=UTC)
    about = changed(samples.alert(resolved=True), resolved_at=ended, resolved_value=20.5)
    notifier.send(samples.notification("resolved", about=about))
    body = posted(receiver)
    (alert,) = body["alerts"]
    assert (body["status"], alert["status"], alert["endsAt"]) == ("resolved", "resolved", "2026-01-02T09:00:00.000Z")
    told = alert["annotations"]
    assert (told["value"], told["step"], told["fired_step"]) == ("20.5", "7000", "5000")


def test_one_alert_keeps_its_fingerprint_and_no_other_has_it(notifier, receiver):
    about = changed(samples.alert(), fired_at=samples.MOMENT)
    over = changed(about, state=AlertState.RESOLVED, resolved_step=7000)
    # Late evaluations showed that it began elsewhere.
    amended = changed(about, fired_step=4000, change=0.2)
    anew = changed(about, fired_at=samples.MOMENT + timedelta(seconds=1))
    for event, alert in (("firing", about), ("reminder", amended), ("resolved", over), ("firing", anew)):
        notifier.send(samples.notification(event, about=alert))
    notifier.send(samples.notification(about=changed(about, id=8)))
    first, reminder, resolved, *others = [
        json.loads(request.get_data())["alerts"][0]["fingerprint"] for request, _ in receiver.log
    ]
    assert first == reminder == resolved
    assert len({first, *others}) == 3


def test_a_reminder_is_the_firing_alert_once_more(notifier, receiver):
    notifier.send(samples.notification("reminder"))
    body = posted(receiver)
    assert (body["status"], body["alerts"][0]["status"]) == ("firing", "firing")
    assert body["commonAnnotations"]["event"] == "reminder"


@pytest.mark.parametrize(("event", "status"), [("digest", "resolved"), ("firing", "firing")])
def test_what_was_held_until_it_was_over_is_only_resolved(notifier, receiver, event, status):
    notice = samples.notice("firing", about=samples.alert(resolved=True))
    notifier.send(samples.notification(event, notices=[notice]))
    assert posted(receiver)["alerts"][0]["status"] == status


def test_alerts_share_what_they_have_in_common_and_one_that_fires_decides(notifier, receiver):
    over = samples.notice("resolved", about=samples.alert(rule="kid-moved", metric="kid", resolved=True))
    stale = samples.notice(about=changed(samples.alert(metric="", rule="dead"), what="no evaluation for 2 h"))
    notifier.send(samples.notification(notices=[over, stale], note="sent through another receiver"))
    body = posted(receiver)
    assert body["status"] == "firing"
    assert [alert["status"] for alert in body["alerts"]] == ["resolved", "firing"]
    assert body["commonLabels"] == {
        "run": "night-run",
        "severity": "critical",
        "direction": "worse",
        "kind": "moves",
    }
    assert body["commonAnnotations"]["note"] == "sent through another receiver"
    assert "summary" not in body["commonAnnotations"]
    assert "metric" not in body["alerts"][1]["labels"], "an empty label is an absent one"
    assert body["alerts"][1]["annotations"]["change"] == "no evaluation for 2 h"


def test_alerts_beyond_the_most_are_counted(receiver):
    notices = [samples.notice(about=samples.alert(alert_id=number)) for number in range(5)]
    notifier_for(receiver.url_for(PATH), max_alerts=2).send(samples.notification(notices=notices))
    body = posted(receiver)
    assert (len(body["alerts"]), body["truncatedAlerts"]) == (2, 3)


@pytest.mark.parametrize("url", ["javascript:alert(1)", "file:///etc/passwd"])
def test_only_web_addresses_become_links(notifier, receiver, url):
    notifier.send(samples.notification(run_url=url))
    assert "alert(1)" not in json.dumps(posted(receiver))
    assert "passwd" not in json.dumps(posted(receiver))


@pytest.mark.parametrize(
    ("options", "header", "value"),
    [
        ({"bearer_token": Secret("opensesame")}, "Authorization", "Bearer opensesame"),
        (
            {"username": "mw", "password": Secret("opensesame:ä")},
            "Authorization",
            f"Basic {base64.b64encode('mw:opensesame:ä'.encode()).decode()}",
        ),
        ({"headers": {"X-Scope-OrgID": Secret("tenant 1")}}, "X-Scope-OrgID", "tenant 1"),
    ],
)
def test_a_login_is_sent(receiver, options, header, value):
    notifier_for(receiver.url_for(PATH), **options).send(samples.notification())
    ((request, _),) = receiver.log
    assert request.headers[header] == value


# --- answers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "expected", "said"),
    [
        (400, "no such field", PermanentError, "HTTP 400: no such field"),
        (401, "", PermanentError, "HTTP 401"),
        (413, "x" * 5000, PermanentError, "x" * 200),
        (408, "", TemporaryError, "HTTP 408"),
        (425, "", TemporaryError, "HTTP 425"),
        (429, "slowly", TemporaryError, "HTTP 429: slowly"),
        (500, "a\x1b[31m\nb", TemporaryError, "HTTP 500: a [31m b"),
        (503, "", TemporaryError, "HTTP 503"),
        (200, '{"ok": false, "why": "no channel"}', PermanentError, 'answered HTTP 200 but says: {"ok": false, "why"'),
        (200, '{"success": false}', PermanentError, "but says"),
        (202, '{"status": "error"}', PermanentError, "answered HTTP 202 but says"),
        (200, '{"error": "no channel"}', PermanentError, "no channel"),
        (200, '{"errors": ["no channel"]}', PermanentError, "no channel"),
    ],
)
def test_the_answer_decides_whether_a_repeat_may_help(httpserver: HTTPServer, status, body, expected, said):
    httpserver.expect_request("/hooks/T000/hunter2").respond_with_data(body, status=status)
    with pytest.raises((TemporaryError, PermanentError)) as raised:
        notifier_for(httpserver.url_for(PATH)).send(samples.notification())
    assert type(raised.value) is expected
    assert said in str(raised.value)
    assert len(str(raised.value)) < 330
    assert len(httpserver.log) == 1, "the ledger repeats, not the client"


@pytest.mark.parametrize(
    "body",
    ["", "ok", '{"ok": true, "error": null, "errors": []}', "[]", '"error"', '{"status": "success"', "[" * 20_000],
)
def test_any_other_2xx_is_taken(httpserver: HTTPServer, body: str):
    httpserver.expect_request("/hooks/T000/hunter2").respond_with_data(body, status=201)
    notifier_for(httpserver.url_for(PATH)).send(samples.notification())


def on(date: datetime) -> str:
    return format_datetime(date, usegmt=True)


NOW = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "wish"),
    [
        ("30", timedelta(seconds=30)),
        (" 7 ", timedelta(seconds=7)),
        (on(NOW + timedelta(seconds=90)), timedelta(seconds=90)),
        (on(NOW - timedelta(seconds=90)), None),
        (None, None),
        ("soon", None),
        ("-5", None),
        ("٣", None),
        ("99999999999999999999", None),
    ],
)
def test_the_receivers_own_wish_is_passed_on(header, wish):
    # The date counts from the receiver's clock, which goes wrong here by years.
    lines = [f"Date: {on(NOW)}", "Content-Length: 0"] + ([] if header is None else [f"Retry-After: {header}"])
    for status in (429, 503):
        answer = "\r\n".join([f"HTTP/1.1 {status} No", *lines, "", ""]).encode()
        with rude_server(answer) as port, pytest.raises(TemporaryError, match=f"HTTP {status}") as raised:
            notifier_for(f"http://127.0.0.1:{port}{PATH}").send(samples.notification())
        assert raised.value.retry_after == wish


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(httpserver: HTTPServer, status: int):
    httpserver.expect_request("/hooks/T000/hunter2").respond_with_data(
        "", status=status, headers={"Location": httpserver.url_for("/else/hunter2")}
    )
    httpserver.expect_request("/else/hunter2").respond_with_data("")
    with pytest.raises(PermanentError, match=f"HTTP {status}, a redirect, which is not followed") as raised:
        notifier_for(httpserver.url_for(PATH)).send(samples.notification())
    assert len(httpserver.log) == 1
    assert not [secret for secret in SECRETS if secret in chain_of(raised.value)]


def test_of_a_huge_answer_only_the_start_is_read():
    sent = 0

    def answer(request: Request) -> Response:
        def chunks():
            nonlocal sent
            for _ in range(160):
                sent += 65536
                yield b"a" * 65536

        return Response(chunks(), status=500, headers={"Content-Length": str(160 * 65536)})

    with HTTPServer() as server:
        server.expect_request("/hooks/T000/hunter2").respond_with_handler(answer)
        with pytest.raises(TemporaryError, match=r"HTTP 500: a{200}$"):
            notifier_for(server.url_for(PATH)).send(samples.notification())
        server.clear()
    assert sent < 160 * 65536


def test_an_answer_that_repeats_what_it_was_sent_is_shown_without_secrets(httpserver: HTTPServer):
    def echo(request: Request) -> Response:
        told = f"no {request.url} {request.path} {request.path[:15]} {request.headers} {json.dumps(request.url)}"
        return Response(told.replace("/", "\\/"), status=400)

    httpserver.expect_request("/hooks/T000/hunter2").respond_with_handler(echo)
    options = {"username": "mw", "password": Secret("opensesame"), "headers": {"X-Key": Secret("swordfish")}}
    with pytest.raises(PermanentError, match=r"HTTP 400: no ") as raised:
        notifier_for(httpserver.url_for(PATH), **options).send(samples.notification())
    assert not [secret for secret in SECRETS if secret in chain_of(raised.value)]


@pytest.mark.parametrize("echo", ["{0}", "{0[0]}…{0}", "key={0};", "%70{0}", "<{0}>", "{0[0]}{0[1]} {0}"])
@pytest.mark.parametrize("token", ["opensesame", "a/b&c=d+e", 'quo"ted', "0123456789abcdef"])
def test_a_token_in_any_answer_is_hidden(httpserver: HTTPServer, echo: str, token: str):
    httpserver.expect_request("/hooks/T000/hunter2").respond_with_data(echo.format(token), status=400)
    notifier = notifier_for(httpserver.url_for(PATH), bearer_token=Secret(token))
    with pytest.raises(PermanentError) as raised:
        notifier.send(samples.notification())
    assert token not in str(raised.value)
    assert "******" in str(raised.value)


# --- no answer ---------------------------------------------------------------------------------------------


def test_a_slow_server_is_given_up_in_time():
    with rude_server(silent_for=30) as port:
        start = time.monotonic()
        with pytest.raises(TemporaryError, match=r"no answer within 0\.4 s; the message may have arrived"):
            notifier_for(f"http://127.0.0.1:{port}{PATH}", timeout=0.4).send(samples.notification())
        assert time.monotonic() - start < 5


def test_an_answer_that_drips_is_given_up_in_time(httpserver: HTTPServer):
    def drip(request: Request) -> Response:
        def chunks():
            for _ in range(100):
                time.sleep(0.1)
                yield b"a"

        return Response(chunks(), headers={"Content-Length": "100"})

    httpserver.expect_request("/hooks/T000/hunter2").respond_with_handler(drip)
    start = time.monotonic()
    with pytest.raises(TemporaryError, match="no answer within"):
        notifier_for(httpserver.url_for(PATH), timeout=0.4).send(samples.notification())
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\no",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\no",
        b"nonsense\r\n\r\n",
    ],
)
@pytest.mark.parametrize("reset", [False, True])
def test_a_connection_that_breaks_may_have_delivered(answer: bytes, reset: bool):
    with rude_server(answer, reset=reset) as port, pytest.raises(TemporaryError) as raised:
        notifier_for(f"http://127.0.0.1:{port}{PATH}").send(samples.notification())
    assert "hunter2" not in chain_of(raised.value)


def test_nobody_there_is_said_so():
    with pytest.raises(TemporaryError, match=r"^webhook: no connection \(Connection refused\)$"):
        notifier_for(f"http://127.0.0.1:1{PATH}").send(samples.notification())


def test_a_certificate_counts_only_when_it_is_vouched_for(tmp_path):
    ours, other = (make_certificate(tmp_path, hosts=(host, "127.0.0.1")) for host in ("localhost", "other.example"))
    wrong_name = make_certificate(tmp_path, hosts=("elsewhere.example",))
    with served_over_tls(ours.server_context()) as url:
        notifier_for(url, ca_file=ours.certificate).send(samples.notification())
        for ca_file in (None, other.certificate):
            with pytest.raises(PermanentError, match=r"certificate is not trusted \(self.signed certificate") as raised:
                notifier_for(url, ca_file=ca_file).send(samples.notification())
            assert "hunter2" not in chain_of(raised.value)
        missing = tmp_path / "missing.pem"
        with pytest.raises(PermanentError, match=r"ca_file .*missing\.pem cannot be used: No such file"):
            notifier_for(url, ca_file=missing).send(samples.notification())
        with pytest.raises(TemporaryError, match="the connection broke"):
            notifier_for(url.replace("https:", "http:")).send(samples.notification())
    with (
        served_over_tls(wrong_name.server_context()) as url,
        pytest.raises(PermanentError, match="IP address mismatch"),
    ):
        notifier_for(url, ca_file=wrong_name.certificate).send(samples.notification())


def served_over_tls(context: ssl.SSLContext) -> Any:
    from contextlib import contextmanager

    @contextmanager
    def running():
        with HTTPServer(host="127.0.0.1", ssl_context=context) as server:
            server.expect_request("/hooks/T000/hunter2").respond_with_data("")
            yield server.url_for(PATH)

    return running()


def test_tls_to_a_port_without_it_is_said_so(receiver: HTTPServer):
    with pytest.raises(TemporaryError, match="does this port speak TLS"):
        notifier_for(receiver.url_for(PATH).replace("http:", "https:")).send(samples.notification())


def test_no_secret_is_logged_at_any_level(httpserver: HTTPServer, caplog: pytest.LogCaptureFixture):
    httpserver.expect_request("/hooks/T000/hunter2").respond_with_data("nope", status=500)
    options = {"username": "mw", "password": Secret("opensesame"), "headers": {"X-Key": Secret("swordfish")}}
    for url in (httpserver.url_for(PATH), f"http://127.0.0.1:1{PATH}", f"http://localhost.invalid{PATH}"):
        with caplog.at_level(logging.DEBUG), pytest.raises(TemporaryError) as raised:
            notifier_for(url, **options).send(samples.notification())
        assert not [secret for secret in SECRETS if secret in chain_of(raised.value)]
    logged = "\n".join(record.getMessage() for record in caplog.records if record.name != "werkzeug")
    assert not [secret for secret in SECRETS if secret in logged]


def test_a_proxy_of_the_environment_is_used_and_may_refuse(httpserver, monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", httpserver.url_for(""))
    httpserver.expect_request("/hooks/T000/hunter2").respond_with_data("")
    notifier_for(f"http://receiver.invalid{PATH}").send(samples.notification())
    assert httpserver.log[0][0].headers["Host"] == "receiver.invalid"
    with rude_server(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n") as port:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
        with pytest.raises(TemporaryError, match="the proxy refuses: Tunnel connection failed: 407"):
            notifier_for(f"https://receiver.invalid{PATH}").send(samples.notification())
    monkeypatch.setenv("http_proxy", "socks5://mw:hunter2@127.0.0.1:1")
    with pytest.raises(TemporaryError, match=r"the proxy that the environment names is not") as raised:
        notifier_for(f"http://receiver.invalid{PATH}").send(samples.notification())
    assert "mw:hunter2" not in chain_of(raised.value)


# --- options -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"url": ""}, "url is not an http"),
        ({"url": "hooks.example/hunter2"}, "url is not an http"),
        ({"url": "ftp://a/hunter2"}, "url is not an http"),
        ({"url": "https:///hunter2"}, "url is not an http"),
        ({"url": "https://a b/hunter2"}, "url is not an http"),
        ({"url": "https://a/hunter2/ä"}, "url is not an http"),
        ({"url": "https://a:port/hunter2"}, "url is not an http"),
        ({"url": "https://mw:hunter2@a/"}, "url holds a user or a password"),
        ({"username": "mw"}, "username and password go together"),
        ({"password": "hunter2"}, "username and password go together"),
        ({"username": "mw", "password": "hunter2", "bearer_token": "opensesame"}, "exclude each other"),
        ({"username": "mw:hunter2", "password": "opensesame"}, "username holds a colon"),
        ({"bearer_token": "hunter2\n"}, "bearer_token is empty, or holds white space"),
        ({"bearer_token": ""}, "bearer_token is empty"),
        ({"bearer_token": "opensesame", "headers": {"authorization": "hunter2"}}, "Authorization and bearer_token"),
        ({"headers": {"X-Key hunter2": "a"}}, "the name of number 1"),
        ({"headers": {"X-Key": "hunter2\r\nX-Other: 1"}}, "the value of X-Key"),
        ({"headers": {"X-Key": "hunter2", "x-key": "opensesame"}}, "given twice"),
        ({"headers": {"content-length": "hunter2"}}, "content-length follows from the message"),
        ({"headers": {"X-Key": ["hunter2"]}}, "headers"),
        ({"headers": "hunter2"}, "headers"),
        ({"max_alerts": -1}, "max_alerts must be 0"),
        ({"timeout": 0}, "timeout must be above 0"),
        ({"timeout": ".nan"}, "timeout"),
        ({"timeout": float("nan")}, "timeout must be above 0"),
        ({"url": "http://a/hunter2", "ca_file": "a.pem"}, "ca_file is for https"),
    ],
)
def test_options_that_cannot_work_are_refused_without_their_values(raw: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=said) as raised:
        bind_options(WebhookNotifier.Options, {"url": "https://a.example/hunter2", **raw}, "notify.team")
    assert not [secret for secret in SECRETS if secret in str(raised.value)]


def test_options_show_no_secret(receiver: HTTPServer, tmp_path):
    (tmp_path / "token").write_text("opensesame\n")
    raw = {"url": receiver.url_for(PATH), "bearer_token_file": "token", "headers": {"X-Key": "swordfish"}}
    options = bind_options(WebhookNotifier.Options, raw, "notify.team", base=tmp_path)
    assert not [secret for secret in SECRETS if secret in repr(options)]
    WebhookNotifier(options).send(samples.notification())
    ((request, _),) = receiver.log
    assert (request.headers["X-Key"], request.headers["Authorization"]) == ("swordfish", "Bearer opensesame")
