"""The conversation with the mail server, and what its answers mean."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.message import EmailMessage
from email.utils import parseaddr

from metricwatch.api import MetricwatchError, Notification, Notifier, PermanentError, TemporaryError
from metricwatch.notifiers.email.message import compose
from metricwatch.notifiers.email.options import EmailOptions
from metricwatch.notifiers.redaction import redacted

_SUBMISSION = 587
_IMPLICIT_TLS = 465
_LONGEST = 200


class EmailNotifier(Notifier):
    """Sends through one SMTP server, a fresh connection for each message. Never falls back to plain text."""

    Options = EmailOptions
    takes_pictures = True

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
        failure = self._attempt(compose(notification, sender=self._options.sender, to=self._options.to))
        # Raised where no other error is at hand: smtplib's hold what the server said, and some repeat the password.
        if failure is not None:
            raise failure

    def _attempt(self, message: EmailMessage) -> MetricwatchError | None:
        try:
            with self._connection() as smtp:
                refused = smtp.send_message(message)
        except MetricwatchError as error:
            return error
        except Exception as error:  # noqa: BLE001 - smtplib, ssl, socket and encoding errors alike
            return self._meaning(error)
        if not refused:
            return None
        delivered = [address for address in self._options.to if parseaddr(address)[1] not in refused]
        return PermanentError(
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
        except OSError as error:
            raise PermanentError(f"email: ca_file {self._options.ca_file} cannot be used: {error}") from None

    # --- what went wrong -----------------------------------------------------------------------------------

    def _meaning(self, error: Exception) -> MetricwatchError:
        """Our error for what smtplib and the socket raise, by what a repeat would meet."""
        if isinstance(error, ssl.SSLCertVerificationError):
            return PermanentError(
                f"{self._where}: its certificate is not trusted ({error.verify_message}); name the certificate"
                " authority that signed it in ca_file"
            )
        if isinstance(error, smtplib.SMTPRecipientsRefused):
            told = f"{self._where}: refused for {self._refusals(error.recipients)}"
            return _by_code(told, min(code for code, _ in error.recipients.values()))
        if isinstance(error, smtplib.SMTPResponseException):
            what = "login failed" if isinstance(error, smtplib.SMTPAuthenticationError) else "refused"
            told = f"{self._where}: {what}: {error.smtp_code} {self._clean(error.smtp_error)}"
            return _by_code(told, error.smtp_code)
        if isinstance(error, smtplib.SMTPNotSupportedError):
            return PermanentError(f"{self._where}: {self._clean(str(error))}")
        if isinstance(error, smtplib.SMTPException | OSError):
            return self._broken(error)
        # What is being encoded when that fails may be the password.
        return PermanentError(f"{self._where}: the conversation cannot be held ({type(error).__name__})")

    def _broken(self, error: Exception) -> MetricwatchError:
        # smtplib wraps a timeout in the middle of the conversation.
        if isinstance(error, TimeoutError) or isinstance(error.__context__, TimeoutError):
            return TemporaryError(f"{self._where}: no answer within {self._options.timeout:g} s")
        hint = "; does this port speak TLS from the first byte?" if isinstance(error, ssl.SSLError) else ""
        told = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
        return TemporaryError(f"{self._where}: {self._clean(told)}{hint}")

    def _refusals(self, refused: dict[str, tuple[int, bytes]]) -> str:
        return ", ".join(f"{address} ({code} {self._clean(text)})" for address, (code, text) in refused.items())

    def _clean(self, text: bytes | str) -> str:
        """One short line of the server's own words, without our password."""
        line = text.decode(errors="replace") if isinstance(text, bytes) else text
        if self._options.password is not None:
            line = redacted(line, [self._options.password.reveal()])
        return " ".join(line.split())[:_LONGEST]


def _by_code(message: str, code: int) -> MetricwatchError:
    # smtplib gives -1 for an answer that begins with no number.
    permanent = code >= 500  # noqa: PLR2004
    return PermanentError(message) if permanent else TemporaryError(message)


__all__ = ["EmailNotifier"]
