"""From a name on disk to a training step."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

# "step_001000", "epoch=3-step=1000", "iter-500": the word says which of several numbers is meant.
_TAGGED = re.compile(r"(?:global[_-]?step|step|iteration|iter)s?[_=\-. ]*(\d+)", re.IGNORECASE | re.ASCII)
_NUMBER = re.compile(r"\d+", re.ASCII)

StepOf = Callable[[str, bool], int | None]


def step_of(name: str, is_directory: bool) -> int | None:
    """The step a directory or file name carries, or None.

    A number after `step` or `iter` wins. Otherwise a directory's last number counts (`run2_001000`), and of a file
    its first (`001000_03.png` is picture 3 of step 1000).
    """
    stem = name if is_directory else os.path.splitext(name)[0]
    tagged = _TAGGED.search(stem)
    if tagged:
        return _step(tagged[1])
    numbers = _NUMBER.findall(stem)
    if not numbers:
        return None
    return _step(numbers[-1] if is_directory else numbers[0])


def step_by(pattern: str | None) -> StepOf:
    """The rule that finds a step: the user's own regular expression with a group `step`, or step_of."""
    if pattern is None:
        return step_of
    compiled = re.compile(pattern)

    def match_step(name: str, _is_directory: bool) -> int | None:
        found = compiled.search(name)
        return _step(found["step"]) if found and found["step"].isdecimal() else None

    return match_step


def _step(digits: str) -> int | None:
    # MLflow and SQLite keep steps in 64 bits; a longer number is a hash or a date.
    return int(digits) if len(digits) < 19 else None  # noqa: PLR2004
