"""Secrets that are easily known again, in whatever way they are spelled and however much of them is left."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Callable, Iterator
from urllib.parse import quote, unquote

# Each is in no other; with all that needs an escape somewhere, where the place allows it.
CANARIES = {
    "slack path": "aQ4slackWebhookZt81mVx/pL0we",
    "bot token": "xoxb-71-bQ7botTokenHk29sWd",
    "smtp password": 'cQ2"mail\\Pass&word<Jv53>Ry',
    "bearer token": "dQ9bearer+Token/Lm64&Gn=",
    "basic password": 'eQ5"basic\\Pass:wörd<Bf86>Uk',
    "header value": 'fQ1 header"Value<Xc37>&Te',
    "hook path": "gQ8hookPathWr45nYd",
    "routing key": "hQ6routingKeyPd92kMzSb07aLwVe31x",
    "apprise password": "iQ3apprise&Pass<Nt58>Fh",
    "mlflow password": "jQ0mlflow/Lgn&wrdCs74Ei",
}
# A leak of this much counts, wherever in the secret it begins.
PIECE = 9


def pieces(secret: str) -> set[str]:
    return {secret[start : start + PIECE] for start in range(len(secret) - PIECE + 1)}


def in_base64(secret: str) -> set[str]:
    """What any Base64 of a text with the secret in it holds, in pieces."""
    content = secret.encode()
    cores = []
    for before in range(3):
        whole = base64.b64encode(b"\0" * before + content).decode().rstrip("=")
        cores.append(whole[-(-before * 8 // 6) : (before + len(content)) * 8 // 6])
    # Twelve characters stand for nine bytes.
    return {core[start : start + 12] for core in cores for start in range(len(core) - 11)}


def escapes_undone(text: str) -> Iterator[str]:
    """The text as it is, and without each way of writing a character otherwise, twice over."""
    once = (
        text,
        unquote(text),
        html.unescape(text),
        re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), text),
        re.sub(r'\\(["\\/])', r"\1", text),
    )
    for form in dict.fromkeys(once):
        yield form
        yield re.sub(r'\\(["\\/])', r"\1", unquote(form))


def leaks(content: str | bytes) -> dict[str, str]:
    """The name of each canary of which a piece is in there, in any spelling, with what was found."""
    text = content.decode("utf-8", "replace") if isinstance(content, bytes) else content
    found: dict[str, str] = {}
    for form in dict.fromkeys(escapes_undone(text)):
        grams = {form[start : start + PIECE] for start in range(len(form) - PIECE + 1)}
        for name, secret in CANARIES.items():
            for piece in pieces(secret) & grams:
                found[name] = piece
    plain = text.replace("-", "+").replace("_", "/")
    grams = {plain[start : start + 12] for start in range(len(plain) - 11)}
    for name, secret in CANARIES.items():
        for piece in in_base64(secret) & grams:
            found[name] = piece
    return found


SPELLINGS: dict[str, Callable[[str], str]] = {
    "raw": str,
    "percent": lambda secret: quote(secret, safe=""),
    "allpercent": lambda secret: "".join(f"%{byte:02x}" for byte in secret.encode()),
    "json": lambda secret: json.dumps(secret)[1:-1],
    "unicode": lambda secret: "".join(f"\\u{ord(character):04x}" for character in secret),
    "html": html.escape,
    "base64": lambda secret: base64.b64encode(b"u:" + secret.encode()).decode(),
    "urlsafe": lambda secret: base64.urlsafe_b64encode(secret.encode()).decode(),
    "cut": lambda secret: secret[3 : 3 + 2 * PIECE],
}


__all__ = ["CANARIES", "PIECE", "SPELLINGS", "leaks"]
