"""Networks, loaded once in a worker's life and shared by all metrics and jobs."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from metricwatch import extractors
from metricwatch.catalog import did_you_mean
from metricwatch.errors import ConfigError, MissingWeightsError
from metricwatch.extractors import ExtractorSpec
from metricwatch.protocol import Configure
from metricwatch.worker import networks
from metricwatch.worker.engines import Engine, build_engine
from metricwatch.worker.log import LogLine

_RETRY_MISSING_SECONDS = 300.0
_TEXTS_KEPT = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Extractor:
    """A loaded feature extractor. digest is the start of the SHA-256 of its weights, 16 hex digits."""

    spec: ExtractorSpec
    protocol: str
    digest: str
    engine: Engine

    @property
    def name(self) -> str:
        return self.spec.name


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
        self._texts: OrderedDict[tuple[str, str], Tensor] = OrderedDict()

    def get(self, name: str) -> Extractor:
        """The extractor, ready on the device.

        Raises PluginError when it is unknown, ConfigError when it has no such protocol, MissingWeightsError or
        InputError about its weights. Missing weights are looked for again after five minutes at the earliest: each
        look may try a download.
        """
        if name in self._loaded:
            return self._loaded[name]
        if name in self._missing:
            when, reason = self._missing[name]
            if self._clock() - when < _RETRY_MISSING_SECONDS:
                raise MissingWeightsError(reason)
        spec = extractors.find(name)
        protocol = self._configure.protocols.get(name) or spec.protocols[0]
        if protocol not in spec.protocols:
            raise ConfigError(f"{name} has no protocol {protocol!r}; {did_you_mean(protocol, spec.protocols)}")
        try:
            path = self._weights(spec)
            network = networks.load(spec, path)
        except MissingWeightsError as error:
            self._missing[name] = (self._clock(), str(error))
            raise
        self._missing.pop(name, None)
        digest = spec.weights.digest(path)
        if not digest.startswith(spec.weights.published):
            self._log(
                "warning",
                "these are not the published weights: scores compare only with scores on the same file",
                extractor=name,
                path=path,
                sha256=digest[:16],
                published=spec.weights.published,
            )
        engine = build_engine(
            self._configure.engine,
            spec,
            network,
            protocol,
            self._device,
            precision=self._configure.precision,
            log=self._log,
        )
        self._loaded[name] = Extractor(spec=spec, protocol=protocol, digest=digest[:16], engine=engine)
        return self._loaded[name]

    def passes(self) -> dict[str, int]:
        """By extractor, how many pictures have gone through its network."""
        return {name: each.engine.passes for name, each in self._loaded.items()}

    def texts(self, extractor: Extractor, prompts: Iterable[str]) -> Mapping[str, Tensor]:
        """The embedding (D,) of each text, of length 1. Each is computed once and kept."""
        wanted = list(dict.fromkeys(prompts))
        new = [prompt for prompt in wanted if (extractor.name, prompt) not in self._texts]
        if new:
            for prompt, row in zip(new, extractor.engine.texts(new), strict=True):
                self._texts[extractor.name, prompt] = row
        found = {prompt: self._texts[extractor.name, prompt] for prompt in wanted}
        while len(self._texts) > _TEXTS_KEPT:
            self._texts.popitem(last=False)
        return found

    def _weights(self, spec: ExtractorSpec) -> str:
        explicit = self._configure.weights.get(spec.name)
        try:
            return spec.weights.locate(explicit)
        except MissingWeightsError:
            if explicit:
                raise
            return spec.weights.fetch()
