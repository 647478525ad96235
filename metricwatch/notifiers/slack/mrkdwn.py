"""Slack's markup, mrkdwn: texts that cannot become markup, and links."""

from __future__ import annotations

import re
from urllib.parse import quote

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_LONGEST_ADDRESS = 1000


def escaped(text: str) -> str:
    """The three characters Slack reads as control, and no others."""
    return re.sub(r"[&<>]", lambda found: _ENTITIES[found[0]], text)


def cut(text: str, limit: int) -> str:
    """Escaped text of at most limit characters, never cut inside an entity."""
    whole = escaped(text)
    if len(whole) <= limit:
        return whole
    return re.sub(r"&[a-z]*$", "", whole[: limit - 1]) + "…"


def link(url: str | None, words: str) -> str | None:
    """A link to a page of the web; None for what is none, or is too long for one."""
    if url is None or not url.startswith(("http://", "https://")):
        return None
    # `|` and `>` would end the link; a percent sign that is there already stays.
    address = quote(url, safe=":/?#[]@!$&'()*+,;=%~")
    return None if len(address) > _LONGEST_ADDRESS else f"<{escaped(address)}|{words}>"


__all__ = ["cut", "escaped", "link"]
