"""Loads weights into a module: all of them, or none with a short list of what does not match."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from metricwatch.api.checkpoint.averages import bare
from metricwatch.api.checkpoint.finding import Found
from metricwatch.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

_LISTED = 5


def load(module: Module, found: Found, name: str) -> None:
    """Copy the weights into the module, whose types and device stay. Raises InputError, and the module is as it was."""
    import torch

    wanted = {key: value for key, value in module.state_dict().items() if isinstance(value, torch.Tensor)}
    fitted = _fitted(found.tensors, wanted)
    if trouble := _trouble(fitted, wanted):
        place = f" {found.where}" if found.where else ""
        raise InputError(f"{name}: its weights{place} are not those of the model: {trouble}{_hint(fitted, wanted)}")
    try:
        # Not strict: a module's extra state is no tensor, and all else has just been compared.
        module.load_state_dict(fitted, strict=False)
    except RuntimeError as error:
        raise InputError(f"{name}: the model does not take its weights: {str(error)[:300]}") from error


def _fitted(weights: Mapping[str, Tensor], wanted: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights under the module's names, where leaving out wrappers on either side makes them the same."""
    ours = {bare(name): name for name in wanted}
    renamed = {ours.get(bare(name), bare(name)): value for name, value in weights.items()}
    # Two names may become one: then the wrappers were part of them.
    return renamed if len(renamed) == len(weights) else dict(weights)


def _trouble(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    missing = [name for name in wanted if name not in weights]
    unexpected = [name for name in weights if name not in wanted]
    shapes = [
        f"{name} is {tuple(weights[name].shape)} in the checkpoint, {tuple(value.shape)} in the model"
        for name, value in wanted.items()
        if name in weights and weights[name].shape != value.shape
    ]
    found = (_some(missing, "missing"), _some(unexpected, "unexpected"), _some(shapes, "of another shape", "; "))
    return ", ".join(part for part in found if part)


def _some(names: list[str], what: str, between: str = ", ") -> str:
    if not names:
        return ""
    more = [f"{len(names) - _LISTED} more"] if len(names) > _LISTED else []
    return f"{len(names)} {what} ({between.join(names[:_LISTED] + more)})"


def _hint(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """Where in the weights the model would fit."""
    first = next(iter(wanted), None)
    if first is None:
        return ""
    starts = sorted(name.removesuffix(first) for name in weights if name.endswith(f".{first}"))
    fits = [
        repr(start[:-1])
        for start in starts
        if all(start + name in weights and weights[start + name].shape == value.shape for name, value in wanted.items())
    ]
    return f"; it would fit at {' or '.join(fits[:_LISTED])}: say so with 'at'" if fits else ""
