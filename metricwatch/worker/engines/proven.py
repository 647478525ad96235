"""An engine that runs the network the fastest way that has proved to give the same features."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from metricwatch.extractors import ExtractorSpec
from metricwatch.worker.device_state import exactly
from metricwatch.worker.engines import compiled, folded, openvino, tensorrt
from metricwatch.worker.engines.eager import EagerEngine
from metricwatch.worker.engines.forward import Forward, ImpossibleError, Prepare
from metricwatch.worker.engines.proof import TOLERANCE, check, example
from metricwatch.worker.log import LogLine, describe, one_line
from metricwatch.worker.networks import Network

WAYS: Mapping[str, Prepare] = {
    "folded": folded.prepare,
    "compile": compiled.prepare,
    "openvino": openvino.prepare,
    "tensorrt": tensorrt.prepare,
}
# Protocols that keep each picture's own size: ways that are made for one size do not serve them.
_OWN_SIZES = frozenset({"art-fid"})
_ANY_SIZE = frozenset({"folded"})


class ProvenEngine(EagerEngine):
    """Eager, save that pooled features are computed the first of some ways that proves itself on three pictures.

    What counts is exact eager, at any precision.

    The proof is made when features are first asked for: a network whose maps alone are wanted is never converted. A way
    that fails it, or cannot be had, is told to the log with its reason, and the next one is tried; eager is the last.
    """

    def __init__(
        self,
        spec: ExtractorSpec,
        network: Network,
        protocol: str,
        device: torch.device,
        *,
        ways: Sequence[str],
        precision: str,
        log: LogLine,
    ) -> None:
        super().__init__(spec, network, protocol, device)
        self._ways = tuple(ways)
        self._own_sizes = protocol in _OWN_SIZES
        self._precision = precision
        self._log = log
        self._forward: Forward | None = None

    def _pooled(self, pixels: Tensor) -> Tensor:
        if self._forward is None:
            self._forward = self._choose()
        return self._forward(pixels)

    def _prepare(self, way: str, pixels: Tensor, precision: str) -> Forward:
        if self._own_sizes and way not in _ANY_SIZE:
            raise ImpossibleError("the protocol keeps each picture's own size")
        return WAYS[way](self._ready(self._network.pooled), pixels, precision)

    def _choose(self) -> Forward:
        pixels = example(self._preprocess, self._device)
        with exactly():
            expected = super()._pooled(pixels).float()
        # A network that loses too much when it is rounded is still run the fastest way that does not round.
        for precision, way in itertools.product(dict.fromkeys((self._precision, "exact")), self._ways):
            about = {"extractor": self._spec.name, "engine": way, "precision": precision}
            try:
                forward = self._prepare(way, pixels, precision)
                found = check(forward, pixels, expected, TOLERANCE[precision])
            except Exception as error:  # noqa: BLE001 - compilers raise anything; eager remains
                reason = str(error) if isinstance(error, ImpossibleError) else describe(error)
                self._log("info", "engine refused", **about, reason=one_line(reason))
                continue
            self.name = way
            self._log("info", "engine proved", **about, difference=f"{found:.1e}")
            return forward
        return super()._pooled
