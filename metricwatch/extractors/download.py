"""One file over HTTP: whole and checked in its place, or not there at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from http.client import HTTPException
from urllib.request import Request, urlopen

from metricwatch.errors import MissingWeightsError
from metricwatch.extractors.weights import Progress, silent

# Without one, a firewall that drops packets would hold the worker for ever.
SILENCE_SECONDS = 20.0
_CHUNK = 1 << 20


def download(url: str, path: str, *, published: str = "", progress: Progress = silent) -> str:
    """Fetch an address into a file; gives its SHA-256. The file appears whole and as published, or not at all.

    Proxies are taken from the environment. Raises MissingWeightsError saying what failed, an OSError for a folder
    that cannot be written.
    """
    os.makedirs(os.path.dirname(path), exist_ok=True)
    # Beside the target, so that the last step is a rename within one file system; several processes may fetch at once.
    partial = f"{path}.{uuid.uuid4().hex}.partial"
    try:
        digest = _transfer(url, partial, progress)
        if not digest.startswith(published):
            raise MissingWeightsError(
                f"what {url} sent is not the published file: its SHA-256 begins {digest[: len(published)]}, "
                f"not {published}; nothing was kept"
            )
        os.replace(partial, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
    return digest


def _transfer(url: str, partial: str, progress: Progress) -> str:
    digest = hashlib.sha256()
    done = 0
    with open(partial, "xb") as file:
        try:
            request = Request(url, headers={"User-Agent": "metricwatch"})  # noqa: S310 - the registry's own addresses
            with urlopen(request, timeout=SILENCE_SECONDS) as answer:  # noqa: S310
                total = int(answer.headers.get("Content-Length") or 0)
                progress(0, total)
                while block := answer.read(_CHUNK):
                    file.write(block)
                    digest.update(block)
                    done += len(block)
                    progress(done, total)
        except (OSError, HTTPException, ValueError) as error:  # URLError, HTTPError, time-outs, TLS, broken headers
            raise MissingWeightsError(f"{url} cannot be read ({_reason(error)})") from error
        # http.client takes the end of the connection for the end of the file.
        if total and done != total:
            raise MissingWeightsError(f"{url} was cut off after {done} of {total} bytes; nothing was kept")
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
