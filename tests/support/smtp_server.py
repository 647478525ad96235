"""A real SMTP server on the loopback interface that keeps what it is given, and certificates for it."""

import ipaddress
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default as modern
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.ports import free_port


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A self-signed certificate and its key, as PEM files. It vouches for itself: give certificate as ca_file."""

    certificate: Path
    key: Path

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context


def make_certificate(folder: Path, *, hosts: tuple[str, ...] = ("localhost", "127.0.0.1")) -> Certificate:
    """Make a certificate for these host names and addresses, valid from yesterday for ten days."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=10))
        .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    result = Certificate(certificate=folder / f"{hosts[0]}.pem", key=folder / f"{hosts[0]}.key")
    result.certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    result.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return result


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """One message as the server took it."""

    sender: str
    recipients: tuple[str, ...]
    message: EmailMessage
    encrypted: bool
    user: str | None

    def part(self, subtype: str) -> str:
        """The text of the body of this kind: "plain" or "html"."""
        body = self.message.get_body((subtype,))
        assert body is not None
        return str(body.get_content())


@dataclass(slots=True, kw_only=True)
class SmtpServer:
    """A running server. answers maps a recipient's address, or "DATA", to the reply it is given instead of 250."""

    host: str
    port: int
    mails: list[Mail] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:  # noqa: N802
        if address in self.answers:
            return self.answers[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        if "DATA" in self.answers:
            return self.answers["DATA"]
        message = message_from_bytes(envelope.content, policy=modern)
        assert isinstance(message, EmailMessage)
        self.mails.append(
            Mail(
                sender=envelope.mail_from,
                recipients=tuple(envelope.rcpt_tos),
                message=message,
                encrypted=session.ssl is not None or server.transport.get_extra_info("ssl_object") is not None,
                user=session.auth_data,
            )
        )
        return "250 taken"


class _Controller(Controller):
    """aiosmtpd greets itself once started, with the server's own context, which cannot act as a client."""

    def _trigger_server(self) -> None:
        if self.ssl_context is None:
            super()._trigger_server()
            return
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with (
            socket.create_connection((self.hostname, self.port), timeout=5) as plain,
            context.wrap_socket(plain) as secured,
        ):
            secured.recv(1024)


@contextmanager
def smtp_server(
    *, starttls: Certificate | None = None, tls: Certificate | None = None, users: Mapping[str, str] | None = None
) -> Iterator[SmtpServer]:
    """Run a server that offers STARTTLS, or speaks TLS from the first byte, or neither; with users, login is needed."""
    running = SmtpServer(host="127.0.0.1", port=free_port())

    def log_in(server: Any, session: Any, envelope: Any, mechanism: str, data: LoginPassword) -> AuthResult:
        name, password = data.login.decode(), data.password.decode()
        known = (users or {}).get(name) == password
        return AuthResult(success=known, handled=False, auth_data=name if known else None)

    controller = _Controller(
        running,
        hostname=running.host,
        port=running.port,
        server_hostname="localhost",
        ssl_context=tls.server_context() if tls else None,
        tls_context=starttls.server_context() if starttls else None,
        authenticator=log_in if users else None,
        auth_required=bool(users),
        auth_require_tls=starttls is not None,
        enable_SMTPUTF8=True,
    )
    controller.start()
    try:
        yield running
    finally:
        controller.stop()
