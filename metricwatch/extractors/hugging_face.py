"""Weights that are a model's folder in the Hugging Face hub's cache, where transformers puts them too."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from metricwatch.errors import MissingWeightsError
from metricwatch.extractors.weights import Progress, WeightsSource, file_digest, silent

_SILENCE_SECONDS = 20.0
_LOOK_SECONDS = 0.5


def hub_cache(environ: Mapping[str, str] = os.environ) -> str:
    """The hub's cache folder, by the same variables (huggingface_hub/constants.py), read now and not on import."""
    explicit = environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE")
    home = environ.get("HF_HOME") or os.path.join(environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return os.path.expanduser(os.path.expandvars(explicit or os.path.join(home, "hub")))


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFolder(WeightsSource):
    """The folder of a repository's main revision.

    needed holds, for each thing that must be there, the names of files of which one must be, the best first.
    optional files are taken along and count in the digest where they are there.
    """

    repository: str
    needed: tuple[tuple[str, ...], ...]
    optional: tuple[str, ...] = ()

    def place(self, environ: Mapping[str, str] = os.environ) -> str:
        return os.path.join(hub_cache(environ), f"models--{self.repository.replace('/', '--')}")

    def cached(self, environ: Mapping[str, str] = os.environ) -> str | None:
        from huggingface_hub import try_to_load_from_cache

        for name in self.needed[0]:
            path = try_to_load_from_cache(self.repository, name, cache_dir=hub_cache(environ))
            if isinstance(path, str) and not self._lacking(os.path.dirname(path)):
                return os.path.dirname(path)
        return None

    def problem(self, path: str) -> str:
        if not os.path.isdir(path):
            return "is a file; name the folder it is in" if os.path.exists(path) else "does not exist"
        lacking = self._lacking(path)
        return f"has no {' and no '.join(lacking)}" if lacking else ""

    def absence(self, environ: Mapping[str, str] = os.environ) -> str:
        return (
            f"{self.place(environ)} is not there or not whole; fetch it with: metricwatch weights fetch "
            f"{self.extractor}, or download the folder https://huggingface.co/{self.repository} elsewhere "
            f"and {self.advice()}"
        )

    def fetch(self, progress: Progress = silent, environ: Mapping[str, str] = os.environ) -> str:
        """The folder, downloaded through huggingface_hub where it is not there. HF_HUB_OFFLINE=1 forbids that."""
        found = self.cached(environ)
        if found is not None:
            return found
        try:
            self._download(progress, environ)
            found = self.cached(environ)
            reason = "the repository lacks files that are needed"
        except Exception as error:  # noqa: BLE001 - the hub's own errors, those of its HTTP library, OSError
            reason = " ".join(str(error).split()) or type(error).__name__
        if found is None:
            raise MissingWeightsError(
                f"{self.extractor}: the model {self.repository} is not at {self.place(environ)}, "
                f"and downloading it failed: {reason}. Download the folder https://huggingface.co/{self.repository} "
                f"on a machine with internet and {self.advice()}"
            )
        return found

    def digest(self, path: str) -> str:
        """The SHA-256 over the names and SHA-256s of the folder's files that matter, 64 hex digits."""
        whole = hashlib.sha256()
        for name in self._relevant(path):
            whole.update(f"{name}\0{file_digest(os.path.join(path, name))}\n".encode())
        return whole.hexdigest()

    def size(self, path: str) -> int:
        return sum(os.path.getsize(os.path.join(path, name)) for name in self._relevant(path))

    def _relevant(self, folder: str) -> list[str]:
        there = set(os.listdir(folder))
        chosen = [next((name for name in names if name in there), None) for names in self.needed]
        return sorted({*(name for name in chosen if name), *(there & set(self.optional))})

    def _lacking(self, folder: str) -> list[str]:
        return [
            names[0] for names in self.needed if not any(os.path.isfile(os.path.join(folder, name)) for name in names)
        ]

    def _download(self, progress: Progress, environ: Mapping[str, str]) -> None:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.utils.tqdm import disable_progress_bars

        listing = HfApi().model_info(self.repository, files_metadata=True, timeout=_SILENCE_SECONDS)
        sizes = {item.rfilename: item.size or 0 for item in listing.siblings or ()}
        chosen = [next((name for name in names if name in sizes), None) for names in self.needed]
        wanted = [*(name for name in chosen if name), *(name for name in self.optional if name in sizes)]
        disable_progress_bars()
        with _watching(os.path.join(self.place(environ), "blobs"), sum(sizes[name] for name in wanted), progress):
            snapshot_download(self.repository, cache_dir=hub_cache(environ), allow_patterns=wanted)


@contextlib.contextmanager
def _watching(folder: str, total: int, progress: Progress) -> Iterator[None]:
    """Tell how far a download is by what lies in its folder: the library's own way of telling changes every year."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(_LOOK_SECONDS):
            with contextlib.suppress(OSError):
                done = sum(entry.stat().st_size for entry in os.scandir(folder))
                progress(min(done, total), total)

    progress(0, total)
    watcher = threading.Thread(target=look, name="weights-progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
