"""The Slack notifier as a bot, against Slack's Web API on a real HTTP server: the message first, then the curve."""

import json
import logging
import time
from base64 import b64encode
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from structlog.testing import capture_logs
from werkzeug import Response

from metricwatch import catalog
from metricwatch.api import ConfigError, Notifier, PermanentError, Secret, TemporaryError
from metricwatch.config.options import bind_options
from metricwatch.testing import samples
from metricwatch.testing.notifier import chain_of, forms_of, png
from tests.support.rude_server import rude_server
from tests.support.slack_api import CHANNEL, TOKEN, SlackApi, ok, refusal, slack_api
from tests.support.slack_page import slack_page
from tests.support.smtp_server import make_certificate

SlackNotifier = catalog.load_notifier("slack")
UPLOAD = ["files.getUploadURLExternal", "upload", "files.completeUploadExternal"]


@pytest.fixture
def slack(httpserver: HTTPServer) -> SlackApi:
    return slack_api(httpserver)


def bot_for(url: str, **changes: Any) -> Notifier:
    options = {"bot_token": Secret(TOKEN), "channel": "#ml-alerts", "api_url": url, "timeout": 5.0, **changes}
    return SlackNotifier(SlackNotifier.Options(**options))


def drawn(count: int = 1) -> Any:
    """A message of so many alerts, each with a curve of its own size."""
    notices = [
        samples.notice(about=samples.alert(alert_id=index, metric=f"m{index}"), picture=png(8, 8 + index))
        for index in range(count)
    ]
    return samples.notification(notices=notices)


def shown_notes(message: dict[str, Any]) -> list[str]:
    contexts = [block for block in message["blocks"] if block["type"] == "context"]
    return [element["text"] for block in contexts[:-1] for element in block["elements"]]


def everything(error: BaseException, caplog: pytest.LogCaptureFixture) -> str:
    """All that could be read of an error, and what was logged on the sending side."""
    logged = "\n".join(record.getMessage() for record in caplog.records if record.name != "werkzeug")
    return chain_of(error) + logged


def leaked(text: str) -> list[str]:
    return [form for form in (*forms_of(TOKEN), "hunter2") if form in text]


# --- what is sent ------------------------------------------------------------------------------------------


def test_the_message_comes_first_and_the_curve_goes_into_its_thread(slack: SlackApi):
    sent = drawn()
    bot = bot_for(slack.url)
    assert bot.takes_pictures
    bot.send(sent)
    assert slack.calls == ["chat.postMessage", *UPLOAD]
    (message,) = slack.messages
    assert message["channel"] == "#ml-alerts"
    assert message["text"] == f"{sent.title} — {sent.summary}"
    assert message["blocks"][0]["text"]["text"] == f"● {sent.title}"
    assert slack.files == {"F000000001": sent.notices[0].picture}
    (shared,) = slack.shared
    # The upload takes no names: the answer to the message says the channel's ID.
    assert (shared["channel_id"], shared["thread_ts"]) == (CHANNEL, "1700000000.000001")
    assert json.loads(shared["files"]) == [{"id": "F000000001", "title": sent.title}]


def test_the_token_goes_to_the_api_and_not_to_where_files_are_taken(slack: SlackApi):
    bot_for(slack.url).send(drawn())
    assert slack.authorized == {
        "chat.postMessage": f"Bearer {TOKEN}",
        "files.getUploadURLExternal": f"Bearer {TOKEN}",
        "upload": None,
        "files.completeUploadExternal": f"Bearer {TOKEN}",
    }


@pytest.mark.parametrize("picture", [None, b"", b"<svg/>"])
def test_without_a_picture_there_is_one_request(slack: SlackApi, picture):
    bot_for(slack.url).send(samples.notification(notices=[samples.notice(picture=picture)]))
    assert slack.calls == ["chat.postMessage"]


def test_the_curves_of_the_gravest_alerts_are_shown_and_the_others_counted(slack: SlackApi, tmp_path: Path):
    sent = drawn(7)
    bot_for(slack.url).send(sent)
    assert list(slack.files.values()) == [notice.picture for notice in sent.notices[:5]]
    assert len(slack.shared) == 1, "all in one reply"
    assert shown_notes(slack.messages[0]) == ["5 of 7 curves are in the thread; the others are beside the run."]
    page = slack_page(slack.messages[0], [("m0", slack.files["F000000001"])])
    (tmp_path / "slack.html").write_text(page)
    assert b64encode(sent.notices[0].picture).decode() in page


# --- a curve that cannot be uploaded -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "answer", "said"),
    [
        (
            "files.getUploadURLExternal",
            refusal("missing_scope", needed="files:write"),
            "scopes chat:write and files:write",
        ),
        ("files.getUploadURLExternal", refusal("ratelimited", 429, {"Retry-After": "30"}), "ratelimited"),
        ("upload", Response("no", status=500), "the file was not taken: HTTP 500"),
        ("upload", Response("no", status=413), "the file was not taken: HTTP 413"),
        ("upload", Response("odd", status=202), "refused by slack_sdk"),
        ("files.completeUploadExternal", refusal("not_in_channel"), "/invite"),
        ("files.completeUploadExternal", Response("<html>", status=502), "HTTP 502"),
    ],
)
def test_a_curve_that_cannot_be_uploaded_costs_the_curve_only(slack: SlackApi, step, answer, said):
    slack.answers[step] = answer
    with capture_logs() as logs:
        bot_for(slack.url).send(drawn())
    assert slack.calls.count("chat.postMessage") == 1
    (update,) = slack.updates
    assert (update["channel"], update["ts"]) == (CHANNEL, "1700000000.000001")
    (note,) = shown_notes(update)
    assert note.startswith("The curve could not be uploaded: ")
    assert said in note
    assert [entry["event"] for entry in logs] == ["slack.picture_missing"]
    assert update["blocks"][:-2] == slack.messages[0]["blocks"][:-1], "but for the note it is the same"


def test_a_curve_that_breaks_off_costs_the_curve_only(slack: SlackApi):
    with rude_server(b"") as port:
        slack.answers["files.getUploadURLExternal"] = ok({"file_id": "F1", "upload_url": f"http://127.0.0.1:{port}/x"})
        bot_for(slack.url).send(drawn())
    (note,) = shown_notes(slack.updates[0])
    assert note.startswith("The curve could not be uploaded: the connection broke (")
    assert "arrived" not in note


def test_a_message_that_is_posted_is_not_sent_again_whatever_happens_after(slack: SlackApi):
    slack.answers["upload"] = Response("no", status=500)
    slack.answers["chat.update"] = refusal("internal_error")
    with capture_logs() as logs:
        bot_for(slack.url).send(drawn())
    assert slack.calls.count("chat.postMessage") == 1
    assert [entry["event"] for entry in logs] == ["slack.picture_missing", "slack.note_missing"]
    assert not leaked(str(logs))


# --- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "expected", "said"),
    [
        (refusal("invalid_auth"), PermanentError, r"chat\.postMessage: invalid_auth; .*Bot User OAuth Token"),
        (refusal("token_revoked"), PermanentError, "token_revoked; .*Bot User OAuth Token"),
        (refusal("channel_not_found"), PermanentError, "channel_not_found; write the channel's ID"),
        (refusal("not_in_channel"), PermanentError, "not_in_channel; invite the bot"),
        (refusal("is_archived"), PermanentError, "is_archived"),
        (refusal("missing_scope", needed="chat:write"), PermanentError, r"missing_scope \(needed: chat:write\)"),
        (
            refusal("invalid_blocks", response_metadata={"messages": ["[ERROR] too long [json-pointer:/blocks/0]"]}),
            PermanentError,
            r"invalid_blocks \(\[ERROR\] too long \[json-pointer:/blocks/0\]\)",
        ),
        (refusal("never_heard_of"), PermanentError, "never_heard_of"),
        (refusal("no_permission", 403), PermanentError, "HTTP 403: no_permission"),
        (refusal("internal_error"), TemporaryError, "internal_error"),
        (refusal("fatal_error"), TemporaryError, "fatal_error"),
        (refusal("service_unavailable", 503), TemporaryError, "HTTP 503: service_unavailable"),
        (refusal("request_timeout"), TemporaryError, "request_timeout"),
        (Response("<html>", status=500), TemporaryError, "HTTP 500"),
        (Response("", status=502), TemporaryError, "HTTP 502"),
        (Response("<html>log in</html>"), PermanentError, "is api_url right"),
        (Response("ok"), PermanentError, "is api_url right"),
        (Response("{}"), PermanentError, "is api_url right"),
        (Response("[]"), PermanentError, "is api_url right"),
        (Response("null"), PermanentError, "is api_url right"),
        (Response("[1]"), PermanentError, "cannot be read"),
        (Response(b"\xff", content_type="text/plain; charset=utf-8"), TemporaryError, "cannot be read"),
        (Response("no", status=404), PermanentError, "HTTP 404"),
    ],
)
def test_the_answer_decides_whether_a_repeat_may_help(slack: SlackApi, answer, expected, said):
    slack.answers["chat.postMessage"] = answer
    with pytest.raises((TemporaryError, PermanentError), match=said) as raised:
        bot_for(slack.url).send(drawn())
    assert type(raised.value) is expected
    assert slack.calls == ["chat.postMessage"], "the outbox repeats, not the client"
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize("status", [200, 429])
def test_a_rate_limit_passes_on_slacks_wish(slack: SlackApi, status):
    slack.answers["chat.postMessage"] = refusal("ratelimited", status, {"Retry-After": "30"})
    with pytest.raises(TemporaryError, match="ratelimited") as raised:
        bot_for(slack.url).send(drawn())
    assert raised.value.retry_after == timedelta(seconds=30)


@pytest.mark.parametrize("form", [TOKEN, *forms_of(TOKEN)[1:], b64encode(f"Bearer {TOKEN}".encode()).decode()])
@pytest.mark.parametrize("status", [200, 401, 500])
def test_an_answer_that_repeats_the_token_is_shown_without_it(slack: SlackApi, caplog, form, status):
    slack.answers["chat.postMessage"] = Response(f"no such token {form}", status=status)
    with caplog.at_level(logging.DEBUG), pytest.raises((TemporaryError, PermanentError)) as raised:
        bot_for(slack.url).send(drawn())
    assert not leaked(everything(raised.value, caplog))
    assert form not in everything(raised.value, caplog)
    slack.answers["chat.postMessage"] = refusal(f"bad:{form}", status, needed=form)
    with caplog.at_level(logging.DEBUG), pytest.raises((TemporaryError, PermanentError)) as raised:
        bot_for(slack.url).send(drawn())
    assert not leaked(everything(raised.value, caplog))


# --- no answer ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", b"what?\r\n"]
)
@pytest.mark.parametrize("reset", [False, True])
def test_a_connection_that_breaks_may_have_delivered(caplog, answer: bytes, reset: bool):
    with (
        rude_server(answer, reset=reset) as port,
        caplog.at_level(logging.DEBUG),
        pytest.raises(TemporaryError) as raised,
    ):
        bot_for(f"http://127.0.0.1:{port}/api/").send(drawn())
    assert not leaked(everything(raised.value, caplog))


def test_a_slow_server_is_given_up_in_time(caplog):
    with rude_server(silent_for=30) as port:
        start = time.monotonic()
        with caplog.at_level(logging.DEBUG), pytest.raises(TemporaryError, match="no answer in time") as raised:
            bot_for(f"http://127.0.0.1:{port}/api/", timeout=0.3).send(drawn())
        assert time.monotonic() - start < 5
    assert not leaked(everything(raised.value, caplog))


@pytest.fixture
def untrusted(tmp_path: Path) -> Iterator[HTTPServer]:
    with HTTPServer(ssl_context=make_certificate(tmp_path).server_context()) as server:
        yield server


def test_a_server_that_is_not_who_it_should_be_gets_no_token(untrusted: HTTPServer, caplog):
    with caplog.at_level(logging.DEBUG), pytest.raises(PermanentError, match="certificate is not trusted") as raised:
        bot_for(f"https://localhost:{untrusted.port}/api/").send(drawn())
    assert untrusted.log == []
    assert not leaked(everything(raised.value, caplog))


# --- the configuration -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "webhook_url is missing; give it, or bot_token and channel"),
        ({"channel": "C1"}, "webhook_url is missing"),
        ({"bot_token": TOKEN}, "channel is missing"),
        ({"bot_token": TOKEN, "channel": "C1", "webhook_url": "https://x/hunter2"}, "keep it alone"),
        ({"channel": "C1", "webhook_url": "https://x/hunter2"}, "keep it alone"),
        ({"bot_token": "", "channel": "C1"}, "bot_token is not a bot's token"),
        ({"bot_token": "xoxb hunter2", "channel": "C1"}, "bot_token is not a bot's token"),
        ({"bot_token": "xapp-hunter2", "channel": "C1"}, "bot_token is not a bot's token"),
        ({"bot_token": "https://x/hunter2", "channel": "C1"}, "bot_token is not a bot's token"),
        ({"bot_token": TOKEN, "channel": ""}, "channel is not one channel"),
        ({"bot_token": TOKEN, "channel": "#a, #b"}, "channel is not one channel"),
        ({"bot_token": TOKEN, "channel": "https://x/hunter2"}, "channel is not one channel"),
        ({"bot_token": TOKEN, "channel": "C1", "api_url": "http://slack.com/api/"}, "in the clear"),
        ({"bot_token": TOKEN, "channel": "C1", "api_url": "https://me:hunter2@x/"}, "api_url is not the address"),
        ({"bot_token": TOKEN, "channel": "C1", "api_url": "https://[x/"}, "api_url is not an address"),
        ({"bot_token": TOKEN, "channel": "C1", "api_url": "slack.com"}, "api_url is not the address"),
        ({"bot_token": TOKEN, "channel": "C1", "timeout": 0}, "timeout must be above 0"),
    ],
)
def test_options_that_contradict_each_other_are_configuration_errors(options, said):
    with pytest.raises(ConfigError, match=said) as raised:
        bind_options(SlackNotifier.Options, options, "metricwatch.yaml: notify.team")
    assert "hunter2" not in chain_of(raised.value)


def test_the_token_may_stand_in_a_file(tmp_path: Path):
    (tmp_path / "slack").write_text(f"{TOKEN}\n")
    written = {"bot_token_file": "slack", "channel": "C0123ABCD"}
    options = bind_options(SlackNotifier.Options, written, "metricwatch.yaml: notify.team", base=tmp_path)
    assert options.bot_token == Secret(TOKEN)
    assert options.api_url == "https://slack.com/api/"
    assert TOKEN not in repr(options)


def test_messages_to_one_channel_keep_a_second_apart():
    first, again, other = (bot_for("https://slack.com/api/", channel=name) for name in ("#ml", "ml", "art"))
    assert first.pause == timedelta(seconds=1)
    assert first.address() == again.address() != other.address()
