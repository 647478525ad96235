"""Steps that are sample sets: a directory of images, or the images of a flat directory that carry one step."""

from __future__ import annotations

import os
from collections.abc import Sequence

from metricwatch import listing
from metricwatch.watch.kinds import (
    Candidate,
    Contents,
    Kind,
    changed,
    newest,
    numbers,
    untouched_since_named,
    vouched_for,
)
from metricwatch.watch.layouts import step_of


class SampleSets(Kind):
    """Images. What lies beside them (a log, say) and below them counts for nothing."""

    single = False
    deep = False
    # Scores of some of the images are not those of all.
    sheds = False
    advice = ""
    step_of = staticmethod(step_of)

    def is_temporary(self, name: str) -> bool:
        return listing.is_temporary(name)

    def is_file(self, name: str) -> bool:
        return listing.is_image(name)

    def stems(self, pattern: str) -> tuple[str, ...]:
        # "001000.done" says that the files 001000_*.png are complete.
        stem, suffix = os.path.splitext(pattern)
        return (stem if suffix.lower() in listing.IMAGE_SUFFIXES else pattern,)

    def look_into(self, candidate: Candidate, markers: Sequence[str]) -> Contents | None:
        if candidate.members is not None:
            digest = listing.fingerprint(candidate.members)
            return Contents(
                activity=digest,
                digest=digest,
                images=len(candidate.members),
                newest_ns=newest(candidate.members),
                changed_ns=changed(candidate.members),
                members=tuple(entry.name for entry in candidate.members),
                files=numbers(candidate.members),
                marked=vouched_for(candidate.members, candidate.marks),
            )
        try:
            entries = listing.scan(candidate.path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        parts = listing.parts(entries)
        unfinished = any(listing.is_unfinished(entry.name) for entry in entries)
        return Contents(
            activity=listing.fingerprint(entry for entry in entries if _matters(entry.name, markers)),
            digest=listing.fingerprint(parts),
            images=len(listing.images(entries)),
            newest_ns=newest(parts),
            changed_ns=changed(parts),
            members=None,
            files=numbers(parts),
            marked=not unfinished and vouched_for(parts, [entry for entry in entries if entry.name in markers]),
            untouched=not unfinished and untouched_since_named(candidate, entries),
            unfinished=unfinished,
        )


def _matters(name: str, markers: Sequence[str]) -> bool:
    # A log that grows beside the images must not keep them from settling; an unfinished image must.
    return listing.is_image(name) or name == listing.MANIFEST or listing.is_temporary(name) or name in markers
