"""Who belongs to whom: content, style and prompt of each image, by manifest or by file stem, never by guess."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable

from metricwatch import listing
from metricwatch.api import Need
from metricwatch.errors import InputError
from metricwatch.protocol import Evaluate
from metricwatch.worker.containers import UnusableImageError
from metricwatch.worker.manifest import Manifest, read_manifest
from metricwatch.worker.plan import PARTNER_KINDS, Item
from metricwatch.worker.samples import SampleSet, stem


class PartnerDirectory:
    """Images of one kind (content or style), found by file stem."""

    def __init__(self, kind: Need, directory: str) -> None:
        """List the directory. Raises InputError when it cannot be read."""
        self._kind = kind
        self._directory = directory
        self._by_stem: dict[str, list[str]] = {}
        try:
            entries = listing.images(listing.scan(directory))
        except OSError as error:
            raise InputError(f"cannot list the {kind} directory {directory}: {error.strerror}") from error
        for entry in entries:
            self._by_stem.setdefault(stem(entry.name), []).append(entry.name)

    def find(self, name: str) -> str:
        """The one file with that stem. Raises UnusableImageError when there is none, or more than one."""
        found = self._by_stem.get(name, [])
        if not found:
            raise UnusableImageError(f"no {self._kind} partner named {name}.* in {self._directory}")
        if len(found) > 1:
            files = ", ".join(found)
            raise UnusableImageError(f"{len(found)} {self._kind} partners named {name}.* in {self._directory}: {files}")
        return os.path.join(self._directory, found[0])


class Pairing:
    """Finds partners and prompts for the images of one sample set.

    The set's own manifest is written by the training job, and names partners below its own folder or those of the
    request's content, style and manifest: others are refused. The manifest that the request names is the user's own.

    The set's own manifest counts before the one that the request names, and what a manifest says of an image before
    the directories and the prompt of the request.
    """

    def __init__(self, samples: SampleSet, request: Evaluate) -> None:
        self._samples = samples
        self._request = request
        self._directories: dict[Need, PartnerDirectory] = {}
        self._manifest: Manifest | None = None
        named = request.manifest and os.path.realpath(request.manifest)
        self._trusted = samples.manifest is None or os.path.realpath(samples.manifest) == named
        folders = (request.content, request.style, named and os.path.dirname(named))
        self._folders = tuple(os.path.realpath(folder) for folder in folders if folder)
        self._real: dict[str, str] = {}
        self._refused: dict[Need, str] = {}

    def open(self, kind: Need) -> str:
        """Get ready to find partners of a kind (or prompts); returns why there can be none, or "".

        Raises InputError when the manifest or the directory cannot be read.
        """
        path = self._samples.manifest or self._request.manifest
        if path and self._manifest is None:
            self._manifest = read_manifest(path)
        if kind == "prompt":
            given = bool(self._request.prompt)
        else:
            directory = self._directory(kind)
            given = bool(directory)
            if directory and kind not in self._directories:
                self._directories[kind] = PartnerDirectory(kind, directory)
        if given or (self._manifest and self._manifest.has(kind)):
            return ""
        if self._manifest:
            return f"the manifest {self._manifest.path} names no {kind}"
        where = "prompt" if kind == "prompt" else f"{kind} directory"
        return f"no {where} was given, and no manifest"

    def describe(self, kind: Need) -> str:
        """What an image lacks when it has no partner of a kind (or no prompt), and where it was looked for."""
        if kind == "prompt":
            return f"prompt in {self._source()}"
        places = [self._manifest.path] if self._manifest else []
        directory = self._directory(kind)
        refused = f"; first: {self._refused[kind]}" if kind in self._refused else ""
        return f"{kind} partner in {' or '.join([*places, *([directory] if directory else [])])}{refused}"

    def items(self, kinds: Collection[Need]) -> list[Item]:
        """The items to score, with their partners of these kinds (opened before) and what they lack."""
        items = []
        for name in self._samples.names:
            missing: list[str] = []
            partners: dict[Need, str] = {}
            for kind in PARTNER_KINDS:
                if kind in kinds:
                    try:
                        partners[kind] = self._find(kind, name)
                    except UnusableImageError as error:
                        missing.append(str(error))
            prompt = self._prompt(name)
            if "prompt" in kinds and not prompt:
                missing.append(f"no prompt for it in {self._source()}")
            items.append(
                Item(
                    name=stem(name),
                    path=self._samples.path(name),
                    partners=partners,
                    prompt=prompt,
                    missing=tuple(missing),
                )
            )
        return items

    def _find(self, kind: Need, name: str) -> str:
        entry = self._manifest.find(name) if self._manifest else None
        named: str | None = getattr(entry, kind) if entry else None
        if named:
            if not self._may_name(named):
                reason = (
                    f"its {kind} partner {named} points outside {self._samples.directory}; "
                    "name its folder as pairs.content or pairs.style (score: --content, --style)"
                )
                self._refused.setdefault(kind, reason)
                raise UnusableImageError(reason)
            return named
        if kind in self._directories:
            return self._directories[kind].find(stem(name))
        raise UnusableImageError(f"no {kind} partner named for it in {self._source()}")

    def _may_name(self, path: str) -> bool:
        """False for a file that only the user may name, when the manifest at hand is not theirs."""
        if self._trusted:
            return True
        folder, name = os.path.split(path)
        if folder not in self._real:
            self._real[folder] = os.path.realpath(folder)
        placed = os.path.join(self._real[folder], name)
        # What lies in a folder of the user's may be a link to anywhere, as where stems are looked up.
        if _below(placed, self._folders):
            return True
        real = os.path.realpath(placed) if os.path.islink(placed) else placed
        return _below(real, (os.path.realpath(self._samples.directory), *self._folders))

    def _prompt(self, name: str) -> str:
        entry = self._manifest.find(name) if self._manifest else None
        return (entry.prompt.strip() if entry and entry.prompt else "") or self._request.prompt.strip()

    def _directory(self, kind: Need) -> str | None:
        return self._request.content if kind == "content" else self._request.style

    def _source(self) -> str:
        return self._manifest.path if self._manifest else "the request"


def _below(path: str, folders: Iterable[str]) -> bool:
    return any(os.path.commonpath((path, folder)) == folder for folder in folders)
