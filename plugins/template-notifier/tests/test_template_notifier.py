"""The notifier keeps the contract of notifiers, on a server of the loopback interface."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from metricwatch_template_notifier import TemplateNotifier, TemplateNotifierOptions
from pytest_httpserver import HTTPServer

from metricwatch import catalog
from metricwatch.api import ConfigError, PermanentError, Secret, TemporaryError
from metricwatch.testing import samples
from metricwatch.testing.notifier import NotifierContract


class TestTemplateNotifier(NotifierContract):
    notifier = TemplateNotifier

    @pytest.fixture
    def options(self, httpserver: HTTPServer) -> Any:
        httpserver.expect_request("/hunter2", method="POST").respond_with_data("")
        return TemplateNotifierOptions(url=Secret(httpserver.url_for("/hunter2")))

    @pytest.fixture
    def unreachable_options(self) -> Any:
        return TemplateNotifierOptions(url=Secret("http://127.0.0.1:1/hunter2"), timeout=2)

    @pytest.fixture
    def inbox(self, httpserver: HTTPServer) -> Callable[[], Sequence[str]]:
        def texts() -> list[str]:
            bodies = [json.loads(request.get_data()) for request, _ in httpserver.log]
            return [json.dumps(body, ensure_ascii=False) for body in bodies]

        return texts


@pytest.mark.parametrize(
    ("status", "error"), [(408, TemporaryError), (429, TemporaryError), (503, TemporaryError), (404, PermanentError)]
)
def test_a_refusal_says_whether_later_may_help(httpserver: HTTPServer, status: int, error: type[Exception]) -> None:
    httpserver.expect_request("/hunter2").respond_with_data("", status=status)
    notifier = TemplateNotifier(TemplateNotifierOptions(url=Secret(httpserver.url_for("/hunter2"))))
    with pytest.raises(error, match=str(status)):
        notifier.send(samples.notification())


def test_a_redirect_is_a_refusal(httpserver: HTTPServer) -> None:
    elsewhere = {"Location": httpserver.url_for("/elsewhere")}
    httpserver.expect_request("/hunter2").respond_with_data("", status=302, headers=elsewhere)
    httpserver.expect_request("/elsewhere").respond_with_data("")
    notifier = TemplateNotifier(TemplateNotifierOptions(url=Secret(httpserver.url_for("/hunter2"))))
    with pytest.raises(PermanentError, match="302") as raised:
        notifier.send(samples.notification())
    assert raised.value.__context__ is None, "the library's error knows the address"
    assert len(httpserver.log) == 1


def test_the_receivers_own_wish_is_passed_on(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/hunter2").respond_with_data("", status=429, headers={"Retry-After": "30"})
    notifier = TemplateNotifier(TemplateNotifierOptions(url=Secret(httpserver.url_for("/hunter2"))))
    with pytest.raises(TemporaryError) as raised:
        notifier.send(samples.notification())
    assert raised.value.retry_after == timedelta(seconds=30)


def test_every_alert_of_a_message_is_in_it(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/hunter2").respond_with_data("")
    notices = [samples.notice(), samples.notice("resolved", about=samples.alert(rule="kid-moved", resolved=True))]
    TemplateNotifier(TemplateNotifierOptions(url=Secret(httpserver.url_for("/hunter2")))).send(
        samples.notification(notices=notices)
    )
    ((request, _),) = httpserver.log
    alerts = json.loads(request.get_data())["alerts"]
    assert [(alert["rule"], alert["event"], alert["resolved_step"]) for alert in alerts] == [
        ("fid-moved", "firing", None),
        ("kid-moved", "resolved", 7000),
    ]


@pytest.mark.parametrize("url", ["", "ftp://a/b", "file:///etc/passwd", "http:///hunter2", "https://a b"])
def test_what_is_no_address_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ConfigError, match="url") as raised:
        TemplateNotifierOptions(url=Secret(url))
    assert not url or url not in str(raised.value)


def test_metricwatch_finds_it() -> None:
    assert catalog.load_notifier("template_notifier") is TemplateNotifier
