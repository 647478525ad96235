"""The Slack notifier against real HTTP servers: what it posts, and what it makes of every answer."""

import json
import logging
import time
from datetime import timedelta
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from metricwatch import catalog
from metricwatch.api import ConfigError, Notifier, PermanentError, Secret, TemporaryError, WindowPoint
from metricwatch.testing import samples
from tests.support.rude_server import rude_server

SlackNotifier = catalog.load_notifier("slack")
PATH = "/services/T000/B000/hunter2"


def notifier_for(url: str, timeout: float = 5.0) -> Notifier:
    return SlackNotifier(SlackNotifier.Options(webhook_url=Secret(url), timeout=timeout))


@pytest.fixture
def notifier(httpserver: HTTPServer) -> Notifier:
    return notifier_for(httpserver.url_for(PATH))


@pytest.fixture
def slack(httpserver: HTTPServer) -> HTTPServer:
    httpserver.expect_request(PATH, method="POST").respond_with_data("ok")
    return httpserver


def posted(server: HTTPServer) -> dict[str, Any]:
    ((request, _),) = server.log
    body = json.loads(request.get_data())
    assert isinstance(body, dict)
    return body


def texts(block: dict[str, Any]) -> list[str]:
    parts = [block["text"]] if "text" in block else []
    return [part["text"] for part in (*parts, *block.get("fields", ()), *block.get("elements", ()))]


# --- the message -------------------------------------------------------------------------------------------


def test_a_message_has_a_header_facts_a_table_and_a_link(notifier, slack):
    sent = samples.notification()
    notifier.send(sent)
    body = posted(slack)
    header, summary, facts, table, link, context = body["blocks"]
    assert header["text"] == {"type": "plain_text", "text": f"● {sent.title}", "emoji": False}
    assert texts(summary) == [sent.summary]
    assert texts(facts) == [
        "*Run*\nnight-run",
        "*Metric*\nfid",
        "*Rule*\nfid-moved",
        "*Change*\n+17% (threshold 10%)",
        "*Direction*\nworse (critical)",
        "*Step*\n5000",
    ]
    assert texts(table)[0].splitlines()[:2] == ["```step  fid", "1000  20 ± 0.21"]
    assert texts(link) == [f"<{sent.run_url}|Open the run in MLflow>"]
    assert texts(context) == [
        f"metricwatch · <!date^{int(sent.created_at.timestamp())}^{{date_short_pretty}} {{time}}|2026-01-02 03:04 UTC>"
    ]
    assert body["text"] == f"{sent.title} — {sent.summary}"


def test_recovery_shows_the_step_that_resolved_it(notifier, slack):
    notifier.send(samples.notification("resolved"))
    body = posted(slack)
    assert texts(body["blocks"][0])[0].startswith("✓ ")
    assert "*Step*\n7000" in texts(body["blocks"][2])


def test_texts_cannot_mention_a_channel_or_forge_a_link(notifier, slack):
    hostile = "<!channel> & <https://evil.example|click>"
    notifier.send(samples.notification(title=hostile, summary=hostile, run_name=hostile))
    body = posted(slack)
    escaped = "&lt;!channel&gt; &amp; &lt;https://evil.example|click&gt;"
    assert texts(body["blocks"][1]) == [escaped]
    assert f"*Run*\n{escaped}" in texts(body["blocks"][2])
    assert "<!channel>" not in body["text"]


@pytest.mark.parametrize("url", ["javascript:alert(1)", "file:///etc/passwd", None, "http://x/" + "a" * 5000])
def test_only_web_addresses_become_links(notifier, slack, url):
    notifier.send(samples.notification(run_url=url))
    assert "Open the run" not in json.dumps(posted(slack))


def test_an_address_cannot_end_its_link_early(notifier, slack):
    notifier.send(samples.notification(run_url="http://mlflow/#/a|b>c d%20e&f"))
    assert "<http://mlflow/#/a%7Cb%3Ec%20d%20e&amp;f|Open the run in MLflow>" in texts(posted(slack)["blocks"][4])


@pytest.mark.parametrize("text", ["&" * 20_000, "x" * 20_000, "画" * 20_000])
def test_slacks_limits_are_kept(notifier, slack, text):
    window = samples.window(1) * 3000
    about = samples.alert(metric=text, rule=text, points_seen=window)
    notifier.send(samples.notification(title=text, summary=text, run_name=text, about=about))
    body = posted(slack)
    assert len(body["blocks"]) <= 50
    for block in body["blocks"]:
        limit = {"header": 150, "section": 3000, "context": 2000}[block["type"]]
        assert all(0 < len(part) <= limit for part in texts(block))
        assert all(len(field["text"]) <= 2000 for field in block.get("fields", ()))
        for part in texts(block):
            assert block["type"] == "header" or "&" not in part.replace("&amp;", "").replace("&lt;", "")


def test_a_long_window_keeps_both_ends(notifier, slack):
    window = [WindowPoint(step=index, value=index / 7) for index in range(1000)]
    notifier.send(samples.notification(about=samples.alert(points_seen=window)))
    rows = texts(posted(slack)["blocks"][3])[0].strip("`").splitlines()
    assert rows[1] == "   0  0"
    assert rows[-1] == " 999  142.714"
    assert "   …" in rows


# --- answers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "expected", "said"),
    [
        (200, "<html>please log in</html>", PermanentError, "please log in"),
        (200, "", PermanentError, "something other"),
        (400, "invalid_blocks", PermanentError, "HTTP 400: invalid_blocks"),
        (403, "action_prohibited", PermanentError, "HTTP 403: action_prohibited"),
        (404, "no_service", PermanentError, "HTTP 404: no_service"),
        (410, "channel_is_archived", PermanentError, "HTTP 410: channel_is_archived"),
        (400, "x" * 5000, PermanentError, "x" * 200),
        (408, "", TemporaryError, "HTTP 408"),
        (500, "rollup_error", TemporaryError, "HTTP 500: rollup_error"),
        (503, "", TemporaryError, "HTTP 503"),
    ],
)
def test_the_answer_decides_whether_a_repeat_may_help(httpserver: HTTPServer, status, body, expected, said):
    httpserver.expect_request(PATH).respond_with_data(body, status=status)
    with pytest.raises((TemporaryError, PermanentError)) as raised:
        notifier_for(httpserver.url_for(PATH)).send(samples.notification())
    assert type(raised.value) is expected
    assert said in str(raised.value)
    assert len(str(raised.value)) < 330
    assert len(httpserver.log) == 1, "the outbox repeats, not the client"


@pytest.mark.parametrize(
    ("header", "wish"),
    [("30", timedelta(seconds=30)), (" 7 ", timedelta(seconds=7)), (None, None), ("soon", None), ("-5", None)],
)
def test_a_rate_limit_passes_on_slacks_wish(httpserver: HTTPServer, header, wish):
    headers = {} if header is None else {"Retry-After": header}
    httpserver.expect_request(PATH).respond_with_data("rate_limited", status=429, headers=headers)
    with pytest.raises(TemporaryError, match="HTTP 429") as raised:
        notifier_for(httpserver.url_for(PATH)).send(samples.notification())
    assert raised.value.retry_after == wish


def test_an_answer_that_repeats_the_address_is_shown_without_it(httpserver: HTTPServer):
    def echo(request: Request) -> Response:
        return Response(f"no such hook {request.url} {request.path}", status=404)

    httpserver.expect_request(PATH).respond_with_handler(echo)
    with pytest.raises(PermanentError, match="no such hook") as raised:
        notifier_for(httpserver.url_for(PATH)).send(samples.notification())
    assert "hunter2" not in str(raised.value)


# --- no answer ---------------------------------------------------------------------------------------------


def test_a_slow_server_is_given_up_in_time():
    with rude_server(silent_for=30) as port:
        start = time.monotonic()
        with pytest.raises(TemporaryError, match="no answer in time"):
            notifier_for(f"http://127.0.0.1:{port}{PATH}", timeout=0.5).send(samples.notification())
        assert time.monotonic() - start < 5


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\no", b"nonsense\r\n\r\n"])
@pytest.mark.parametrize("reset", [False, True])
def test_a_connection_that_breaks_may_have_delivered(answer: bytes, reset: bool):
    with rude_server(answer, reset=reset) as port, pytest.raises(TemporaryError) as raised:
        notifier_for(f"http://127.0.0.1:{port}{PATH}").send(samples.notification())
    assert "hunter2" not in str(raised.value)


def test_the_address_appears_in_no_log_and_no_error(httpserver: HTTPServer, caplog: pytest.LogCaptureFixture):
    httpserver.expect_request(PATH).respond_with_data("nope", status=500)
    notifier = notifier_for(httpserver.url_for(PATH))
    with caplog.at_level(logging.DEBUG), pytest.raises(TemporaryError) as raised:
        notifier.send(samples.notification())
    assert "hunter2" not in ours(caplog) + repr(raised.value)
    with caplog.at_level(logging.DEBUG), pytest.raises(TemporaryError) as raised:
        notifier_for(f"http://127.0.0.1:1{PATH}").send(samples.notification())
    assert "hunter2" not in ours(caplog) + repr(raised.value)
    assert "Connection refused" in str(raised.value)


def ours(caplog: pytest.LogCaptureFixture) -> str:
    """What was logged on the sending side: the test's own server logs each request it gets."""
    return "\n".join(record.getMessage() for record in caplog.records if record.name != "werkzeug")


@pytest.mark.parametrize(
    "url",
    ["", "hooks.slack.com/services/hunter2", "ftp://hunter2", "https://", "https://a b/hunter2", "http:///hunter2"],
)
def test_an_address_that_cannot_be_one_is_a_configuration_error(url: str):
    with pytest.raises(ConfigError, match="webhook_url") as raised:
        notifier_for(url)
    assert "hunter2" not in str(raised.value)
