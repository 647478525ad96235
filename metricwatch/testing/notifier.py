"""The contract of notifiers, as tests that a plugin's author inherits.

    class TestMyNotifier(NotifierContract):
        notifier = MyNotifier

        @pytest.fixture
        def options(self, server): return MyNotifier.Options(url=server.url, token=Secret("hunter2"))

        @pytest.fixture
        def unreachable_options(self): return MyNotifier.Options(url="http://127.0.0.1:1", token=Secret("hunter2"))

        @pytest.fixture
        def inbox(self, server): return lambda: [request.text for request in server.requests]

The server should be a real one on the loopback interface. Needs pytest; for telling failures
put pytest.register_assert_rewrite("metricwatch.testing") into conftest.py.
"""

# ruff: noqa: S101 - these are tests

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import pytest

from metricwatch.api import Notifier, Secret, TemporaryError
from metricwatch.testing import samples

Inbox = Callable[[], Sequence[str]]


class NotifierContract:
    """Set `notifier` and override the fixtures options, unreachable_options and inbox.

    options reach a server that takes everything; unreachable_options reach nobody within a few seconds; inbox
    gives the readable text of each message that arrived, oldest first.
    """

    notifier: ClassVar[type[Notifier]]

    @pytest.fixture
    def options(self) -> Any:
        raise NotImplementedError("override the fixture options")

    @pytest.fixture
    def unreachable_options(self) -> Any:
        raise NotImplementedError("override the fixture unreachable_options")

    @pytest.fixture
    def inbox(self) -> Inbox:
        raise NotImplementedError("override the fixture inbox")

    @pytest.fixture
    def opened(self, options: Any) -> Iterator[Notifier]:
        made = self.notifier(options)
        yield made
        made.close()

    def test_is_a_concrete_notifier_with_frozen_options(self, options: Any) -> None:
        assert issubclass(self.notifier, Notifier)
        assert not inspect.isabstract(self.notifier)
        assert isinstance(options, self.notifier.Options)
        assert dataclasses.is_dataclass(options)
        name = dataclasses.fields(options)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(options, name, getattr(options, name))

    def test_making_one_sends_nothing(self, opened: Notifier, inbox: Inbox) -> None:
        assert isinstance(opened, Notifier)
        assert list(inbox()) == []

    def test_a_message_says_what_happened_where(self, opened: Notifier, inbox: Inbox) -> None:
        sent = samples.notification(run_name="night-run")
        opened.send(sent)
        (text,) = inbox()
        for needed in (sent.title, "night-run", sent.alert.metric, sent.alert.rule, str(sent.alert.fired_step)):
            assert needed in text

    @pytest.mark.parametrize("event", ["firing", "resolved", "test"])
    def test_every_event_is_sent(self, opened: Notifier, inbox: Inbox, event: Any) -> None:
        opened.send(samples.notification(event))
        assert len(inbox()) == 1

    def test_messages_arrive_in_order(self, opened: Notifier, inbox: Inbox) -> None:
        for event in ("firing", "resolved"):
            opened.send(samples.notification(event))
        first, second = inbox()
        assert samples.notification("firing").title in first
        assert samples.notification("resolved").title in second

    @pytest.mark.parametrize(
        "title",
        [
            "two\r\nlines: with\na colon",
            "<!channel> & <b>bold</b> \"quoted\" 'too'",
            "schöne Größe ✓ 画像 🎨",
            "x" * 5000,
            "&" * 5000,
            "   ",
        ],
    )
    def test_no_text_breaks_a_message(self, opened: Notifier, inbox: Inbox, title: str) -> None:
        opened.send(samples.notification(title=title, summary=title, run_name=title))
        assert len(inbox()) == 1

    @pytest.mark.parametrize("count", [0, 1, 2000])
    def test_a_window_may_have_any_length(self, opened: Notifier, inbox: Inbox, count: int) -> None:
        opened.send(samples.notification(about=samples.alert(points_seen=samples.window(count))))
        assert len(inbox()) == 1

    def test_a_message_needs_no_link(self, opened: Notifier, inbox: Inbox) -> None:
        opened.send(samples.notification(run_url=None))
        assert len(inbox()) == 1

    def test_nobody_there_is_a_temporary_error_without_secrets(self, unreachable_options: Any) -> None:
        made = self.notifier(unreachable_options)
        with pytest.raises(TemporaryError) as raised:
            made.send(samples.notification())
        made.close()
        shown = f"{raised.value} {raised.value!r} {raised.getrepr(style='long')} {unreachable_options!r}"
        for item in dataclasses.fields(unreachable_options):
            value = getattr(unreachable_options, item.name)
            if isinstance(value, Secret):
                assert value.reveal() not in shown

    def test_it_can_be_closed_twice(self, options: Any) -> None:
        made = self.notifier(options)
        made.close()
        made.close()
