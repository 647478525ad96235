"""Finds the weights of a model in a checkpoint's tree, and their moving average (EMA)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from metricwatch.api.checkpoint.averages import BOOKKEEPING, is_average, merged, split, unaveraged
from metricwatch.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

Ema = Literal["auto", "always", "never"]

# The keys that training scripts keep their model under.
_USUAL = frozenset(
    (
        *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "generator", "module", "params"),
        *("weights", "gen", "g", "netg", "net_g", "g_state_dict", "generator_state_dict", "unet", "transformer"),
    )
)
_NEVER = re.compile(r"optim|sched|scaler|callback|loops|rng|random|discriminator|^d$|^netd$|^net_d$", re.IGNORECASE)
_SAYING_NOTHING = {"ema", "avg", "averaged", "swa", "state", "dict", "params", "shadow"}
_LISTED = 8
_DEEPEST = 8


@dataclass(frozen=True, slots=True)
class Found:
    """Weights by parameter name, and in words where they were: for messages."""

    tensors: dict[str, Tensor]
    where: str


@dataclass(frozen=True, slots=True)
class _Place:
    """A flat state dict in the tree. path are the keys that lead to it."""

    path: tuple[str, ...]
    flat: Mapping[str, Any]

    def __str__(self) -> str:
        return ".".join(self.path)


def find(tree: Mapping[str, Any], at: str, ema: Ema, name: str) -> Found:
    """The weights at a place, or at the only likely one. Raises InputError that says what there is."""
    path, prefix = _descend(tree, at)
    if any(is_average(word) for word in (*path, prefix)):
        # 'at' leads to an average itself: it is what these weights are.
        places = _average_below(_node(tree, path), path, ()) if path else list(_places(tree, path))
        place = _only(places, "models", name)
        weights = _tensors(place.flat) if place else {}
        return _below(weights if prefix else unaveraged(weights), prefix, place, name)
    model = _only(list(_places(_node(tree, path), path)), "models", name)
    raw, inside = split(_tensors(model.flat)) if model else ({}, {})
    average = None if ema == "never" else _only(_averages(tree, model.path if model else path), "moving averages", name)
    if average:
        inside = unaveraged(_tensors(average.flat))
        if not inside:
            raise InputError(
                f"{name} holds a moving average at {str(average)!r} as a list without names, which we cannot "
                "tell apart; save it by name, or write ema: never"
            )
    if ema == "always" and not inside:
        raise InputError(f"{name} holds no moving average of the weights; it holds {_shown(tree)}; write ema: auto")
    chosen = raw if ema == "never" else merged(raw, inside)
    if not chosen:
        looked = f"at {at!r}" if at else "under the names that we know; say where with 'at'"
        raise InputError(f"{name} holds no weights {looked}; it holds {_shown(tree)}")
    return _below(chosen, prefix, average or model, name)


def _only(places: list[_Place], what: str, name: str) -> _Place | None:
    if len(places) > 1:
        raise InputError(f"{name} holds several {what}; say which one with 'at': {_listed(places)}")
    return places[0] if places else None


def _places(node: Any, path: tuple[str, ...]) -> Iterator[_Place]:
    """The flat state dicts below a node: under the usual names, else the node itself, or below any name."""
    if not isinstance(node, Mapping) or len(path) > _DEEPEST or "param_groups" in node:
        return
    inner = {key: value for key, value in node.items() if isinstance(key, str) and isinstance(value, Mapping)}
    models = {key: value for key, value in inner.items() if not (is_average(key) or _NEVER.search(key))}
    usual = {key: value for key, value in models.items() if key.lower() in _USUAL}
    found = [place for key, value in usual.items() for place in _places(value, (*path, key))]
    flat = _tensors(node)
    if not found and not any("." in name for name in flat):
        # Tensors under plain names may be anything, as a generator's state: a model beside them comes first.
        found = [place for key, value in models.items() for place in _places(value, (*path, key))]
    if found:
        yield from found
    elif flat:
        yield _Place(path, node)


def _averages(tree: Mapping[str, Any], model: tuple[str, ...]) -> list[_Place]:
    """The moving averages of the model at a path: those named after it before those that are named ema alone."""
    for depth in range(len(model), -1, -1):
        node = _node(tree, model[:depth])
        if not isinstance(node, Mapping):
            continue
        rest = model[depth:]
        names = [key for key, value in node.items() if isinstance(key, str) and isinstance(value, Mapping)]
        keys = [key for key in names if is_average(key)]
        # An average that has its own model beside it is not that of another one.
        others = {_plain(key) for key in names if not is_average(key) and key not in rest[:1]}
        alike = [key for key in keys if rest and _plain(key) == _plain(rest[0])]
        plain = [key for key in keys if _plain(key) in {"", "model", "net", "network"}]
        found = [
            place
            for key in alike or plain or [key for key in keys if _plain(key) not in others]
            for place in _average_below(node[key], (*model[:depth], key), () if key in alike else rest)
        ]
        if found:
            return found
    return []


def _average_below(node: Any, path: tuple[str, ...], rest: tuple[str, ...]) -> list[_Place]:
    """The state dict of an average: at the place that the model has beside it, else wherever it is."""
    for start in range(len(rest)):
        inner = _node(node, rest[start:])
        if isinstance(inner, Mapping) and _is_flat(inner):
            return [_Place((*path, *rest[start:]), inner)]
    if not isinstance(node, Mapping):
        return []
    if _is_flat(node):
        return [_Place(path, node)]
    children = {key: value for key, value in node.items() if isinstance(key, str) and isinstance(value, Mapping)}
    found = [place for key, value in children.items() for place in _average_below(value, (*path, key), ())]
    if not found and any(isinstance(node.get(key), list | tuple) for key in ("shadow_params", "shadow")):
        # Found, and of no use: the caller says so rather than scoring the other weights in silence.
        return [_Place(path, {})]
    return found


def _below(weights: dict[str, Tensor], prefix: str, place: _Place | None, name: str) -> Found:
    """The weights whose names begin with a prefix, without it."""
    if not prefix:
        return Found(weights, f"at {str(place)!r}" if place and place.path else "")
    for start in (f"{prefix}.", f"module.{prefix}.", f"_orig_mod.{prefix}."):
        part = {key.removeprefix(start): value for key, value in weights.items() if key.startswith(start)}
        if part:
            return Found(part, f"at {f'{place}.{prefix}'.strip('.')!r}")
    inside = f"{name} at {str(place)!r}" if place and place.path else name
    if not weights:
        raise InputError(f"{inside} holds no weights at {prefix!r}")
    first = sorted({key.partition(".")[0] for key in weights})
    more = f" and {len(first) - _LISTED} more" if len(first) > _LISTED else ""
    raise InputError(
        f"{inside} holds no weights at {prefix!r}; their names begin with {', '.join(first[:_LISTED])}{more}"
    )


def _descend(tree: Mapping[str, Any], at: str) -> tuple[tuple[str, ...], str]:
    """The keys that lead to `at`, and what of it is left: what the names in a state dict begin with."""
    node: Any = tree
    path: tuple[str, ...] = ()
    rest = at.strip(".")
    while rest and isinstance(node, Mapping):
        # A key may hold dots itself: the longest that fits.
        words = rest.split(".")
        heads = (".".join(words[:count]) for count in range(len(words), 0, -1))
        key = next((head for head in heads if isinstance(node.get(head), Mapping)), None)
        if key is None:
            break
        node, path, rest = node[key], (*path, key), rest[len(key) + 1 :]
    return path, rest


def _node(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def _is_flat(node: Mapping[Any, Any]) -> bool:
    return bool(_tensors(node))


def _tensors(flat: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The tensors of a state dict by name. A lone number, as a best score, makes no state dict."""
    import torch

    found = {key: value for key, value in flat.items() if isinstance(key, str) and isinstance(value, torch.Tensor)}
    return found if any(key not in BOOKKEEPING and value.ndim for key, value in found.items()) else {}


def _plain(key: str) -> str:
    """A key without what says that it is an average, or a state dict."""
    words = [word for word in key.lower().split("_") if word not in _SAYING_NOTHING]
    return "_".join(words)


def _listed(places: list[_Place]) -> str:
    more = f" and {len(places) - _LISTED} more" if len(places) > _LISTED else ""
    return ", ".join(str(place) or "the whole" for place in places[:_LISTED]) + more


def _shown(tree: Mapping[str, Any]) -> str:
    keys = [str(key) for key in tree]
    more = f" and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
    return ", ".join(keys[:_LISTED]) + more or "nothing"
