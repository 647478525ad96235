"""The e-mail notifier: one message with a text and an HTML form, through an SMTP server.

SMTP has no idempotency key: a message whose answer was lost may arrive twice. Both copies carry the same
Message-ID, by which most mail programs show one.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import smtplib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.policy import EmailPolicy
from email.utils import format_datetime, getaddresses, parseaddr
from html import escape
from pathlib import Path

from metricwatch.api import (
    Alert,
    ConfigError,
    MetricwatchError,
    Notification,
    Notifier,
    PermanentError,
    Secret,
    TemporaryError,
)

_SUBMISSION = 587
_IMPLICIT_TLS = 465
_SUBJECT_LIMIT = 200
_ADDRESSES = re.compile(r"[\w.+\-]+@[\w.\-]+(?:[,; ]+[\w.+\-]+@[\w.\-]+)*")
# Python folds a long subject right behind its name, and readers then see it begin with a space: filters miss it.
_POLICY = EmailPolicy(max_line_length=500)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmailOptions:
    """How to reach the server, who sends and who reads.

    starttls is on unless tls (TLS from the first byte) is; the port defaults to 587, with tls to 465. ca_file
    replaces the system's certificate authorities. timeout is in seconds, for each step of the conversation.
    """

    host: str
    sender: str = field(metadata={"key": "from"})
    to: tuple[str, ...]
    port: int | None = None
    starttls: bool | None = None
    tls: bool = False
    username: str | None = None
    password: Secret | None = None
    ca_file: Path | None = None
    timeout: float = 20.0

    def __post_init__(self) -> None:
        """Raises ConfigError where the options contradict each other. Quotes nothing but e-mail addresses."""
        if re.search(r"[\s@/]", self.host) or not self.host:
            raise ConfigError("host is not the name of a server; write it without scheme, user and port")
        if self.tls and self.starttls:
            raise ConfigError("tls and starttls exclude each other: keep starttls for port 587, tls for port 465")
        if not self.to:
            raise ConfigError("to is empty: name at least one address")
        _check_address("from", self.sender)
        for position, address in enumerate(self.to):
            _check_address(f"to[{position}]", address)
        if (self.username is None) != (self.password is None):
            raise ConfigError("username and password go together: give both or neither")
        encrypted = self.tls or self.starttls is not False
        if self.username is not None and not (encrypted or _is_loopback(self.host)):
            raise ConfigError("username without TLS would send the password in the clear: set starttls or tls")
        if self.timeout <= 0:
            raise ConfigError(f"timeout must be above 0 seconds, not {self.timeout:g}")


class EmailNotifier(Notifier):
    """Sends through one SMTP server, a fresh connection for each message. Never falls back to plain text."""

    Options = EmailOptions

    def __init__(self, options: EmailOptions) -> None:
        self._options = options
        self._starttls = not options.tls if options.starttls is None else options.starttls
        self._port = options.port or (_IMPLICIT_TLS if options.tls else _SUBMISSION)
        self._where = f"email: {options.host}:{self._port}"

    def send(self, notification: Notification) -> None:
        """Send one message to all recipients.

        Raises TemporaryError when the server cannot be reached, breaks off or answers 4xx; PermanentError when it
        answers 5xx, is not who its certificate should say, or offers no STARTTLS. When it takes some recipients and
        refuses others the message is out: PermanentError names both, for a repeat would reach the first ones twice.
        """
        message = compose(notification, sender=self._options.sender, to=self._options.to)
        with self._speaking(), self._connection() as smtp:
            refused = smtp.send_message(message)
        if refused:
            delivered = [address for address in self._options.to if parseaddr(address)[1] not in refused]
            raise PermanentError(
                f"{self._where}: delivered to {', '.join(delivered)}, but refused for {self._refusals(refused)}"
            )

    # --- the conversation ----------------------------------------------------------------------------------

    @contextmanager
    def _connection(self) -> Iterator[smtplib.SMTP]:
        options = self._options
        context = self._tls_context() if options.tls or self._starttls else None
        if options.tls:
            smtp: smtplib.SMTP = smtplib.SMTP_SSL(options.host, self._port, timeout=options.timeout, context=context)
        else:
            smtp = smtplib.SMTP(options.host, self._port, timeout=options.timeout)
        try:
            if self._starttls:
                smtp.ehlo_or_helo_if_needed()
                if not smtp.has_extn("starttls"):
                    raise PermanentError(
                        f"{self._where} does not offer STARTTLS; use its TLS port with `tls: true`, or set"
                        " `starttls: false` where the network is trusted"
                    )
                smtp.starttls(context=context)
            if options.username is not None and options.password is not None:
                smtp.login(options.username, options.password.reveal())
            yield smtp
            # The message is taken: what goes wrong while leaving must not have it sent again.
            with suppress(smtplib.SMTPException, OSError):
                smtp.quit()
        finally:
            smtp.close()

    def _tls_context(self) -> ssl.SSLContext:
        """Made anew for each message: over weeks, certificates are replaced."""
        try:
            return ssl.create_default_context(cafile=self._options.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise PermanentError(f"email: ca_file {self._options.ca_file} cannot be used: {error}") from error

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        """Turn what smtplib and the socket raise into our errors, by what a repeat would meet."""
        try:
            yield
        except MetricwatchError:
            raise
        except ssl.SSLCertVerificationError as error:
            raise PermanentError(
                f"{self._where}: its certificate is not trusted ({error.verify_message}); name the certificate"
                " authority that signed it in ca_file"
            ) from error
        except smtplib.SMTPRecipientsRefused as error:
            told = f"{self._where}: refused for {self._refusals(error.recipients)}"
            raise _by_code(told, min(code for code, _ in error.recipients.values())) from None
        except smtplib.SMTPResponseException as error:
            what = "login failed" if isinstance(error, smtplib.SMTPAuthenticationError) else "refused"
            told = f"{self._where}: {what}: {error.smtp_code} {self._clean(error.smtp_error)}"
            # Not chained: some servers repeat what they were sent.
            raise _by_code(told, error.smtp_code) from None
        except (smtplib.SMTPNotSupportedError, UnicodeError) as error:
            raise PermanentError(f"{self._where}: {error}") from error
        except (smtplib.SMTPException, OSError) as error:
            # smtplib wraps a timeout in the middle of the conversation.
            if isinstance(error, TimeoutError) or isinstance(error.__context__, TimeoutError):
                raise TemporaryError(f"{self._where}: no answer within {self._options.timeout:g} s") from error
            hint = "; does this port speak TLS from the first byte?" if isinstance(error, ssl.SSLError) else ""
            told = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
            raise TemporaryError(f"{self._where}: {told}{hint}") from error

    def _refusals(self, refused: dict[str, tuple[int, bytes]]) -> str:
        return ", ".join(f"{address} ({code} {self._clean(text)})" for address, (code, text) in refused.items())

    def _clean(self, text: bytes | str) -> str:
        """One short line of the server's own words, without our password."""
        line = " ".join((text.decode(errors="replace") if isinstance(text, bytes) else text).split())
        if self._options.password is not None:
            line = line.replace(self._options.password.reveal() or "\n", "******")
        return line[:200]


def _by_code(message: str, code: int) -> MetricwatchError:
    return TemporaryError(message) if code < 500 else PermanentError(message)  # noqa: PLR2004


def _check_address(key: str, text: str) -> None:
    """Raise ConfigError when it is not one address. What is far from one may be a secret in the wrong place."""
    if not _is_address(text):
        quoted = f"{text!r} is " if _ADDRESSES.fullmatch(text) else ""
        raise ConfigError(f"{key}: {quoted}not an e-mail address; write one such as name@example.org")


def _is_address(text: str) -> bool:
    """One address, with or without a name before it."""
    found = getaddresses([text])
    local, at, domain = found[0][1].rpartition("@") if len(found) == 1 else ("", "", "")
    # smtp://me:password@host reads as a group of addresses. A colon may stand in a name before <...> only.
    plain = "<" in text or ":" not in text
    well_formed = bool(at and local and domain and plain) and " " not in local + domain
    return well_formed and not re.search(r"[\x00-\x1f\x7f]", text)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# --- the message -------------------------------------------------------------------------------------------


def compose(notification: Notification, *, sender: str, to: tuple[str, ...]) -> EmailMessage:
    """The message: the same notification always gives the same headers, Message-ID included.

    All messages about one alert refer to a common root, so that mail programs show them as one thread.
    """
    alert = notification.alert
    message = EmailMessage(policy=_POLICY)
    message["From"] = sender
    message["To"] = ", ".join(to)
    message["Subject"] = _one_line(notification.title)[:_SUBJECT_LIMIT]
    message["Date"] = format_datetime(notification.created_at)
    domain = re.sub(r"[^A-Za-z0-9.-]", "", parseaddr(sender)[1].rpartition("@")[2]) or "metricwatch"
    about = _digest(alert.run, alert.rule, alert.id, alert.fired_step)
    # The moment is part of it: a fresh ledger counts its notifications from 1 again.
    this = _digest(about, notification.id, notification.event, notification.created_at.isoformat())
    message["Message-ID"] = f"<{this}.{notification.id}.{notification.event}@{domain}>"
    if notification.event != "test":
        # The first message cannot be the root: one that reports recovery does not know its Message-ID.
        root = f"<{about}.{alert.id}.alert@{domain}>"
        message["In-Reply-To"] = root
        message["References"] = root
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(_plain(notification))
    message.add_alternative(_html(notification), subtype="html")
    return message


def _one_line(text: str) -> str:
    """Without line breaks and other control characters, which could end a header and begin another."""
    return re.sub(r"[\x00-\x1f\x7f\u0085\u2028\u2029]+", " ", text).strip()


def _digest(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:16]


def _facts(notification: Notification) -> dict[str, str]:
    alert = notification.alert
    facts = {
        "Run": notification.run_name,
        "Metric": alert.metric,
        "Rule": alert.rule,
        **_what(alert),
        "Direction": f"{alert.direction} ({alert.severity})",
        "Fired at step": str(alert.fired_step),
    }
    if alert.resolved_step is not None:
        facts["Resolved at step"] = str(alert.resolved_step)
    return facts


def _what(alert: Alert) -> dict[str, str]:
    if alert.what:
        return {"What": alert.what}
    return {"Change": f"{alert.change * 100:+.3g}% (threshold {alert.threshold * 100:.3g}%)"}


def _rows(notification: Notification) -> list[tuple[str, str, str]]:
    return [
        (str(point.step), f"{point.value:.6g}", "" if point.stderr is None else f"± {point.stderr:.2g}")
        for point in notification.alert.window
    ]


def _plain(notification: Notification) -> str:
    lines = [notification.summary, ""]
    lines += [f"{name}: {_one_line(value)}" for name, value in _facts(notification).items()]
    if rows := _rows(notification):
        width = max(len("step"), *(len(step) for step, _, _ in rows))
        lines += ["", f"{'step':>{width}}  {notification.alert.metric}"]
        lines += [f"{step:>{width}}  {value} {noise}".rstrip() for step, value, noise in rows]
    if notification.run_url:
        lines += ["", notification.run_url]
    return "\n".join(lines) + "\n"


def _html(notification: Notification) -> str:
    """Styles stand in the elements: mail programs drop style sheets."""
    cell = 'style="padding:2px 12px 2px 0;text-align:left;font-weight:normal;vertical-align:top"'
    number = 'style="padding:2px 12px 2px 0;text-align:right;font-family:monospace"'
    parts = [
        '<html><body style="font-family:sans-serif;font-size:14px;color:#222">',
        f'<h2 style="font-size:18px">{escape(notification.title)}</h2>',
        f"<p>{escape(notification.summary)}</p>",
        '<table style="border-collapse:collapse">',
    ]
    for name, value in _facts(notification).items():
        parts.append(f"<tr><th {cell}>{escape(name)}</th><td {cell}>{escape(value)}</td></tr>")
    parts.append("</table>")
    if rows := _rows(notification):
        titles = ("step", notification.alert.metric, "")
        parts.append('<table style="border-collapse:collapse;margin-top:12px">')
        parts.append("<tr>" + "".join(f"<th {number}>{escape(title)}</th>" for title in titles) + "</tr>")
        parts += ["<tr>" + "".join(f"<td {number}>{escape(text)}</td>" for text in row) + "</tr>" for row in rows]
        parts.append("</table>")
    if (notification.run_url or "").startswith(("http://", "https://")):
        parts.append(f'<p><a href="{escape(notification.run_url or "")}">Open the run in MLflow</a></p>')
    parts.append("</body></html>")
    return "\n".join(parts)


__all__ = ["EmailNotifier", "EmailOptions", "compose"]
