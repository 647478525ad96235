"""What a score depends on, compared and put into few words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from metricwatch.records import Score

# Recorded, but two scores that differ in these alone are of one series: the machine, its software, and which images
# and pairs entered (see pairs_changed).
_INCIDENTAL = frozenset(
    {
        *("device", "engine", "metricwatch", "python", "platform", "names_digest", "pairs_digest"),
        *("torch", "torchvision", "numpy", "pillow", "transformers", "lpips", "openvino"),
    }
)
_NAMES, _PAIRS = "names_digest", "pairs_digest"

_DIGEST = re.compile(r"[0-9a-fA-F]{12,}")
_DIGEST_SHOWN = 8
_VALUE_SHOWN = 60


def telling(provenance: Mapping[str, str]) -> dict[str, str]:
    """What of a provenance makes its series, sorted by key. A composite's keys begin with a component: fid.protocol."""
    return {key: provenance[key] for key in sorted(provenance) if key.rpartition(".")[2] not in _INCIDENTAL}


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """What keeps two scores from being compared, by key: the value before and after, "" where there was none."""
    old, new = telling(before), telling(after)
    for key in _changed_pairs(before, after):
        old[key], new[key] = before[key], after[key]
    return {
        key: (old.get(key, ""), new.get(key, ""))
        for key in sorted(old.keys() | new.keys())
        if old.get(key, "") != new.get(key, "")
    }


def describe_changes(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """The changes on one line: "reference_digest changed from a1… to b2…"; "" where nothing is known to differ."""
    parts = []
    for key, (old, new) in changes(before, after).items():
        short_old, short_new = shorten(old), shorten(new)
        if short_old == short_new:
            short_old, short_new = old, new
        parts.append(f"{key} changed from {short_old or 'nothing'} to {short_new or 'nothing'}")
    return ", ".join(parts)


def pairs_changed(before: Mapping[str, str], after: Mapping[str, str]) -> bool:
    """True when images of the same names got other partners. Other names have other partners anyway."""
    return any(_changed_pairs(before, after))


def _changed_pairs(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[str]:
    for key in before.keys() & after.keys():
        prefix, dot, last = key.rpartition(".")
        names = f"{prefix}{dot}{_NAMES}"
        if last == _PAIRS and before[key] != after[key] and before.get(names) == after.get(names):
            yield key


def comparable(before: Score, after: Score) -> bool:
    """True when both are of one series and no image has got another partner."""
    return before.series == after.series and not pairs_changed(before.provenance, after.provenance)


def shorten(value: str) -> str:
    """A value for people: digests by their first digits, long texts without their end."""
    short = _DIGEST.sub(lambda found: f"{found[0][:_DIGEST_SHOWN]}…", value)
    return short if len(short) <= _VALUE_SHOWN else f"{short[: _VALUE_SHOWN - 1]}…"
