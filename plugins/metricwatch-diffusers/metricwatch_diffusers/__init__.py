"""Samplers for checkpoints in the format of Hugging Face diffusers."""

from __future__ import annotations

from metricwatch_diffusers.sampler import DiffusersOptions, DiffusersSampler, UnconditionalDiffusersSampler

__all__ = ["DiffusersOptions", "DiffusersSampler", "UnconditionalDiffusersSampler"]
