"""How to reach the mail server, who sends and who reads."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from email.utils import getaddresses
from pathlib import Path

from metricwatch.api import ConfigError, Secret

_ADDRESSES = re.compile(r"[\w.+\-]+@[\w.\-]+(?:[,; ]+[\w.+\-]+@[\w.\-]+)*")


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
        self._check_login()
        if self.timeout <= 0:
            raise ConfigError(f"timeout must be above 0 seconds, not {self.timeout:g}")

    def _check_login(self) -> None:
        if (self.username is None) != (self.password is None):
            raise ConfigError("username and password go together: give both or neither")
        if self.username is None or self.password is None:
            return
        encrypted = self.tls or self.starttls is not False
        if not (encrypted or _is_loopback(self.host)):
            raise ConfigError("username without TLS would send the password in the clear: set starttls or tls")
        if not (self.username.isascii() and self.password.reveal().isascii()):
            raise ConfigError("username and password must be ASCII: Python's SMTP sends no other characters")


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


__all__ = ["EmailOptions"]
