"""The Slack notifier against real HTTP servers: what it posts, and what it makes of every answer."""

import json
import logging
import time
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from metricwatch import catalog
from metricwatch.api import ConfigError, Notifier, PermanentError, Secret, TemporaryError, WindowPoint
from metricwatch.testing import samples
from metricwatch.testing.notifier import chain_of, forms_of
from tests.support.rude_server import rude_server
from tests.support.slack_page import slack_page
from tests.support.smtp_server import make_certificate

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
    notifier.send(samples.notification(title=text, summary=text, run_name=text, about=about, note=text))
    body = posted(slack)
    assert len(body["blocks"]) <= 50
    assert len(json.dumps(body["blocks"], ensure_ascii=False)) < 13_000, "found by others to be Slack's limit for all"
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


def several(count: int, **changes: Any) -> list[Any]:
    """Notices of different metrics and rules."""
    return [
        samples.notice(
            about=samples.alert(alert_id=index, metric=f"metric_{index:03}", rule=f"rule-{index:03}"), **changes
        )
        for index in range(count)
    ]


def test_a_message_of_several_alerts_has_a_section_for_each_and_one_link(notifier, slack):
    over = samples.notice("resolved", about=samples.alert(metric="kid", rule="kid-moved", resolved=True))
    lasting = samples.notice("reminder", about=samples.alert(metric="lpips", rule="lpips-moved", points_seen=[]))
    sent = samples.notification(notices=[samples.notice(), lasting, over], title="3 alerts on night-run")
    notifier.send(sent)
    header, first, second, third, link, context = posted(slack)["blocks"]
    assert texts(header) == ["● 3 alerts on night-run"]
    assert texts(first) == [
        "● *fid got worse by 17% on night-run*",
        "*Metric*\nfid",
        "*Rule*\nfid-moved",
        "*Change*\n+17% (threshold 10%)",
        "*Direction*\nworse (critical)",
        "*Step*\n5000",
        "*Window*\n20 → 23.397 (steps 1000-5000)",
    ]
    assert texts(second)[0].startswith("↻ *")
    assert not any("*Window*" in text for text in texts(second))
    assert texts(third)[0].startswith("✓ *")
    assert "*Step*\n7000" in texts(third)
    assert texts(link) == [f"night-run — <{over.run_url}|Open the run in MLflow>"]
    assert texts(context)[0].startswith("metricwatch · <!date^")


def test_alerts_of_several_runs_have_each_the_link_to_its_own(notifier, slack):
    first = samples.notice()
    other = samples.notice(run_name="day-run", run_url="http://mlflow/#/day")
    notifier.send(samples.notification(notices=[first, other]))
    sections = posted(slack)["blocks"][1:-1]
    assert texts(sections[0])[0].endswith(f"\nnight-run — <{first.run_url}|Open the run in MLflow>")
    assert texts(sections[1])[0].endswith("\nday-run — <http://mlflow/#/day|Open the run in MLflow>")
    assert len(sections) == 2


@pytest.mark.parametrize("count", [2, 15, 100])
@pytest.mark.parametrize("width", [1, 5000])
def test_what_does_not_fit_is_counted(notifier, slack, count, width):
    notices = several(count, title="x" * width)
    notifier.send(samples.notification(notices=notices, summary="y" * width, note="z" * width))
    body = json.dumps(posted(slack)["blocks"])
    assert len(posted(slack)["blocks"]) <= 50
    assert len(body) < 12_500, "Slack's limit for all blocks together is near 13,000 characters"
    shown = sum(notice.alert.rule in body for notice in notices)
    assert shown >= min(count, 5)
    assert (f" and {count - shown} more" in body) == (shown < count)


@pytest.mark.parametrize(("event", "mark"), [("reminder", "↻"), ("digest", "☰"), ("test", "○")])
def test_what_is_no_fresh_news_is_marked(notifier, slack, event, mark):
    notifier.send(samples.notification(event))
    blocks = posted(slack)["blocks"]
    assert texts(blocks[0])[0].startswith(f"{mark} ")
    assert texts(blocks[-1])[0].startswith(f"metricwatch · {event} · <!date^")


def test_a_note_stands_below_the_message(notifier, slack):
    notifier.send(samples.notification(note="the template <failed>"))
    *_, note, origin = posted(slack)["blocks"]
    assert note == {"type": "context", "elements": [{"type": "mrkdwn", "text": "the template &lt;failed&gt;"}]}
    assert texts(origin)[0].startswith("metricwatch")


def test_an_alert_of_the_run_as_a_whole_has_no_metric(notifier, slack):
    about = replace(samples.alert(metric="", points_seen=[]), kind="stale", what="no evaluation for 3 h", window=())
    notifier.send(samples.notification(about=about))
    assert texts(posted(slack)["blocks"][2])[:3] == [
        "*Run*\nnight-run",
        "*Rule*\nfid-moved",
        "*What*\nno evaluation for 3 h",
    ]


def test_a_page_shows_the_message_as_slack_does(notifier, slack, tmp_path: Path):
    notifier.send(samples.notification(notices=[samples.notice(title="a <b> & c"), *several(2)]))
    page = slack_page(posted(slack))
    (tmp_path / "slack.html").write_text(page)
    assert "<b>a &lt;b&gt; &amp; c</b>" in page
    assert ">Open the run in MLflow</a>" in page
    assert "<!date" not in page


# --- answers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "expected", "said"),
    [
        (200, "<html>please log in</html>", PermanentError, "please log in"),
        (200, "", PermanentError, "answered HTTP 200 but says nothing; is webhook_url a Slack webhook?"),
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


@pytest.mark.parametrize(
    ("dated", "seconds", "wish"),
    [(True, 90, timedelta(seconds=90)), (True, -5, None), (False, 3600, timedelta(hours=1))],
)
def test_a_wish_may_be_a_date(httpserver: HTTPServer, dated, seconds, wish):
    # With a Date of its own, it is the server's clock that counts.
    now = datetime(2020, 1, 1, tzinfo=UTC) if dated else datetime.now(UTC)
    until = format_datetime(now + timedelta(seconds=seconds), usegmt=True)
    lines = ["HTTP/1.1 429 Too Many Requests", "Content-Length: 0", f"Retry-After: {until}"]
    lines += [f"Date: {format_datetime(now, usegmt=True)}"] if dated else []
    with rude_server("\r\n".join([*lines, "", ""]).encode()) as port, pytest.raises(TemporaryError) as raised:
        notifier_for(f"http://127.0.0.1:{port}{PATH}").send(samples.notification())
    got = raised.value.retry_after
    # Without one it is ours, which goes on meanwhile.
    assert got is None if wish is None else abs(got - wish) <= timedelta(seconds=0 if dated else 5)


@pytest.mark.parametrize(
    "form",
    [
        str,
        lambda path: quote(path, safe=""),
        lambda path: path.replace("/", r"\/"),
        lambda path: path.rpartition("/")[2],
        lambda path: b64encode(b"POST " + path.encode()).decode(),
        lambda path: urlsafe_b64encode(path.encode()).decode(),
    ],
)
@pytest.mark.parametrize("status", [200, 404, 503])
def test_an_answer_that_repeats_the_address_is_shown_without_it(
    httpserver: HTTPServer, status, form: Callable[[str], str]
):
    def echo(request: Request) -> Response:
        return Response(f"no such hook {form(request.path)}", status=status)

    httpserver.expect_request(PATH).respond_with_handler(echo)
    with pytest.raises((PermanentError, TemporaryError), match="no such hook") as raised:
        notifier_for(httpserver.url_for(PATH)).send(samples.notification())
    assert not [
        shown for shown in (*forms_of(PATH), *forms_of("hunter2"), form(PATH)) if shown in chain_of(raised.value)
    ]


# --- no answer ---------------------------------------------------------------------------------------------


def test_a_slow_server_is_given_up_in_time():
    with rude_server(silent_for=30) as port:
        start = time.monotonic()
        with pytest.raises(TemporaryError, match=r"no answer within 0\.5 s"):
            notifier_for(f"http://127.0.0.1:{port}{PATH}", timeout=0.5).send(samples.notification())
        assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\no", b"nonsense\r\n\r\n"]
)
@pytest.mark.parametrize("reset", [False, True])
def test_a_connection_that_breaks_may_have_delivered(answer: bytes, reset: bool):
    with rude_server(answer, reset=reset) as port, pytest.raises(TemporaryError) as raised:
        notifier_for(f"http://127.0.0.1:{port}{PATH}").send(samples.notification())
    assert "hunter2" not in chain_of(raised.value)
    assert raised.value.retry_after is None


@pytest.fixture
def untrusted(tmp_path: Path) -> Iterator[HTTPServer]:
    """A server whose certificate nobody vouches for."""
    with HTTPServer(ssl_context=make_certificate(tmp_path).server_context()) as server:
        yield server


def test_a_server_that_is_not_who_it_should_be_gets_nothing(untrusted: HTTPServer):
    with pytest.raises(PermanentError, match=r"certificate is not trusted .*SSL_CERT_FILE") as raised:
        notifier_for(f"https://localhost:{untrusted.port}{PATH}").send(samples.notification())
    assert "hunter2" not in chain_of(raised.value)
    assert untrusted.log == []


@pytest.mark.parametrize("kind", ["text/plain; charset=none-such", "text/plain; charset=utf-8"])
def test_what_an_answer_is_written_in_does_not_decide_what_it_means(httpserver: HTTPServer, kind: str):
    gateway = Response(b"Au\xdfer Betrieb", status=503, content_type=kind, headers={"Retry-After": "7"})
    httpserver.expect_oneshot_request(PATH).respond_with_response(gateway)
    with pytest.raises(TemporaryError, match="HTTP 503") as raised:
        notifier_for(httpserver.url_for(PATH)).send(samples.notification())
    assert raised.value.retry_after == timedelta(seconds=7)


def test_a_redirect_is_not_taken_for_an_answer(httpserver: HTTPServer):
    httpserver.expect_request("/elsewhere").respond_with_data("ok")
    moved = Response(status=302, headers={"Location": httpserver.url_for("/elsewhere")})
    httpserver.expect_request(PATH).respond_with_response(moved)
    with pytest.raises(PermanentError, match="a redirect, which is not followed"):
        notifier_for(httpserver.url_for(PATH)).send(samples.notification())
    assert len(httpserver.log) == 1


def test_the_address_appears_in_no_log_and_no_error(httpserver: HTTPServer, caplog: pytest.LogCaptureFixture):
    httpserver.expect_request(PATH).respond_with_data("nope", status=500)
    notifier = notifier_for(httpserver.url_for(PATH))
    with caplog.at_level(logging.DEBUG), pytest.raises(TemporaryError) as raised:
        notifier.send(samples.notification())
    assert "hunter2" not in ours(caplog) + chain_of(raised.value)
    with caplog.at_level(logging.DEBUG), pytest.raises(TemporaryError) as raised:
        notifier_for(f"http://127.0.0.1:1{PATH}").send(samples.notification())
    assert "hunter2" not in ours(caplog) + chain_of(raised.value)
    assert "Connection refused" in str(raised.value)


def ours(caplog: pytest.LogCaptureFixture) -> str:
    """What was logged on the sending side: the test's own server logs each request it gets."""
    return "\n".join(record.getMessage() for record in caplog.records if record.name != "werkzeug")


def test_messages_to_one_webhook_keep_a_second_apart():
    first, again, other = (notifier_for(f"http://127.0.0.1:1/services/{name}") for name in "aab")
    assert first.pause == timedelta(seconds=1)
    assert first.address() == again.address() != other.address()
    assert not first.takes_pictures


@pytest.mark.parametrize(
    "url",
    ["", "hooks.slack.com/services/hunter2", "ftp://hunter2", "https://", "https://a b/hunter2", "http:///hunter2"],
)
def test_an_address_that_cannot_be_one_is_a_configuration_error(url: str):
    with pytest.raises(ConfigError, match="webhook_url") as raised:
        notifier_for(url)
    assert "hunter2" not in str(raised.value)
