"""The e-mail notifier against real SMTP servers: TLS, login, refusals, and what arrives."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metricwatch import catalog
from metricwatch.api import ConfigError, Notifier, PermanentError, Secret, TemporaryError
from metricwatch.config.options import bind_options
from metricwatch.testing import samples
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


# --- refusals ----------------------------------------------------------------------------------------------


def test_a_wrong_password_is_a_permanent_error_that_does_not_show_it(server, certificate):
    options = {**login(certificate), "password": Secret("wrong-secret")}
    with pytest.raises(PermanentError, match="login failed: 535") as raised:
        notifier_for(server, **options).send(samples.notification())
    assert "wrong-secret" not in str(raised.value) + repr(raised.value)


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
