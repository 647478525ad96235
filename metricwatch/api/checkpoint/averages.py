"""Moving averages of weights (EMA), as the usual libraries and scripts keep them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# "ema", "ema_state_dict", "model_ema", "g_ema", "state_dict_ema", "params_ema", "ema_model", "shadow", ...
_AVERAGE = re.compile(r"(^|_)ema(_|$)|^shadow|(^|_)(avg|averaged|swa)_(model|state)", re.IGNORECASE)
# What AveragedModel, LitEma and ema_pytorch count beside the weights.
BOOKKEEPING = frozenset({"n_averaged", "decay", "num_updates", "initted", "step"})
_WRAPPERS = ("module.", "_orig_mod.")


def is_average(key: str) -> bool:
    """True for a key that names a moving average."""
    return bool(_AVERAGE.search(key))


def bare(name: str) -> str:
    """A parameter's name without what DistributedDataParallel and torch.compile add to it."""
    while name.startswith(_WRAPPERS):
        name = name.partition(".")[2]
    return name.replace("._orig_mod.", ".")


def unaveraged(flat: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of an average under the names of its model: torch's AveragedModel adds "module.", ema_pytorch
    "ema_model." to them, and both keep counters.
    """
    weights = {name: value for name, value in flat.items() if name not in BOOKKEEPING}
    if "n_averaged" in flat:
        weights = {name.removeprefix("module."): value for name, value in weights.items()}
    _, inside = split(weights)
    return inside or weights


def split(flat: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A state dict as the weights in it, and the average among them under the same names (empty where there is none).

    A first word that names an average ("ema_model.", "generator_ema.") marks its names.
    """
    inner = {name: name.removeprefix("module.") for name in flat}
    marked: dict[str, dict[str, Tensor]] = {}
    raw = {}
    for name, value in flat.items():
        head, dot, rest = inner[name].partition(".")
        if dot and is_average(head):
            marked.setdefault(head, {})[rest] = value
        else:
            raw[name] = value
    average: dict[str, Tensor] = {}
    for head, found in marked.items():
        average |= _renamed(head, {name: each for name, each in found.items() if name not in BOOKKEEPING}, raw)
    return raw, average


def merged(raw: dict[str, Tensor], average: dict[str, Tensor]) -> dict[str, Tensor]:
    """The average, and of the model what the average lacks; the average alone where it has other names.

    The model where there is no average.
    """
    names = {bare(name): name for name in raw}
    if all(bare(name) in names for name in average):
        return raw | {names[bare(name)]: value for name, value in average.items()}
    return average


def _renamed(head: str, found: dict[str, Tensor], raw: dict[str, Tensor]) -> dict[str, Tensor]:
    """The average under the names that the model itself has in this state dict, as far as they can be told."""
    model = head.lower().replace("_ema", "").replace("ema_", "")
    known = {bare(name) for name in raw}
    # CompVis' LitEma keeps names without their dots.
    dotless = {bare(name).replace(".", ""): bare(name) for name in raw}
    dotless |= {key.removeprefix("model"): name for key, name in dotless.items() if name.startswith("model.")}
    for names in (
        {name: f"{model}.{bare(name)}" for name in found},
        {name: bare(name) for name in found},
        {name: dotless.get(name, "") for name in found},
    ):
        if all(name in known for name in names.values()):
            return {names[name]: value for name, value in found.items()}
    return {bare(name): value for name, value in found.items()}
