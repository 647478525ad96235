"""What the training job writes and how the daemon is attacked meanwhile: chosen by a seed, before anything runs."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

STEP = 100
# Passed only after a worker has died, so that no undisturbed run shows them.
AFTER_A_CRASH = ("crash:uncommitted", "crash:committed")
_IN_THE_WORKER = ("worker:", "features:", "reference:")
# A point that an undisturbed run passes so seldom belongs to a beginning: its kill must come before that is over.
_SELDOM = 2
_NAMED_SHARE = 0.5
_LEVELS = (0.4, 1.2, 2.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One sample set.

    A rewrite waits until everything before it is scored, and nothing follows until it is scored itself: otherwise a
    daemon that is down could rightly never have seen one of the two.
    """

    step: int
    blur: float
    rewrite: bool = False


def writes(rng: random.Random, count: int) -> list[Write]:
    """Steps in order, in stretches of like quality, so that alerts fire and resolve; one in six rewrites a late step."""
    made: list[Write] = []
    level, left, step = _LEVELS[0], 4, 0
    while len(made) < count:
        if step > 3 * STEP and rng.random() < 1 / 6:
            again = step - STEP * rng.choice((0, 0, 1, 2, 3))
            made.append(Write(step=again, blur=rng.choice(_LEVELS) * rng.uniform(0.97, 1.03), rewrite=True))
            continue
        if not left:
            level, left = rng.choice([other for other in _LEVELS if other != level]), rng.randint(1, 5)
        step, left = step + STEP, left - 1
        made.append(Write(step=step, blur=level * rng.uniform(0.97, 1.03)))
    return made


class Kind(StrEnum):
    """What is killed, and when."""

    POINT = "at a point"
    DAEMON = "daemon"
    WORKER = "worker"
    WORKER_AT_WORK = "worker at work"
    BOTH = "both at once"
    AGAIN = "daemon, again in its recovery"


_WEIGHTS = {Kind.DAEMON: 5, Kind.WORKER: 2, Kind.WORKER_AT_WORK: 2, Kind.BOTH: 1, Kind.AGAIN: 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One attack on a daemon that is started for it. delay: seconds until it; then: seconds from it to the next kill.

    point is where the process shall kill itself, the nth time it passes.
    """

    kind: Kind
    delay: float
    then: float
    point: str = ""
    nth: int = 1

    @property
    def in_the_worker(self) -> bool:
        return self.point.startswith(_IN_THE_WORKER)


def attacks(rng: random.Random, count: int, passed: Sequence[str], *, seed: int, turn: int) -> list[Attack]:
    """Attacks for one campaign. passed: the points in the order an undisturbed run passed them, each time it did.

    turn counts the campaigns of a seed that pass the same points: between them they come round to every one.
    """
    counts: Mapping[str, int] = Counter(passed)
    points = [*counts, *AFTER_A_CRASH]
    random.Random(seed).shuffle(points)
    named = round(count * _NAMED_SHARE)
    chosen = [points[(turn * named + index) % len(points)] for index in range(named)]
    order = list(counts)
    seldom = sorted((point for point in chosen if 0 < counts[point] <= _SELDOM), key=order.index)
    often = [point for point in chosen if point not in seldom]
    kinds = rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()), k=count - named)
    late = [_at(rng, point, _pass(rng, counts, point)) for point in often]
    late += [Attack(kind=kind, delay=rng.uniform(0.1, 5.0), then=rng.uniform(0.0, 1.0)) for kind in kinds]
    rng.shuffle(late)
    return [_at(rng, point, 1) for point in seldom] + late


def _pass(rng: random.Random, counts: Mapping[str, int], point: str) -> int:
    """Which pass of a point is the last one: an early one, for a daemon that is killed so often makes few."""
    if counts.get(point, 0) > counts.get("worker:begun", 0):
        # Passed in vain, too, when there is nothing to do.
        return rng.randint(1, 8)
    return min(rng.choice((1, 1, 1, 2, 2, 3)), max(1, counts.get(point, 0)))


def _at(rng: random.Random, point: str, nth: int) -> Attack:
    return Attack(kind=Kind.POINT, delay=rng.uniform(0.1, 5.0), then=rng.uniform(0.0, 1.0), point=point, nth=nth)
