"""The first half of a pass: read an item's files, look up what is known of them, decode what is needed."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from metricwatch.api import Need
from metricwatch.worker.containers import UnusableImageError
from metricwatch.worker.feature_cache import FeatureCache, Row
from metricwatch.worker.images import Pixels
from metricwatch.worker.pictures import Picture, Pictures
from metricwatch.worker.plan import Features, Item, Measure, Plan, Role


@dataclass(slots=True, kw_only=True)
class Prepared:
    """An item after reading. pixels hold the pictures that something still has to be computed from.

    usable is False for an item whose image could not be read; no_room: for lack of memory alone. digests are of the
    files' contents, by role, the partners that could be read included. skipped tells what was left out, and why.
    """

    item: Item
    usable: bool = True
    no_room: bool = False
    digests: dict[Role, bytes] = field(default_factory=dict)
    pixels: dict[Role, Pixels | Tensor] = field(default_factory=dict)
    features: dict[Features, Row] = field(default_factory=dict)
    measures: dict[Measure, Row] = field(default_factory=dict)
    missing_features: tuple[Features, ...] = ()
    missing_measures: tuple[Measure, ...] = ()
    skipped: list[tuple[str, str]] = field(default_factory=list)

    @property
    def kinds(self) -> frozenset[Need]:
        """The kinds of partners it has."""
        return frozenset(role for role in self.digests if role != "image")

    @property
    def likeness(self) -> object:
        """Items with the same likeness can share a batch."""
        return (frozenset(self.digests), frozenset(self.pixels), self.missing_features, self.missing_measures)

    @property
    def area(self) -> int:
        """Pixels of all its pictures."""
        return sum(picture.shape[0] * picture.shape[1] for picture in self.pixels.values())

    @property
    def nbytes(self) -> int:
        """Bytes of the pictures that were decoded for it."""
        return sum(picture.nbytes for role, picture in self.pixels.items() if role not in self.item.loaded)


class Preparer:
    """Prepares the items of one pass, on any thread. decodes and found count what was done."""

    def __init__(self, plan: Plan, pictures: Pictures, cache: FeatureCache) -> None:
        self._plan = plan
        self._pictures = pictures
        self._cache = cache
        self._lock = threading.Lock()
        self.decodes = 0
        self.found = 0

    def prepare(self, item: Item) -> Prepared:
        """Read, look up, decode. Never raises for a file that is not usable. May be called again for an item."""
        try:
            prepared = self._prepare(item)
        except MemoryError:
            prepared = Prepared(item=item, usable=False, no_room=True)
        finally:
            self._pictures.done()
        with self._lock:
            self.found += len(prepared.features) + len(prepared.measures)
        return prepared

    def _prepare(self, item: Item) -> Prepared:
        prepared = Prepared(item=item)
        # All uses are taken whatever happens, so that shared pictures are forgotten in time.
        opened: dict[Role, Picture] = {} if item.made else {"image": self._pictures.use(item.path)}
        opened |= {kind: self._pictures.use(path) for kind, path in item.partners.items()}  # type: ignore[misc]
        if item.made:
            # Like no other: nothing that is kept can be about it.
            prepared.digests["image"] = os.urandom(16)
        for role, picture in opened.items():
            try:
                prepared.digests[role] = picture.digest
            except UnusableImageError as error:
                self._drop(prepared, role, error)
                if role == "image":
                    return prepared
        prepared.skipped.extend((item.path, reason) for reason in item.missing)
        self._look_up(prepared)
        for role in sorted(self._needed(prepared)):
            if role in item.loaded:
                prepared.pixels[role] = item.loaded[role]
                continue
            try:
                prepared.pixels[role], decoded = opened[role].pixels()
            except UnusableImageError as error:
                self._drop(prepared, role, error)
                if role == "image":
                    return prepared
                # Without this partner fewer things are wanted of the item.
                self._look_up(prepared)
            else:
                with self._lock:
                    self.decodes += decoded
        return prepared

    def _drop(self, prepared: Prepared, role: Role, error: UnusableImageError) -> None:
        item = prepared.item
        prepared.digests.pop(role, None)
        if role == "image":
            # Its partners no longer matter: a broken image is told once, for that alone.
            prepared.usable = False
            prepared.pixels.clear()
            prepared.features.clear()
            prepared.measures.clear()
            prepared.skipped = [(item.path, str(error))]
        else:
            path = item.partners[role]
            prepared.skipped.append((item.path, f"its {role} partner {path} is unusable: {error}"))

    def _look_up(self, prepared: Prepared) -> None:
        """Fill in what the cache knows, and what it does not."""
        features = {
            column: column.key(prepared.digests[column.role])
            for column in self._plan.features
            if column.role in prepared.digests
        }
        partners: Mapping[Need, bytes] = {kind: prepared.digests[kind] for kind in prepared.kinds}  # type: ignore[index]
        measures = {
            measure: measure.key(prepared.digests["image"], partners, prepared.item.prompt)
            for measure in self._plan.measures
            if prepared.kinds.issuperset(measure.kinds)
        }
        made = prepared.item.made
        wanted = [key for column, key in features.items() if not (made and column.role == "image")]
        rows = self._cache.load(wanted if made else [*wanted, *measures.values()])
        prepared.features = {column: rows[key] for column, key in features.items() if key in rows}
        prepared.measures = {measure: rows[key] for measure, key in measures.items() if key in rows}
        prepared.missing_features = tuple(column for column in features if column not in prepared.features)
        prepared.missing_measures = tuple(measure for measure in measures if measure not in prepared.measures)

    def _needed(self, prepared: Prepared) -> set[Role]:
        roles: set[Role] = set(self._plan.pixels)
        roles.update(column.role for column in prepared.missing_features)
        for measure in prepared.missing_measures:
            roles.update(("image", *measure.kinds))  # type: ignore[arg-type]
        if not (roles or prepared.features or prepared.measures):
            # Nobody wants it, nor did before: whether it is a picture at all is still to be found out.
            roles.add("image")
        return roles & prepared.digests.keys()
