"""Takes secrets out of what a server answered: some repeat what they were sent."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable
from urllib.parse import parse_qsl, quote, urlsplit

_HIDDEN = "******"
# Fewer characters that also stand in a secret, or in its Base64, are there by chance.
_TELLING = 8
_SHORTEST_CORE = 5
# What a server says stands at the start; some send a whole page.
_MOST_READ = 4000
_BASE64 = r"A-Za-z0-9+/_\-"
_URL_SAFE = str.maketrans("+/", "-_")


def redacted(text: str, secrets: Iterable[str]) -> str:
    """The text's start with ****** for each secret: as it is, percent-encoded, escaped as JSON, in Base64.

    Of a secret that was cut off, the pieces of 8 characters and more are hidden.
    """
    text = text[:_MOST_READ]
    for secret in sorted({secret for secret in secrets if secret}, key=len, reverse=True):
        text = re.sub(_spellings(secret), _HIDDEN, text)
        cores = list(_cores(secret))
        for core in cores:
            pattern = re.escape(core).replace(r"\-", "[+-]").replace("_", "[/_]")
            # Only from where such letters begin: from each of them it would take seconds over a long row.
            text = re.sub(f"(?<![{_BASE64}])[{_BASE64}]*{pattern}[{_BASE64}=]*", _HIDDEN, text)
        # The pieces of an address are ordinary words, but for those that were drawn by lot.
        whole = [] if "://" in secret else secret.split("/")
        plain = [form for part in whole if len(whole) == 1 or _drawn(part) for form in (part, quote(part, safe=""))]
        text = _without_pieces(text, [*plain, *cores])
    return text


def secret_parts(url: str) -> tuple[str, ...]:
    """What nobody may read of an address that is itself a secret: all of it, its path, what in it was drawn by lot."""
    parts = urlsplit(url)
    path = parts.path.strip("/")
    drawn = filter(_drawn, path.split("/"))
    values = [value for _, value in parse_qsl(parts.query)]
    return tuple(filter(None, (url, path, *drawn, parts.query, *values, parts.username, parts.password)))


def _drawn(piece: str) -> bool:
    return bool(re.search(r"\d", piece)) or len(piece) > len("incoming-webhook")


def _spellings(secret: str) -> str:
    def spelled(character: str) -> str:
        escaped = "".join(f"%{byte:02x}" for byte in character.encode("utf-8", "replace"))
        return rf"(?:\\?{re.escape(character)}|(?i:{escaped}|\\u{ord(character):04x}))"

    return "".join(spelled(character) for character in secret)


def _cores(secret: str) -> Iterable[str]:
    """What the URL-safe Base64 of a text with the secret in it has in it: three, for it may begin at any third byte."""
    content = secret.encode("utf-8", "replace")
    for before in range(3):
        whole = b64encode(b"\0" * before + content).decode().rstrip("=").translate(_URL_SAFE)
        # The characters at the ends depend on the neighbours, too.
        core = whole[-(-before * 8 // 6) : (before + len(content)) * 8 // 6]
        if len(core) >= _SHORTEST_CORE:
            yield core


def _without_pieces(text: str, forms: Iterable[str]) -> str:
    alike = text.translate(_URL_SAFE)
    hidden = [False] * len(text)
    for form in forms:
        known = form.translate(_URL_SAFE)
        pieces = {known[start : start + _TELLING] for start in range(len(known) - _TELLING + 1)}
        for start in range(len(alike) - _TELLING + 1 if pieces else 0):
            if alike[start : start + _TELLING] in pieces:
                hidden[start : start + _TELLING] = [True] * _TELLING
    kept = ("\0" if secret else character for character, secret in zip(text, hidden, strict=True))
    return re.sub("\0+", _HIDDEN, "".join(kept))


__all__ = ["redacted", "secret_parts"]
