"""What Slack's answers, and their absence, mean: whether the same message may be taken later."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.error import URLError

from metricwatch.api import MetricwatchError, PermanentError, TemporaryError
from metricwatch.notifiers.redaction import redacted
from metricwatch.notifiers.retry_after import retry_after

OK = 200
_TRY_LATER = frozenset({408, 425, 429})
_SERVER_ERROR = 500
_LONGEST = 200

# https://docs.slack.dev/reference/methods/chat.postMessage#errors
_PASSING = frozenset(
    {
        "ratelimited",
        "rate_limited",
        "internal_error",
        "fatal_error",
        "service_unavailable",
        "request_timeout",
        "team_added_to_org",
    }
)
_NEW_TOKEN = "copy the Bot User OAuth Token (xoxb-…) anew from the app's page OAuth & Permissions"  # noqa: S105
_HINTS = {
    "not_in_channel": "invite the bot: write `/invite @` and its name in that channel",
    "channel_not_found": "write the channel's ID; into a private channel the bot must be invited (/invite)",
    "is_archived": "the channel is archived: choose another one",
    "missing_scope": "give the app the scopes chat:write and files:write, then install it anew",
    "not_allowed_token_type": _NEW_TOKEN,
    "no_permission": "give the app the scopes chat:write and files:write, then install it anew",
    "invalid_auth": _NEW_TOKEN,
    "not_authed": _NEW_TOKEN,
    "token_revoked": _NEW_TOKEN,
    "token_expired": _NEW_TOKEN,
    "account_inactive": _NEW_TOKEN,
}


def api_refusal(
    method: str, status: int, headers: Mapping[str, str], answer: object, secrets: tuple[str, ...]
) -> MetricwatchError:
    """The error for an answer of the Web API that is not {"ok": true}: most have HTTP status 200."""
    said = answer if isinstance(answer, Mapping) else {}
    name = _line(str(said.get("error") or ""), secrets)
    where = f"slack: {method}" if status == OK else f"slack: {method}: HTTP {status}"
    told = f"{where}: {name}" if name else where
    if name in _PASSING or status in _TRY_LATER or status >= _SERVER_ERROR:
        return TemporaryError(told, retry_after=retry_after(headers))
    if not said or "ok" not in said or len(name.split()) > 1:
        return PermanentError(f"{told}: that is no answer of Slack's; is api_url right?")
    details = _line("; ".join(_details(said)), secrets)
    hint = _HINTS.get(name, "")
    return PermanentError(told + (f" ({details})" if details else "") + (f"; {hint}" if hint else ""))


def upload_refusal(status: int, headers: Mapping[str, str]) -> MetricwatchError:
    """The error for a file that was not taken: that answer is a bare status, for it is no method of the Web API."""
    told = f"slack: the file was not taken: HTTP {status}"
    if status in _TRY_LATER or status >= _SERVER_ERROR:
        return TemporaryError(told, retry_after=retry_after(headers))
    return PermanentError(told)


def no_answer(error: Exception) -> MetricwatchError:
    """The error where no answer came, or none that can be read. Names no address."""
    cause = error.reason if isinstance(error, URLError) and isinstance(error.reason, BaseException) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return PermanentError(
            f"slack: the server's certificate is not trusted ({cause.verify_message}); name the certificate authority"
            " that signed it in the environment variable SSL_CERT_FILE"
        )
    if isinstance(cause, TimeoutError):
        return TemporaryError("slack: no answer in time; the message may have arrived")
    if isinstance(cause, OSError) and cause.strerror:
        return TemporaryError(f"slack: no connection ({cause.strerror})")
    if isinstance(cause, OSError | http.client.HTTPException):
        return TemporaryError(f"slack: the connection broke ({type(cause).__name__}); the message may have arrived")
    if isinstance(cause, UnicodeError | LookupError):
        # slack_sdk decodes before it looks at the status, and Slack itself answers in UTF-8: a gateway's page.
        told = type(cause).__name__
        return TemporaryError(f"slack: the answer cannot be read ({told}); the message may have arrived")
    return PermanentError(f"slack: the answer cannot be read ({type(cause).__name__})")


def _details(said: Mapping[str, Any]) -> list[str]:
    needed = said.get("needed")
    metadata = said.get("response_metadata")
    messages = metadata.get("messages") if isinstance(metadata, Mapping) else None
    return [f"needed: {needed}"] * bool(needed) + [str(text) for text in messages or () if isinstance(text, str)]


def _line(text: str, secrets: tuple[str, ...]) -> str:
    return " ".join(redacted(text, secrets).split())[:_LONGEST]


__all__ = ["OK", "api_refusal", "no_answer", "upload_refusal"]
