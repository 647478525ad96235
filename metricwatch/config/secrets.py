"""Where secrets come from, and how they are kept out of what we print."""

from __future__ import annotations

import re
from pathlib import Path

from metricwatch.errors import ConfigError

# A password may itself hold an @: only the last one before the path ends the credentials.
_CREDENTIALS = re.compile(r"^(?P<scheme>[^:/?#]+://)[^/?#]*@")
_QUERY_SECRET = re.compile(r"(?i)([?&][^=&#]*(?:password|passwd|pwd|secret|token|key)[^=&#]*=)[^&#]*")


def read_secret(path: Path) -> str:
    """The content of a secret file without surrounding white space.

    Raises ConfigError naming the file when it cannot be read, is not text or is empty.
    """
    try:
        content = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"cannot read the secret file {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"the secret file {path} is not UTF-8 text") from None
    if not content:
        raise ConfigError(f"the secret file {path} is empty")
    return content


def redact_uri(uri: str) -> str:
    """The address without what only its owner may know: user, password, and secrets in the query."""
    return _QUERY_SECRET.sub(r"\1******", _CREDENTIALS.sub(r"\g<scheme>******@", uri))
