"""The PagerDuty notifier against real HTTP servers: which events it sends, and what it makes of every answer."""

import dataclasses
import json
import logging
from datetime import timedelta
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from metricwatch import catalog
from metricwatch.api import AlertState, ConfigError, Notifier, PermanentError, Secret, TemporaryError, WindowPoint
from metricwatch.config.options import bind_options
from metricwatch.testing import samples
from metricwatch.testing.notifier import NotifierContract, chain_of
from tests.support.rude_server import rude_server

PagerDutyNotifier = catalog.load_notifier("pagerduty")
PATH = "/v2/enqueue"
KEY = "hunter2hunter2hunter2hunter2hunt"
TAKEN = {"status": "success", "message": "Event processed", "dedup_key": "given"}


def notifier_for(url: str, **options: Any) -> Notifier:
    return PagerDutyNotifier(PagerDutyNotifier.Options(routing_key=Secret(KEY), url=url, **{"timeout": 5.0, **options}))


@pytest.fixture
def pagerduty(httpserver: HTTPServer) -> HTTPServer:
    httpserver.expect_request(PATH, method="POST").respond_with_json(TAKEN, status=202)
    return httpserver


@pytest.fixture
def notifier(pagerduty: HTTPServer) -> Notifier:
    return notifier_for(pagerduty.url_for(PATH))


def events(server: HTTPServer) -> list[dict[str, Any]]:
    return [json.loads(request.get_data()) for request, _ in server.log]


class TestPagerDutyNotifier(NotifierContract):
    notifier = PagerDutyNotifier
    one_each = True

    @pytest.fixture
    def options(self, pagerduty: HTTPServer) -> Any:
        return PagerDutyNotifier.Options(routing_key=Secret(KEY), url=pagerduty.url_for(PATH))

    @pytest.fixture
    def unreachable_options(self) -> Any:
        return PagerDutyNotifier.Options(routing_key=Secret(KEY), url=f"http://127.0.0.1:1{PATH}", timeout=2)

    @pytest.fixture
    def inbox(self, httpserver: HTTPServer) -> Any:
        """A test is resolved at once, which is no message of its own."""
        return lambda: [
            json.dumps(event, ensure_ascii=False)
            for event in events(httpserver)
            if not (event["dedup_key"].startswith("metricwatch-test/") and event["event_action"] == "resolve")
        ]


# --- the events --------------------------------------------------------------------------------------------


def test_an_alert_triggers_an_incident(notifier, pagerduty):
    about = dataclasses.replace(samples.alert(points_seen=samples.window(2)), fired_at=samples.MOMENT)
    sent = samples.notification(about=about)
    notifier.send(sent)
    (event,) = events(pagerduty)
    key = event.pop("dedup_key")
    assert key.startswith("metricwatch/")
    assert len(key) <= 255
    assert event == {
        "routing_key": KEY,
        "event_action": "trigger",
        "client": "metricwatch",
        "client_url": samples.RUN_URL,
        "links": [{"href": samples.RUN_URL, "text": "Open the run in MLflow"}],
        "payload": {
            "summary": sent.title,
            "source": "night-run",
            "severity": "critical",
            "timestamp": "2026-01-02T03:04:05.000+00:00",
            "component": "fid",
            "class": "fid-moved",
            "custom_details": {
                "summary": sent.summary,
                "value": "20.8 ± 0.21",
                "step": "5000",
                "change": "+17% (threshold 10%)",
                "direction": "worse",
                "labels": dict(sent.notices[0].labels),
                "window": {"1000": "20 ± 0.21", "2000": "20.8 ± 0.21"},
            },
        },
    }


def test_the_end_of_an_alert_resolves_its_incident_and_no_other(notifier, pagerduty):
    about = dataclasses.replace(samples.alert(), fired_at=samples.MOMENT)
    # Late evaluations showed that it began elsewhere.
    amended = dataclasses.replace(about, fired_step=4000, change=0.3)
    over = dataclasses.replace(amended, state=AlertState.RESOLVED, resolved_step=7000, resolved_value=20.5)
    anew = dataclasses.replace(about, fired_at=samples.MOMENT + timedelta(seconds=1))
    for event, alert in (("firing", about), ("reminder", amended), ("resolved", over), ("firing", anew)):
        notifier.send(samples.notification(event, about=alert))
    sent = events(pagerduty)
    assert [event["event_action"] for event in sent] == ["trigger", "trigger", "resolve", "trigger"]
    keys = [event["dedup_key"] for event in sent]
    assert keys[0] == keys[1] == keys[2] != keys[3]
    details = sent[2]["payload"]["custom_details"]
    assert (details["value"], details["step"], details["fired_step"]) == ("20.5", "7000", "4000")


def test_every_alert_of_a_message_has_an_event_in_order(notifier, pagerduty):
    notices = [
        samples.notice(about=samples.alert(alert_id=1, rule="first")),
        samples.notice("resolved", about=samples.alert(alert_id=2, rule="second", resolved=True)),
        samples.notice("reminder", about=samples.alert(alert_id=3, rule="third")),
    ]
    notifier.send(samples.notification(notices=notices, note="sent through another receiver"))
    sent = events(pagerduty)
    assert [(event["payload"]["class"], event["event_action"]) for event in sent] == [
        ("first", "trigger"),
        ("second", "resolve"),
        ("third", "trigger"),
    ]
    assert len({event["dedup_key"] for event in sent}) == 3
    assert {event["payload"]["custom_details"]["note"] for event in sent} == {"sent through another receiver"}


@pytest.mark.parametrize(("event", "action"), [("digest", "resolve"), ("firing", "trigger")])
def test_what_was_held_until_it_was_over_is_only_resolved(notifier, pagerduty, event, action):
    notice = samples.notice("firing", about=samples.alert(resolved=True))
    notifier.send(samples.notification(event, notices=[notice]))
    (sent,) = events(pagerduty)
    assert sent["event_action"] == action


def test_a_test_leaves_no_incident_behind(notifier, pagerduty):
    notifier.send(samples.notification("test", notification_id=1))
    notifier.send(samples.notification("test", notification_id=2))
    notifier.send(samples.notification())
    sent = events(pagerduty)
    assert [event["event_action"] for event in sent] == ["trigger", "resolve", "trigger", "resolve", "trigger"]
    assert [event["payload"]["severity"] for event in sent[:4]] == ["info"] * 4
    keys = [event["dedup_key"] for event in sent]
    assert keys[0] == keys[1]
    assert keys[2] == keys[3]
    assert len(set(keys)) == 3


def test_only_the_severities_that_are_wanted_are_sent(pagerduty):
    notifier = notifier_for(pagerduty.url_for(PATH), severities=("critical", "warning"))
    better = samples.notice(about=dataclasses.replace(samples.alert(alert_id=2), severity="info"))
    notifier.send(samples.notification(notices=[better]))
    assert events(pagerduty) == []
    warning = samples.notice(about=dataclasses.replace(samples.alert(alert_id=3), severity="warning"))
    notifier.send(samples.notification(notices=[samples.notice(), better, warning]))
    assert [event["payload"]["severity"] for event in events(pagerduty)] == ["critical", "warning"]


@pytest.mark.parametrize("text", ["&" * 20_000, "x" * 20_000, "画" * 20_000, " \n "])
def test_pagerdutys_limits_are_kept(notifier, pagerduty, text):
    window = [WindowPoint(step=index, value=index / 7, stderr=0.1) for index in range(5000)]
    about = dataclasses.replace(
        samples.alert(metric=text, rule=text, points_seen=window), what=text, detail=text, reason=text
    )
    labels = {f"{text}{index}": text for index in range(100)}
    notice = samples.notice(about=about, run_name=text, title=text, summary=text, labels=labels)
    notifier.send(samples.notification(notices=[notice], note=text))
    (event,) = events(pagerduty)
    payload = event["payload"]
    assert 0 < len(payload["summary"]) <= 1024
    assert payload["source"]
    ((request, _),) = pagerduty.log
    assert len(request.get_data()) < 512 * 1024
    shown = payload["custom_details"]["window"]
    assert list(shown)[:2] == ["0", "1"]
    assert list(shown)[-1] == "4999"
    assert shown["…"] == "4940 more"


@pytest.mark.parametrize("url", ["javascript:alert(1)", "file:///etc/passwd", None])
def test_only_web_addresses_become_links(notifier, pagerduty, url):
    notifier.send(samples.notification(run_url=url))
    (event,) = events(pagerduty)
    assert not {"links", "client_url"} & set(event)


# --- answers -----------------------------------------------------------------------------------------------


INVALID = {"status": "invalid event", "message": "Event object is invalid", "errors": ["Length of 'routing_key' is 3"]}


@pytest.mark.parametrize(
    ("status", "body", "expected", "said"),
    [
        (400, json.dumps(INVALID), PermanentError, "Length of 'routing_key' is 3"),
        (400, f"no such key {KEY}", PermanentError, "HTTP 400: no such key ******"),
        (400, f"no such key {KEY[:20]}", PermanentError, "HTTP 400: no such key ******"),
        (404, "", PermanentError, "pagerduty: HTTP 404"),
        (408, "", TemporaryError, "HTTP 408"),
        (500, "oops", TemporaryError, "HTTP 500: oops"),
        (503, "", TemporaryError, "HTTP 503"),
        (302, "", PermanentError, "not followed"),
        (200, "<html>please log in</html>", PermanentError, "answered HTTP 200 but says: <html>please log in"),
        (202, '{"status": "throttled"}', PermanentError, "throttled"),
    ],
)
def test_the_answer_decides_whether_a_repeat_may_help(httpserver: HTTPServer, status, body, expected, said):
    httpserver.expect_request(PATH).respond_with_data(body, status=status)
    with pytest.raises((TemporaryError, PermanentError)) as raised:
        notifier_for(httpserver.url_for(PATH)).send(samples.notification())
    assert type(raised.value) is expected
    assert said in str(raised.value)
    assert "hunter2" not in chain_of(raised.value)
    assert len(httpserver.log) == 1, "the ledger repeats, not the client"


def test_a_rate_limit_passes_on_its_wish(httpserver: HTTPServer):
    httpserver.expect_request(PATH).respond_with_data("", status=429, headers={"Retry-After": "30"})
    with pytest.raises(TemporaryError, match="HTTP 429") as raised:
        notifier_for(httpserver.url_for(PATH)).send(samples.notification())
    assert raised.value.retry_after == timedelta(seconds=30)


THREE = [samples.notice(about=samples.alert(alert_id=number, rule=f"rule-{number}")) for number in (1, 2, 3)]


def test_one_that_is_refused_holds_up_no_other(httpserver: HTTPServer):
    def answer(request: Request) -> Response:
        refused = json.loads(request.get_data())["payload"]["class"] == "rule-2"
        return Response(json.dumps(INVALID if refused else TAKEN), status=400 if refused else 202)

    httpserver.expect_request(PATH).respond_with_handler(answer)
    with pytest.raises(PermanentError, match=r"HTTP 400: .* \(1 of 3 events were refused\)"):
        notifier_for(httpserver.url_for(PATH)).send(samples.notification(notices=THREE))
    assert len(httpserver.log) == 3


def test_a_message_that_was_sent_in_part_is_repeated_with_the_same_keys(httpserver: HTTPServer):
    httpserver.expect_ordered_request(PATH).respond_with_json(TAKEN, status=202)
    httpserver.expect_ordered_request(PATH).respond_with_data("", status=503)
    for _ in THREE:
        httpserver.expect_ordered_request(PATH).respond_with_json(TAKEN, status=202)
    notifier = notifier_for(httpserver.url_for(PATH))
    with pytest.raises(TemporaryError, match="HTTP 503"):
        notifier.send(samples.notification(notices=THREE))
    assert len(httpserver.log) == 2
    notifier.send(samples.notification(notices=THREE))
    keys = [event["dedup_key"] for event in events(httpserver)]
    assert keys[:2] == keys[2:4]
    assert len(set(keys)) == 3


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 202 Accepted\r\nContent-Length: 100\r\n\r\n{"])
def test_a_connection_that_breaks_is_tried_again(answer: bytes):
    with rude_server(answer) as port, pytest.raises(TemporaryError, match="the connection broke"):
        notifier_for(f"http://127.0.0.1:{port}{PATH}").send(samples.notification())


def test_the_key_is_logged_at_no_level(httpserver: HTTPServer, caplog: pytest.LogCaptureFixture):
    httpserver.expect_request(PATH).respond_with_data("nope", status=500)
    for url in (httpserver.url_for(PATH), f"http://127.0.0.1:1{PATH}"):
        with caplog.at_level(logging.DEBUG), pytest.raises(TemporaryError) as raised:
            notifier_for(url).send(samples.notification())
        assert "hunter2" not in chain_of(raised.value)
    assert "hunter2" not in caplog.text


# --- options -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"routing_key": "hunter2"}, "routing_key is not 32 letters and digits"),
        ({"routing_key": f"{KEY}\n"}, "routing_key"),
        ({"url": "https://mw:hunter2@a/"}, "url holds a user or a password"),
        ({"url": "hunter2"}, "url is not an http"),
        ({"url": "http://a/", "ca_file": "a.pem"}, "ca_file is for https"),
        ({"severities": []}, "severities is empty"),
        ({"severities": ["error"]}, "severities"),
        ({"timeout": -1}, "timeout must be above 0"),
    ],
)
def test_options_that_cannot_work_are_refused_without_the_key(raw: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=said) as raised:
        bind_options(PagerDutyNotifier.Options, {"routing_key": KEY, **raw}, "notify.pager")
    assert "hunter2" not in str(raised.value)


def test_a_key_is_all_that_is_needed(tmp_path):
    (tmp_path / "key").write_text(f"{KEY}\n")
    options = bind_options(PagerDutyNotifier.Options, {"routing_key_file": "key"}, "notify.pager", base=tmp_path)
    assert options.url == "https://events.pagerduty.com/v2/enqueue"
    assert KEY not in repr(options)
