"""Which of a distributed job's processes this is."""

from __future__ import annotations

import os
import sys

from metricwatch.errors import InputError


def current_rank() -> int:
    """The rank that torch.distributed was started with, or else that of the variable RANK, or else 0.

    Nothing is imported to find out. Other variables (SLURM_PROCID, LOCAL_RANK) are not looked at: they also number
    the independent jobs of a sweep, and the processes of one machine of many. Raises InputError when RANK is no number.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank())
    text = os.environ.get("RANK", "").strip()
    if not text:
        return 0
    if not text.isdecimal():
        raise InputError(f"the variable RANK is {text!r}, not a number; set it right, or give the hook rank=")
    return int(text)
