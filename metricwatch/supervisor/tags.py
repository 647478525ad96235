"""Names of tags, as MLflow takes them."""

from __future__ import annotations

import re

_NOT_IN_NAMES = re.compile(r"[^\w.\- :]")
_MOST = 200


def tag_name(of: str, key: str) -> str:
    """`metricwatch.state.fid`, say: what a tag is of, and a score's key."""
    return f"{of}.{_NOT_IN_NAMES.sub('_', key)[:_MOST]}"
