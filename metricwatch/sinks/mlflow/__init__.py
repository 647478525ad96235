"""The MLflow sink: curves, tags and pictures into a run of a tracking server or of a tracking database."""

from __future__ import annotations

from .runs import RUN_TAG, TRAINING_TAG
from .sink import MlflowOptions, MlflowSink

__all__ = ["RUN_TAG", "TRAINING_TAG", "MlflowOptions", "MlflowSink"]
