"""One POST of JSON, and what an answer means for a repeat. No secret leaves in an error, and nothing is logged.

The standard library's client logs nothing at any level and reads no .netrc; requests, through urllib3, logs the path
of every address at DEBUG.
"""

from __future__ import annotations

import html
import http.client
import json
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from metricwatch.api import ConfigError, MetricwatchError, PermanentError, TemporaryError

from .redaction import redacted, secret_parts
from .retry_after import retry_after

LONGEST_TIMEOUT = 600.0
# What a receiver says stands at the start of its answer.
_MOST_READ = 64 * 1024
_MOST_SAID = 200
_BROKEN = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)
_TRY_LATER = frozenset({408, 425, 429})


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A 2xx answer: its status and the start of its body, at most 64 KiB. whole: that was all of it."""

    status: int
    body: str
    whole: bool

    def json(self) -> Any:
        """What the body says, or None where it is not JSON or was too long to be read whole."""
        try:
            return json.loads(self.body) if self.whole else None
        except (ValueError, RecursionError):
            return None


class Poster:
    """Posts JSON to one address, a fresh connection for each. Proxies are taken from the environment.

    name starts every error: "webhook". secrets are what no error may show beside the address and the headers' values.
    ca_file replaces the system's certificate authorities; trust is where a user names one. timeout is in seconds, for
    each step of the conversation and for the whole of the answer's body.
    """

    def __init__(
        self,
        name: str,
        url: str,
        *,
        timeout: float,
        headers: Mapping[str, str] | None = None,
        secrets: Iterable[str] = (),
        ca_file: Path | None = None,
        trust: str = "ca_file",
    ) -> None:
        self._name = name
        self._trust = trust
        self._url = url
        self._timeout = timeout
        self._headers = {"Content-Type": "application/json", "User-Agent": "metricwatch", **(headers or {})}
        self._ca_file = ca_file
        values = [*(headers or {}).values(), *secrets]
        # Of `Bearer abc` the last word is the secret.
        known = {*secret_parts(url), *values, *(value.split()[-1] for value in values if value.strip())}
        self._secrets = tuple(known | {html.escape(secret) for secret in known})

    def post(self, document: object) -> Answer:
        """Send and return the answer, which is 2xx.

        Raises TemporaryError on 408, 425, 429 and 5xx (with the receiver's Retry-After), on timeouts and on broken
        connections; PermanentError on redirects, which are not followed, on other 4xx, and on an untrusted certificate.
        """
        request = urllib.request.Request(  # noqa: S310 - check_address lets http(s) alone pass
            self._url, data=json.dumps(document, allow_nan=False).encode(), headers=self._headers, method="POST"
        )
        opener = self._opener()
        failure: MetricwatchError | None = None
        try:
            with closing(opener.open(request, timeout=self._timeout)) as response:
                body, whole = self._read(response)
            answer = Answer(status=response.status, body=body, whole=whole)
            if not 200 <= answer.status < 300:  # noqa: PLR2004
                failure = self._refusal(answer, response.headers)
        except Exception as error:  # noqa: BLE001 - urllib, http.client, ssl and socket errors alike
            failure = self._no_answer(error)
        if failure is not None:
            # Raised here, without a chain: a library's text may name the address.
            raise failure
        return answer

    def refused(self, answer: Answer) -> PermanentError:
        """The error for a 2xx answer whose body says that it was not taken after all."""
        said = self._told(answer.body) or " nothing"
        return PermanentError(f"{self._name}: answered HTTP {answer.status} but says{said}")

    # --- the conversation ----------------------------------------------------------------------------------

    def _opener(self) -> urllib.request.OpenerDirector:
        """Without handlers of redirects, logins and errors: every answer comes back as it is."""
        secure = self._url.lower().startswith("https:")
        opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            urllib.request.HTTPHandler(),
            # A context costs 20 ms, and a plain address needs none.
            urllib.request.HTTPSHandler(context=self._tls_context() if secure else None),
            urllib.request.UnknownHandler(),
        ):
            opener.add_handler(handler)
        return opener

    def _tls_context(self) -> ssl.SSLContext:
        """Made anew for each message: over weeks, certificates are replaced."""
        try:
            return ssl.create_default_context(cafile=self._ca_file)
        except (OSError, ssl.SSLError) as error:
            told = error.strerror or type(error).__name__
            raise PermanentError(f"{self._name}: ca_file {self._ca_file} cannot be used: {told}") from None

    def _read(self, response: http.client.HTTPResponse) -> tuple[str, bool]:
        """The start of the body, and whether that is all. Raises TimeoutError, IncompleteRead."""
        until = time.monotonic() + self._timeout
        parts = bytearray()
        while len(parts) <= _MOST_READ and (part := response.read1(_MOST_READ)):
            parts += part
            # A server that sends a byte now and then keeps every single step short.
            if time.monotonic() > until:
                raise TimeoutError
        whole = len(parts) <= _MOST_READ
        if whole and response.length:
            raise http.client.IncompleteRead(bytes(parts), response.length)
        return parts[:_MOST_READ].decode(errors="replace"), whole

    # --- errors --------------------------------------------------------------------------------------------

    def _refusal(self, answer: Answer, headers: Message) -> MetricwatchError:
        status, told = answer.status, self._told(answer.body)
        if status in _TRY_LATER or status >= 500:  # noqa: PLR2004
            return TemporaryError(f"{self._name}: HTTP {status}{told}", retry_after=retry_after(dict(headers.items())))
        if 300 <= status < 400:  # noqa: PLR2004
            return PermanentError(
                f"{self._name}: HTTP {status}, a redirect, which is not followed: write the address that it leads to"
            )
        return PermanentError(f"{self._name}: HTTP {status}{told}")

    def _no_answer(self, error: Exception) -> MetricwatchError:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(cause, ssl.SSLCertVerificationError):
            return PermanentError(
                f"{self._name}: the receiver's certificate is not trusted ({self._clean(cause.verify_message)}); name"
                f" the certificate authority that signed it in {self._trust}"
            )
        return TemporaryError(f"{self._name}: {self._reason(cause, sent=cause is error)}")

    def _reason(self, cause: BaseException | str, *, sent: bool) -> str:
        """In words; sent: the request was out when it happened, as far as is known."""
        reason = f"the connection broke ({type(cause).__name__}); the message may have arrived all the same"
        if isinstance(cause, str):
            # urllib's word for an address that it cannot open, and ours are http(s).
            reason = "the proxy that the environment names is not an http(s):// one"
        elif isinstance(cause, TimeoutError):
            reason = f"no answer within {self._timeout:g} s; the message may have arrived all the same"
        elif isinstance(cause, ssl.SSLError):
            reason = f"TLS failed ({cause.reason}); does this port speak TLS?"
        elif isinstance(cause, OSError) and str(cause).startswith("Tunnel connection failed"):
            reason = f"the proxy refuses: {self._clean(str(cause))}"
        elif isinstance(cause, OSError) and cause.strerror and not sent and not isinstance(cause, _BROKEN):
            reason = f"no connection ({self._clean(cause.strerror)})"
        return reason

    def _told(self, body: str) -> str:
        said = self._clean(body)
        return f": {said}" if said else ""

    def _clean(self, text: str) -> str:
        """One short line of the other side's words, without our secrets: some receivers repeat what they were sent."""
        line = "".join(character if character.isprintable() else " " for character in redacted(text, self._secrets))
        return " ".join(line.split())[:_MOST_SAID]


# --- options -----------------------------------------------------------------------------------------------


def check_address(key: str, url: str, example: str) -> None:
    """Raise ConfigError, without the address, where it cannot be one of the web. key is the option's name."""
    try:
        parts = urlsplit(url)
        host, user, _ = parts.hostname, parts.username, parts.port
    except ValueError:
        host, user = None, None
    if user is not None:
        raise ConfigError(f"{key} holds a user or a password; write them as options of their own")
    plain = re.fullmatch(r"https?://[!-~]+", url, re.IGNORECASE)
    if not plain or not host:
        raise ConfigError(
            f"{key} is not an http(s):// address without white space and with other letters percent-encoded: {example}"
        )


def check_timeout(seconds: float) -> None:
    """Raise ConfigError where a socket cannot wait so long, or not at all."""
    if not 0 < seconds <= LONGEST_TIMEOUT:
        raise ConfigError(f"timeout must be above 0 and at most {LONGEST_TIMEOUT:g} seconds, not {seconds:g}")


__all__ = ["LONGEST_TIMEOUT", "Answer", "Poster", "check_address", "check_timeout"]
