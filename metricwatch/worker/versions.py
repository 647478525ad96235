"""Which versions of what have made a number."""

from __future__ import annotations

import inspect
from hashlib import blake2b
from importlib import metadata

from metricwatch import __version__
from metricwatch.api import Metric


def version(package: str) -> str:
    """The installed version of a package, "" when it is not there."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def make_of(metric: type[Metric]) -> str:
    """What tells the makes of a metric apart: its class, the source it is written in, and our own version.

    The source itself, because the version of a package that is being worked on stays the same.
    """
    try:
        source = inspect.getsource(inspect.getmodule(metric) or metric).encode(errors="surrogatepass")
    except (OSError, TypeError):
        source = b""
    digest = blake2b(source, digest_size=8).hexdigest()
    return f"{metric.__module__}:{metric.__qualname__} {digest} {__version__}"
