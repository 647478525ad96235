"""The built-in notifiers keep the contract of notifiers, on real servers."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from metricwatch import catalog
from metricwatch.api import Secret
from metricwatch.testing.notifier import NotifierContract
from tests.support.slack_api import SlackApi, slack_api
from tests.support.smtp_server import SmtpServer, make_certificate, smtp_server

# By name, as the daemon does: a built-in may move into a package of its own.
SlackNotifier = catalog.load_notifier("slack")
EmailNotifier = catalog.load_notifier("email")


class TestSlackNotifier(NotifierContract):
    notifier = SlackNotifier

    @pytest.fixture
    def options(self, httpserver: HTTPServer) -> Any:
        httpserver.expect_request("/services/T0/B0/hunter2").respond_with_data("ok")
        return SlackNotifier.Options(webhook_url=Secret(httpserver.url_for("/services/T0/B0/hunter2")))

    @pytest.fixture
    def unreachable_options(self) -> Any:
        return SlackNotifier.Options(webhook_url=Secret("http://127.0.0.1:1/services/T0/B0/hunter2"), timeout=2)

    @pytest.fixture
    def inbox(self, httpserver: HTTPServer) -> Callable[[], Sequence[str]]:
        def texts() -> list[str]:
            bodies = [json.loads(request.get_data()) for request, _ in httpserver.log]
            return ["\n".join(_strings(body)) for body in bodies]

        return texts


class TestSlackBot(NotifierContract):
    notifier = SlackNotifier

    @pytest.fixture
    def api(self, httpserver: HTTPServer) -> SlackApi:
        return slack_api(httpserver)

    @pytest.fixture
    def options(self, api: SlackApi) -> Any:
        return SlackNotifier.Options(bot_token=Secret("xoxb-hunter2"), channel="C0123ABCD", api_url=api.url)

    @pytest.fixture
    def unreachable_options(self) -> Any:
        return SlackNotifier.Options(
            bot_token=Secret("xoxb-hunter2"), channel="C0123ABCD", api_url="http://127.0.0.1:1/api/", timeout=2
        )

    @pytest.fixture
    def inbox(self, api: SlackApi) -> Callable[[], Sequence[str]]:
        return lambda: ["\n".join(_strings(message)) for message in api.messages]


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


@pytest.fixture
def mail_server(tmp_path) -> Iterator[tuple[SmtpServer, Any]]:
    certificate = make_certificate(tmp_path)
    with smtp_server(starttls=certificate, users={"mw": "hunter2"}) as server:
        yield (
            server,
            EmailNotifier.Options(
                host="localhost",
                port=server.port,
                username="mw",
                password=Secret("hunter2"),
                sender="metricwatch <mw@example.org>",
                to=("ml@example.org", "Second Reader <second@example.org>"),
                ca_file=certificate.certificate,
            ),
        )


class TestEmailNotifier(NotifierContract):
    notifier = EmailNotifier

    @pytest.fixture
    def options(self, mail_server: tuple[SmtpServer, Any]) -> Any:
        return mail_server[1]

    @pytest.fixture
    def unreachable_options(self) -> Any:
        return EmailNotifier.Options(
            host="127.0.0.1",
            port=1,
            username="mw",
            password=Secret("hunter2"),
            sender="mw@example.org",
            to=("ml@example.org",),
            timeout=2,
        )

    @pytest.fixture
    def inbox(self, mail_server: tuple[SmtpServer, Any]) -> Callable[[], Sequence[str]]:
        server, _ = mail_server
        return lambda: [f"{mail.message['Subject']}\n{mail.part('plain')}" for mail in server.mails]
