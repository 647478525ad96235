"""Where secrets come from, and how they are kept out of what we print."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from metricwatch.errors import ConfigError

# A password may hold every character, / and @ as well when nobody escaped it: only the last @ ends the credentials.
# The MLflow sink divides an address in the same way; a test holds the two together.
_ADDRESS = re.compile(r"(?P<scheme>(?:[\w+.\-]*:(?=/))?/*)(?P<user>.*)@(?P<place>.*)", re.DOTALL)
_QUERY_SECRET = re.compile(r"(?i)([?&][^=&#]*(?:password|passwd|pwd|secret|token|key)[^=&#]*=)[^&#]*")
# An address with or without its scheme, or a user and password before a host.
_TELLTALE = re.compile(r":/|:.*@|@.*:|\w\.[A-Za-z]{2,}/", re.DOTALL)


def read_secret(path: Path) -> str:
    """The content of a secret file without surrounding white space.

    Raises ConfigError naming the file when it cannot be read, is no regular file, is not text or is empty.
    """
    try:
        # A pipe nobody writes to would block for ever, on opening and on reading.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ConfigError(f"the secret file {path} is not a regular file but a pipe or a device")
            content = file.read().decode("utf-8").strip()
    except OSError as error:
        raise ConfigError(f"cannot read the secret file {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"the secret file {path} is not UTF-8 text") from None
    if not content:
        raise ConfigError(f"the secret file {path} is empty")
    return content


def redact_uri(uri: str) -> str:
    """The address without what only its owner may know: user, password, and secrets in the query.

    Where it cannot be told whether an @ ends credentials or stands in a path, it hides too much.
    """
    parts = _ADDRESS.fullmatch(uri)
    if parts and not _is_path(parts["scheme"], parts["user"]):
        uri = f"{parts['scheme']}******@{parts['place']}"
    return _QUERY_SECRET.sub(r"\1******", uri)


def _is_path(scheme: str, user: str) -> bool:
    """True when what stands before the last @ cannot be credentials: sqlite:////home/me@work/, https://host/@me."""
    local = scheme == "/" or scheme.endswith("///") or (not scheme and user.startswith("."))
    return ":" not in user and (local or (user.endswith("/") and "@" not in user))


def may_hold_secret(text: str) -> bool:
    """True for what looks like an address or like credentials: a webhook's address is itself the secret."""
    return _TELLTALE.search(text) is not None


def quoted(text: str) -> str:
    """A user's own word for an error message, in quotes; a stand-in where it may be a secret in the wrong place."""
    return "(an address, not shown)" if may_hold_secret(text) else repr(text)
