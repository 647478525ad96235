"""The contract of notifiers, as tests that a plugin's author inherits.

    class TestMyNotifier(NotifierContract):
        notifier = MyNotifier

        @pytest.fixture
        def options(self, server): return MyNotifier.Options(url=server.url, token=Secret("hunter2"))

        @pytest.fixture
        def unreachable_options(self): return MyNotifier.Options(url="http://127.0.0.1:1", token=Secret("hunter2"))

        @pytest.fixture
        def inbox(self, server): return lambda: [request.text for request in server.requests]

The server should be a real one on the loopback interface. A notifier that sends one request for each alert, as
incident services want it, sets `one_each = True`. Needs pytest; for telling failures put
pytest.register_assert_rewrite("metricwatch.testing") into conftest.py.
"""

# ruff: noqa: S101 - these are tests

from __future__ import annotations

import dataclasses
import inspect
import logging
import re
import struct
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, ClassVar
from urllib.parse import quote

import pytest

from metricwatch.api import Notice, Notifier, Secret, TemporaryError
from metricwatch.testing import samples

Inbox = Callable[[], Sequence[str]]


def png(width: int = 8, height: int = 8) -> bytes:
    """The content of a real PNG file, all white."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\xff" * width) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def forms_of(secret: str) -> tuple[str, ...]:
    """A secret as it may turn up in a text: as it is, percent-encoded, in Base64."""
    encoded = b64encode(secret.encode()).decode()
    # The end depends on what follows.
    return (secret, quote(secret, safe=""), encoded[: len(encoded) // 4 * 4 - 4] or encoded)


def chain_of(error: BaseException | None) -> str:
    """What can be read of an error and of all that it came from, also of what a traceback would leave out."""
    told: list[str] = []
    waiting, seen = [error], set[int]()
    while waiting:
        link = waiting.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        told += [str(link), repr(link), repr(vars(link)), *getattr(link, "__notes__", ())]
        waiting += [link.__cause__, link.__context__]
    return "\n".join(told)


class NotifierContract:
    """Set `notifier` and override the fixtures options, unreachable_options and inbox.

    options reach a server that takes everything; unreachable_options reach nobody within a few seconds; inbox
    gives the readable text of each message that arrived, oldest first: with one_each, of each alert.
    """

    notifier: ClassVar[type[Notifier]]
    # True for a notifier that sends one request for each alert of a message.
    one_each: ClassVar[bool] = False

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

    @pytest.mark.parametrize("event", ["firing", "resolved", "reminder", "digest", "test"])
    def test_every_event_is_sent(self, opened: Notifier, inbox: Inbox, event: Any) -> None:
        opened.send(samples.notification(event))
        assert len(inbox()) == 1

    def test_messages_arrive_in_order(self, opened: Notifier, inbox: Inbox) -> None:
        for event in ("firing", "resolved"):
            opened.send(samples.notification(event))
        first, second = inbox()
        assert samples.notification("firing").title in first
        assert samples.notification("resolved").title in second

    def test_a_message_of_several_alerts_tells_all(self, opened: Notifier, inbox: Inbox) -> None:
        notices = _notices(3)
        opened.send(samples.notification(notices=notices, title="3 alerts on night-run"))
        texts = list(inbox())
        assert len(texts) == (3 if self.one_each else 1)
        told = "\n".join(texts)
        for notice in notices:
            assert notice.alert.rule in told
            assert notice.alert.metric in told

    def test_a_hundred_alerts_are_told_and_those_left_out_are_counted(self, opened: Notifier, inbox: Inbox) -> None:
        notices = _notices(100)
        opened.send(samples.notification("digest", notices=notices, title="a digest of the night"))
        texts = list(inbox())
        assert len(texts) == (100 if self.one_each else 1)
        told = "\n".join(texts)
        left_out = sum(notice.alert.rule not in told for notice in notices)
        assert left_out < len(notices)
        assert not left_out or re.search(rf"\b{left_out}\b", told), f"{left_out} alerts are left out and not counted"

    def test_a_note_about_the_message_is_shown(self, opened: Notifier, inbox: Inbox) -> None:
        note = "The template of rule fid-moved failed, so this is the plain text"
        opened.send(samples.notification(note=note))
        (text,) = inbox()
        assert note in text

    @pytest.mark.parametrize("picture", [None, png(), b"", b"not a picture"], ids=["none", "png", "empty", "broken"])
    def test_a_picture_never_keeps_a_message_back(self, opened: Notifier, inbox: Inbox, picture: bytes | None) -> None:
        sent = samples.notification(notices=[samples.notice(picture=picture)])
        opened.send(sent)
        (text,) = inbox()
        assert sent.title in text

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
        opened.send(samples.notification(title=title, summary=title, run_name=title, note=title))
        assert len(inbox()) == 1

    @pytest.mark.parametrize("count", [0, 1, 2000])
    def test_a_window_may_have_any_length(self, opened: Notifier, inbox: Inbox, count: int) -> None:
        opened.send(samples.notification(about=samples.alert(points_seen=samples.window(count))))
        assert len(inbox()) == 1

    def test_a_message_needs_no_link(self, opened: Notifier, inbox: Inbox) -> None:
        opened.send(samples.notification(run_url=None))
        assert len(inbox()) == 1

    def test_nobody_there_is_a_temporary_error_without_secrets(
        self, unreachable_options: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        made = self.notifier(unreachable_options)
        with caplog.at_level(logging.DEBUG), pytest.raises(TemporaryError) as raised:
            made.send(samples.notification())
        made.close()
        logged = "\n".join(f"{record.getMessage()} {record.exc_text}" for record in caplog.records)
        shown = f"{chain_of(raised.value)} {raised.getrepr(style='long')} {unreachable_options!r} {logged}"
        for item in dataclasses.fields(unreachable_options):
            value = getattr(unreachable_options, item.name)
            if isinstance(value, Secret):
                assert not [form for form in forms_of(value.reveal()) if form in shown]

    def test_it_says_how_fast_and_to_what_place_it_may_send(self, options: Any) -> None:
        first, second = self.notifier(options), self.notifier(options)
        assert timedelta(0) <= first.pause <= timedelta(minutes=1)
        assert first.address() is None or isinstance(first.address(), str)
        assert first.address() == second.address(), "receivers of one place keep the pause together"
        assert isinstance(first.takes_pictures, bool)
        first.close()
        second.close()

    def test_it_can_be_closed_twice(self, options: Any) -> None:
        made = self.notifier(options)
        made.close()
        made.close()


def _notices(count: int) -> list[Notice]:
    """Alerts of different rules and metrics: every third one is over, every fifth a reminder."""

    def notice(index: int) -> Notice:
        event: Any = "resolved" if index % 3 == 2 else "reminder" if index % 5 == 4 else "firing"  # noqa: PLR2004
        about = samples.alert(
            alert_id=index + 1, rule=f"rule-{index:03}", metric=f"metric_{index:03}", resolved=event == "resolved"
        )
        title = f"metric_{index:03} moved on night-run (rule-{index:03})"
        return samples.notice(event, about=about, title=title, picture=png() if index % 2 else None)

    return [notice(index) for index in range(count)]
