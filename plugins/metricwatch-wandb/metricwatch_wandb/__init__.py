"""A sink that writes curves, pictures and tags to Weights & Biases, over the network or into files for `wandb sync`."""

from __future__ import annotations

from metricwatch_wandb.sink import WandbOptions, WandbSink

__all__ = ["WandbOptions", "WandbSink"]
