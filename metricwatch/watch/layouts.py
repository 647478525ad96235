"""From a name on disk to a training step."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

# "step_001000", "epoch=3-step=1000", "iter-500": the word says which of several numbers is meant.
_TAGGED = re.compile(r"(?:global[_-]?step|step|iteration|iter)s?[_=\-. ]*(\d+)", re.IGNORECASE | re.ASCII)
_NUMBER = re.compile(r"\d+", re.ASCII)
_EPOCH = re.compile(r"epoch[_=\-. ]*(\d+)", re.IGNORECASE | re.ASCII)
# "ema_0.9999_050000", "val_loss=0.12", and the "-v1" that Lightning puts behind a name that is taken.
_NO_STEP = re.compile(r"\d+\.\d+|-v\d+$", re.ASCII)

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


def checkpoint_step_of(name: str, is_directory: bool) -> int | None:
    """The step a checkpoint's name carries, or None (`last.ckpt`, `best.pt`).

    A number after `step` or `iter` wins, then one after `epoch`, then the last whole number: `resnet50_001000.pt`.
    """
    stem, suffix = os.path.splitext(name)
    if is_directory or suffix[1:].isdecimal():
        stem = name
    for tag in (_TAGGED, _EPOCH):
        if tagged := tag.search(stem):
            return _step(tagged[1])
    numbers = _NUMBER.findall(_NO_STEP.sub(" ", stem))
    return _step(numbers[-1]) if numbers else None


def step_by(pattern: str | None, otherwise: StepOf = step_of) -> StepOf:
    """The rule that finds a step: the user's own regular expression with a group `step`, or the one given."""
    if pattern is None:
        return otherwise
    compiled = re.compile(pattern)

    def match_step(name: str, _is_directory: bool) -> int | None:
        found = compiled.search(name)
        return _step(found["step"]) if found and found["step"].isdecimal() else None

    return match_step


def _step(digits: str) -> int | None:
    # MLflow and SQLite keep steps in 64 bits; a longer number is a hash or a date.
    return int(digits) if len(digits) < 19 else None  # noqa: PLR2004
