"""The e-mail notifier against real SMTP servers: TLS, login, refusals, and what arrives."""

import logging
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metricwatch import catalog
from metricwatch.api import ConfigError, Notifier, PermanentError, Secret, TemporaryError
from metricwatch.config.options import bind_options
from metricwatch.testing import samples
from metricwatch.testing.notifier import chain_of, forms_of, png
from tests.support.mail_page import mail_page
from tests.support.rude_server import rude_server
from tests.support.smtp_server import Certificate, SmtpServer, make_certificate, smtp_server

EmailNotifier = catalog.load_notifier("email")
USERS = {"mw": "hunter2"}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def server(certificate: Certificate) -> Iterator[SmtpServer]:
    with smtp_server(starttls=certificate, users=USERS) as running:
        yield running


def notifier_for(server: SmtpServer | None = None, **changes: Any) -> Notifier:
    options = {
        "host": "127.0.0.1",
        "port": server.port if server else 1,
        "sender": "metricwatch <mw@example.org>",
        "to": ("ml@example.org",),
        "timeout": 5.0,
        **changes,
    }
    return EmailNotifier(EmailNotifier.Options(**options))


def login(certificate: Certificate) -> dict[str, Any]:
    return {"username": "mw", "password": Secret("hunter2"), "ca_file": certificate.certificate}


# --- the message -------------------------------------------------------------------------------------------


def test_a_message_arrives_encrypted_with_text_and_html(server, certificate):
    sent = samples.notification()
    notifier_for(server, **login(certificate), to=("ml@example.org", "Reader <two@example.org>")).send(sent)
    (mail,) = server.mails
    assert mail.encrypted
    assert mail.user == "mw"
    assert mail.sender == "mw@example.org"
    assert mail.recipients == ("ml@example.org", "two@example.org")
    message = mail.message
    assert message["Subject"] == sent.title
    assert message["From"] == "metricwatch <mw@example.org>"
    assert message["Date"].datetime == sent.created_at
    assert message["Auto-Submitted"] == "auto-generated"
    assert message.get_content_type() == "multipart/alternative"
    plain, html = mail.part("plain"), mail.part("html")
    for text in (plain, html):
        for needed in (sent.summary, "night-run", "fid-moved", "+17%", "10%", "worse", "5000", "± 0.21", "23.3972"):
            assert needed in text
        assert sent.run_url in text
    assert "<table" in html


def test_a_long_subject_arrives_as_it_was_written(server, certificate):
    title = "[critical] photo-restorer: fd_efficientnet_lite0 rose 148.7% (a-rule-with-a-rather-long-name)"
    notifier_for(server, **login(certificate)).send(samples.notification(title=title))
    assert server.mails[0].message["Subject"] == title


def test_html_is_escaped(server, certificate):
    hostile = "<script>alert('x')</script> & \"more\""
    sent = samples.notification(title=hostile, summary=hostile, run_name=hostile, run_url="javascript:alert(1)")
    notifier_for(server, **login(certificate)).send(sent)
    html = server.mails[0].part("html")
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "<a " not in html


def test_a_title_cannot_add_a_header(server, certificate):
    title = "fid moved\r\nBcc: everyone@example.org\n\nbody\u2028line\x00"
    notifier_for(server, **login(certificate)).send(samples.notification(title=title))
    (mail,) = server.mails
    assert mail.message["Bcc"] is None
    assert mail.message["Subject"] == "fid moved Bcc: everyone@example.org body line"
    assert mail.recipients == ("ml@example.org",)


def test_a_repeat_has_the_same_message_id_and_another_message_has_not(server, certificate):
    notifier = notifier_for(server, **login(certificate))
    firing, resolved = samples.notification(), samples.notification("resolved", notification_id=12)
    for sent in (firing, firing, resolved, samples.notification(notification_id=13)):
        notifier.send(sent)
    first, again, recovery, reminder = (mail.message["Message-ID"] for mail in server.mails)
    assert first == again
    assert len({first, recovery, reminder}) == 3
    assert first.endswith("@example.org>")


def test_messages_about_one_alert_form_a_thread(server, certificate):
    notifier = notifier_for(server, **login(certificate))
    other = samples.alert(alert_id=8)
    for sent in (
        samples.notification(),
        samples.notification("resolved", notification_id=12),
        samples.notification(about=other),
        samples.notification("test"),
    ):
        notifier.send(sent)
    firing, resolved, unrelated, trial = (mail.message for mail in server.mails)
    assert firing["References"] == resolved["References"] == resolved["In-Reply-To"]
    assert unrelated["References"] != firing["References"]
    assert trial["References"] is None


def test_it_sends_without_login_where_none_is_asked(certificate):
    with smtp_server(starttls=certificate) as server:
        notifier_for(server, ca_file=certificate.certificate).send(samples.notification())
        assert [mail.encrypted for mail in server.mails] == [True]


def test_it_speaks_tls_from_the_first_byte(certificate):
    with smtp_server(tls=certificate) as server:
        notifier_for(server, tls=True, ca_file=certificate.certificate).send(samples.notification())
        assert [mail.encrypted for mail in server.mails] == [True]


def test_it_sends_in_the_clear_only_when_told_to():
    with smtp_server() as server:
        notifier_for(server, starttls=False).send(samples.notification())
        assert [mail.encrypted for mail in server.mails] == [False]


# --- several alerts, notes, curves -------------------------------------------------------------------------


def several(count: int, **changes: Any) -> list[Any]:
    """Notices of different metrics and rules."""
    return [
        samples.notice(
            about=samples.alert(alert_id=index, metric=f"metric_{index:03}", rule=f"rule-{index:03}"), **changes
        )
        for index in range(count)
    ]


def test_a_message_of_several_alerts_has_a_section_for_each_and_one_link(server, certificate):
    long = samples.alert(metric="kid", rule="kid-moved", points_seen=samples.window(30), resolved=True)
    over = samples.notice("resolved", about=long, title="kid is back <again>")
    sent = samples.notification(notices=[samples.notice(), over], title="2 alerts on night-run")
    notifier_for(server, **login(certificate)).send(sent)
    (mail,) = server.mails
    plain, html = mail.part("plain"), mail.part("html")
    assert mail.message["Subject"] == "2 alerts on night-run"
    for needed in (sent.summary, sent.notices[0].title, "fid-moved", "kid-moved", "Resolved at step", "7000", "…"):
        assert needed in plain
        assert needed in html
    assert "kid is back <again>" in plain
    assert "kid is back &lt;again&gt;" in html
    assert plain.count(sent.run_url) == html.count(sent.run_url) == 1
    assert html.count("<h3") == 2
    assert len(plain.splitlines()) < 50, "of a long window only the ends are shown"


def test_alerts_of_several_runs_have_each_the_link_to_its_own(server, certificate):
    other = samples.notice(run_name="day-run", run_url="http://mlflow/#/day")
    sent = samples.notification(notices=[samples.notice(), other])
    notifier_for(server, **login(certificate)).send(sent)
    for text in (server.mails[0].part("plain"), server.mails[0].part("html")):
        assert text.index(samples.RUN_URL) < text.index("day-run") < text.index("http://mlflow/#/day")


def test_beyond_a_hundred_alerts_the_others_are_counted(server, certificate):
    notifier_for(server, **login(certificate)).send(samples.notification(notices=several(130)))
    for text in (server.mails[0].part("plain"), server.mails[0].part("html")):
        assert "rule-099" in text
        assert "rule-100" not in text
        assert "… and 30 more" in text


def test_an_alert_of_the_run_as_a_whole_has_no_metric(server, certificate):
    about = replace(samples.alert(metric="", points_seen=[]), kind="stale", what="no evaluation for 3 h")
    notifier_for(server, **login(certificate)).send(samples.notification(about=about))
    for text in (server.mails[0].part("plain"), server.mails[0].part("html")):
        assert "Metric" not in text
        assert "no evaluation for 3 h" in text


def test_a_note_is_shown_in_both_forms(server, certificate):
    notifier_for(server, **login(certificate)).send(samples.notification(note="the template <failed>\nhere"))
    assert "Note: the template <failed> here\r\n" in server.mails[0].part("plain")
    assert "the template &lt;failed&gt;" in server.mails[0].part("html")


def pictures_of(mail: Any) -> list[Any]:
    return [part for part in mail.message.walk() if part.get_content_type() == "image/png"]


def test_the_curve_stands_in_the_html(server, certificate, tmp_path: Path):
    picture = png(640, 320)
    sent = samples.notification(notices=[samples.notice(picture=picture)])
    notifier = notifier_for(server, **login(certificate))
    assert notifier.takes_pictures
    notifier.send(sent)
    (mail,) = server.mails
    plain, related = mail.message.iter_parts()
    assert (plain.get_content_type(), related.get_content_type()) == ("text/plain", "multipart/related")
    (curve,) = pictures_of(mail)
    assert curve.get_content() == picture
    assert curve.get_content_disposition() == "inline"
    assert curve.get_filename() == "fid-5000.png"
    assert f'<img src="cid:{curve["Content-ID"].strip("<>")}" alt="The curve of fid"' in mail.part("html")
    page = mail_page(mail.message)
    (tmp_path / "mail.html").write_text(page)
    assert "cid:" not in page
    assert b64encode(picture).decode() in page


def test_a_metric_with_a_strange_name_gives_its_curve_an_ordinary_one(server, certificate):
    hostile = 'a"/../\r\nX: <b>'
    sent = samples.notification(notices=[samples.notice(about=samples.alert(metric=hostile), picture=png())])
    notifier_for(server, **login(certificate)).send(sent)
    (curve,) = pictures_of(server.mails[0])
    assert curve.get_filename() == "a-..-X-b-5000.png"
    assert curve["X"] is None
    assert 'alt="The curve of a&quot;/' in server.mails[0].part("html")


@pytest.mark.parametrize(
    ("sizes", "shown", "said"),
    [
        ([0] * 7, [0, 1, 2, 3, 4], "2 of 7 curves are left out"),
        ([4_000_000, 4_000_000, 100, 100], [0, 2, 3], "1 of 4 curves are left out"),
        ([12_000_000], [], "1 of 1 curves are left out"),
        ([0] * 5, [0, 1, 2, 3, 4], ""),
    ],
)
def test_a_mail_holds_five_curves_and_ten_megabytes(server, certificate, sizes: Sequence[int], shown, said):
    notices = [
        replace(notice, picture=png() + bytes(size)) for notice, size in zip(several(len(sizes)), sizes, strict=True)
    ]
    notifier_for(server, **login(certificate)).send(samples.notification(notices=notices))
    (mail,) = server.mails
    assert [part.get_filename() for part in pictures_of(mail)] == [f"metric_{index:03}-5000.png" for index in shown]
    assert len(mail.message.as_bytes()) < 10_000_000
    assert (said in mail.part("plain")) if said else ("left out" not in mail.part("plain"))


def test_messages_about_one_group_form_a_thread(server, certificate):
    notifier = notifier_for(server, **login(certificate))
    first = samples.notification(notices=several(2))
    second = samples.notification("reminder", notices=several(3), notification_id=12)
    other = replace(samples.notification(notices=several(2)), group={"run": "day-run"})
    for sent in (first, second, other, samples.notification("digest"), samples.notification()):
        notifier.send(sent)
    roots = [mail.message["References"] for mail in server.mails]
    assert roots[0] == roots[1] == roots[3]
    assert len({roots[0], roots[2], roots[4]}) == 3
    assert len({mail.message["Message-ID"] for mail in server.mails}) == 5


# --- TLS ---------------------------------------------------------------------------------------------------


def test_a_server_without_starttls_gets_nothing():
    with smtp_server() as server:
        with pytest.raises(PermanentError, match=r"does not offer STARTTLS; .*tls: true"):
            notifier_for(server).send(samples.notification())
        assert server.mails == []


def test_an_unknown_certificate_is_refused_with_a_hint(server):
    with pytest.raises(PermanentError, match=r"certificate is not trusted .*ca_file"):
        notifier_for(server).send(samples.notification())
    assert server.mails == []


def test_a_certificate_for_another_host_is_refused(tmp_path: Path):
    other = make_certificate(tmp_path, hosts=("smtp.example.org",))
    with smtp_server(starttls=other) as server:
        with pytest.raises(PermanentError, match="not trusted"):
            notifier_for(server, ca_file=other.certificate).send(samples.notification())
        assert server.mails == []


@pytest.mark.parametrize("content", [None, "not a certificate"])
def test_a_useless_ca_file_is_named(server, tmp_path: Path, content):
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(PermanentError, match=r"ca_file .*ca\.pem"):
        notifier_for(server, ca_file=file).send(samples.notification())


def test_tls_to_a_port_that_speaks_plainly_gives_a_hint(certificate):
    with smtp_server() as server, pytest.raises(TemporaryError, match="speak TLS from the first byte"):
        notifier_for(server, tls=True, ca_file=certificate.certificate).send(samples.notification())


@pytest.mark.parametrize(
    ("answer", "expected"), [("454 not now", TemporaryError), ("502 not implemented", PermanentError)]
)
def test_a_server_that_takes_starttls_back_gets_nothing_in_the_clear(answer, expected):
    heard: list[bytes] = []
    script = [b"250-here\r\n250-AUTH PLAIN\r\n250 STARTTLS\r\n", f"{answer}\r\n".encode(), b"250 OK\r\n"]
    with (
        rude_server(b"220 hello\r\n", then=script, heard=heard) as port,
        pytest.raises((TemporaryError, PermanentError), match=answer) as raised,
    ):
        notifier_for(port=port, username="mw", password=Secret("hunter2")).send(samples.notification())
    assert type(raised.value) is expected
    assert b"".join(heard).split(b"\r\n")[1:] in ([b"STARTTLS", b""], [b"STARTTLS", b"QUIT", b""])


# --- refusals ----------------------------------------------------------------------------------------------


def test_a_wrong_password_is_a_permanent_error_that_does_not_show_it(server, certificate):
    options = {**login(certificate), "password": Secret("wrong-secret")}
    with pytest.raises(PermanentError, match="login failed: 535") as raised:
        notifier_for(server, **options).send(samples.notification())
    assert "wrong-secret" not in chain_of(raised.value)


def test_no_login_where_one_is_needed_is_a_permanent_error(server, certificate):
    with pytest.raises(PermanentError, match="530"):
        notifier_for(server, ca_file=certificate.certificate).send(samples.notification())


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("451 try again later", TemporaryError),
        ("421 closing", TemporaryError),
        ("552 too much mail", PermanentError),
        ("554 looks like spam", PermanentError),
    ],
)
def test_the_servers_answer_to_the_message_decides(server, certificate, answer, expected):
    server.answers["DATA"] = answer
    with pytest.raises((TemporaryError, PermanentError), match=answer) as raised:
        notifier_for(server, **login(certificate)).send(samples.notification())
    assert type(raised.value) is expected


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"a@example.org": "550 unknown", "b@example.org": "550 unknown"}, PermanentError),
        ({"a@example.org": "450 greylisted", "b@example.org": "450 greylisted"}, TemporaryError),
        ({"a@example.org": "550 unknown", "b@example.org": "451 greylisted"}, TemporaryError),
    ],
)
def test_when_all_recipients_are_refused_one_that_may_come_is_enough_to_repeat(server, certificate, answers, expected):
    server.answers.update(answers)
    with pytest.raises((TemporaryError, PermanentError), match=r"a@example\.org .*b@example\.org") as raised:
        notifier_for(server, **login(certificate), to=tuple(answers)).send(samples.notification())
    assert type(raised.value) is expected
    assert server.mails == []


def test_a_refused_recipient_does_not_keep_the_message_from_the_others(server, certificate):
    server.answers["gone@example.org"] = "550 no such user"
    to = ("ml@example.org", "Gone <gone@example.org>")
    with pytest.raises(
        PermanentError, match=r"delivered to ml@example\.org, but refused for gone@example\.org \(550 no such user\)"
    ):
        notifier_for(server, **login(certificate), to=to).send(samples.notification())
    assert [mail.recipients for mail in server.mails] == [("ml@example.org",)]


# --- no answer ---------------------------------------------------------------------------------------------


def test_a_refused_connection_is_a_temporary_error():
    with pytest.raises(TemporaryError, match=r"127\.0\.0\.1:1: Connection refused"):
        notifier_for().send(samples.notification())


@pytest.mark.parametrize("answer", [b"", b"220 hello\r\n", b"421 too busy\r\n", b"nonsense\r\n"])
@pytest.mark.parametrize("reset", [False, True])
def test_a_connection_that_breaks_is_a_temporary_error(answer: bytes, reset: bool):
    with rude_server(answer, reset=reset) as port, pytest.raises(TemporaryError, match=f"email: 127.0.0.1:{port}"):
        notifier_for(port=port).send(samples.notification())


GREETING = b"220 hello\r\n"
TAKEN = b"250 OK\r\n"
WHOLE = [b"250 here\r\n", TAKEN, TAKEN, b"354 go on\r\n"]


@pytest.mark.parametrize("steps", range(1, 5))
@pytest.mark.parametrize("last", [b"", b"25"])
def test_a_server_that_leaves_in_the_middle_may_have_taken_the_message(steps, last):
    with rude_server(GREETING, then=[*WHOLE[:steps], last]) as port, pytest.raises(TemporaryError, match="email: 127"):
        notifier_for(port=port, starttls=False).send(samples.notification())


def test_a_server_that_leaves_once_it_has_taken_the_message_is_not_given_it_again():
    heard: list[bytes] = []
    with rude_server(GREETING, then=[*WHOLE, TAKEN], heard=heard) as port:
        notifier_for(port=port, starttls=False).send(samples.notification())
    assert b"".join(heard).count(b"Message-ID") == 1


def plain_login(password: str) -> str:
    return b64encode(f"\0mw\0{password}".encode()).decode()


@pytest.mark.parametrize("form", [str, plain_login, lambda password: plain_login(password)[:16]])
@pytest.mark.parametrize("code", [b"535", b"454"])
def test_a_server_that_repeats_the_password_is_quoted_without_it(caplog, code, form: Callable[[str], str]):
    password = "hunter2-and-more"
    told = code + b" no: " + form(password).encode() + b"\r\n"
    script = [b"250-here\r\n250 AUTH PLAIN\r\n", told]
    with (
        rude_server(GREETING, then=script) as port,
        caplog.at_level(logging.DEBUG),
        pytest.raises((TemporaryError, PermanentError), match=f"login failed: {code.decode()} no") as raised,
    ):
        notifier_for(port=port, starttls=False, username="mw", password=Secret(password)).send(samples.notification())
    shown = chain_of(raised.value) + caplog.text
    assert not [secret for secret in (*forms_of(password), form(password), "hunter2") if secret in shown]


def test_a_silent_server_is_given_up_in_time():
    with rude_server(silent_for=30) as port:
        start = time.monotonic()
        with pytest.raises(TemporaryError, match=r"no answer within 0\.5 s"):
            notifier_for(port=port, timeout=0.5).send(samples.notification())
        assert time.monotonic() - start < 5


# --- the configuration -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tls": True, "starttls": True}, "tls and starttls"),
        ({"to": ()}, "to is empty"),
        ({"to": ("nobody",)}, r"^to\[0\]: not an e-mail address"),
        ({"to": ("a@b.org", "smtp://me:hunter2@b.org")}, r"^to\[1\]: not an e-mail address"),
        ({"host": "me:hunter2@smtp.example.org"}, "host is not the name of a server"),
        ({"to": ("a@b.org, c@d.org",)}, "'a@b.org, c@d.org' is not an e-mail address"),
        ({"to": ("a@b.org\nBcc: c@d.org",)}, "not an e-mail address"),
        ({"sender": ""}, "from: not an e-mail address"),
        ({"username": "mw"}, "username and password"),
        ({"password": Secret("hunter2")}, "username and password"),
        (
            {"username": "mw", "password": Secret("hunter2"), "starttls": False, "host": "smtp.example.org"},
            "in the clear",
        ),
        ({"username": "mw", "password": Secret("hunter2é")}, "must be ASCII"),
        ({"timeout": 0.0}, "timeout"),
    ],
)
def test_options_that_contradict_each_other_are_configuration_errors(changes, said):
    with pytest.raises(ConfigError, match=said) as raised:
        notifier_for(**changes)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1"])
def test_a_login_in_the_clear_is_allowed_on_this_machine(host: str):
    notifier_for(host=host, starttls=False, username="mw", password=Secret("hunter2"))


def test_the_keys_of_the_file_are_those_of_the_documentation(tmp_path: Path):
    (tmp_path / "smtp").write_text("hunter2\n")
    written = {
        "host": "smtp.example.org",
        "port": 587,
        "starttls": True,
        "username": "mw",
        "password_file": "smtp",
        "from": "mw@example.org",
        "to": ["ml@example.org"],
        "ca_file": "ca.pem",
    }
    options = bind_options(EmailNotifier.Options, written, "metricwatch.yaml: notify.mail", base=tmp_path)
    assert options.password == Secret("hunter2")
    assert options.sender == "mw@example.org"
    assert options.to == ("ml@example.org",)
    assert options.ca_file == tmp_path / "ca.pem"
    EmailNotifier(options)
