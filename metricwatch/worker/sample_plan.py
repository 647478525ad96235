"""Which samples are made of every checkpoint: names, seeds and partners, the same at each step."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from metricwatch import listing
from metricwatch.api import Need, SamplerSpec
from metricwatch.errors import InputError
from metricwatch.protocol import Evaluate
from metricwatch.worker.manifest import read_manifest
from metricwatch.worker.plan import PARTNER_KINDS, Item
from metricwatch.worker.samples import stem

_UNPAIRED_SAMPLES = 64
_UNSAFE = re.compile(r"[^\w.\-]+")
_WHERE: Mapping[Need, str] = {"content": "pairs.content", "style": "pairs.style", "prompt": "pairs.prompt"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """What a sample is made from: the files of its partners by kind, and its prompt. "" names one for all samples."""

    name: str
    partners: Mapping[Need, str] = field(default_factory=dict)
    prompt: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedSample:
    """A sample to make. name is unique in its plan and fit for a file's name."""

    name: str
    seed: int
    pair: Pair


class SamplePlan:
    """The samples of one request, and what metrics find beside them. Stands where a sample set's Pairing does."""

    def __init__(self, request: Evaluate, spec: SamplerSpec) -> None:
        """Raises InputError when there are no partners that the sampler needs, or they cannot be read."""
        assert request.sampling is not None  # noqa: S101 - whoever plans samples has a checkpoint
        self._use = request.sampling.use
        pairs = _pairs(request)
        for kind in sorted(spec.needs & {*PARTNER_KINDS, "prompt"}):
            if not any(_has(pair, kind) for pair in pairs):
                raise InputError(
                    f"sampler {self._use!r} makes samples from a {kind}, and there is none; set {_WHERE[kind]} or "
                    "pairs.manifest"
                )
        complete = [pair for pair in pairs if all(_has(pair, kind) for kind in spec.needs)]
        if pairs and not complete:
            raise InputError(
                f"sampler {self._use!r} needs {' and '.join(sorted(spec.needs))} for each sample; none has all"
            )
        pairs = complete
        paired = any(pair.name for pair in pairs)
        count = request.sampling.samples or (len(pairs) if paired else _UNPAIRED_SAMPLES)
        if not spec.random and pairs:
            # The same pair would give the same picture.
            count = min(count, len(pairs))
        self.samples = _planned(pairs, count, request.sampling.seed)
        self._by_name = {sample.name: sample for sample in self.samples}

    def open(self, kind: Need) -> str:
        """Why the samples have no partners of this kind (or prompts), or ""."""
        if any(_has(sample.pair, kind) for sample in self.samples):
            return ""
        return f"the samples of {self._use!r} have no {kind}; set {_WHERE[kind]} or pairs.manifest"

    def describe(self, kind: Need) -> str:
        """What a sample lacks when it has none of a kind, and where it was looked for."""
        return f"{kind} in {_WHERE[kind]}"

    def items(self, kinds: Collection[Need]) -> list[Item]:
        """The samples to be, with their partners of these kinds."""
        return [
            Item(
                name=sample.name,
                path=f"sample {sample.name}",
                partners={kind: path for kind, path in sample.pair.partners.items() if kind in kinds},
                prompt=sample.pair.prompt,
                missing=tuple(f"it has no {kind}" for kind in sorted(kinds) if not _has(sample.pair, kind)),
                made=True,
            )
            for sample in self.samples
        ]

    def find(self, name: str) -> PlannedSample:
        return self._by_name[name]


def _has(pair: Pair, kind: Need) -> bool:
    return bool(pair.prompt) if kind == "prompt" else kind in pair.partners


def _planned(pairs: Sequence[Pair], count: int, seed: int) -> list[PlannedSample]:
    """Pair after pair, each with the next seed; from the start again when there are more samples than pairs."""
    if not any(pair.name for pair in pairs):
        digits = len(str(count - 1))
        pair = pairs[0] if pairs else Pair(name="")
        return [PlannedSample(name=f"{number:0{digits}}", seed=seed + number, pair=pair) for number in range(count)]
    taken: set[str] = set()
    planned = []
    for number in range(count):
        round_, position = divmod(number, len(pairs))
        pair = pairs[position]
        base = _UNSAFE.sub("_", pair.name).strip("._") or "sample"
        name = f"{base}.{round_ + 1}" if round_ else base
        while name in taken:
            name = f"{name}~"
        taken.add(name)
        planned.append(PlannedSample(name=name, seed=seed + number, pair=pair))
    return planned


def _pairs(request: Evaluate) -> list[Pair]:
    """The manifest's lines, or the content and style pictures brought together."""
    prompt = request.prompt.strip()
    if request.manifest:
        found = []
        for image, entry in read_manifest(request.manifest).entries():
            named = {"content": entry.content, "style": entry.style}
            partners: dict[Need, str] = {kind: path for kind, path in named.items() if path}  # type: ignore[misc]
            text = entry.prompt.strip() if entry.prompt else ""
            found.append(Pair(name=stem(image), partners=partners, prompt=text or prompt))
        return found
    folders: dict[Need, str] = {}
    if request.content:
        folders["content"] = request.content
    if request.style:
        folders["style"] = request.style
    listed = {kind: _images(kind, folder) for kind, folder in folders.items()}
    if not listed:
        return [Pair(name="", prompt=prompt)] if prompt else []
    if len(listed) == 1:
        ((kind, files),) = listed.items()
        return [Pair(name=stem(path), partners={kind: path}, prompt=prompt) for path in files]
    wanted = request.sampling.samples if request.sampling else None
    return list(islice(_brought_together(listed["content"], listed["style"], prompt), wanted))


def _brought_together(contents: Sequence[str], styles: Sequence[str], prompt: str) -> list[Pair]:
    """By file stem where they share any; otherwise every content with every style.

    In an order of which each beginning has as many different contents and styles as can be.
    """
    by_stem = {stem(path): path for path in styles}
    if any(stem(path) in by_stem for path in contents):
        return [
            Pair(name=stem(path), partners={"content": path, "style": by_stem[stem(path)]}, prompt=prompt)
            for path in contents
            if stem(path) in by_stem
        ]
    return [
        Pair(
            name=f"{stem(content)}+{stem(style)}" if len(styles) > 1 else stem(content),
            partners={"content": content, "style": style},
            prompt=prompt,
        )
        for turn in range(len(styles))
        for position, content in enumerate(contents)
        for style in (styles[(position + turn) % len(styles)],)
    ]


def _images(kind: Need, folder: str) -> list[str]:
    try:
        entries = listing.images(listing.scan(folder))
    except OSError as error:
        raise InputError(f"cannot list the {kind} directory {folder}: {error.strerror}") from error
    if not entries:
        raise InputError(f"no images in the {kind} directory {folder}")
    return [os.path.join(folder, entry.name) for entry in entries]
