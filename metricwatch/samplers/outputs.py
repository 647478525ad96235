"""What a network or a function of the user's gives, judged before it is taken for pictures."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from metricwatch.api import InputError

if TYPE_CHECKING:
    from torch import Tensor

_NO_ROOM = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
_PICTURE = 3
_BATCH = 4
_COLOURS = (1, 3)


def pictures(made: Any, count: int, who: str) -> Sequence[Tensor]:
    """`count` pictures, (3, H, W) or (1, H, W) each, floating point or uint8. Raises InputError saying what came.

    Taken are a tensor (N, C, H, W) and any list or tuple of tensors (C, H, W).
    """
    import torch

    if isinstance(made, torch.Tensor):
        if made.ndim != _BATCH:
            raise InputError(
                f"{who} gave a tensor of shape {tuple(made.shape)}; wanted are pictures, (N, 3 or 1, H, W)"
            )
        found: Sequence[Any] = list(made)
    elif isinstance(made, list | tuple):
        found = made
    else:
        raise InputError(f"{who} gave {_kind(made)}; wanted are pictures, a tensor (N, 3 or 1, H, W)")
    if len(found) != count:
        raise InputError(f"{who} gave {len(found)} pictures; {count} were asked for")
    for picture in found:
        if not isinstance(picture, torch.Tensor):
            raise InputError(f"{who} gave {_kind(picture)} as a picture; wanted is a tensor (3 or 1, H, W)")
        shape = tuple(picture.shape)
        if len(shape) != _PICTURE or shape[0] not in _COLOURS or 0 in shape:
            raise InputError(f"{who} gave a picture of shape {shape}; wanted is (3 or 1, H, W)")
        if not (picture.is_floating_point() or picture.dtype == torch.uint8):
            raise InputError(f"{who} gave a picture of {picture.dtype}; wanted are values of 0..1, or uint8")
    return found


def is_no_room(error: BaseException) -> bool:
    """True where memory ran out. The worker makes room or asks for fewer samples when it sees the error itself."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_ROOM)


def last_line(error: BaseException) -> str:
    """What an error of torch comes down to: a long account ends with it."""
    lines = str(error).strip().splitlines() or [""]
    return textwrap.shorten(f"{type(error).__name__}: {lines[-1].strip()}".rstrip(": "), 200, placeholder=" …")


def _kind(made: Any) -> str:
    if made is None:
        return "None"
    if isinstance(made, dict):
        return f"a dictionary with the keys {', '.join(map(str, list(made)[:5])) or '(none)'}"
    return f"a {type(made).__name__}"
