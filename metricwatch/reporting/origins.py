"""Where a run's values come from, as the daemon's tags and MLflow's own say."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from metricwatch.reporting.content import Depends

_OURS = "metricwatch."
_SERIES = f"{_OURS}series."
_SINCE = re.compile(r"(?P<since>since step -?[\d,]+): (?P<said>.*)", re.DOTALL)
# A comma inside a value is not followed by a name and an equals sign.
_NEXT = re.compile(r", (?=[\w.\-]+=)")
_OTHERS = {
    "mlflow.source.name": "started by",
    "mlflow.source.git.commit": "commit",
    "mlflow.source.git.branch": "branch",
    "mlflow.parentRunId": "parent run",
}


def depends(tags: Mapping[str, str]) -> list[Depends]:
    """What each metric's values depend on, by metric."""
    return [_depends(key.removeprefix(_SERIES), tags[key]) for key in sorted(tags) if key.startswith(_SERIES)]


def others(tags: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The other tags that say something about the run: MLflow's on its origin, then the daemon's."""
    for key, words in _OTHERS.items():
        if tags.get(key):
            yield words, tags[key]
    for key in sorted(tags):
        if key.startswith(_OURS) and not key.startswith(_SERIES):
            yield key.removeprefix(_OURS), tags[key]


def _depends(metric: str, text: str) -> Depends:
    found = _SINCE.fullmatch(text)
    since, said = (found["since"], found["said"]) if found else ("", text)
    facts = []
    for part in _NEXT.split(said):
        name, equals, value = part.partition("=")
        facts.append((name.replace("_", " "), value) if equals else ("", part))
    return Depends(metric=metric, since=since, facts=tuple(facts))
