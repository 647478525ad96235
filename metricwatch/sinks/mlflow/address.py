"""The address of a tracking server or database: which may be used, and what of it may be shown."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from metricwatch.api import ConfigError

# A password may hold every character, / and @ as well when nobody escaped it: only the last @ ends the credentials.
# config/secrets.py divides an address in the same way; a test holds the two together.
_URI = re.compile(r"(?P<scheme>(?:[\w+.\-]*:(?=/))?/*)(?:(?P<user>.*)@)?(?P<place>.*)", re.DOTALL)
_SHORTEST_SECRET = 4


class Address:
    """Where MLflow is. Raises ConfigError for what cannot hold points that are written once and only once.

    uri is what was configured; where is the same for people: without user, password and query.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        scheme, user, place = _divided(uri)
        self.where = f"{scheme}{place.partition('?')[0]}".rstrip("/")
        self.is_web = scheme in {"http://", "https://"}
        # What a library's message may show of the credentials, the longest first.
        self.secrets = _spellings(user)
        if not uri.strip():
            raise ConfigError("tracking.uri is empty: give a server (http://host:5000) or sqlite:///mlflow.db")
        if ("://" not in scheme and uri != "databricks") or scheme.startswith("file:"):
            raise ConfigError(
                f"tracking.uri {self.where!r} is a directory of files, where a repeated point becomes a second one"
                " (and MLflow no longer maintains it): use sqlite:///mlflow.db or a server"
            )
        if self.is_web and re.search(r"[/?#\\]", user) and not _has_port(uri):
            raise ConfigError(
                "tracking.uri holds a user or password with a plain / ? # or \\: write %2F %3F %23 %5C for them, or set"
                " MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )


def _divided(uri: str) -> tuple[str, str, str]:
    """Scheme with its slashes, credentials, and the rest."""
    parts = _URI.fullmatch(uri)
    scheme, user, place = (parts["scheme"], parts["user"] or "", parts["place"]) if parts else ("", "", uri)
    # What cannot be credentials: sqlite:////home/me@work/, https://host/@me.
    local = scheme == "/" or scheme.endswith("///") or (not scheme and user.startswith("."))
    if user and ":" not in user and (local or (user.endswith("/") and "@" not in user)):
        return scheme, "", f"{user}@{place}"
    return scheme, user, place


def _spellings(user: str) -> list[str]:
    """What a library's message may show of the credentials, the longest first."""
    _, colon, password = user.partition(":")
    whole = password if colon else user
    pieces = [piece for piece in re.split(r"[/?#@\\]", whole) if len(piece) >= _SHORTEST_SECRET]
    return sorted({whole, unquote(whole), *(pieces if colon else ())}, key=len, reverse=True)


def _has_port(uri: str) -> bool:
    """True when what stands before the first slash is a host with or without a port."""
    try:
        return urlsplit(uri).port is not None or ":" not in urlsplit(uri).netloc
    except ValueError:
        return False
