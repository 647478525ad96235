"""When a server wants to be asked again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime


def retry_after(headers: Mapping[str, str]) -> timedelta | None:
    """The header Retry-After (RFC 9110, 10.2.3), in seconds or as a date; None where there is none or it is past.

    A date is taken from the server's own Date where it gives one: two clocks seldom agree.
    """
    lowered = {name.lower(): str(value).strip() for name, value in headers.items()}
    wish = lowered.get("retry-after", "")
    if re.fullmatch(r"\d{1,6}", wish):
        return timedelta(seconds=int(wish)) or None
    until = _moment(wish)
    if until is None:
        return None
    wait = until - (_moment(lowered.get("date", "")) or datetime.now(UTC))
    return wait if wait > timedelta(0) else None


def _moment(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


__all__ = ["retry_after"]
