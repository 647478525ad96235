"""The Fréchet distance between the features of two image sets, as it is and extrapolated to endless images."""

from __future__ import annotations

from .distance import Fid, FrechetDistance, on_extractor
from .infinity import FidInf, FrechetInfinity, infinite_on_extractor

__all__ = ["Fid", "FidInf", "FrechetDistance", "FrechetInfinity", "infinite_on_extractor", "on_extractor"]
