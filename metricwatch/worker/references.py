"""Reference statistics: computed once from images or taken from an .npz, and never reused for other content."""

from __future__ import annotations

import os
import stat
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import file_digest, sha256
from typing import BinaryIO

import numpy as np

from metricwatch import __version__
from metricwatch.api import Arrays, Batch, Metric
from metricwatch.errors import InputError, TemporaryError
from metricwatch.worker.batches import LoadedBatch
from metricwatch.worker.images import READ_ERROR, decode_threads
from metricwatch.worker.log import LogLine
from metricwatch.worker.pipeline import NO_ROOM, Pipeline
from metricwatch.worker.plan import Features, Item, Plan, digest_of
from metricwatch.worker.progress import Progress
from metricwatch.worker.reference_cache import ReferenceCache
from metricwatch.worker.reference_source import Source, look
from metricwatch.worker.samples import stem

_BIG = 1000
_BIG_INTERVAL_SECONDS = 30.0
# A file written twice within the clock's tick keeps its size and mtime: so young a listing proves nothing.
_SETTLED_NS = 2_000_000_000
# Statistics with all features of a large reference take hundreds of megabytes.
_KEPT_BYTES = 1_000_000_000
_LOGGED = 10
_NPY_MAGIC = b"\x93NUMPY"
# Beside a metric's own arrays: the names of images that were left out.
_LEFT_OUT = "left_out_images"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A metric that needs reference statistics.

    make gives an empty instance. features are what it reads of the reference's images; reads_images: the pictures,
    too. kind names the statistics: metrics of the same kind on the same features share them. names_files: it gets a
    FilesBatch, and its statistics are of these names as well.
    """

    name: str
    kind: str
    make: Callable[[], Metric]
    complete: Callable[[Arrays], Arrays]
    features: tuple[Features, ...]
    reads_images: bool
    names_files: bool = False

    @property
    def key(self) -> str:
        """What tells statistics of the same reference apart."""
        parts = [self.kind.encode(), __version__.encode(), *(each.identity for each in self.features)]
        names = [self.kind.partition(" ")[0], *(each.extractor.name for each in self.features)]
        return "-".join([*names, digest_of(*parts).hex()])


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesBatch(Batch):
    """Images whose names are those of their files below the reference's directory, and their contents' digests."""

    digests: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Statistics as the metric made them. digest is of the content they came from, 16 hex digits."""

    arrays: Arrays
    digest: str


class References:
    """Statistics by content: of the images (or file), the extractors' weights, protocols and precision.

    Each get() looks at the disk again, big directories (over 1000 files) every 30 seconds at most, so a reference
    that was changed is noticed and computed anew. All metrics that need computing share one pass over the images.
    """

    def __init__(
        self,
        cache: ReferenceCache,
        pipeline: Pipeline,
        *,
        log: LogLine,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cache = cache
        self._pipeline = pipeline
        self._log = log
        self._clock = clock
        self._looked: dict[str, tuple[float, Source]] = {}
        self._digests: dict[str, str] = {}
        self._kept: OrderedDict[str, Arrays] = OrderedDict()

    def get(
        self,
        path: str,
        wanted: list[Wanted],
        progress: Progress,
        *,
        patient: bool = True,
        beside: Sequence[Wanted] = (),
    ) -> dict[str, Reference | Exception]:
        """For each wanted metric, by name, its statistics or the error that stood in their way.

        patient: as in Pipeline.run(). beside: what will be asked for later, perhaps. It is made, and kept, where a pass
        has to be made that takes its features anyway; what fails there is not told.

        Raises InputError when the reference as a whole cannot be used, TemporaryError when it changed meanwhile.
        """
        source = self._look(path)
        digest = self._content_digest(source, progress)
        keys = {item.name: _key(item, source, digest) for item in wanted}
        known: dict[str, Arrays | Exception] = {}
        missing: dict[str, Wanted] = {}
        for item in wanted:
            key = keys[item.name]
            if key in known or key in missing:
                continue
            arrays = self._kept.get(key) or self._cache.load(key)
            if arrays is None:
                missing[key] = item
            else:
                self._keep(key, arrays)
                known[key] = arrays
        if missing:
            missing |= self._beside(beside, missing, source, digest)
            if source.is_file:
                made = self._from_file(source, list(missing.values()), progress)
            else:
                made = self._from_images(source, list(missing.values()), progress, patient=patient)
            if look(path).fingerprint != source.fingerprint:
                self._looked.pop(path, None)
                raise TemporaryError(f"the reference {path} changed while it was being read")
            for key, item in missing.items():
                known[key] = outcome = made[item.name]
                if not isinstance(outcome, Exception):
                    self._cache.save(key, outcome)
                    self._keep(key, outcome)
        results: dict[str, Reference | Exception] = {}
        for item in wanted:
            outcome = known[keys[item.name]]
            results[item.name] = outcome if isinstance(outcome, Exception) else _reference(outcome, digest)
        return results

    def _beside(
        self, beside: Sequence[Wanted], missing: Mapping[str, Wanted], source: Source, digest: str
    ) -> dict[str, Wanted]:
        """By key, what a pass for the missing ones can make for nothing, and is not known yet."""
        if source.is_file:
            return {}
        taken = {each.identity for item in missing.values() for each in item.features}
        free = [item for item in beside if taken.issuperset(each.identity for each in item.features)]
        keys = {_key(item, source, digest): item for item in free}
        return {key: item for key, item in keys.items() if key not in self._kept and self._cache.load(key) is None}

    def _look(self, path: str) -> Source:
        when, source = self._looked.get(path, (0.0, None))
        now = self._clock()
        if source is None or len(source.files) <= _BIG or now - when >= _BIG_INTERVAL_SECONDS:
            source = look(path)
            self._looked[path] = (now, source)
        return source

    def _content_digest(self, source: Source, progress: Progress) -> str:
        """SHA-256 over the files' own digests, 16 hex digits: the same images elsewhere are the same reference."""
        known = self._digests.get(source.identity) or self._cache.digest_of(source.identity)
        if known is None:
            progress.phase("hashing the reference", len(source.files))
            whole = sha256()
            with ThreadPoolExecutor(decode_threads(), thread_name_prefix="hash") as pool:
                each = []
                for value in pool.map(_file_digest, source.paths()):
                    each.append(value)
                    progress.advance(1)
            for value in sorted(each):
                whole.update(value)
            known = whole.hexdigest()[:16]
            if time.time_ns() - source.newest_ns < _SETTLED_NS:
                return known
            self._cache.remember_digest(source.identity, known)
        self._digests[source.identity] = known
        return known

    def _keep(self, key: str, arrays: Arrays) -> None:
        self._kept[key] = arrays
        self._kept.move_to_end(key)
        while len(self._kept) > 1 and sum(map(_nbytes, self._kept.values())) > _KEPT_BYTES:
            self._kept.popitem(last=False)

    def _from_file(self, source: Source, wanted: list[Wanted], progress: Progress) -> dict[str, Arrays | Exception]:
        progress.phase("reading reference statistics")
        try:
            with open(source.path, "rb") as file:
                _refuse_single_array(file, source.path)
                with np.load(file, allow_pickle=False) as archive:
                    arrays = {name: archive[name] for name in archive.files}
        except InputError:
            raise
        except Exception as error:  # zipfile, zlib and numpy raise what they like on damaged files
            raise InputError(f"the reference {source.path} is not a readable .npz file: {error}") from error
        made: dict[str, Arrays | Exception] = {}
        for item in wanted:
            try:
                made[item.name] = item.complete(arrays)
            except InputError as error:
                made[item.name] = InputError(f"reference {source.path}: {error}")
            except Exception as error:  # noqa: BLE001 - a plugin may raise anything
                made[item.name] = error
        return made

    def _tell(self, skipped: Sequence[tuple[str, str]]) -> None:
        """Log what was left out.

        Raises TemporaryError for a file that can be read after all, InputError for one that there was NO_ROOM for.
        """
        for path, reason in skipped:
            if reason == NO_ROOM:
                raise InputError(f"the reference image {path}: {reason}")
            if reason.startswith(READ_ERROR) and os.access(path, os.R_OK):
                raise TemporaryError(f"the reference image {path} {reason}")
        for path, reason in skipped[:_LOGGED]:
            self._log("warning", "reference image left out", path=path, reason=reason)
        if len(skipped) > _LOGGED:
            self._log("warning", "more reference images left out", images=str(len(skipped) - _LOGGED))

    def _from_images(
        self, source: Source, wanted: list[Wanted], progress: Progress, *, patient: bool
    ) -> dict[str, Arrays | Exception]:
        progress.phase("reading the reference", len(source.files))
        skipped: list[tuple[str, str]] = []
        metrics = {item.name: item.make() for item in wanted}
        made: dict[str, Arrays | Exception] = {}
        items = [Item(name=entry.name, path=path) for entry, path in zip(source.files, source.paths(), strict=True)]
        features = {each.identity: each for item in wanted for each in item.features}
        plan = Plan(
            features=tuple(features.values()),
            pixels=frozenset({"image"} if any(item.reads_images for item in wanted) else ()),
        )
        for batch in self._pipeline.run(
            items,
            plan,
            skip=lambda path, reason: skipped.append((path, reason)),
            advance=progress.advance,
            patient=patient,
        ):
            for item in wanted:
                if item.name in made:
                    continue
                try:
                    metrics[item.name].update(_batch(batch, item))
                except Exception as error:  # noqa: BLE001 - a plugin may raise anything
                    made[item.name] = error
        self._tell(skipped)
        progress.phase("computing reference statistics")
        for name, metric in metrics.items():
            if name not in made:
                made[name] = _statistics(metric, source, skipped)
        return made


def _key(wanted: Wanted, source: Source, digest: str) -> str:
    """Where statistics are kept. The same images by other names are the same reference, but not the same files."""
    names = (os.fsencode(entry.name) for entry in source.files)
    of_names = f"-{digest_of(*names).hex()[:16]}" if wanted.names_files else ""
    return f"{wanted.key}-{digest}{of_names}"


def _nbytes(arrays: Arrays) -> int:
    return sum(array.nbytes for array in arrays.values())


def _reference(arrays: Arrays, digest: str) -> Reference:
    """Images that were left out are part of what the statistics are of."""
    if (left_out := arrays.get(_LEFT_OUT)) is not None:
        names = (str(name).encode(errors="surrogatepass") for name in left_out)
        digest = digest_of(digest.encode(), *names).hex()[:16]
    return Reference(arrays=arrays, digest=digest)


def _batch(batch: LoadedBatch, wanted: Wanted) -> Batch:
    """A reference's images as a metric sees them: without partners, prompts and layers. Raises what a network did."""
    names = [each.extractor.name for each in wanted.features]
    for name in names:
        if name in batch.failed:
            raise batch.failed[name]
    features = {name: batch.features["image", name] for name in names}
    images = batch.images if wanted.reads_images else ()
    if wanted.names_files:
        digests = tuple(each["image"] for each in batch.digests)
        return FilesBatch(names=batch.names, images=images, features=features, digests=digests)
    return Batch(names=tuple(map(stem, batch.names)), images=images, features=features)


def _statistics(metric: Metric, source: Source, skipped: list[tuple[str, str]]) -> Mapping[str, np.ndarray] | Exception:
    names = sorted(os.path.basename(path) for path, _ in skipped)
    try:
        return {**metric.statistics(), **({_LEFT_OUT: np.array(names)} if names else {})}
    except InputError as error:
        left_out = f" ({len(skipped)} left out; first: {skipped[0][0]}: {skipped[0][1]})" if skipped else ""
        return InputError(f"reference {source.path}: {error}{left_out}")
    except Exception as error:  # noqa: BLE001 - a plugin may raise anything
        return error


def _refuse_single_array(file: BinaryIO, path: str) -> None:
    """Raise InputError for an .npy file by another name; otherwise leave the file at its start."""
    if file.read(len(_NPY_MAGIC)) == _NPY_MAGIC:
        raise InputError(
            f"the reference {path} holds a single array (an .npy file by another name), not named arrays; "
            "write it with numpy.savez(path, mu=..., sigma=...)"
        )
    file.seek(0)


def _file_digest(path: str) -> bytes:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return sha256(b"unreadable: not a regular file").digest()
        with open(path, "rb") as file:
            return file_digest(file, sha256).digest()
    except OSError as error:
        # An unreadable image is left out of the statistics, and its absence is part of the content.
        return sha256(f"unreadable: {error.strerror}".encode()).digest()
