"""Sample sets from the trainer of pytorch_lightning."""

from __future__ import annotations

from pytorch_lightning import Callback

from metricwatch.callbacks.lightning_hooks import LightningHooks


class SnapshotCallback(LightningHooks, Callback):
    """Saves what sample(module, step) makes every so many steps; arguments and promises are those of Sampling.

    Trainer(callbacks=[SnapshotCallback("runs/night/samples", sample, every_n_steps=1000)])
    """
