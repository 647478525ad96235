"""What a pass over images must find out for each of them, and under which keys that may be known already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal, Self

from torch import Tensor

from metricwatch.api import Need
from metricwatch.worker.loading import Extractor

PARTNER_KINDS: tuple[Need, ...] = ("content", "style")
Role = Literal["image", "content", "style"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """An image to score: its name, its file, the files of its partners by kind, its prompt, and what it lacks.

    made: an image that was made for this evaluation, and that no file holds: path is then what people know it by.
    loaded: pictures that are on the device already, that image among them. All are uint8, (H, W, 3).
    """

    name: str
    path: str
    partners: Mapping[Need, str] = field(default_factory=dict)
    prompt: str = ""
    missing: tuple[str, ...] = ()
    made: bool = False
    loaded: Mapping[Role, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """The numbers that a per-image metric gives an image. identity names all they depend on but the pictures."""

    name: str
    identity: bytes
    kinds: tuple[Need, ...]
    layers: tuple[Extractor, ...]
    reads_prompt: bool = False

    def key(self, image: bytes, partners: Mapping[Need, bytes], prompt: str) -> bytes:
        """Where the row for these contents is kept; partners must hold all kinds."""
        parts = [b"measure", self.identity, image, *(partners[kind] for kind in self.kinds)]
        return digest_of(*parts, prompt.encode(errors="surrogatepass") if self.reads_prompt else b"")


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """The pooled features of one extractor for the pictures in one role."""

    extractor: Extractor
    role: Role
    identity: bytes

    @classmethod
    def of(cls, extractor: Extractor, role: Role, context: bytes) -> Self:
        """Context names what all numbers of this worker depend on."""
        parts = (extractor.name, extractor.digest, extractor.protocol)
        return cls(extractor=extractor, role=role, identity=digest_of(context, *(part.encode() for part in parts)))

    def key(self, picture: bytes) -> bytes:
        """Where the row for a picture of this content is kept: the same whatever its role."""
        return digest_of(b"features", self.identity, picture)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything the metrics of an evaluation want of a pass.

    pixels: the roles whose pictures some metric reads each time, whatever is known of them. layers: by extractor, the
    roles whose maps some metric reads each time.
    """

    features: tuple[Features, ...] = ()
    measures: tuple[Measure, ...] = ()
    pixels: frozenset[Role] = frozenset()
    layers: Mapping[str, frozenset[Role]] = field(default_factory=dict)
    extractors: Mapping[str, Extractor] = field(default_factory=dict)

    def layers_for(self, missing: Sequence[Measure]) -> dict[str, frozenset[Role]]:
        """By extractor, the roles whose layer maps are wanted when these measures are not known."""
        wanted = dict(self.layers)
        for measure in missing:
            roles: frozenset[Role] = frozenset(("image", *measure.kinds))  # type: ignore[arg-type]
            for extractor in measure.layers:
                wanted[extractor.name] = wanted.get(extractor.name, frozenset()) | roles
        return wanted


def digest_of(*parts: bytes) -> bytes:
    """16 bytes that tell sequences of parts apart, wherever their borders lie."""
    whole = blake2b(digest_size=16)
    for part in parts:
        whole.update(len(part).to_bytes(8, "little"))
        whole.update(part)
    return whole.digest()
