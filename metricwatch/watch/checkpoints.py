"""Steps that are checkpoints: a file of its own, or a directory with all that lies below it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace

from metricwatch import listing
from metricwatch.watch import formats
from metricwatch.watch.kinds import (
    Candidate,
    Contents,
    Kind,
    newest,
    numbers,
    untouched_since_named,
    vouched_for,
)
from metricwatch.watch.layouts import checkpoint_step_of

# What lies beside checkpoints under a glob as wide as `*` and may carry a number, and is never one.
_NO_CHECKPOINT = listing.IMAGE_SUFFIXES | {
    ".csv", ".err", ".html", ".json", ".jsonl", ".lock", ".log", ".md", ".out", ".py", ".sh", ".toml", ".tsv", ".txt",
    ".yaml", ".yml",
}  # fmt: skip
# Directories that get their name when complete: tmp-checkpoint-500 (Transformers), 500.orbax-checkpoint-tmp-7 (Orbax).
_TEMPORARY = re.compile(r"^tmp[-_]|-tmp(-|$)")


class Checkpoints(Kind):
    """Files of weights.

    A file's ctime also moves when it gets another hard link, as the worker makes one before it reads. It tells whether
    a marker came after the files, before the step is known, and never whether a known step was written.
    """

    single = True
    deep = True
    # Trainers remove the optimizer's state from older checkpoints; the weights are what is sampled.
    sheds = True
    advice = "; make `checkpoints` narrower, or set `step_pattern`"
    step_of = staticmethod(checkpoint_step_of)

    def __init__(self) -> None:
        self._evidence = formats.Evidence()

    def is_temporary(self, name: str) -> bool:
        return listing.is_temporary(name) or _TEMPORARY.search(name) is not None

    def is_file(self, name: str) -> bool:
        return (
            listing.belongs(name)
            and name not in formats.TRACKERS
            and os.path.splitext(name)[1].lower() not in _NO_CHECKPOINT
        )

    def clash(self, first: str, second: str) -> str:
        # G_1000.pt and D_1000.pt, G_2000.pt and D_2000.pt: one mistake.
        return re.sub(r"\d+", "#", f"{first} {second}")

    def stems(self, pattern: str) -> tuple[str, ...]:
        # Both are in use: step_100.pt.done and step_100.done.
        stem, suffix = os.path.splitext(pattern)
        return (pattern, stem) if suffix else (pattern,)

    def look_into(self, candidate: Candidate, markers: Sequence[str]) -> Contents | None:
        entries: Sequence[listing.FileEntry]
        parts: Sequence[listing.FileEntry]
        marks = list(candidate.marks)
        if candidate.members is not None:
            entries = parts = candidate.members
            unfinished = False
            # Renamed to this name, and not written since: writing moves both times.
            untouched = all(entry.ctime_ns > entry.mtime_ns for entry in entries)
        else:
            try:
                entries = listing.everything(candidate.path)
            except (FileNotFoundError, NotADirectoryError):
                return None
            parts = [entry for entry in entries if listing.belongs(entry.name)]
            marks += [entry for entry in entries if entry.name in markers]
            unfinished = any(listing.is_being_written(e.name) for e in entries if e.name not in markers)
            untouched = untouched_since_named(candidate, entries)
        return Contents(
            activity=listing.fingerprint(entry for entry in entries if _matters(entry.name, markers)),
            digest=listing.fingerprint(parts),
            images=len(parts),
            newest_ns=newest(parts),
            changed_ns=0,
            members=None if candidate.members is None else tuple(entry.name for entry in parts),
            files=numbers(parts),
            marked=not unfinished and vouched_for(parts, marks),
            untouched=not unfinished and untouched,
            unfinished=unfinished,
            parts=tuple(parts),
        )

    def judge(self, candidate: Candidate, contents: Contents) -> Contents:
        if contents.unfinished or self._evidence.of_more_to_come(candidate.path, contents.parts):
            return replace(contents, marked=False, untouched=False, unfinished=True)
        last = formats.last_written(candidate.path, contents.parts) if candidate.members is None else []
        return replace(contents, vouched=vouched_for(contents.parts, last))


def _matters(name: str, markers: Sequence[str]) -> bool:
    return listing.belongs(name) or listing.is_being_written(name) or name in markers
