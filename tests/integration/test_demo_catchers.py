"""The real notifiers, sending to the demo's catchers: what arrives is read as it was meant."""

import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from metricwatch import catalog
from metricwatch.api import Notification, Notifier, Secret
from metricwatch.cli.demo.catchers import Inbox, MailCatcher, SlackCatcher
from metricwatch.testing import samples

# By name, as the daemon does.
SlackNotifier = catalog.load_notifier("slack")
EmailNotifier = catalog.load_notifier("email")


@pytest.fixture(params=["Slack", "e-mail"])
def caught(request: pytest.FixtureRequest) -> Iterator[tuple[Notifier, Inbox]]:
    """A notifier and the inbox its messages land in."""
    inbox = Inbox()
    if request.param == "Slack":
        slack = SlackCatcher(inbox)
        yield SlackNotifier(SlackNotifier.Options(webhook_url=Secret(slack.url))), inbox
        slack.close()
    else:
        mail = MailCatcher(inbox)
        options = EmailNotifier.Options(
            host="127.0.0.1", port=mail.port, starttls=False, sender="mw@example.org", to=("ml@example.org",)
        )
        yield EmailNotifier(options), inbox
        mail.close()


def _titled(notification: Notification, kind: str) -> dict[str, str]:
    # Long enough for the subject to be folded.
    return {"title": f"[{kind}] {notification.run_name}: fd_efficientnet_lite0 rose 148.7% & stays <there> (fd-moved)"}


def test_an_alert_is_read_with_its_kind_step_and_words(caught: tuple[Notifier, Inbox]) -> None:
    notifier, inbox = caught
    notifier.send(samples.notification(**_titled(samples.notification(), "critical")))
    (message,) = inbox.messages()
    assert message.fired_critical
    assert not message.resolved_critical
    assert (message.step, message.direction, message.severity) == (5000, "worse", "critical")
    assert "[critical] night-run: fd_efficientnet_lite0 rose 148.7% & stays <there> (fd-moved)" in message.title
    assert message.title == message.title.strip()
    assert message.text.startswith("fid rose by 17.0% over five evaluations")


def test_a_resolution_is_read_with_the_step_of_its_end(caught: tuple[Notifier, Inbox]) -> None:
    notifier, inbox = caught
    notifier.send(samples.notification("resolved", **_titled(samples.notification(), "resolved")))
    (message,) = inbox.messages()
    assert message.resolved_critical
    assert not message.fired_critical
    assert message.step == 7000


def test_the_webhook_refuses_what_is_no_message() -> None:
    inbox = Inbox()
    slack = SlackCatcher(inbox)
    try:
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(slack.url, data=b"not JSON", timeout=5)
        assert refusal.value.code == 400
        assert refusal.value.read() == b"invalid_payload"
    finally:
        slack.close()
    assert not inbox.messages()
