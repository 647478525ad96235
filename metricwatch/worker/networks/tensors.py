"""Reading weight files: never executing what is inside, and saying clearly when it is not what was expected."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from metricwatch.errors import InputError

_NAMED = 4
_COUNTER = "num_batches_tracked"


def read_tensors(path: str, extractor: str) -> dict[str, Tensor]:
    """The tensors of a torch file, in its order, on the CPU. Raises InputError for any other content."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling what is no torch file raises nearly anything
        first = str(error).strip().split("\n", 1)[0]
        raise InputError(
            f"{extractor}: {path} is damaged or not a file of tensors ({type(error).__name__}: {first}); "
            "remove it and fetch it again"
        ) from error
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{extractor}: {path} does not hold a plain dictionary of tensors; is it the right file?")
    return dict(content)


def check_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: str, extractor: str) -> None:
    """Raise InputError, naming a few tensors, unless names and shapes are those of the network.

    Batch counters may be missing: they play no part in inference and old files lack them.
    """
    missing = [name for name in expected if name not in found and not name.endswith(_COUNTER)]
    unexpected = [name for name in found if name not in expected]
    reshaped = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in expected
        if name in found and found[name].shape != expected[name].shape
    ]
    problems = [
        f"{label}: {listed(names)}"
        for label, names in (("missing", missing), ("unexpected", unexpected), ("wrong shape", reshaped))
        if names
    ]
    if problems:
        raise InputError(f"{extractor}: {path} does not fit the network; {'; '.join(problems)}")


def fill(network: nn.Module, tensors: Mapping[str, Tensor], path: str, extractor: str) -> None:
    """Give a network built on the meta device its weights, as float32. Raises InputError as check_tensors() does."""
    expected = network.state_dict()
    check_tensors(tensors, expected, path, extractor)
    counters = {name: torch.zeros((), dtype=torch.long) for name in expected if name.endswith(_COUNTER)}
    floats = {name: tensor.float() for name, tensor in tensors.items() if name not in counters}
    network.load_state_dict(counters | floats, assign=True)


def listed(names: list[str]) -> str:
    """A few names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
