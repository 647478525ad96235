"""Which samples are looked at, and by what names: the same at every step, in whatever order files come."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

from metricwatch.api import Need
from metricwatch.errors import InputError
from metricwatch.protocol import Evaluate
from metricwatch.worker.log import one_line
from metricwatch.worker.pairing import Pairing
from metricwatch.worker.plan import PARTNER_KINDS, Item
from metricwatch.worker.sample_plan import SamplePlan
from metricwatch.worker.samples import SampleSet, stem

_DIGITS = re.compile(r"\d+", re.ASCII)
_SEPARATORS = "_-.+= "
_NAMELESS = "sample"
# So many different names in a folder do not all hold this number by chance.
_TELLING_STEP = 100


@dataclass(slots=True, kw_only=True)
class Chosen:
    """A sample to look at. name is what people know it by, item what it is in the pass, with all its partners.

    alone: False where another image of the pass has the item's name. compared: shown beside its partners as well.
    """

    name: str
    item: Item
    compared: bool
    alone: bool = True


def shown_names(request: Evaluate, items: Sequence[Item]) -> list[str]:
    """For each item of a pass the name that people see: printable, unique, and the same at every step.

    Where a file's name holds the step (`001000_03.png`), it is left out (`03`): in a set of named files always, in a
    folder for each step where all names hold it.
    """
    if request.sampling:
        return [one_line(item.name) for item in items]
    names = [stem(item.path) for item in items]
    files = request.members is not None or os.path.isfile(request.path)
    if files or (
        len(names) > 1 and request.step >= _TELLING_STEP and all(_holds(name, request.step) for name in names)
    ):
        names = [_without(name, request.step) for name in names]
    places = sorted(range(len(items)), key=lambda place: items[place].path)
    taken: set[str] = set()
    for place in places:
        name = one_line(names[place])
        while name in taken:
            name += "~"
        taken.add(name)
        names[place] = name
    return names


def choose(request: Evaluate, items: Sequence[Item], source: SampleSet | SamplePlan) -> list[Chosen]:
    """The samples that the request wants to look at, in the order to show them.

    Of files those whose names have the smallest hashes, so that a few more files change few of them; of a checkpoint
    the first of its plan.
    """
    assert request.look is not None  # noqa: S101 - whoever chooses wants a look
    named = list(zip(shown_names(request, items), items, strict=True))
    wanted = max(0, request.look.samples)
    if request.sampling:
        picked = named[:wanted]
    else:
        picked = sorted(named, key=lambda each: _hash(each[0]))[:wanted]
        picked.sort(key=lambda each: _natural(each[0]))
    count = Counter(item.name for item in items)
    compared = max(0, request.look.compared)
    partners = _partners(request, [item for _, item in picked[:compared]], source)
    return [
        Chosen(
            name=name,
            # One that is not compared needs nobody beside it.
            item=replace(item, partners=partners[item.path] if place < compared else {}, missing=()),
            compared=place < compared,
            alone=count[item.name] == 1,
        )
        for place, (name, item) in enumerate(picked)
    ]


def _partners(
    request: Evaluate, items: Sequence[Item], source: SampleSet | SamplePlan
) -> dict[str, Mapping[Need, str]]:
    """By path, the partners of these items: those that metrics need, and those that nobody but people wants to see."""
    if isinstance(source, SamplePlan):
        return {item.path: source.find(item.name).pair.partners for item in items}
    found: dict[str, dict[Need, str]] = {item.path: dict(item.partners) for item in items}
    lacking = [kind for kind in PARTNER_KINDS if not any(kind in item.partners for item in items)]
    few = replace(source, names=tuple(os.path.basename(item.path) for item in items))
    pairing = Pairing(few, request)
    for kind in lacking:
        try:
            if pairing.open(kind):
                continue
        except InputError:
            # A folder that cannot be listed: the metrics that need it have said so.
            continue
        for item in pairing.items((kind,)):
            found[item.path] |= item.partners
    return dict(found)


def _holds(name: str, step: int) -> bool:
    return any(int(digits) == step for digits in _DIGITS.findall(name))


def _without(name: str, step: int) -> str:
    """The name without the first number in it that is the step, nor a separator too many."""
    for match in _DIGITS.finditer(name):
        if int(match[0]) == step:
            before, after = name[: match.start()], name[match.end() :]
            left, right = before.rstrip(_SEPARATORS), after.lstrip(_SEPARATORS)
            between = before[len(left) :][-1:] or after[: len(after) - len(right)][:1]
            return (f"{left}{between}{right}" if left and right else left or right) or _NAMELESS
    return name


def _hash(name: str) -> bytes:
    return blake2b(name.encode(), digest_size=8).digest()


def _natural(name: str) -> list[tuple[int, str]]:
    """Orders 2 before 10."""
    return [
        (int(part), "") if part.isdecimal() and part.isascii() else (-1, part) for part in re.split(r"([0-9]+)", name)
    ]
