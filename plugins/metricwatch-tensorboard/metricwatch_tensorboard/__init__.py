"""A sink that writes curves, pictures and tags as TensorBoard's event files, each once."""

from __future__ import annotations

from metricwatch_tensorboard.sink import TensorBoardOptions, TensorBoardSink

__all__ = ["TensorBoardOptions", "TensorBoardSink"]
