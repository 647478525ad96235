"""Networks, loaded once in a worker's life and shared by all metrics and jobs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from metricwatch.errors import MissingWeightsError
from metricwatch.protocol import Configure
from metricwatch.worker import extractors
from metricwatch.worker.engines import Engine, build_engine
from metricwatch.worker.extractors import weights
from metricwatch.worker.log import LogLine

_RETRY_MISSING_SECONDS = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Extractor:
    """A loaded feature extractor. digest is the start of the SHA-256 of its weights file, 16 hex digits."""

    name: str
    protocol: str
    digest: str
    engine: Engine


class Extractors:
    """Loads an extractor on first use and keeps it."""

    def __init__(
        self,
        configure: Configure,
        device: torch.device,
        log: LogLine,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._configure = configure
        self._device = device
        self._log = log
        self._clock = clock
        self._loaded: dict[str, Extractor] = {}
        self._missing: dict[str, tuple[float, str]] = {}

    def get(self, name: str) -> Extractor:
        """The extractor, ready on the device.

        Raises PluginError when it is unknown, MissingWeightsError or InputError about its weights. Missing weights
        are looked for again after five minutes at the earliest: each look may try a download.
        """
        if name in self._loaded:
            return self._loaded[name]
        if name in self._missing:
            when, reason = self._missing[name]
            if self._clock() - when < _RETRY_MISSING_SECONDS:
                raise MissingWeightsError(reason)
        spec = extractors.find(name)
        try:
            path = spec.locate(self._configure.weights.get(name))
            network = spec.network(path)
        except MissingWeightsError as error:
            self._missing[name] = (self._clock(), str(error))
            raise
        self._missing.pop(name, None)
        digest = weights.digest(path)
        if not digest.startswith(spec.published_sha256):
            self._log(
                "warning",
                "these are not the published weights: scores compare only with scores on the same file",
                extractor=name,
                path=path,
                sha256=digest[:16],
                published=spec.published_sha256,
            )
        engine = build_engine(self._configure.engine, network, spec.preprocess, self._device)
        self._loaded[name] = Extractor(name=name, protocol=spec.protocol, digest=digest[:16], engine=engine)
        return self._loaded[name]
