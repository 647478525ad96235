"""What arrived on Slack and by e-mail, read as a person would read it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from typing import Any, Literal

Channel = Literal["Slack", "e-mail"]
CHANNELS: tuple[Channel, ...] = ("Slack", "e-mail")

_KIND = re.compile(r"\[(critical|info|resolved)\]")
_SLACK_FIELD = re.compile(r"\*(?P<name>[^*]+)\*\n(?P<value>.*)", re.DOTALL)
_ESCAPED = {"&lt;": "<", "&gt;": ">", "&amp;": "&"}
_BODY_LINES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message as delivered. kind is what its title says in brackets; text is how its body begins.

    direction and severity are those of the alert it is about; step is where that fired or, in a message that it
    resolved, where it did. Each is empty, or None, where the message does not say.
    """

    channel: Channel
    received_at: datetime
    title: str
    text: str
    kind: str
    direction: str
    severity: str
    step: int | None

    @property
    def fired_critical(self) -> bool:
        return self.kind == "critical"

    @property
    def resolved_critical(self) -> bool:
        return self.kind == "resolved" and self.severity == "critical"


def from_slack(payload: Mapping[str, Any], received_at: datetime) -> Message:
    """Read a Block Kit message: its header, its first section, its fields."""
    title, text, fields = "", "", {}
    for block in payload.get("blocks", ()):
        if block["type"] == "header":
            title = title or block["text"]["text"]
        elif block["type"] == "section" and "text" in block:
            text = text or _unescape(block["text"]["text"])
        for field in block.get("fields", ()):
            if found := _SLACK_FIELD.fullmatch(field["text"]):
                fields[found["name"]] = _unescape(found["value"])
    return _message("Slack", received_at, title or str(payload.get("text", "")), text, fields)


def from_email(message: EmailMessage, received_at: datetime) -> Message:
    """Read a mail: its subject, the first lines of its plain text, the lines of it that are a name and a value."""
    body = message.get_body(("plain",))
    lines = [line.strip() for line in str(body.get_content()).splitlines() if line.strip()] if body else []
    fields = {name: value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    fields["Step"] = fields.get("Resolved at step") or fields.get("Fired at step", "")
    return _message("e-mail", received_at, str(message["Subject"] or ""), "\n".join(lines[:_BODY_LINES]), fields)


def _message(channel: Channel, received_at: datetime, title: str, text: str, fields: Mapping[str, str]) -> Message:
    kind = _KIND.search(title)
    direction, _, severity = fields.get("Direction", "").partition(" ")
    step = fields.get("Step", "")
    return Message(
        channel=channel,
        received_at=received_at,
        title=title,
        text=text,
        kind=kind[1] if kind else "",
        direction=direction,
        severity=severity.strip("()"),
        step=int(step) if step.isdecimal() else None,
    )


def _unescape(text: str) -> str:
    return re.sub("|".join(_ESCAPED), lambda found: _ESCAPED[found[0]], text)
